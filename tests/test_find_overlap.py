"""People in both sets: the threshold against simulations with known truth, planted people found in real images."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import evaluate_lfw
from fr import progress
from fr.errors import InputError
from fr.evaluation.overlap import RANKS, Chance, find_overlap, of_chance
from tests.builders.feature_runs import run_ranks
from tests.builders.planted_people import Planted, plant
from tests.builders.scored_models import models  # noqa: F401  # a fixture
from tests.conftest import data_options, validation_options, vgg_faces
from tools.find_overlap import main

Matrix = NDArray[np.float64]


def highest(scores: Matrix) -> Matrix:
    """The greatest r + 1 of each row, in falling order."""
    return -np.sort(-scores, axis=1)[:, : RANKS + 1]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_threshold_is_exceeded_by_the_share_where_the_tail_is_exponential(share: float) -> None:
    """However many people are in both sets. Of them one score, of a fifth two, is of the same person."""
    draw = np.random.default_rng(0)
    z = 0.05 * draw.standard_exponential((2000, 300)) + draw.normal(0, 0.05, (2000, 1)) - 0.1
    chance = np.tanh(z.max(axis=1))
    both = np.arange(2000) < share * 2000
    z[both, 0] = draw.normal(1.2, 0.1, both.sum())
    z[both & (np.arange(2000) % 5 == 0), 1] = 1.1
    fitted = of_chance(highest(np.tanh(z)), 0.05)
    threshold = fitted.threshold(0.05)
    # The standard deviation of 100 expected ones of 2,000 is 10, that of the estimated scale adds about as many.
    assert 0.035 < (chance > threshold).mean() < 0.065
    assert fitted.exceeded(threshold) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(("size", "classes"), [(16, 40), (64, 200), (64, 2000)])
def test_directions_in_space_exceed_it_no_more_often(size: int, classes: int) -> None:
    """Means of random embeddings: their tails are lighter, so fewer are listed, but the order is the same."""
    draw = np.random.default_rng(1)
    centres = draw.normal(size=(classes, size))
    overlap = find_overlap(draw.normal(size=(1500, size)), centres, 0.05)
    listed = len(np.unique(overlap.person[overlap.listed])) / 1500
    assert 0.05 / 10 < listed < 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5
    assert overlap.false_share == pytest.approx(0.05)
    assert (1 - overlap.fmr) ** classes == pytest.approx(0.95)


def test_a_persons_matches_are_those_of_plain_loops() -> None:
    draw = np.random.default_rng(2)
    centres, people = draw.normal(size=(30, 8)), draw.normal(size=(9, 8))
    centres[[3, 20]] = 0  # without images
    people[4] = centres[7] + 0.01
    overlap = find_overlap(people, centres, 0.01, threshold=0.45)
    expected = []
    for person, mean in enumerate(people):
        cosines = [
            (float(mean @ centre / np.linalg.norm(mean) / np.linalg.norm(centre)), label)
            for label, centre in enumerate(centres)
            if centre.any()
        ]
        cosines.sort(reverse=True)
        above = [match for match in cosines if match[0] > 0.45]
        expected += [(person, label, cosine) for cosine, label in above or cosines[:1]]
    expected.sort(key=lambda match: -match[2])
    assert [overlap.person.tolist(), overlap.label.tolist()] == [[row[column] for row in expected] for column in (0, 1)]
    assert overlap.similarity == pytest.approx([cosine for *_, cosine in expected], abs=1e-12)
    assert overlap.listed.tolist() == [cosine > 0.45 for *_, cosine in expected]
    with pytest.raises(InputError, match="6 identities in the training set: the estimate needs at least 7"):
        find_overlap(people, centres[4:10], 0.01)


def test_exceeded_is_the_mean_over_people() -> None:
    chance = Chance(np.array([0.1, 0.5]), 0.1)
    at = np.arctanh(0.4)
    by_hand = np.mean([1 - np.exp(-np.exp((one - at) / 0.1)) for one in (0.1, 0.5)])
    assert chance.exceeded(0.4) == pytest.approx(by_hand, abs=1e-12)


# --- the command -------------------------------------------------------------------------------------------------

PREPARED = ["--template", "arcface", "--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225"]
MACHINE = ["--device", "cpu", "--dali_threads", "1", "--val_batch_size", "32"]


def rows_of(out: Path) -> list[dict[str, str]]:
    return [*csv.DictReader((out / "overlap.csv").read_text().splitlines())]


def found_and_false(out: Path, planted: Planted) -> tuple[set[str], set[str]]:
    """Names of those planted who are listed with the right identity, and of others who are listed."""
    listed = [(row["test_identity"], row["training_identity"]) for row in rows_of(out) if row["decision"] == "overlap"]
    right = {name for name, identity in listed if planted.identities.get(name) == identity}
    return right, {name for name, _ in listed} - right


def search(shared_data: Path, tmp_path: Path, *sizes: int) -> tuple[Planted, list[str]]:
    mini = shared_data / "faces-mini"
    planted = plant(vgg_faces(mini), mini / "lfw", tmp_path / "set", *sizes)
    options = ["--snap", str(shared_data / "models/mobilefacenet.onnx"), *PREPARED, *MACHINE]
    landmarks = ["--train_landmarks", str(mini / "vggface2/bb_landmark"), "--data_cache", "none"]
    assert main([*options, *planted.options, *landmarks, "--out", str(tmp_path / "out")]) == 0
    return planted, options


def test_planted_people_are_found_and_the_scores_without_them_are_those_of_the_set_before(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted, model = search(shared_data, tmp_path, 3, 1, 50, 4)
    printed = capsys.readouterr().out
    right, false = found_and_false(tmp_path / "out", planted)
    assert right == planted.identities.keys() and not false
    assert "listed: 10 of " in printed
    page = (tmp_path / "out/index.html").read_text()
    assert page.count('<div class="pair">') == 10 + 24 and "Planted_007" in page
    pairs = (tmp_path / "set/pairs.txt").read_text().splitlines()
    before = [line for line in pairs[1:] if "Planted" not in line]
    for name, lines in (("all pairs", pairs), ("without the people listed", ["10\t3", *before])):
        (tmp_path / "set/pairs.txt").write_text("\n".join(lines) + "\n")
        evaluate_lfw.main([*model, "--val_data_root", str(tmp_path / "set"), "--json", str(tmp_path / "j.json")])
        capsys.readouterr()
        figures = json.loads((tmp_path / "j.json").read_text())
        line = rf"^{name}: {len(lines) - 1} pairs; Accuracy (\S+) \[(\S+), (\S+)\]; AUC (\S+) "
        match = re.search(line, printed, re.M)
        assert match
        expected = [figures[key] for key in ("accuracy", "accuracy_low", "accuracy_high", "auc")]
        assert [float(text) for text in match.groups()] == pytest.approx(expected, abs=5.1e-5)  # four decimals


@pytest.mark.thorough
def test_of_forty_planted_among_775_people_all_are_found(shared_data: Path, tmp_path: Path) -> None:
    planted, _ = search(shared_data, tmp_path, 40, 4, 158, 14)
    right, false = found_and_false(tmp_path / "out", planted)
    assert len(right) == 40
    # One per cent of 775 is asked for; 18 or more would come by chance once in a thousand times.
    assert len(false) < 18


@pytest.mark.thorough
def test_ranks_a_bad_image_and_the_options(
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks give the files of one; and another model's scores, a given threshold, fewer images on the page."""
    data = tmp_path / "data"
    shutil.copytree(sample_data, data)
    image = sorted((data / "vggface2/train").glob("*/*.jpg"))[5]
    image.write_bytes(image.read_bytes()[:100])
    given = ["--snap", models[0], *data_options(data), *validation_options(data), "--data_cache", "none", *MACHINE]
    given += ["--bootstrap", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(progress, "_SECONDS", 0.0)
        assert main([*given, "--cache", "--out", str(tmp_path / "one")]) == 0
    printed, news = capsys.readouterr()
    assert "training data: 96 images of 12 identities, 1 unusable" in printed
    assert re.search(r"^embedding lfw: 61 of 61 img", news, re.M)
    assert re.search(r"^embedding the training images: \d+ of 96 img", news, re.M)
    run_ranks(2, [*given, "--out", str(tmp_path / "two")], tmp_path / "none", "tools.find_overlap")
    for name in ("overlap.csv", "index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with pytest.raises(InputError, match="--max_bad_images is 0"):
        main([*given, "--out", str(tmp_path / "three"), "--max_bad_images", "0"])
    capsys.readouterr()

    cosines = sorted({float(row["similarity"]) for row in rows_of(tmp_path / "one")})
    middle = cosines[len(cosines) // 2] + 5e-5
    options = ["--threshold", str(middle), "--score", models[1], "--thumbnails", "3", "--cache"]
    assert main([*given, *options, "--out", str(tmp_path / "four")]) == 0
    printed, news = capsys.readouterr()
    assert news.count("--cache: embeddings of 61 images read from") == 1  # of the first model
    people = {row["test_identity"] for row in rows_of(tmp_path / "four") if row["decision"] == "overlap"}
    above = {row["test_identity"] for row in rows_of(tmp_path / "one") if float(row["similarity"]) > middle}
    assert people == above and f"listed: {len(above)} of " in printed
    assert (tmp_path / "four/index.html").read_text().count('<div class="pair">') == 6
    evaluate_lfw.main(["--snap", models[1], *MACHINE, "--json", str(tmp_path / "j.json"), "--bootstrap", "0"])
    auc = json.loads((tmp_path / "j.json").read_text())["auc"]
    assert f"; AUC {auc:.4f}" in printed
