"""face_recognition.pytorch's protocol against a plain loop over pairs, written from its description."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fr.evaluation.histogram_protocol import crossing, verify_by_histogram

Rows = list[tuple[float, bool]]  # distance, same


def plain_threshold(rows: Rows) -> float:
    positive, negative = ([distance for distance, same in rows if same is kind] for kind in (True, False))
    low, high = min(positive), max(positive)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = [float(edge) for edge in np.linspace(low, high, 61)]
    edges[-1] = high

    def count(distances: list[float], bin_number: int) -> int:
        last = bin_number == 59
        left, right = edges[bin_number], edges[bin_number + 1]
        return sum(left <= d < right or (last and d == right) for d in distances)

    crossings = []
    for i in range(1, 60):
        here, there = count(positive, i), count(negative, i)
        if count(positive, i - 1) >= count(negative, i - 1) and 0 < here <= there:
            crossings.append(edges[i])
    return sum(crossings) / len(crossings) if crossings else 0.5


def plain_protocol(rows: Rows, folds: int) -> list[str]:
    """The six lines, by loops; folds are equal blocks, half of each is of one person."""
    size = len(rows) // folds
    same_rates, diff_rates, accuracies, thresholds = [], [], [], []
    far, tar = [0.0] * 400, [0.0] * 400
    for fold in range(folds):
        test = rows[fold * size : (fold + 1) * size]
        threshold = plain_threshold(rows[: fold * size] + rows[(fold + 1) * size :])
        thresholds.append(threshold)
        same_rates.append(sum(d < threshold for d, same in test if same) / (size / 2))
        diff_rates.append(sum(d >= threshold for d, same in test if not same) / (size / 2))
        accuracies.append((same_rates[-1] + diff_rates[-1]) / 2)
        for i in range(400):
            accepted = [same for d, same in test if d < 4 * i / 399]
            tar[i] += accepted.count(True) / (size / 2) / folds
            far[i] += accepted.count(False) / (size / 2) / folds
    points = [*zip(far, tar, strict=True), (1.0, tar[-1])]
    auc = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
    mean = sum(accuracies) / folds
    return [
        f"Accuracy/Val_same_accuracy mean: {sum(same_rates) / folds:.4f}",
        f"Accuracy/Val_diff_accuracy mean: {sum(diff_rates) / folds:.4f}",
        f"Accuracy/Val_accuracy mean: {mean:.4f}",
        f"Accuracy/Val_accuracy std dev: {(sum((a - mean) ** 2 for a in accuracies) / folds) ** 0.5:.4f}",
        f"AUC: {auc:.4f}",
        f"Estimated threshold: {sum(thresholds) / folds:.4f}",
    ]


def synthetic(seed: int, pairs: int, apart: float) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Cosines of ten blocks, same pairs first in each as pairs.txt has them."""
    fold = np.arange(pairs) * 10 // pairs
    same = np.arange(pairs) % (pairs // 10) < pairs // 20
    scores = np.tanh(np.random.default_rng(seed).normal(np.where(same, apart, 0.0), 0.2))
    return scores, same, fold


@pytest.mark.parametrize(("seed", "pairs", "apart"), [(0, 1200, 0.6), (1, 600, 0.2), (2, 400, 1.0), (3, 200, 0.4)])
def test_the_six_lines_are_those_of_the_published_protocol(seed: int, pairs: int, apart: float) -> None:
    scores, same, fold = synthetic(seed, pairs, apart)
    distances = (1 - scores).tolist()
    expected = plain_protocol(list(zip(distances, same.tolist(), strict=True)), 10)
    result = verify_by_histogram(scores, same, fold)
    assert result.lines() == expected
    assert result.protocol == "histogram"
    assert result.right.mean() == pytest.approx(result.accuracy)  # folds and kinds are of equal size


def test_histograms_that_do_not_cross_fall_back() -> None:
    scores, same, fold = synthetic(0, 200, 3.0)
    scores[np.flatnonzero(~same)[0]] = 0.5  # at the threshold: not below it
    result = verify_by_histogram(scores, same, fold)
    assert result.fold_thresholds == (0.5,) * 10
    assert result.lines() == plain_protocol(list(zip((1 - scores).tolist(), same.tolist(), strict=True)), 10)
    assert (result.accuracy, result.threshold) == (1.0, 0.5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60))
def test_crossings_match_the_plain_loop_with_ties(grid: list[tuple[int, bool]]) -> None:
    rows = [(step / 8, same) for step, same in grid]
    distance, same = np.array([d for d, _ in rows]), np.array([kind for _, kind in rows])
    # Eighths, whose bins' edges may round to either side of them: compared through np.histogram's own edges.
    if same.any():
        assert crossing(distance, same) == pytest.approx(plain_threshold(rows), abs=1e-12)
    else:
        assert crossing(distance, same) == 0.5


def test_a_fold_of_one_kind_counts_for_that_kind_only() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.1, 0.9, 0.2])
    same = np.array([True, True, True, False, True, False])
    result = verify_by_histogram(scores, same, np.array([0, 0, 1, 1, 2, 2]))
    assert (result.accuracy, result.same_accuracy, result.diff_accuracy) == (1.0, 1.0, 1.0)
    assert result.auc == pytest.approx(1.0)


def test_l2_scores_are_judged_by_their_distance() -> None:
    scores, same, fold = synthetic(4, 400, 0.5)
    cosines, distances = (verify_by_histogram(s, same, fold, d) for s, d in ((scores, "cos"), (scores - 1, "l2")))
    assert cosines.lines() == distances.lines()
    assert "threshold_cosine" not in distances.metrics()


@pytest.mark.parametrize(
    ("scores", "same", "fold", "message"),
    [
        ([0.1, np.nan], [True, False], [0, 1], "not finite for pairs 1"),
        ([0.1, 0.2], [True, True], [0, 1], "both same and different pairs"),
        ([0.1, 0.2], [True, False], [1, 1], "at least 2 folds"),
    ],
)
def test_what_can_not_be_judged_is_refused(
    scores: list[float], same: list[bool], fold: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        verify_by_histogram(scores, same, fold)
