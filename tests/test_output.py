"""Output of a command: options that were set, progress as lines in a pipe, and the last lines of a training."""

import io
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import train
from fr import progress
from fr.console import counted
from fr.train.ending import duration
from tests.conftest import ROOT, SPREAD, TINY, data_options, folders, validation_options


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7323, "2 h 02 min 03 s")]
)
def test_a_duration_is_rounded_to_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_into_a_pipe_is_lines_and_none_of_what_is_quick(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(progress.tracked(range(100), "img", "adding")) == 4950
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    with progress.progress(3, "img", "embedding", first=1) as bar:
        bar.set_postfix_str("loss 1.5", refresh=False)
        bar.update()
        bar.write("between", file=sys.stderr)
        assert sum(progress.tracked(range(3), "img", "inside")) == 3
        bar.update()
    lines = capsys.readouterr().err.split("\n")
    assert lines.pop() == "" and "between" in lines and not any(re.search(r"[\r\x1b]", line) for line in lines)
    assert re.fullmatch(r"embedding: 3 of 3 img, 00:0\d so far, 00:00 left, .*img/s, loss 1.5", lines[-1]), lines


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((0, "image"), "0 images"),
        ((1, "identity"), "1 identity"),
        ((2, "identity"), "2 identities"),
        ((1200, "class"), "1,200 classes"),
        ((2, "person", "people"), "2 people"),
    ],
)
def test_a_count_has_its_noun(words: tuple[int, str], text: str) -> None:
    assert counted(*words) == text


@pytest.mark.parametrize("lines", [True, False])
def test_the_end_is_estimated_after_a_few_items(lines: bool) -> None:
    """At 1 item a second of 45, five of them done after the first 5."""
    form = progress._LINE if lines else None
    bar = progress._Bar(total=50, initial=5, file=io.StringIO(), bar_format=form, ncols=100)
    with bar:
        states = []
        for done in (9, 10):
            bar.n = done
            states.append(bar.format_meter(**bar.format_dict | {"elapsed": float(done - 5)}))
    early, later = states
    assert ("left" not in early and "04 so far" in early) if lines else "<?" in early
    assert ("00:40 left,  1.00it/s" if lines else "<00:40,  1.00it/s") in later


def said(options: Sequence[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[list[str], list[str]]:
    """The lines of a training on standard output and standard error."""
    assert train.main([*options]) == status
    printed = capsys.readouterr()
    assert "\r" not in printed.out + printed.err
    return printed.out.splitlines(), printed.err.splitlines()


def test_a_training_prints_what_was_set_and_ends_with_the_commands_that_follow(
    sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = folders(tmp_path)
    options = [*data_options(sample_data), *validation_options(sample_data), *TINY, *SPREAD, *where]
    first = [*options, "--max_iterations", "2", "--overwrite", "--momentum", "0.9"]
    without = [*options, *first[-2:]]
    table, lines = said(first, capsys)
    names = {line.split()[0] for line in table}
    assert {"train_data_root", "max_iterations"} <= names and not {"momentum", "t", "ema_decay"} & names
    snap = tmp_path / "snapshots/tiny_2.pt"
    assert re.fullmatch(r"done after (\d+ min )?\d+ s", lines[-5])
    assert re.fullmatch(rf"best snapshot: {snap} \(accuracy 0\.\d{{4}}\)", lines[-4])
    assert lines[-3:] == [
        f"see the curves: tensorboard --logdir {tmp_path}/logs",
        f"train longer: python train.py {' '.join(without)} --snap_to_resume auto --max_iterations MORE",
        f"next: python evaluate_lfw.py --snap {snap} --report tiny_report",
    ]

    again = [*options, "--max_iterations", "1", "--snap_to_resume", "auto"]
    _, lines = said([*again, "--lr", "0.05", "--card", "true"], capsys)
    assert any(line.startswith("nothing left to train: 2 iterations are done of 1; ") for line in lines)
    (changed,) = (line for line in lines if line.startswith("changed since: "))
    assert "--max_iterations 2 → 1" in changed and "--lr 1e-06 → 0.05" in changed and "--card false → true" in changed
    assert changed.count("→") == 3


def test_ctrl_c_ends_with_the_command_that_goes_on(sample_data: Path, tmp_path: Path) -> None:
    options = [*data_options(sample_data), *TINY, *folders(tmp_path), "--log_step", "1"]
    command = [sys.executable, str(ROOT / "train.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as training:
        log = tmp_path / "logs/log.jsonl"
        while training.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        training.send_signal(signal.SIGINT)
        assert training.stderr
        lines = training.stderr.read().splitlines()
    assert training.returncode == 130
    (snap,) = (tmp_path / "snapshots").glob("*.pt")
    assert lines[-5].startswith("stopped by SIGINT after ") and lines[-4] == f"newest snapshot: {snap}"
    assert lines[-2] == f"resume: python train.py {' '.join(options)} --snap_to_resume auto"
    assert lines[-1] == f"next: python evaluate_lfw.py --snap {snap} --val_data_root LFW --report tiny_report"
