"""Pair verification as on LFW: pair scores, K-fold accuracy, AUC, and output as face_recognition.pytorch prints it.

Letters: P pairs, E embedding size, K folds, U distinct scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

ORIGINS = {"cos": 1.0, "l2": 0.0, "distance": 0.0}  # a pair's distance is this minus its score
NAMED_AT_MOST = 8  # rows listed in an error; the rest are counted


@dataclass(frozen=True)
class Verification:
    """Result of a protocol. Accuracies are fractions in [0, 1]; thresholds are those of `printed_threshold`.

    accuracy: mean over folds of the share of correctly classified pairs.
    accuracy_std: population standard deviation over folds (ddof=0, NumPy's default, as LFW tables print it).
    same_accuracy, diff_accuracy: mean share of correctly classified same (different) pairs, over folds with any.
    auc: area under the ROC curve: of all pairs together (standard), of the mean over folds (histogram).
    threshold: mean of `fold_thresholds`.
    fold_accuracies, fold_thresholds: K values, in ascending order of the fold number.
    pairs: number of pairs (P).
    right: [P], True if the pair was classified correctly at the threshold of its own fold.
    cell: [P, 2], cell in which a pair is averaged: its fold from 0, and its kind if both kinds have equal weights
        (histogram), else 0. The accuracy is `mean_of_cells`.
    dist: kind of score: "cos" (cosines), "l2" (Euclidean distances, negated), "distance" (others, negated), or
        "similarity" (any score). protocol: "standard" or "histogram".
    """

    accuracy: float
    accuracy_std: float
    same_accuracy: float
    diff_accuracy: float
    auc: float
    threshold: float
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]
    pairs: int
    right: NDArray[np.bool_] = field(compare=False, repr=False)
    cell: NDArray[np.int64] = field(compare=False, repr=False)
    dist: str = "cos"
    protocol: str = "standard"

    @classmethod
    def of(
        cls,
        right: NDArray[np.bool_],
        same: NDArray[np.bool_],
        folds: NDArray[np.int64],
        thresholds: Sequence[float],
        auc: float,
        dist: str,
        protocol: str = "standard",
    ) -> Verification:
        """Result of pairs [P] that were classified, in `folds` [P]. thresholds: K, in ascending order of the folds."""
        numbers, place = np.unique(folds, return_inverse=True)
        by_fold = [(right[inside], same[inside]) for inside in folds == numbers[:, None]]
        same_accuracies = [float(hits[kind].mean()) for hits, kind in by_fold if kind.any()]
        diff_accuracies = [float(hits[~kind].mean()) for hits, kind in by_fold if not kind.all()]
        if protocol == "histogram":  # both kinds have equal weights in a fold
            parts = [[hits[k].mean() for k in (kind, ~kind) if k.any()] for hits, kind in by_fold]
            accuracies = tuple(float(np.mean(part)) for part in parts)
        else:
            accuracies = tuple(float(hits.mean()) for hits, _ in by_fold)
        return cls(
            accuracy=float(np.mean(accuracies)),
            accuracy_std=float(np.std(accuracies)),
            same_accuracy=float(np.mean(same_accuracies)),
            diff_accuracy=float(np.mean(diff_accuracies)),
            auc=auc,
            threshold=float(np.mean(thresholds)),
            fold_accuracies=accuracies,
            fold_thresholds=tuple(thresholds),
            pairs=int(right.size),
            right=right,
            cell=np.stack([place, same if protocol == "histogram" else np.zeros_like(place)], axis=1),
            dist=dist,
            protocol=protocol,
        )

    @property
    def threshold_score(self) -> float:
        """Threshold as a score: pairs with higher scores are classified as same."""
        return printed_threshold(self.threshold, self.dist)

    def metrics(self) -> dict[str, float]:
        """Scalar metrics by name, not rounded; `threshold_cosine` only where scores are cosines."""
        names = ("accuracy", "accuracy_std", "same_accuracy", "diff_accuracy", "auc", "threshold")
        figures: dict[str, float] = {name: getattr(self, name) for name in names}
        return figures | {"threshold_cosine": self.threshold_score} if self.dist == "cos" else figures

    def lines(self) -> list[str]:
        """Six output lines as `evaluate_lfw.py` of OpenVINO's face recognition trainer prints them."""
        return [
            f"Accuracy/Val_same_accuracy mean: {self.same_accuracy:.4f}",
            f"Accuracy/Val_diff_accuracy mean: {self.diff_accuracy:.4f}",
            f"Accuracy/Val_accuracy mean: {self.accuracy:.4f}",
            f"Accuracy/Val_accuracy std dev: {self.accuracy_std:.4f}",
            f"AUC: {self.auc:.4f}",
            f"Estimated threshold: {threshold_text(self.threshold)}",
        ]


def printed_threshold(score: float, dist: str) -> float:
    """Threshold in the printed unit: 1 - cosine, a distance, or an unchanged similarity. It is its own inverse."""
    return score if dist == "similarity" else ORIGINS[dist] - score


def metric_text(value: float | None) -> str:
    """Value with four decimals; a dash for one that can't be measured."""
    return "–" if value is None else f"{value:.4f}"


def threshold_text(threshold: float) -> str:
    """Threshold with four decimals, or four digits of it or of its difference from 1 where those would be lost.

    Embeddings that are nearly all alike have such distances and cosines.
    """
    if 0 < abs(1 - threshold) < 5e-5:
        return f"{threshold:.{3 - math.floor(math.log10(abs(1 - threshold)))}f}"
    return f"{threshold:.4f}" if threshold == 0 or abs(threshold) >= 1e-3 else f"{threshold:.4g}"


def threshold_unit(dist: str) -> str:
    """Name of the unit of `printed_threshold`, for output."""
    return "score" if dist == "similarity" else "distance"


def cosine_scores(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Cosine of each pair of embeddings: first [P, E], second [P, E] -> [P] float64 in [-1, 1].

    A zero embedding has no direction; its score is 0. Raises ValueError when the shapes are not two equal
    [P, E], or when an embedding is not finite (the message names the rows).
    """
    a, b = _checked_rows(first, second)
    cosines: NDArray[np.float64] = np.einsum("pe,pe->p", unit_rows(a), unit_rows(b))
    return np.clip(cosines, -1.0, 1.0)


def l2_scores(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Negated Euclidean distance of each pair of embeddings, not normalised: [P, E] twice -> [P] float64, at most 0.

    Raises ValueError as `cosine_scores`.
    """
    a, b = _checked_rows(first, second)
    scores: NDArray[np.float64] = -np.linalg.norm(a - b, axis=1)
    return scores


def verify(scores: ArrayLike, same: ArrayLike, fold: ArrayLike, dist: str = "cos") -> Verification:
    """K-fold verification: each fold is classified at the best threshold of all other folds.

    scores: [P] similarities, higher is more alike, of the kind `dist`. same: [P] bool. fold: [P] int, any numbering.
    A pair is classified as same when score > threshold, see `best_threshold`. A fold that lacks same (or
    different) pairs is left out of same_accuracy (diff_accuracy) only.

    Raises ValueError on shapes that differ, scores that are not finite (names the pairs), fewer than two
    folds, or pairs of one kind only. Protocol: LFW, http://vis-www.cs.umass.edu/lfw/README.txt ("View 2").
    The threshold maximises accuracy exactly, unlike one from a histogram or a grid.
    """
    from sklearn.metrics import roc_auc_score  # imports scipy.stats: a second, which no start of a training waits for

    score, is_same = checked_pairs(scores, same)
    folds, numbers = checked_folds(fold, score.size)
    order = np.argsort(score)  # once for all folds
    score_in_order, same_in_order, others = score[order], is_same[order], folds[order] != numbers[:, None]
    cuts = np.array([best_threshold(score_in_order[rest], same_in_order[rest]) for rest in others])
    right = (score > cuts[np.searchsorted(numbers, folds)]) == is_same
    distances = [printed_threshold(cut, dist) for cut in cuts.tolist()]
    return Verification.of(right, is_same, folds, distances, float(roc_auc_score(is_same, score)), dist)


def mean_of_cells(weights: NDArray[np.int64], right: NDArray[np.bool_], cell: NDArray[np.int64]) -> NDArray[np.float64]:
    """Accuracy of pairs that count `weights` [..., P] times -> [...]: the mean over folds of the mean over kinds.

    right [P], cell [P, 2]: those of a Verification. A kind without pairs is left out of its fold's mean, a fold without
    pairs of the whole; there must be a pair.
    """
    folds = int(cell[:, 0].max()) + 1
    columns = np.arange(2 * folds) == (2 * cell[:, 0] + cell[:, 1])[:, None]  # [P, 2K]
    times = weights.astype(np.float64)
    counts, hits = (times @ some.astype(np.float64) for some in (columns, columns & right[:, None]))
    shares = np.divide(hits, counts, out=np.zeros_like(hits), where=counts > 0).reshape(*hits.shape[:-1], folds, 2)
    kinds = (counts > 0).reshape(shares.shape).sum(axis=-1)
    of_folds = shares.sum(axis=-1) / np.maximum(kinds, 1)
    accuracies: NDArray[np.float64] = of_folds.sum(axis=-1) / (kinds > 0).sum(axis=-1)
    return accuracies


def shares_of_pairs(cell: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of each pair [P] in the accuracy of `mean_of_cells`; the weights add up to 1."""
    _, kind, size = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    fold, kinds = np.unique(np.unique(cell, axis=0)[:, 0], return_counts=True)
    return 1 / (size[kind.reshape(-1)] * kinds[np.searchsorted(fold, cell[:, 0])] * fold.size)


def best_threshold(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The threshold t for which `score > t` agrees with `same` most often. scores: [P] finite, ascending; same: [P].

    The U distinct scores allow U + 1 classifications, each with one candidate threshold:
    - all pairs same: the next float below the lowest score;
    - split between two neighbours: their midpoint, or the lower one where no float lies between them;
    - all pairs different: the highest score, as a score equal to the threshold is classified as different.
    Every candidate is finite. Of equally good candidates the middle one is taken (the lower of two middle ones).
    Cumulative counts: exact, O(P).
    """
    starts = np.flatnonzero(np.concatenate(([True], scores[1:] != scores[:-1])))  # [U]
    values = scores[starts]
    same_at = np.add.reduceat(same, starts, dtype=np.int64)  # [U]
    diff_at = np.diff(starts, append=scores.size) - same_at  # [U]
    # right[k]: correct pairs when values[k:] are classified as same. Integers, so ties are exact.
    right = same_at.sum() + np.concatenate(([0], np.cumsum(diff_at - same_at)))  # [U + 1]
    best = np.flatnonzero(right == right.max())
    cut = int(best[(best.size - 1) // 2])
    if cut == 0:
        return float(np.nextafter(values[0], -np.inf))
    low = float(values[cut - 1])
    if cut == values.size:
        return low
    high = float(values[cut])
    middle = low / 2 + high / 2
    return middle if low <= middle < high else low  # rounding may put the midpoint of neighbours on `high`


def checked_pairs(scores: ArrayLike, same: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Check and convert scores [P] to float64 and same [P] to bool.

    Raises ValueError for shapes other than two equal [P], `same` that is not bool, scores that are not finite
    (names the pairs), and pairs of one kind only.
    """
    score = np.asarray(scores, dtype=np.float64)
    is_same = np.asarray(same)
    if score.ndim != 1 or score.shape != is_same.shape:
        raise ValueError(f"scores and same must both be [P], got {score.shape} and {is_same.shape}")
    if is_same.dtype != np.bool_:
        raise ValueError(f"same must be bool, got {is_same.dtype}")
    bad = np.flatnonzero(~np.isfinite(score))
    if bad.size:
        raise ValueError(f"scores are not finite for pairs {_named(bad)}")
    count = int(is_same.sum())
    if count in (0, score.size):
        raise ValueError(f"verification needs both same and different pairs, got {count} same of {score.size} pairs")
    return score, is_same


def checked_folds(fold: ArrayLike, pairs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Check folds: the fold of each pair [P], and the K fold numbers, ascending.

    Raises ValueError for anything but P integers, and for fewer than two folds.
    """
    folds = np.asarray(fold)
    if folds.shape != (pairs,) or not np.issubdtype(folds.dtype, np.integer):
        raise ValueError(f"fold must be {(pairs,)} integers, got {folds.shape} of {folds.dtype}")
    numbers = np.unique(folds)
    if numbers.size < 2:
        raise ValueError(f"verification needs at least 2 folds, got {numbers.size}")
    return folds, numbers


def _checked_rows(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check and convert two finite arrays [P, E] to float64; ValueError otherwise."""
    a = np.asarray(first, dtype=np.float64)
    b = np.asarray(second, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"scores need two arrays of one shape [P, E], got {a.shape} and {b.shape}")
    bad = np.flatnonzero(~(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)))
    if bad.size:
        raise ValueError(f"embeddings are not finite in rows {_named(bad)}")
    return a, b


def unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows [P, E] scaled to length 1; zero rows stay zero."""
    # Dividing by the largest element first keeps the squares from overflow and underflow.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.einsum("pe,pe->p", scaled, scaled))[:, None]
    return scaled / np.where(norm > 0, norm, 1.0)


def _named(rows: NDArray[np.intp]) -> str:
    shown = ", ".join(str(row) for row in rows[:NAMED_AT_MOST])
    rest = rows.size - NAMED_AT_MOST
    return shown if rest <= 0 else f"{shown} and {rest} more"
