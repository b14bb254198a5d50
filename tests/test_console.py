"""Output that can't be written, and Ctrl-C: neither ends a command with a traceback, nor takes its results along."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fr.errors import InputError
from tests.conftest import ROOT, SPREAD, TINY, data_options, folders, trained_briefly, validation_options
from tools.options import check_dataset, compare_models

# A command without a training's start-up: it prints, is asked to flush, and does well.
COMMAND = """
from fr.console import begin
begin()
import sys
from fr.errors import run_plainly
def main(argv):
    for _ in range(3):
        print("é … 1", flush=True)
        print("é … 2", file=sys.stderr, flush=True)
    open(argv[0], "w").write("done")
    return 0
run_plainly("x.py", main, prints_results="results" in sys.argv)
"""


def shell(redirection: str, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """COMMAND with its streams redirected as a shell does it; it must come to its end."""
    line = f'"$0" -c "$1" done.txt {" ".join(words)} {redirection}'
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, COMMAND], cwd=folder, capture_output=True, env=settings, check=False
    )
    assert (folder / "done.txt").read_text() == "done", done.stderr
    assert b"Traceback" not in done.stderr + done.stdout and b"Exception ignored" not in done.stderr
    return done


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", ">&- 2>&- <&-", "2>/dev/full", ">/dev/full"])
def test_a_stream_that_is_closed_or_full_ends_nothing(redirection: str, tmp_path: Path) -> None:
    done = shell(redirection, tmp_path)
    assert done.returncode == 0
    if "/dev/full" in redirection:
        said = done.stdout if redirection.startswith("2") else done.stderr
        assert said.count(b"can't be written to: No space left on device; going on without it\n") == 1
        assert said.count("é … ".encode()) == 3  # the other stream has all of it


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    done = shell("> >(true)", tmp_path)
    assert done.returncode == 0 and done.stderr.count("é … 2".encode()) == 3
    assert shell("2> >(true)", tmp_path).returncode == 0


def test_results_on_a_full_disk_are_a_failure_and_a_closed_pipe_is_none(tmp_path: Path) -> None:
    done = shell(">/dev/full", tmp_path, "results")
    assert done.returncode == 1 and b"x.py: standard output is incomplete: No space left on device" in done.stderr
    assert shell("> >(true)", tmp_path, "results").returncode == 0


def test_a_closed_stream_gives_its_number_to_no_other_file(tmp_path: Path) -> None:
    shell(">&- 2>&-", tmp_path)
    assert (tmp_path / "done.txt").read_text() == "done"  # and nothing that was printed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_replaced(encoding: str, tmp_path: Path) -> None:
    done = shell("", tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout.startswith("é … 1".encode(encoding, errors="backslashreplace"))


def test_a_stream_that_does_not_block_waits_for_its_reader(tmp_path: Path) -> None:
    code = (
        "from fr.console import begin; import os; os.set_blocking(1, False); begin()\n"
        "print('x' * 1_000_000); print('end')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "x" * 1_000_000 + "\nend\n"


@pytest.mark.parametrize("script", ["train.py", "evaluate_lfw.py", "tools/check_dataset.py"])
def test_ctrl_c_amid_the_imports_ends_without_a_traceback(script: str) -> None:
    code = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('numpy', 'torch', 'pyarrow'): os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.path[0] = os.path.dirname(sys.argv[1])\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, str(ROOT / script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT and done.stderr == ""  # 130 to a shell


def test_every_script_prepares_its_streams_before_its_imports() -> None:
    begin = 'if __name__ == "__main__":  # before the imports that take seconds\n    from fr.errors import start\n'
    scripts = [ROOT / "train.py", ROOT / "evaluate_lfw.py", *(ROOT / "tools").glob("*.py")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in scripts}
    runs = [name for name, text in texts.items() if "run_plainly(" in text]
    assert len(runs) > 15
    imports = {name: min(texts[name].find(f"\n{word} ") % 10**9 for word in ("import", "from")) for name in runs}
    assert [name for name in runs if not 0 < texts[name].find(begin) < imports[name]] == []
    called = {path.name: path.relative_to(ROOT).as_posix() for path in scripts}
    assert [name for name in runs if f'    run_plainly("{called[name]}", main' not in texts[name]] == []


def test_a_help_text_points_to_the_options_of_the_other_program(capsys: pytest.CaptureFixture[str]) -> None:
    for read, other in ((compare_models.options, "evaluate_lfw.py"), (check_dataset.options, "train.py")):
        with pytest.raises(SystemExit):
            read(["--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert f"[@file.yml] [--option of {other}] ..." in said.partition(" positional arguments:")[0]
        assert said.endswith(f" All other options: {other} --help")


# Words that a command refuses by itself, all of whose files are missing.
REFUSED = {
    "train.py": ["--lr", "-1"],
    "evaluate_lfw.py": ["--snap", "none.pt", "--center", "--dist", "l2"],
    "tools/align_faces.py": ["--train_data_root", "none", "--out", "none", "--size", "1", "2", "3"],
    "tools/benchmark.py": ["head", "--forms", "none"],
    "tools/check_dataset.py": ["none", "--train_data_root", "none"],
    "tools/choose_threshold.py": ["none", "none.txt", "--snap", "none.pt", "--fmr", "0.1"],
    "tools/classify.py": ["--snap", "none.pt", "--train_data_root", "none"],
    "tools/compare_losses.py": ["none", "--only", "none"],
    "tools/compare_models.py": ["a.pt", "b.pt", "--json", "none"],
    "tools/compare_runs.py": ["none", "none", "--rtol", "2"],
    "tools/count_flops.py": ["--model", "resnet", "--batch", "none"],
    "tools/detect_faces.py": ["none", "none", "--min_face", "1"],
    "tools/evaluate_ijb.py": ["none", "--snap", "none.pt", "--val_sets", "none"],
    "tools/evaluate_tinyface.py": ["none", "--snap", "none.pt", "--val_sets", "none"],
    "tools/export_onnx.py": ["none.pt", "none.pt"],
    "tools/export_weights.py": ["none.pt", "none.pt"],
    "tools/extract_features.py": ["--snap", "none.pt", "--train_data_root", "none", "--out", "none", "--layer", "none"],
    "tools/find_overlap.py": ["--snap", "none.pt", "--train_data_root", "none"],
    "tools/identify.py": ["--snap", "none.pt", "--gallery", "none", "--input", "none", "--json", "none"],
    "tools/import_weights.py": ["none.pth", "none.pt", "--template", "none"],
    "tools/label_noise.py": ["--out", "none", "--snap", "none.pt", "--train_data_root", "none"],
    "tools/make_list.py": ["none", "none", "--val", "1"],
    "tools/make_sample_data.py": ["none", "--workers", "none"],
    "tools/pack_dataset.py": ["--train_dataset", "tar", "--train_data_root", "none", "--out", "none", "--margin", "1"],
    "tools/plan.py": ["--gpu", "none", "--gpus", "1", "--identities", "1"],
    "tools/plot_roc.py": ["none.txt"],
    "tools/report_runs.py": ["none.yml", "--out", "none", "--flipped_emb"],
    "tools/reproduce.py": ["none.yml", "--record", "none.pt"],
    "tools/score_file.py": ["none", "--bootstrap", "-1"],
    "tools/show_batch.py": ["--out", "none.jpg"],
}


def test_what_is_no_command_says_so() -> None:
    alone = subprocess.run([sys.executable, str(ROOT / "tools/fr.py")], capture_output=True, text=True, check=False)
    assert (alone.returncode, alone.stderr) == (1, "tools/fr.py: no command of its own; tools/*.py import it\n")


def test_every_command_is_in_the_table() -> None:
    scripts = {f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py")} - {"tools/fr.py"}
    assert REFUSED.keys() == scripts | {"train.py", "evaluate_lfw.py"}


@pytest.mark.parametrize("script", REFUSED)
def test_help_and_a_refusal_wait_for_no_heavy_import(script: str, tmp_path: Path) -> None:
    heavy = {"torch", "torchvision", "nvidia.dali", "sklearn", "matplotlib", "scipy"}
    for words, status in ((["--help"], 0), (REFUSED[script], 2)):
        command = [sys.executable, "-X", "importtime", str(ROOT / script), *words]  # each import is a line of stderr
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert (done.returncode, imported & heavy) == (status, set()), done.stderr[-2000:]
        assert "argparse" in imported
        said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert bool(said) == bool(status) and all(line.startswith(f"{script}: ") for line in said), said


@pytest.mark.parametrize("script", REFUSED)
def test_a_help_text_has_the_lines_of_the_docstring(script: str) -> None:
    """A line that ends with a single backslash would be joined with the next one."""
    about = ast.parse((ROOT / script).read_bytes()).body[0]
    assert isinstance(about, ast.Expr) and isinstance(about.value, ast.Constant) and isinstance(about.value.value, str)
    assert about.value.value.count("\n") == (about.end_lineno or 0) - about.lineno


TRAINED = ["--snap", "none.pt", "--train_data_root", "none", "--train_dataset", "folder", "--aligned"]
# Words before the path of a command's output, which is checked first: none of the named inputs exists.
OUTPUTS = {
    "classify": [*TRAINED, "--json"],
    "choose_threshold": ["none", "--snap", "none.pt", "--fmr", "0.1"],
    "compare_losses": [],
    "compare_models": ["a.pt", "b.pt", "--roc"],
    "evaluate_ijb": ["none", "--snap", "none.pt", "--json"],
    "evaluate_tinyface": ["none", "--snap", "none.pt", "--json"],
    "export_onnx": ["none.pt"],
    "find_overlap": [*TRAINED, "--out"],
    "identify": ["--snap", "none.pt", "--gallery", "none", "--evaluate", "none", "--json"],
    "label_noise": [*TRAINED, "--out"],
    "report_runs": ["none.yml", "--out"],
}


@pytest.mark.parametrize("tool", OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_before_the_inputs_are_opened(tool: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / ("o.onnx" if tool == "export_onnx" else "o.json")
    main = import_module(f"tools.{tool}").main
    with pytest.raises(InputError, match=f"^{re.escape(str(out))}: can't be written: Not a directory$"):
        main([*OUTPUTS[tool], str(out)])


@pytest.mark.thorough
def test_a_training_imports_no_plots_and_no_scikit_learn_at_its_start() -> None:
    code = "import sys, train; print({'matplotlib', 'sklearn', 'scipy.stats'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def train_with(options: Sequence[str], out: Path, **streams: Any) -> int:
    command = [sys.executable, str(ROOT / "train.py"), *options, *TINY, *folders(out), "--max_iterations", "2"]
    return subprocess.run(command, timeout=300, check=False, **streams).returncode


@pytest.mark.thorough
def test_a_training_without_a_terminal_on_a_full_disk_keeps_its_snapshot(sample_data: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        assert train_with(data_options(sample_data), tmp_path, stdout=full, stderr=full) == 0
    assert (tmp_path / "snapshots/tiny_2.pt").exists()
    assert len((tmp_path / "logs/log.jsonl").read_text().splitlines()) == 2


def test_json_is_written_whatever_becomes_of_standard_output(sample_data: Path, tmp_path: Path) -> None:
    snap = trained_briefly([*data_options(sample_data), *validation_options(sample_data)], tmp_path, SPREAD)
    command = [sys.executable, str(ROOT / "evaluate_lfw.py"), "--snap", str(snap), "--json", str(tmp_path / "j.json")]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert done.returncode == 1 and "evaluate_lfw.py: standard output is incomplete: No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "accuracy" in json.loads((tmp_path / "j.json").read_text())
