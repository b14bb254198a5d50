"""Bands of ROC curves: against plain counting, cover of a known truth, and from evaluate_lfw.py to the plots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest, norm

import evaluate_lfw
from fr.errors import InputError
from fr.evaluation.bands import MOST, banded_curve, thinned
from fr.evaluation.bootstrap import draws
from fr.evaluation.roc import Roc
from fr.report import plots
from tests.builders.scored_models import models  # noqa: F401  # a fixture
from tests.conftest import validation_options
from tests.test_bootstrap import Set, pairs_of
from tools import compare_models, plot_roc


def plain_tar(scores: NDArray[np.float64], same: NDArray[np.bool_], far: float) -> float:
    """The highest share of same pairs accepted where no more than this share of the different ones is."""
    places = [np.inf, *np.unique(scores)]
    return max(float((scores[same] >= t).mean()) for t in places if (scores[~same] >= t).mean() <= far)


def test_an_interval_is_that_of_the_copied_pairs() -> None:
    scores, same, who = pairs_of(1, 25, 300)
    scores = scores.round(1)  # ties
    roc = banded_curve(scores, same, who, 60, seed=3)
    assert roc.band is not None and roc.band.shape == (2, len(roc.far))
    weights = np.concatenate(list(draws(who, 60, 3)))
    for far, tar, low, high in zip(roc.far, roc.tar, *roc.band, strict=True):
        if far * 150 < 9.5:
            assert np.isnan(low) and np.isnan(high)
            continue
        copies = [np.repeat(np.arange(300), times) for times in weights]
        redrawn = [plain_tar(scores[some], same[some], far) for some in copies]
        highest = plain_tar(scores, same, far)
        exact = binomtest(round(highest * 150), 150).proportion_ci(0.95, "exact")
        assert low == pytest.approx(min(np.quantile(redrawn, 0.025), exact.low), abs=1e-9)
        assert high == pytest.approx(max(np.quantile(redrawn, 0.975), exact.high), abs=1e-9)
        assert low <= tar <= high
    assert banded_curve(scores, same, who, 0).band is None


def test_few_fars_are_enough_and_the_band_between_them_is_the_wider() -> None:
    fars = np.arange(1, 20_001) / 20_000
    chosen = thinned(fars)
    assert MOST / 2 < len(chosen) <= MOST and chosen[0] == fars[0] and chosen[-1] == 1
    assert np.isin(chosen, fars).all() and (np.diff(np.log(chosen)) < np.log(2) + 1e-9).all()
    assert thinned(fars[:MOST]) is not None and np.array_equal(thinned(fars[:MOST]), fars[:MOST])
    scores, same, who = pairs_of(2, 40, 400)
    whole = banded_curve(scores, same, who, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fr.evaluation.bands.MOST", 12)
        few = banded_curve(scores, same, who, 40)
    assert whole.band is not None and few.band is not None
    known = np.isfinite(whole.band[0])
    assert (few.band[0][known] <= whole.band[0][known]).all() and (few.band[1][known] >= whole.band[1][known]).all()


def binormal(seed: int, pairs: int, people: int | None) -> Set:
    """Scores of two normal distributions two deviations apart; with `people` half the variance is of the people."""
    draw = np.random.default_rng(seed)
    same = np.arange(pairs) % 2 == 0
    who = np.arange(2 * pairs).reshape(-1, 2)
    if people is not None:
        who = draw.integers([people, people - 1], size=(pairs, 2))
        who[:, 1] = (who[:, 0] + 1 + who[:, 1]) % people  # another one
    who[same, 1] = who[same, 0]
    noise = draw.normal(size=pairs)
    if people is not None:
        lean = draw.normal(size=people)
        shared = np.where(same, lean[who[:, 0]], (lean[who[:, 0]] + lean[who[:, 1]]) / 2**0.5)
        noise = (noise + shared) / 2**0.5
    return noise + 2 * same, same, who.astype(np.int64)


def covered(sets: int, pairs: int, people: int | None, count: int) -> dict[float, float]:
    """Share of sets whose band holds the true TAR, by FAR: Φ(2 + Φ⁻¹(FAR))."""
    hits = dict.fromkeys((0.05, 0.1, 0.3, 0.6), 0)
    for seed in range(sets):
        roc = banded_curve(*binormal(seed, pairs, people), count)
        assert roc.band is not None
        for far in hits:
            low, high = roc.band[:, np.searchsorted(roc.far, far + 1e-12, side="right") - 1]
            hits[far] += low <= norm.cdf(2 + norm.ppf(far)) <= high
    return {far: hit / sets for far, hit in hits.items()}


@pytest.mark.parametrize("people", [None, 60])
def test_bands_cover_the_truth(people: int | None) -> None:
    # Meant are 38 of 40; fewer than 33 come by chance less than once in a thousand times.
    shares = covered(40, 400, people, 100)
    assert all(share >= 33 / 40 for share in shares.values()), shares


@pytest.mark.thorough
@pytest.mark.parametrize("people", [None, 40, 200])
def test_bands_cover_the_truth_of_200_sets(people: int | None) -> None:
    shares = covered(200, 600, people, 300)
    # Meant are 190 of 200; fewer than 180 come by chance once in a thousand times.
    assert all(share >= 0.9 for share in shares.values()), shares


# --- plots ---------------------------------------------------------------------------------------------------------


def bands_in(figure: Any) -> list[NDArray[np.float64]]:
    """Corners of the filled areas."""
    (axes,) = figure.axes
    fills = [one for one in axes.collections if isinstance(one, PolyCollection)]
    return [np.asarray(path.vertices) for fill in fills for path in fill.get_paths()]


def test_both_plots_fill_the_bands() -> None:
    far, tar = np.array([0, 0.1, 0.5, 1]), np.array([0.2, 0.6, 0.9, 1])
    band = np.array([[np.nan, 0.5, 0.8, 0.95], [np.nan, 0.7, 0.95, 1.0]])
    curves: Mapping[str, Roc] = {"a": Roc(far, tar, far, band), "b": Roc(far, tar, far)}
    (of_roc,) = bands_in(plots.roc_overlay(curves))
    for x, low, high in ((0.1, 0.5, 0.7), (0.5, 0.8, 0.95), (1, 0.95, 1)):
        assert {low, high} <= {y.item() for at, y in of_roc if at == pytest.approx(x)}
    assert of_roc[:, 0].min() == pytest.approx(0.1)
    (of_det,) = bands_in(plots.det_plot(curves))
    at_tenth = sorted({round(float(y), 9) for x, y in of_det if x == pytest.approx(norm.ppf(0.1))})
    assert at_tenth == pytest.approx([norm.ppf(0.3), norm.ppf(0.5)])
    assert np.isfinite(of_det).all()


def test_bands_of_a_model_go_into_the_file_and_the_plots(
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--snap", models[0], *validation_options(sample_data), "--device", "cpu", "--bootstrap", "100"]
    out = tmp_path / "a.txt"
    assert evaluate_lfw.main([*given, "--roc_fname", str(out), "--roc_band", "--json", str(tmp_path / "j.json")]) == 0
    roc = plot_roc.read_curve(out)
    assert roc.band is not None
    tar, far, low, high = np.loadtxt(out).T
    assert np.array_equal(np.stack([low, high]), roc.band, equal_nan=True) and np.array_equal(far, roc.far)
    assert np.isnan(low[far < 0.49]).all() and (low[far > 0.51] <= tar[far > 0.51]).all()  # 20 different pairs
    for more in ([], ["--det"]):
        assert plot_roc.main([str(out), "--out", str(tmp_path / "roc.png"), *more]) == 0
    capsys.readouterr()
    drawn = tmp_path / "bands.png", tmp_path / "lines.png"
    for picture, count in zip(drawn, ("100", "0"), strict=True):
        options = [*given[2:-1], count, "--roc", str(picture)]
        assert compare_models.main([models[0], models[1], *options]) == 0
    capsys.readouterr()
    colours = [len(Image.open(picture).convert("RGB").getcolors(1 << 20) or []) for picture in drawn]
    assert colours[0] > colours[1]  # those of the bands
    for wrong in (["--roc_band"], ["--roc_band", "--roc_fname", "x", "--bootstrap", "0"]):
        with pytest.raises(InputError, match="--roc_band: goes with --roc_fname and --bootstrap"):
            evaluate_lfw.main(["--snap", models[0], *wrong])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.5 0.1 0.4\n", r"a\.txt:1: expected TPR and FPR, and optionally the ends"),
        ("0.5 0.1 0.6 0.7\n", r"a\.txt:1: expected TPR and FPR, and optionally"),
        ("0.5 0.1 0.4 0.7\n0.6 0.2\n", r"a\.txt: some lines have an interval"),
    ],
)
def test_a_file_with_a_wrong_band_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=said):
        plot_roc.read_curve(tmp_path / "a.txt")
