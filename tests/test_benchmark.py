"""The head's cost formulas against the allocations of real steps; the benchmark's command at a small size."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fr.checkpoint.snapshot import SnapshotContents, write_weights
from fr.data.readers.vgg import read_vgg
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.losses import sharded
from fr.models import build_model
from fr.preprocessing import Preprocessing
from tests.bounds import peak_of_tensors
from tests.conftest import ROOT, data_options, vgg_faces
from tools.benchmarks import evaluate, head, loader, step
from tools.benchmarks.head import Case, _our_step, head_cost
from tools.benchmarks.startup import make_files
from tools.options.benchmark import options

CLASSES, EMBED_SIZE = 20_001, 96


def peak_of_a_step(form: str, ranks: int, batch: int, piece: int) -> int:
    """The most bytes that the tensors of one step hold at a time, beside what was there before, on this rank."""
    sharded.PIECE = piece
    step = _our_step(Case(form, CLASSES, ranks, EMBED_SIZE, batch, 0.1, 1))
    step(0)
    return peak_of_tensors(lambda: step(1))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("batch", "piece"), [(48, 1 << 24), (480, 1 << 24), (480, 1 << 18)])
@pytest.mark.parametrize(("form", "rate"), [("full", 1.0), ("sampled", 0.1)])
def test_the_formulas_give_what_a_step_allocates(
    run_distributed: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    rate: float,
    batch: int,
    piece: int,
    ranks: int,
) -> None:
    monkeypatch.setattr(head, "PIECE", piece)
    expected = head_cost(CLASSES, EMBED_SIZE, batch, ranks, rate)
    measured = run_distributed(ranks, peak_of_a_step, form, ranks, batch, piece)
    # The formula leaves out what has no factor C · E or C · N: a few [C] and [N, E], and the draw of the sample.
    small = 4 * (12 * CLASSES // ranks + 8 * batch * EMBED_SIZE)
    assert expected.step <= measured[0] <= expected.step + small


def test_ten_million_classes_fit_into_80_gb_on_eight_ranks() -> None:
    cost = head_cost(10_000_000, 512, 4096, 8)
    assert cost.kept == 2 * 1_250_000 * 512 * 4  # centres and momentum
    assert cost.step == 1_250_000 * (4096 + 512) * 4  # the cosines and the centres' gradient
    assert cost.memory < 29e9


def test_a_rank_keeps_centres_and_momentum_of_its_share() -> None:
    assert head_cost(1000, 512, 64, 4).kept == 2 * 250 * 512 * 4
    assert head_cost(1000, 512, 64, 1).sent == 0
    # All gathered and scattered embeddings but the own half, labels of 8 bytes, four numbers a sample there and back.
    assert head_cost(1000, 512, 64, 2).sent == 32 * (2 * 512 * 4 + 8 + 2 * 4 * 4)


@pytest.mark.thorough
def test_the_command_prints_a_table_and_ends_with_json() -> None:
    options = ["--classes", "300", "--ranks", "1", "2", "--steps", "1", "--embed_size", "16", "--batch", "8"]
    command = [sys.executable, "tools/benchmark.py", "head", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    *table, last = result.stdout.splitlines()
    figures = json.loads(last)
    assert {"full_vs_plain_time", "full_vs_plain_memory", "sampled_vs_full_time"} <= figures.keys()
    assert [(run["form"], run["ranks"]) for run in figures["results"]] == [
        *(("plain", 1), ("full", 1), ("sampled", 1), ("full", 2), ("sampled", 2))
    ]
    assert all(run["seconds"] > 0 for run in figures["results"])
    assert len(table) == 6


@pytest.mark.thorough
def test_the_step_command_measures_each_form_and_ends_with_json() -> None:
    options = ["--model", "mobilefacenet", "--forms", "plain", "both", "--batch", "4", "--steps", "1", "--turns", "1"]
    command = [sys.executable, "tools/benchmark.py", "step", *options, "--ranks", "2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    *table, last = result.stdout.splitlines()
    figures = json.loads(last)
    assert figures["mobilefacenet_vs_plain"] > 0
    assert [(run["ranks"], run["form"]) for run in figures["results"]] == [(2, "plain"), (2, "both")]
    assert all(run["images_per_s"] > 0 for run in figures["results"])
    assert len(table) == 3


def test_a_step_is_that_of_a_network_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[step.Case] = []

    def measure(case: step.Case) -> list[float]:
        measured.append(case)
        return [1.0]

    monkeypatch.setattr(step, "_in_own_processes", measure)
    words = ["step", "--model", "vit_t", "--forms", "fp32", "--turns", "1", "--model_kwargs"]
    step.run(options([*words, "mask_ratio=0", "drop_path_rate=0.2"]))
    assert [case.model_kwargs for case in measured] == [("mask_ratio=0", "drop_path_rate=0.2")]
    with pytest.raises(InputError, match="--model_kwargs depth: vit_t has no such setting"):
        step.run(options([*words, "depth=3"]))
    assert len(measured) == 1


@pytest.mark.thorough
def test_the_startup_command_measures_both_starts_and_ends_with_json() -> None:
    command = [sys.executable, "tools/benchmark.py", "startup", "--rows", "3000", "--ranks", "2", "--turns", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    *table, last = result.stdout.splitlines()
    figures = json.loads(last)
    assert [(run["ranks"], run["start"]) for run in figures["results"]] == [(2, "cold"), (2, "warm")]
    assert all(figures[name] > 0 for name in ("cold_s", "warm_s", "private_mb"))
    assert figures["cold_s"] == figures["results"][0]["read_s"]
    assert len(table) == 4
    assert "can't be kept" not in result.stderr


def test_its_files_are_like_vggface2s(tmp_path: Path) -> None:
    make_files(tmp_path, 7_000)
    faces = read_vgg(DataRoot(tmp_path / "images"), str(tmp_path / "list.txt"), str(tmp_path / "points.csv"))
    names = faces.names.to_pylist()
    assert len(set(names)) == len(names) == 7_000
    assert all(re.fullmatch(r"n\d{6}/\d{4}_01\.jpg", name) for name in names)
    assert names == sorted(names)
    assert len(faces.identities) == 19  # 364 images each, as there
    row = (tmp_path / "points.csv").read_text().splitlines()[1]
    assert re.fullmatch(r'"n\d{6}/\d{4}_01"(,-?\d+\.\d{1,6}){10}', row)


def test_the_loader_command_measures_each_form_and_ends_with_json(sample_data: Path) -> None:
    options = [*data_options(sample_data), "--train_batch_size", "8", "--input_size", "64"]
    command = [sys.executable, "tools/benchmark.py", "loader", "--batches", "1", "--turns", "1"]
    command += ["--read_delay_ms", "0", "20", "--train", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    *table, last = result.stdout.splitlines()
    figures = json.loads(last)
    assert figures.keys() >= {"ratio_to_yardstick", "fraction_of_decode", "python_us", "main_us", "kept_at_20ms"}
    assert all(figure > 0 for figure in figures.values())
    assert [line.split()[1] for line in table[1:5]] == ["ours", "decode", "yardstick", "ours-20ms"]


def test_a_delay_comes_before_each_read(sample_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(loader, "time", SimpleNamespace(sleep=slept.append))  # other threads keep theirs
    faces = loader._SlowFaces.of(vgg_faces(sample_data), delay_s=0.02)
    assert [bytes(faces.read(index)) for index in (1, 2)] == [Path(faces.path(index)).read_bytes() for index in (1, 2)]
    assert slept == [0.02, 0.02]


@pytest.mark.thorough
def test_the_evaluate_command_measures_both_forms_and_ends_with_json(sample_data: Path, tmp_path: Path) -> None:
    weights = build_model("mobilefacenet", 16, (32, 32)).state_dict()
    contents = SnapshotContents("mobilefacenet", 16, Preprocessing((32, 32)).as_dict(), state_dict=weights)
    write_weights(tmp_path / "m.pt", contents)
    options = ["--snap", str(tmp_path / "m.pt"), "--val_data_root", str(sample_data / "lfw"), "--flipped_emb"]
    command = [sys.executable, "tools/benchmark.py", "evaluate", "--turns", "2", "--eval", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    first, _, *table, last = result.stdout.splitlines()
    figures = json.loads(last)
    assert "2 passes each, 20 a batch" in first
    assert [line.split()[0] for line in table] == ["whole", "bare"]
    assert 0 < figures["ratio_low"] <= figures["ratio"] <= figures["ratio_high"] and figures["cpu_ratio"] > 0


def test_an_evaluations_ratio_is_that_of_one_turn() -> None:
    whole = [evaluate.Cost(11.0, 20.0), evaluate.Cost(33.0, 20.0), evaluate.Cost(12.0, 30.0)]
    bare = [evaluate.Cost(10.0, 10.0), evaluate.Cost(30.0, 10.0), evaluate.Cost(10.0, 10.0)]
    found = evaluate.ratios(whole, bare)
    assert found == {"ratio": 1.1, "ratio_low": 1.1, "ratio_high": 1.2, "cpu_ratio": 2.0}


@pytest.mark.thorough
def test_the_snapshot_command_measures_both_forms_and_leaves_nothing(tmp_path: Path) -> None:
    options = ["--classes", "3000", "--embed_size", "16", "--snapshots", "1", "--turns", "1", "--ranks", "2"]
    command = [sys.executable, "tools/benchmark.py", "snapshot", *options, "--folder", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["background_vs_waited"] > 0
    assert [one["background"] for one in found["results"]] == [False, True]
    assert not list(tmp_path.iterdir())


def test_a_ratio_is_the_median_of_the_turns() -> None:
    fp32, both, deterministic = (step.Case("m", form, 1, 32, 3) for form in ("fp32", "both", "deterministic"))
    speeds = {fp32: [10.0, 1.0, 20.0], both: [30.0, 2.0, 50.0], deterministic: [9.0, 0.5, 20.0]}
    assert step.ratios(speeds) == {"m_vs_fp32": 2.5, "m_deterministic": 0.9}
