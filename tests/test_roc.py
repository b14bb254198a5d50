"""ROC, AUC, EER and TAR@FAR against scikit-learn, and against exact fractions counted pair by pair."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import det_curve, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from fr.evaluation.rejection import SHARES, embedding_lengths, fnmr_after_rejection, rejection_curves
from fr.evaluation.roc import (
    FARS,
    area,
    equal_error_rate,
    falling,
    false_matches,
    rates,
    roc_curve,
    score_at,
    tar_at,
)

Pairs = tuple[NDArray[np.float64], NDArray[np.bool_]]


@st.composite
def pair_sets(draw: st.DrawFn) -> Pairs:
    """Up to 40 pairs of both kinds; scores of a grid, so that ties abound, or free ones."""
    score = draw(st.sampled_from([st.integers(-4, 4).map(lambda i: i / 4), st.floats(-1, 1)]))
    rows = draw(st.lists(st.tuples(score, st.booleans()), min_size=2, max_size=40))
    scores, same = (np.array(column) for column in zip(*rows, strict=True))
    assume(same.any() and not same.all())
    return scores.astype(np.float64), same


def counted_points(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> list[tuple[Fraction, Fraction]]:
    """(FAR, TAR) at every threshold, by counting."""
    rows = list(zip(scores.tolist(), same.tolist(), strict=True))
    points = [(Fraction(0), Fraction(0))]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        accepted = [kind for score, kind in rows if score >= threshold]
        wrong, right = accepted.count(False), accepted.count(True)
        points.append((Fraction(wrong, int((~same).sum())), Fraction(right, int(same.sum()))))
    return points


def counted_eer(points: list[tuple[Fraction, Fraction]]) -> Fraction:
    for (far, tar), (next_far, next_tar) in pairwise(points):
        gap, next_gap = far + tar - 1, next_far + next_tar - 1
        if gap < 0 <= next_gap:
            return far + (next_far - far) * gap / (gap - next_gap)
    raise AssertionError("FAR and 1 - TAR always cross")


@settings(max_examples=200, deadline=None)
@given(pair_sets())
def test_roc_and_its_area_match_sklearn(pairs: Pairs) -> None:
    scores, same = pairs
    roc = roc_curve(scores, same)
    expected = sklearn_roc_curve(same, scores, drop_intermediate=False)
    for ours, theirs in zip((roc.far, roc.tar, roc.thresholds), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The same trapezoids, added in another order.
    assert float(area(roc.far, roc.tar)) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(pair_sets(), st.sampled_from([*FARS, 0.0, 0.25, 1 / 3, 0.5, 1.0]))
def test_eer_and_tar_match_counting_with_fractions(pairs: Pairs, most: float) -> None:
    scores, same = pairs
    roc = roc_curve(scores, same)
    points = counted_points(scores, same)
    # A few operations on numbers up to 1: some ulp.
    assert float(equal_error_rate(roc.far, roc.tar)) == pytest.approx(float(counted_eer(points)), abs=1e-14)
    assert float(tar_at(roc.far, roc.tar, most)) == max(float(tar) for far, tar in points if float(far) <= most)


def test_eer_lies_between_the_neighbouring_points_of_sklearns_det_curve() -> None:
    rng = np.random.default_rng(2)
    same = np.arange(2000) % 2 == 0
    scores = rng.normal(np.where(same, 1, 0))
    roc = roc_curve(scores, same)
    far, frr, _ = det_curve(same, scores)
    nearest = int(np.argmin(np.abs(far - frr)))
    # Neighbouring points are one pair of a thousand apart.
    assert float(equal_error_rate(roc.far, roc.tar)) == pytest.approx((far[nearest] + frr[nearest]) / 2, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(pair_sets(), st.data())
def test_a_weight_is_so_many_copies_of_the_pair(pairs: Pairs, data: st.DataObject) -> None:
    scores, same = pairs
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(same), max_size=len(same))))
    assume(weights[same].any() and weights[~same].any())
    copies = np.repeat(np.arange(len(same)), weights)
    expected = roc_curve(scores[copies], same[copies])
    order, ends = falling(scores)
    far, tar = rates(np.stack([weights, np.ones_like(weights)])[:, order], same[order], ends)
    for of in (area, equal_error_rate, lambda far, tar: tar_at(far, tar, 0.25)):
        weighted, plain = of(far, tar)
        assert weighted == pytest.approx(float(of(expected.far, expected.tar)), abs=1e-14)
        roc = roc_curve(scores, same)
        assert plain == pytest.approx(float(of(roc.far, roc.tar)), abs=1e-14)


@pytest.mark.parametrize(
    ("same_score", "eer"),
    [(0.9, 0.0), (0.1, 1.0), (0.5, 0.5)],  # perfect, always wrong, all scores equal
)
def test_eer_of_extreme_sets(same_score: float, eer: float) -> None:
    scores = np.array([same_score] * 4 + [0.5] * 4)
    roc = roc_curve(scores, np.arange(8) < 4)
    assert float(equal_error_rate(roc.far, roc.tar)) == eer


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([0.1, np.nan], [True, False], "not finite for pairs 1"),
        ([0.1, 0.2], [True, True], "both same and different pairs"),
        ([0.1], [True, False], r"must both be \[P\]"),
    ],
)
def test_what_has_no_curve_is_refused(scores: list[float], same: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        roc_curve(scores, same)


@given(st.integers(1, 10**7), st.sampled_from(FARS))
@example(100, 0.29)  # 28.999999999999996 in floating point
def test_false_matches_of_a_far_are_whole_pairs(different: int, far: float) -> None:
    exact = Fraction(f"{far:g}") * different
    assert false_matches(far, different) == exact.numerator // exact.denominator


@given(pair_sets(), st.floats(0, 1))
def test_a_threshold_is_the_lowest_that_admits_so_few(pairs: Pairs, most: float) -> None:
    scores, same = pairs
    place = score_at(roc_curve(scores, same), most)
    admitted = [score for score in scores if (scores[~same] >= score).mean() <= most]
    assert place == min(admitted, default=np.inf)


def test_rejection_is_of_the_pairs_whose_poorer_image_is_poorest() -> None:
    """Counted for each share; scores that grow with the quality let the errors fall."""
    random = np.random.default_rng(0)
    same, quality = random.random(400) < 0.5, random.random((400, 2))
    scores = np.where(same, quality.min(axis=1), 0) + 0.2 * random.normal(size=400)
    found = fnmr_after_rejection(scores, same, quality, 0.3)
    for share, fnmr in zip(SHARES, found, strict=True):
        poorest = sorted(range(400), key=lambda i: min(quality[i]))[: round(400 * share)]
        left = [i for i in range(400) if same[i] and i not in poorest]
        assert fnmr == pytest.approx(np.mean([scores[i] < 0.3 for i in left]))
    assert found[-1] < 0.6 * found[0]
    assert np.isnan(fnmr_after_rejection(scores[:2], np.array([False, True]), np.array([[2, 2], [1, 1]]), 0)[-1])


def test_curves_of_each_quality_are_at_the_thresholds_of_the_fmrs() -> None:
    random = np.random.default_rng(1)
    pairs, same = random.integers(50, size=(300, 2)), np.arange(300) % 2 == 0
    scores, by = random.normal(size=300) + same, {name: random.random(50) for name in ("sharpness", "size")}
    found = rejection_curves(scores, same, pairs, by)
    # 150 different pairs: FMR 0.001 would allow none.
    assert [*found] == [f"{name}, FMR {far}" for name in by for far in (0.1, 0.01)]
    different = np.sort(scores[~same])[::-1]
    for name, quality in by.items():
        for far, allowed in ((0.1, 15), (0.01, 1)):
            place = min(score for score in scores if score > different[allowed])
            for share in (0.0, 0.3):
                order = sorted(range(300), key=lambda i: (min(quality[row] for row in pairs[i]), -i))
                left = [i for i in order[round(300 * share) :] if same[i]]
                fnmr = found[f"{name}, FMR {far}"][round(share * 100)]
                assert fnmr == pytest.approx(np.mean([scores[i] < place for i in left]))


def test_a_curve_of_few_errors_is_left_out() -> None:
    """Rejection can't be seen to lower a rate of a few errors: it moves in steps of one."""
    scores = np.concatenate((np.linspace(0, 0.5, 100), np.linspace(0.6, 1, 100)))
    same = np.arange(200) >= 100
    pairs, quality = np.arange(400).reshape(200, 2), {"size": np.arange(400.0)}
    different = np.sort(scores[~same])[::-1]
    for missed, found in ((9, []), (10, ["size, FMR 0.1"])):
        lower = scores.copy()
        lower[100 : 100 + missed] = different[11] - 1e-9 * np.arange(1, missed + 1)  # 12 false matches there
        assert [name for name in rejection_curves(lower, same, pairs, quality) if "0.1" in name] == found


def test_lengths_of_unit_embeddings_are_no_quality() -> None:
    rows = np.random.default_rng(2).normal(size=(20, 8)).astype(np.float32)
    assert embedding_lengths(rows) == pytest.approx([float(np.sqrt((row.astype(float) ** 2).sum())) for row in rows])
    assert embedding_lengths(rows / np.linalg.norm(rows, axis=1, keepdims=True)) is None
