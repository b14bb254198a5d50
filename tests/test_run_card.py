"""Cards of runs: their figures against evaluate_lfw.py's of the snapshot, and what else they tell."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import evaluate_lfw
from fr.checkpoint import snapshot
from fr.evaluation.verification import threshold_text
from fr.report import run_card
from tests.conftest import Losses, validation_options

CARD = "snapshots/tiny.card.md"


def table(card: str, heading: str) -> dict[str, list[str]]:
    """Rows of the first table below a heading, by their first cell."""
    below = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in below.splitlines() if line[:1] == "|"]
    return {name: rest for name, *rest in cells}


def test_metrics_and_intervals_are_those_of_an_evaluation_of_the_snapshot(
    run: Callable[..., Losses], sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = validation_options(sample_data)
    run(*sets, "--model", "mobilenet", "--card", "--val_step", "1", "--max_iterations", "2", out=tmp_path)
    assert f"card: {tmp_path / CARD}\n" in capsys.readouterr().err
    figures = tmp_path / "figures.json"
    saved = tmp_path / "snapshots/tiny_2.pt"
    assert evaluate_lfw.main(["--snap", str(saved), *sets, "--device", "cpu", "--json", str(figures)]) == 0
    wanted = json.loads(figures.read_text())
    card = (tmp_path / CARD).read_text()
    found = table(card, "Metrics")
    for name, title in (("accuracy", "Accuracy"), ("auc", "AUC"), ("eer", "EER")):
        low, high = (wanted[f"{name}_{end}"] for end in ("low", "high"))
        # The images of the training's batches are rounded otherwise than the evaluation's: 1 of 40 pairs may turn.
        assert float(found[title][0]) == pytest.approx(wanted[name], abs=0.026)
        assert [float(end) for end in found[title][1].split("–")] == pytest.approx([low, high], abs=0.05)
    assert found["Accuracy"][2] == f"distance {threshold_text(snapshot.read(saved).metrics['threshold'])}"
    assert found["TAR@FAR=1e-03"][0] == "–"  # of 20 different pairs nobody can say
    for name in re.findall(r"!\[.*\]\((.*)\)", card):
        with Image.open(tmp_path / "snapshots" / name) as picture:
            assert picture.size[0] > 500
    assert table(card, "Data")["verification set lfw"][0].startswith("40 pairs of ")
    assert "tiny.card.log.png" in card and "tiny.card.validation.png" in card


def test_it_tells_of_data_recipe_machine_and_end(
    run_small: Callable[..., Losses], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_small("--card", "true", "--seed", "5", "--max_iterations", "2", out=tmp_path)
    card = (tmp_path / CARD).read_text()
    facts = snapshot.read(tmp_path / "snapshots/tiny_2.pt").run
    data = table(card, "Data")
    assert [data["images"], data["identities"]] == [["96"], ["12"]]
    assert data["SHA-256 of names, labels and landmarks"] == [facts["data"]]
    assert "after 2 iterations of all starts: " in card and "The last start: done after " in card and "Seed 5." in card
    assert "no verification set" in card and "the run had no `--groups`" in card
    assert "    python train.py --train_data_root" in card and re.search(r"\nseed += 5 ", card)
    assert table(card, "Machine and cost")["images seen"] == ["32, 16 a step"]


def test_a_start_that_validates_nothing_leaves_an_earlier_card(
    run_small: Callable[..., Losses], sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--card", *validation_options(sample_data), "--snap_to_resume", "auto", "--max_iterations", "2"]
    run_small(*options, out=tmp_path)
    card = (tmp_path / CARD).read_text()
    assert ", at iteration 2:" in card
    run_small(*options, out=tmp_path)
    assert f"card: {tmp_path / CARD}, of an earlier start: this one hasn't validated\n" in capsys.readouterr().err
    assert (tmp_path / CARD).read_text() == card


def test_a_run_ends_well_without_a_card(
    run_small: Callable[..., Losses],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_small("--max_iterations", "1", out=tmp_path)
    assert "\ncard: " not in capsys.readouterr().err and not (tmp_path / CARD).exists()

    def on_a_full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_card, "replace_file", on_a_full_disk)
    run_small("--card", "--max_iterations", "2", "--snap_to_resume", "auto", out=tmp_path)
    assert f"{tmp_path / CARD}: can't be written: No space left on device\n" in capsys.readouterr().err
