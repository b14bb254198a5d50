"""Thresholds for a wanted rate: against brute force over all galleries, and on simulated people of known rates."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from fr.errors import InputError
from fr.preprocessing import Preprocessing
from fr.recognition import operating_points as points
from tools.choose_threshold import main
from tools.identify import main as identify
from tools.identifying.thresholds import Threshold, read_threshold

Rows = NDArray[np.float32]
SIZE = 16


def crowd(random: np.random.Generator, people: int, images: int, alike: float) -> tuple[Rows, NDArray[np.int64]]:
    """Embeddings of people, some of whom look more like all others, the more the larger `alike`."""
    centres = random.normal(size=(people, SIZE))
    centres[:, 0] += alike * random.normal(size=people)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = centres[:, None] + 0.15 * random.normal(size=(people, images, SIZE))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return rows.reshape(-1, SIZE).astype(np.float32), np.repeat(np.arange(people), images)


@pytest.mark.parametrize("rate", [0.02, 0.1])
def test_verification_is_what_all_pairs_say(rate: float):
    rows, person = crowd(np.random.default_rng(0), 20, 3, 1)
    rows, person = rows[:-2], person[:-2]  # the last of the people has one image
    point = points.verification_point(rows, person, rate)
    cosines = {(i, j): float(rows[i] @ rows[j]) for i, j in combinations(range(len(rows)), 2)}
    impostors = np.array([c for (i, j), c in cosines.items() if person[i] != person[j]])
    genuine = np.array([c for (i, j), c in cosines.items() if person[i] == person[j]])
    accepted = impostors > 1 - point.threshold
    assert accepted.mean() == pytest.approx(point.measured) and accepted.sum() == int(rate * len(impostors))
    assert point.misses == pytest.approx((genuine <= 1 - point.threshold).mean())
    between = 20 * 19 / 2
    assert point.bound >= beta.ppf(0.95, rate * between + 1, (1 - rate) * between) - 0.01  # independent pairs of people


def test_identification_is_the_mean_over_all_galleries():
    rows, person = crowd(np.random.default_rng(1), 8, 2, 1)
    people, size = 8, 3
    point = points.identification_point(rows, person, 0.4, size)
    named, missed = [], []
    for probe in range(len(rows)):
        best = [
            max((float(rows[probe] @ rows[i]) for i in np.flatnonzero(person == one) if i != probe), default=-1.0)
            for one in range(people)
        ]
        others = [one for one in range(people) if one != person[probe]]
        named += [max(best[one] for one in drawn) > 1 - point.threshold for drawn in combinations(others, size)]
        own = best[person[probe]]
        missed += [
            own <= max(1 - point.threshold, *(best[one] for one in drawn)) for drawn in combinations(others, size - 1)
        ]
    assert point.measured == pytest.approx(np.mean(named)) and point.measured <= 0.4
    assert point.misses == pytest.approx(np.mean(missed))


def test_people_with_one_trial_each_are_as_many_trials_but_one():
    """The jackknife's variance of a mean of n independent trials is p (1 - p) / (n - 1)."""
    events = (np.arange(50) < 10).astype(np.float64)
    without = np.array([np.delete(events, one).mean() for one in range(50)])
    assert points._effective(0.2, without, 1000) == pytest.approx(49)
    assert points._effective(0.2, without, 20) == 20 == points._effective(0.2, np.full(50, 0.2), 20)


@pytest.mark.parametrize(("alike", "people", "images", "rate"), [(0, 60, 3, 1e-2), (4, 300, 2, 1e-3)])
@pytest.mark.thorough
def test_bounds_of_verification_hold(alike: float, people: int, images: int, rate: float):
    """In 200 sets the true rate exceeds the bound in at most 8 %: 5 %, and two standard deviations of 200 draws."""
    random = np.random.default_rng(2)
    many, _ = crowd(random, 4000, 2, alike)
    scores = np.sort((many[::2] @ many[::2].T)[np.triu_indices(4000, 1)])
    genuine = (many[::2] * many[1::2]).sum(axis=1)
    bounded, covered = [], []
    for _ in range(200):
        point = points.verification_point(*crowd(random, people, images, alike), rate)
        score = 1 - point.threshold
        bounded.append(1 - np.searchsorted(scores, score, "right") / len(scores) <= point.bound)
        assert point.misses_interval is not None
        covered.append(point.misses_interval[0] <= (genuine <= score).mean() <= point.misses_interval[1])
    assert np.mean(bounded) >= 0.92 and np.mean(covered) >= 0.92


