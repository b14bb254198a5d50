"""Verification protocol of face_recognition.pytorch, reproduced exactly for comparison with its published results.

Unlike in `fr.evaluation.verification.verify`, a fold's threshold is the crossing of the histograms of the other folds'
distances, not the maximum of accuracy; accuracy is the mean of same and different accuracy; AUC is that of the folds'
mean curve on a fixed grid of distances. Source: openvinotoolkit/training_extensions, pytorch_toolkit/face_recognition.

Letters: P pairs, K folds, T thresholds of the grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fr.evaluation.verification import ORIGINS, Verification, checked_folds, checked_pairs

BINS = 60
GRID = np.linspace(0.0, 4.0, 400)  # [T] distances; cosine distances end at 2, squared unit L2 at 4
FALLBACK = 0.5  # threshold of a fold whose histograms don't cross


def verify_by_histogram(scores: ArrayLike, same: ArrayLike, fold: ArrayLike, dist: str = "cos") -> Verification:
    """Verify pairs by the histogram protocol: same person if distance < threshold. Arguments and errors as `verify`.

    A fold without pairs of one kind is left out of that kind's means; its accuracy is that of the other kind. (The
    original divides by half of a fold's pairs, which is the same if a fold has equal numbers of both kinds.)
    """
    score, is_same = checked_pairs(scores, same)
    folds, numbers = checked_folds(fold, score.size)
    distance = ORIGINS[dist] - score
    thresholds = np.array([crossing(distance[folds != n], is_same[folds != n]) for n in numbers])  # [K]
    correct = (distance < thresholds[np.searchsorted(numbers, folds)]) == is_same
    far, tar = grid_roc(distance, is_same, folds)
    auc = float(np.trapezoid([*tar, tar[-1]], [*far, 1.0]))
    return Verification.of(correct, is_same, folds, thresholds.tolist(), auc, dist, "histogram")


def crossing(distance: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Mean of the bin edges where same pairs stop outnumbering different ones; FALLBACK without such an edge. [P] each.

    Both kinds are counted in BINS equal bins between the smallest and the largest distance of the same pairs.
    """
    same_counts, edges = np.histogram(distance[same], BINS)
    diff_counts, _ = np.histogram(distance[~same], edges)
    falls = (same_counts[:-1] >= diff_counts[:-1]) & (same_counts[1:] > 0) & (same_counts[1:] <= diff_counts[1:])
    return float(np.mean(edges[1:-1][falls])) if falls.any() else FALLBACK


def grid_roc(
    distance: NDArray[np.float64], same: NDArray[np.bool_], folds: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FAR [T] and TAR [T] on the grid, each the mean over the folds that have pairs of its kind."""
    far, tar = (
        [_below_grid(distance[(folds == number) & kind]) for number in np.unique(folds[kind])] for kind in (~same, same)
    )
    return np.mean(far, axis=0), np.mean(tar, axis=0)


def _below_grid(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    below: NDArray[np.float64] = np.searchsorted(np.sort(distance), GRID, side="left") / distance.size
    return below
