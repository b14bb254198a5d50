"""The verification protocol of face_recognition.pytorch, to the digit, for scores that compare with its published ones.

It differs from `fr.evaluation.verification.verify`: a fold's threshold is where the histograms of the other folds'
distances cross, not where accuracy is highest; accuracy is the mean of same and different accuracy; AUC is that of the
folds' mean curve on a fixed grid of distances. Source: openvinotoolkit/training_extensions,
pytorch_toolkit/face_recognition.

Letters: P pairs, K folds, T thresholds of the grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fr.evaluation.verification import ORIGINS, Verification, checked_folds, checked_pairs

BINS = 60
GRID = np.linspace(0.0, 4.0, 400)  # [T] distances; cosine distances end at 2, squared unit L2 at 4
FALLBACK = 0.5  # of a fold whose histograms don't cross


def verify_by_histogram(scores: ArrayLike, same: ArrayLike, fold: ArrayLike, dist: str = "cos") -> Verification:
    """As `verify`, by the protocol above: a pair is judged the same person when its distance is below the threshold.

    A fold that lacks a kind is left out of that kind's means, its accuracy is that of the other kind. (The
    original takes half of a fold's pairs for each kind's number: the same where pairs.txt keeps its promise.)
    Raises ValueError as `verify`.
    """
    score, is_same = checked_pairs(scores, same)
    folds, numbers = checked_folds(fold, score.size)
    distance = ORIGINS[dist] - score
    thresholds = np.array([crossing(distance[folds != n], is_same[folds != n]) for n in numbers])  # [K]
    right = (distance < thresholds[np.searchsorted(numbers, folds)]) == is_same
    by_fold = [folds == number for number in numbers]
    of_same = [float(right[inside & is_same].mean()) for inside in by_fold if is_same[inside].any()]
    of_diff = [float(right[inside & ~is_same].mean()) for inside in by_fold if not is_same[inside].all()]
    accuracies = [_mean_over_kinds(right[inside], is_same[inside]) for inside in by_fold]
    far, tar = grid_roc(distance, is_same, folds)
    return Verification(
        accuracy=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies)),
        same_accuracy=float(np.mean(of_same)),
        diff_accuracy=float(np.mean(of_diff)),
        auc=float(np.trapezoid([*tar, tar[-1]], [*far, 1.0])),
        threshold=float(np.mean(thresholds)),
        fold_accuracies=tuple(accuracies),
        fold_thresholds=tuple(thresholds.tolist()),
        pairs=int(score.size),
        right=right,
        dist=dist,
        protocol="histogram",
    )


def crossing(distance: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Mean of the bin edges at which same pairs [P] stop being the more frequent; FALLBACK where there is none.

    Equally wide bins between the least and the greatest distance of the same pairs, whose bins the different
    pairs are counted in, too.
    """
    of_same, edges = np.histogram(distance[same], BINS)
    of_diff, _ = np.histogram(distance[~same], edges)
    falls = (of_same[:-1] >= of_diff[:-1]) & (of_same[1:] > 0) & (of_same[1:] <= of_diff[1:])
    return float(np.mean(edges[1:-1][falls])) if falls.any() else FALLBACK


def grid_roc(
    distance: NDArray[np.float64], same: NDArray[np.bool_], folds: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FAR [T] and TAR [T] on the grid, each the mean over the folds that have pairs of its kind."""
    far, tar = (
        [_below_grid(distance[(folds == number) & kind]) for number in np.unique(folds[kind])]
        for kind in (~same, same)
    )
    return np.mean(far, axis=0), np.mean(tar, axis=0)


def _below_grid(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    below: NDArray[np.float64] = np.searchsorted(np.sort(distance), GRID, side="left") / distance.size
    return below


def _mean_over_kinds(right: NDArray[np.bool_], same: NDArray[np.bool_]) -> float:
    return float(np.mean([right[kind].mean() for kind in (same, ~same) if kind.any()]))