@pytest.mark.thorough
def test_bounds_of_identification_hold():
    """Same as for verification; the truth is that of galleries drawn from 1,500 other people."""
    random = np.random.default_rng(3)
    best, _ = points._best_of_people(*crowd(random, 1500, 2, 4), 1500)
    bounded = []
    for _ in range(200):
        point = points.identification_point(*crowd(random, 200, 2, 4), 0.05, 20)
        bounded.append(points._false_positives(best, 1 - point.threshold, 1500, 20).mean() <= point.bound)
    assert np.mean(bounded) >= 0.92


def test_a_rate_that_the_people_cannot_tell_is_refused():
    with pytest.raises(InputError, match="78 people"):  # 78 · 77 / 2 · 0.001 = 3.003
        points.check_fmr(77, 1e-3)
    points.check_fmr(78, 1e-3)
    with pytest.raises(InputError, match="needs 51 at least"):
        points.check_fpir(50, 0.1, 50)
    with pytest.raises(InputError, match="needs 300 at least"):
        points.check_fpir(299, 0.01, 50)


def test_nobody_with_two_images_has_no_misses():
    rows, person = crowd(np.random.default_rng(4), 40, 1, 1)
    assert points.verification_point(rows, person, 0.05).misses is None
    assert points.identification_point(rows, person, 0.2, 5).misses is None


def test_the_file_is_what_identify_takes(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A threshold from crops, used on crops; refused for another model, or other embeddings."""
    crops = shared_data / "faces-mini/lfw/lfw"  # as whole images they are no good crops, but embeddings all the same
    folder = tmp_path / "people"
    folder.mkdir()
    for person in sorted(crops.iterdir())[:20]:
        (folder / person.name).symlink_to(person)
    prepared = Preprocessing((112, 112), "arcface").as_dict()
    model = ["--snap", str(shared_data / "models/mobilefacenet.onnx"), "--device", "cpu", "--allow_outside", "true"]
    model += ["--template", "arcface", "--mean", *map(str, prepared["mean"]), "--std", *map(str, prepared["std"])]
    out = tmp_path / "t.json"
    assert main([str(folder), str(out), "--aligned", "--fpir", "0.3", "--gallery_size", "5", *model]) == 0
    stored, said = json.loads(out.read_text()), capsys.readouterr().out
    assert f"threshold (distance): {stored['threshold']:.4f}" in said and "next: " in said
    use = ["--gallery", str(folder), "--evaluate", str(folder), "--aligned", "--threshold", str(out)]
    assert identify([*use, *model]) == 0
    assert f"at the threshold {stored['threshold']:.4f}" in capsys.readouterr().out
    capsys.readouterr()
    for more, differs in ((["--flipped_emb"], "mirror"), (["--color_order", "bgr"], "preprocessing")):
        with pytest.raises(InputError, match=f"other embeddings: {differs} differ"):
            identify([*use, *model, *more])
    # Chosen for five people, used with twenty; and as if for pairs.
    assert identify([*use, *model]) == 0
    assert "chosen for a gallery of 5 people; among 20 people more unknown people" in capsys.readouterr().err
    assert Threshold(0.5, 0).warning(20).startswith("the threshold was chosen for pairs")
    assert not Threshold(0.5).warning(20)
    embeddings = {**stored["embeddings"], "weights": "of another model"}
    with pytest.raises(InputError, match="weights differ"):
        read_threshold(out, embeddings)
    out.write_text("[]")
    with pytest.raises(InputError, match="not a file of tools/choose_threshold"):
        read_threshold(out, embeddings)


def test_options_that_do_not_go_together(tmp_path: Path):
    with pytest.raises(InputError, match="belong together") as refused:
        main([str(tmp_path), "t.txt", "--snap", "m.onnx", "--fpir", "0.1"])
    assert "ending .json" in str(refused.value)
