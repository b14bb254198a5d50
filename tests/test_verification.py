"""Verification against brute force over every candidate threshold, scikit-learn and hand-computed cases."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, roc_auc_score

from fr.evaluation.verification import Verification, best_threshold, cosine_scores, threshold_text, verify

Pairs = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]
RIGHT, CELL = np.ones(6000, dtype=bool), np.zeros((6000, 2), dtype=np.int64)

# Scores of the size of cosines: a grid of nine values, so ties abound, and free floats.
GRID = st.integers(-4, 4).map(lambda i: i / 4)
SCORE = st.one_of(GRID, st.floats(-1, 1))


@st.composite
def pair_sets(draw: st.DrawFn) -> Pairs:
    """Up to 40 pairs in 2 to 5 folds; both kinds somewhere, but not in every fold."""
    score = draw(st.sampled_from([GRID, SCORE]))
    rows = draw(st.lists(st.tuples(score, st.booleans(), st.integers(0, 4)), min_size=2, max_size=40))
    scores, same, fold = (np.array(column) for column in zip(*rows, strict=True))
    assume(np.unique(fold).size >= 2 and same.any() and not same.all())
    return scores.astype(np.float64), same, fold


def brute_threshold(scores: list[float], same: list[bool]) -> float:
    values = sorted(set(scores))
    candidates = [math.nextafter(values[0], -math.inf)]
    for low, high in pairwise(values):
        middle = low / 2 + high / 2
        candidates.append(middle if middle < high else low)
    candidates.append(values[-1])
    right = [sum((s > t) == k for s, k in zip(scores, same, strict=True)) for t in candidates]
    best = [t for t, count in zip(candidates, right, strict=True) if count == max(right)]
    return best[(len(best) - 1) // 2]


@settings(deadline=None)
@given(pair_sets())
def test_verify_matches_brute_force_and_sklearn(pairs: Pairs) -> None:
    scores, same, fold = pairs
    result = verify(scores, same, fold)
    thresholds: list[float] = []
    accuracies: list[float] = []
    of_same: list[float] = []
    of_diff: list[float] = []
    for number in sorted(set(fold.tolist())):
        inside = fold == number
        threshold = brute_threshold(scores[~inside].tolist(), same[~inside].tolist())
        verdict = scores > threshold
        thresholds.append(1 - threshold)
        accuracies.append(accuracy_score(same[inside], verdict[inside]))
        for kind, into in ((True, of_same), (False, of_diff)):
            chosen = verdict[inside & (same == kind)].tolist()
            if chosen:
                into.append(chosen.count(kind) / len(chosen))
    assert result.fold_thresholds == tuple(thresholds)
    assert result.fold_accuracies == tuple(accuracies)
    # The means add the same few terms in another order at most: a few ulp.
    assert result.accuracy == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-14)
    spread = math.sqrt(sum((a - result.accuracy) ** 2 for a in accuracies) / len(accuracies))
    assert result.accuracy_std == pytest.approx(spread, abs=1e-14)
    assert result.same_accuracy == pytest.approx(sum(of_same) / len(of_same), abs=1e-14)
    assert result.diff_accuracy == pytest.approx(sum(of_diff) / len(of_diff), abs=1e-14)
    assert result.threshold == pytest.approx(sum(thresholds) / len(thresholds), abs=1e-14)
    assert result.pairs == len(scores)
    assert all(math.isfinite(value) for value in result.metrics().values())


@settings(max_examples=200, deadline=None)
@given(pair_sets())
def test_auc_matches_sklearn_and_the_rank_statistic(pairs: Pairs) -> None:
    scores, same, fold = pairs
    auc = verify(scores, same, fold).auc
    assert auc == roc_auc_score(same, scores)
    wins = [(s > d) + 0.5 * (s == d) for s in scores[same] for d in scores[~same]]
    assert auc == pytest.approx(sum(wins) / len(wins), abs=1e-12)  # trapezoids of fractions against a count


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12), st.floats(-1, 1))
def test_threshold_is_exact_between_neighbouring_floats(rows: list[tuple[int, bool]], base: float) -> None:
    scores = np.array([base + step * math.ulp(base) for step, _ in rows])
    same = np.array([kind for _, kind in rows])
    order = np.argsort(scores)
    threshold = best_threshold(scores[order], same[order])
    values = np.unique(scores)
    verdicts = [scores >= value for value in values] + [np.zeros(len(scores), bool)]
    assert np.sum((scores > threshold) == same) == max(np.sum(verdict == same) for verdict in verdicts)
    assert math.isfinite(threshold)


def test_hand_computed_case() -> None:
    # Fold 7 is judged at .45: midpoint of .3 and .6, the only perfect cut of fold 9. Fold 9 is judged at
    # .25: fold 7 read upwards is d s d s, so .25 and .7 both judge 3 of 4 rightly; their lower median is .25.
    scores = np.array([0.9, 0.4, 0.1, 0.5, 0.8, 0.6, 0.2, 0.3])
    same = np.array([True, True, False, False] * 2)
    fold = np.array([7, 7, 7, 7, 9, 9, 9, 9])
    result = verify(scores, same, fold)
    assert result.fold_accuracies == (0.5, 0.75)
    assert result.fold_thresholds == pytest.approx((0.55, 0.75))
    assert result.metrics() == pytest.approx(
        {
            "accuracy": 0.625,
            "accuracy_std": 0.125,
            "same_accuracy": 0.75,
            "diff_accuracy": 0.5,
            "auc": 15 / 16,
            "threshold": 0.65,
            "threshold_cosine": 0.35,
        }
    )


def test_equal_scores_fall_on_one_side() -> None:
    # Two same and one different pair share 0.5: the best cut is below all three, 4 of 5 right.
    same = np.array([False, True, True, False, True])
    assert best_threshold(np.array([0.0, 0.5, 0.5, 0.5, 1.0]), same) == 0.25


@pytest.mark.parametrize(("kind", "expected"), [(True, math.nextafter(-1.0, -2.0)), (False, 1.0)])
def test_one_sided_training_folds_give_a_finite_threshold(kind: bool, expected: float) -> None:
    scores = np.array([-1.0, 0.0, 1.0])
    assert best_threshold(scores, np.full(3, kind)) == expected


def test_fold_of_one_kind_counts_for_that_kind_only() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.1, 0.9, 0.2])
    same = np.array([True, True, True, False, True, False])
    result = verify(scores, same, np.array([0, 0, 1, 1, 2, 2]))
    assert result.fold_accuracies == (1.0, 1.0, 1.0)
    assert (result.same_accuracy, result.diff_accuracy) == (1.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(pair_sets(), st.randoms(use_true_random=False))
def test_order_of_pairs_does_not_matter(pairs: Pairs, random: Random) -> None:
    order = list(range(len(pairs[0])))
    random.shuffle(order)
    scores, same, fold = pairs
    before, after = verify(scores, same, fold), verify(scores[order], same[order], fold[order])
    assert after == before
    assert after.right.tolist() == before.right[order].tolist()


@settings(max_examples=100, deadline=None)
@given(pair_sets())
def test_monotone_transform_keeps_auc(pairs: Pairs) -> None:
    scores, same, fold = pairs
    ranks = np.unique(scores, return_inverse=True)[1]  # strictly monotone: rounding merges no two scores
    assert verify(ranks**3, same, fold).auc == verify(scores, same, fold).auc


@settings(max_examples=100, deadline=None)
@given(pair_sets(), st.floats(-1, 1), st.booleans())
def test_fold_never_sees_its_own_scores(pairs: Pairs, score: float, flip: bool) -> None:
    scores, same, fold = pairs
    before = verify(scores, same, fold)
    for index, number in enumerate(np.unique(fold)):
        inside = fold == number
        changed_same = np.where(inside & flip, ~same, same)
        if changed_same.all() or not changed_same.any():
            continue
        after = verify(np.where(inside, score, scores), changed_same, fold)
        assert after.fold_thresholds[index] == before.fold_thresholds[index]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.7241, "0.7241"), (0.001, "0.0010"), (5.3e-8, "5.3e-08"), (-0.00012346, "-0.0001235"), (0.0, "0.0000")],
)
def test_a_threshold_near_0_has_four_digits(value: float, text: str) -> None:
    result = Verification(1, 0, 1, 1, 1, value, (1.0,), (value,), 2, RIGHT, CELL)
    assert result.lines()[-1] == f"Estimated threshold: {text}"


def test_lines_are_the_six_of_the_published_output() -> None:
    folds = (0.99, 1.0), (0.7, 0.7482)
    result = Verification(0.99465, 0.0035, 0.9923, 0.997, 0.99951, 0.7241, *folds, 6000, RIGHT, CELL)
    assert result.lines() == [
        "Accuracy/Val_same_accuracy mean: 0.9923",
        "Accuracy/Val_diff_accuracy mean: 0.9970",
        "Accuracy/Val_accuracy mean: 0.9947",
        "Accuracy/Val_accuracy std dev: 0.0035",
        "AUC: 0.9995",
        "Estimated threshold: 0.7241",
    ]
    assert result.threshold_score == 1 - 0.7241
    assert replace(result, dist="l2").threshold_score == -0.7241


@pytest.mark.parametrize(
    ("scores", "same", "fold", "message"),
    [
        ([0.1, 0.2], [True, False], [3, 3], "at least 2 folds, got 1"),
        ([0.1, 0.2], [True, True], [0, 1], "both same and different pairs, got 2 same of 2"),
        ([], [], [], "got"),
        ([0.1, math.nan, 0.2, math.inf], [True, False] * 2, [0, 0, 1, 1], "not finite for pairs 1, 3"),
        ([0.1, 0.2], [1, 0], [0, 1], "same must be bool"),
        ([0.1, 0.2], [True, False], [0.0, 1.0], "fold must be"),
        ([0.1, 0.2], [True, False], [0, 1, 2], "fold must be"),
        ([[0.1, 0.2]], [True, False], [0, 1], r"must both be \[P\]"),
    ],
)
def test_bad_pairs_are_refused(scores: object, same: object, fold: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify(scores, same, fold)  # type: ignore[arg-type]


def test_six_thousand_pairs_take_under_a_fifth_of_a_second() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(6000) % 600 < 300
    scores = np.tanh(rng.normal(np.where(same, 0.8, 0.0), 0.3))
    taken = []
    for _ in range(5):  # the best of five: other work on the machine only ever adds
        start = time.perf_counter()
        verify(scores, same, np.arange(6000) // 600)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.2


def test_cosine_scores_match_the_definition() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 50, 16)).astype(np.float32)
    expected = [
        sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    scores = cosine_scores(first, second)
    assert scores.dtype == np.float64 and scores.shape == (50,)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-14)  # 16 float64 products a score


def test_cosine_scores_at_the_edges() -> None:
    first = np.array([[0.0, 0.0], [1e300, 1e300], [1e-310, 0.0], [3.0, 4.0]])
    second = np.array([[1.0, 2.0], [1e300, 1e300], [-2.0, 0.0], [4.0, -3.0]])
    np.testing.assert_allclose(cosine_scores(first, second), [0, 1, -1, 0], atol=1e-15)
    assert cosine_scores(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)
    assert np.abs(cosine_scores(first, first)).max() <= 1


def test_cosine_scores_name_bad_rows_and_shapes() -> None:
    good = np.ones((20, 3))
    first, second = good.copy(), good.copy()
    first[4, 1], second[7, 0] = np.nan, -np.inf
    with pytest.raises(ValueError, match=r"not finite in rows 4, 7$"):
        cosine_scores(first, second)
    with pytest.raises(ValueError, match="0, 1, 2, 3, 4, 5, 6, 7 and 12 more"):
        cosine_scores(good * np.nan, good)
    with pytest.raises(ValueError, match=r"one shape \[P, E\]"):
        cosine_scores(good, good[:5])


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (0.0, "0.0000"), (0.61234, "0.6123"), (1.0, "1.0000"), (1.30006, "1.3001"), (-0.25, "-0.2500"),
        (0.0001234567, "0.0001235"), (0.99994, "0.9999"), (0.99996, "0.99996000"), (1.00001234567, "1.00001235"),
        (1 - 2.0**-52, "0.9999999999999997780"),
    ],
)  # fmt: skip
def test_a_threshold_is_printed_as_another_number_than_0_or_1_unless_it_is_one(threshold: float, text: str) -> None:
    assert threshold_text(threshold) == text
