"""Receipts: the interval against simulation, a run against its receipt, what can't be compared."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fr.checkpoint import snapshot
from fr.errors import InputError
from fr.options.definitions import train_options
from tests.conftest import ROOT, TINY, Losses, data_options, validation_options
from tools import reproduce
from tools.reproducing.receipt import FIGURES, deciding, predicted, read_receipt


@pytest.mark.parametrize("count", [3, 8])
def test_a_further_run_lies_in_the_interval_19_times_of_20(count: int) -> None:
    runs = np.random.default_rng(count).normal(0.5, 0.01, (20_000, count + 1))
    intervals = [predicted(values[:-1].tolist()) for values in runs]
    inside = [interval.low <= values[-1] <= interval.high for interval, values in zip(intervals, runs, strict=True)]
    assert np.mean(inside) == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / len(runs)))


def test_an_interval_of_shares_ends_at_0_and_1() -> None:
    assert (predicted([0.99, 1.0, 0.9]).high, predicted([0.01, 0.0, 0.1]).low) == (1, 0)


@pytest.fixture(scope="module")
def runs(run_small: Callable[..., Losses], sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Last snapshots of runs that differ in their seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in "0123":
        run_small("--seed", seed, *validation_options(sample_data), out=folder / seed)
    return [folder / seed / "snapshots/tiny_3.pt" for seed in "0123"]


@pytest.fixture
def recipe(runs: list[Path], tmp_path: Path) -> Path:
    """A recipe with a receipt of the first three runs."""
    path = tmp_path / "tiny.yml"
    path.write_text("")
    record = [str(one) for one in runs[:3]]
    assert reproduce.main([str(path), "--record", *record, "--note", "a machine"]) == 0
    return path


def receipt_file(recipe: Path) -> Path:
    return recipe.parent / "receipts/tiny.json"


def test_a_receipt_has_the_figures_of_its_runs(recipe: Path, runs: list[Path]) -> None:
    receipt = read_receipt(receipt_file(recipe))
    metrics = [snapshot.read(one).metrics for one in runs[:3]]
    assert receipt.runs == [
        {"seed": seed, **{name: one[name] for name in FIGURES}} for seed, one in enumerate(metrics)
    ]
    assert (receipt.iterations, receipt.data["identities"], receipt.note) == (3, 12, "a machine")
    assert receipt.options["lr"] == 0.05 and not receipt.options.keys() & {"seed", "train_list", "snap_folder"}


@pytest.mark.parametrize(("mean", "status", "said"), [(0.2, 0, "above"), (None, 0, "inside"), (0.99, 1, "below")])
def test_a_run_is_held_against_the_interval(
    mean: float | None, status: int, said: str, recipe: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = snapshot.read(runs[3]).metrics
    stored = json.loads(receipt_file(recipe).read_text())
    for number, run in enumerate(stored["runs"]):
        run |= {name: (mean or found[name]) + 1e-3 * (number - 1) for name in FIGURES}
    receipt_file(recipe).write_text(json.dumps(stored))
    assert reproduce.main([str(recipe), "--snap", str(runs[3])]) == status
    out = capsys.readouterr().out
    assert out.count(f": {said}") == 2
    assert ("\nreproduced\n" in out) == (status == 0)
    assert f"\nauc       {found['auc']:10.4f}   {(mean or found['auc']):.4f} ± 0.0010" in out


def test_a_run_of_other_options_data_or_length_is_not_compared(
    recipe: Path, runs: list[Path], run_small: Callable[..., Losses], sample_data: Path, tmp_path: Path
) -> None:
    table = sample_data / "vggface2/meta/train_list.txt"
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    words = ["--lr", "0.02", "--max_iterations", "2", "--train_list", str(fewer)]
    run_small(*words, *validation_options(sample_data), out=tmp_path / "other")
    other = tmp_path / "other/snapshots/tiny_2.pt"
    with pytest.raises(InputError) as refused:
        reproduce.main([str(recipe), "--snap", str(other)])
    said = [problem.removeprefix(f"{other}: ") for problem in refused.value.problems]
    assert said[:3] == [
        "is of iteration 2, the receipt of 3",
        "--lr is 0.02, of the receipt 0.05",
        "--max_iterations is 2, of the receipt 3",
    ]
    assert said[3] == "its training has other data: images 95, of the receipt 96"
    with pytest.raises(InputError, match=f"{other}: unlike {runs[0]}: is of iteration 2"):
        reproduce.main([str(recipe), "--record", str(runs[0]), str(runs[1]), str(other)])
    with pytest.raises(InputError, match="two of the runs have the same seed"):
        reproduce.main([str(recipe), "--record", str(runs[0]), str(runs[1]), str(runs[1])])


def test_options_unlike_the_receipts_are_refused_before_the_training(
    recipe: Path, sample_data: Path, tmp_path: Path
) -> None:
    words = [*data_options(sample_data), *TINY, *validation_options(sample_data), "--max_iterations", "3"]
    with pytest.raises(InputError) as refused:
        reproduce.main([str(recipe), "--out", str(tmp_path / "out"), *words, "--lr", "0.5", "--groups", "g.csv"])
    assert refused.value.problems == ("--lr is 0.5, of the receipt 0.05",)  # groups change no figure of it
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, "[", "[]", "{}", '{"recipe": "a"}'])
def test_a_recipe_without_a_receipt_is_told(content: str | None, recipe: Path, runs: list[Path]) -> None:
    receipt_file(recipe).unlink()
    if content is not None:
        receipt_file(recipe).write_text(content)
    with pytest.raises(InputError, match=r"tiny\.json: (no such file: this recipe has no receipt|not a receipt)"):
        reproduce.main([str(recipe), "--snap", str(runs[0])])


RECEIPTS = sorted((ROOT / "configs/receipts").glob("*.json"))


@pytest.mark.parametrize("path", RECEIPTS, ids=lambda path: path.stem)
def test_receipts_are_of_recipes_as_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed recipe needs a new receipt."""
    for name in ("FR_SHARED_DATA", "TEACHER"):
        monkeypatch.setenv(name, "/data/x.onnx")
    receipt = read_receipt(path)
    assert receipt.options == deciding(train_options([f"@{ROOT / 'configs' / receipt.recipe}"]).as_dict())


@pytest.mark.thorough
def test_it_trains_a_recipe_and_goes_on_with_a_run(
    run: Callable[..., Losses], sample_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*data_options(sample_data), *TINY, *validation_options(sample_data), "--model", "mobilenet"]
    recipe = tmp_path / "tiny.yml"
    train_options([*words, "--max_iterations", "1", "--snap_prefix", "tiny"]).write(recipe)
    record = []
    for seed in "123":
        run("--seed", seed, *words, "--max_iterations", "1", out=tmp_path / seed)
        record.append(str(tmp_path / seed / "snapshots/tiny_1.pt"))
    reproduce.main([str(recipe), "--record", *record])
    stored = json.loads((tmp_path / "receipts/tiny.json").read_text())
    for number, one in enumerate(stored["runs"]):
        one |= dict.fromkeys(FIGURES, 0.1 * number)  # from nothing to all: one iteration's figures are anywhere
    (tmp_path / "receipts/tiny.json").write_text(json.dumps(stored))
    for said in ("done after", "nothing left to train"):
        assert reproduce.main([str(recipe), "--out", str(tmp_path / "again"), "--nproc_per_node", "2"]) == 0
        shown = "".join(capfd.readouterr())
        assert said in shown and "\nreproduced\n" in shown
    assert (tmp_path / "again/tiny_1.pt").exists()
