"""Pair verification as on LFW: scores of pairs, K-fold accuracy, AUC and the six lines of the field's output.

Letters: P pairs, E embedding size, K folds, U distinct scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

ORIGINS = {"cos": 1.0, "l2": 0.0}  # a pair's distance is this minus its score
NAMED_AT_MOST = 8  # rows named one by one in an error; beyond that a count is more use


@dataclass(frozen=True)
class Verification:
    """The result of a protocol. Accuracies are fractions in [0, 1]; thresholds are distances: 1 - cos, or L2.

    accuracy: mean over folds of the share of pairs judged rightly.
    accuracy_std: population standard deviation over folds (ddof=0, NumPy's default, as LFW tables print it).
    same_accuracy, diff_accuracy: mean share of same (different) pairs judged rightly, over folds with any.
    auc: area under the ROC curve: of all pairs together (standard), of the mean over folds (histogram).
    threshold: mean of `fold_thresholds`.
    fold_accuracies, fold_thresholds: K values, in ascending order of the fold number.
    pairs: how many pairs were judged (P).
    right: [P], whether each was judged rightly at the threshold of its own fold.
    dist: what the scores are, "cos" (cosines) or "l2" (Euclidean distances, negated). protocol: who judged them.
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
    dist: str = "cos"
    protocol: str = "standard"

    @property
    def threshold_score(self) -> float:
        """The threshold as a score: a pair is judged the same person when its score is above it."""
        return ORIGINS[self.dist] - self.threshold

    def figures(self) -> dict[str, float]:
        """The scalar results by name, not rounded; `threshold_cosine` only where scores are cosines."""
        figures = {
            "accuracy": self.accuracy,
            "accuracy_std": self.accuracy_std,
            "same_accuracy": self.same_accuracy,
            "diff_accuracy": self.diff_accuracy,
            "auc": self.auc,
            "threshold": self.threshold,
        }
        return figures | {"threshold_cosine": self.threshold_score} if self.dist == "cos" else figures

    def lines(self) -> list[str]:
        """The six lines that `evaluate_lfw.py` of OpenVINO's face recognition trainer prints."""
        return [
            f"Accuracy/Val_same_accuracy mean: {self.same_accuracy:.4f}",
            f"Accuracy/Val_diff_accuracy mean: {self.diff_accuracy:.4f}",
            f"Accuracy/Val_accuracy mean: {self.accuracy:.4f}",
            f"Accuracy/Val_accuracy std dev: {self.accuracy_std:.4f}",
            f"AUC: {self.auc:.4f}",
            f"Estimated threshold: {self.threshold:.4f}",
        ]


def cosine_scores(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Cosine of each pair of embeddings: first [P, E], second [P, E] -> [P] float64 in [-1, 1].

    A zero embedding has no direction; its score is 0. Raises ValueError when the shapes are not two equal
    [P, E], or when an embedding is not finite (the message names the rows).
    """
    a, b = _checked_rows(first, second)
    cosines: NDArray[np.float64] = np.einsum("pe,pe->p", unit_rows(a), unit_rows(b))
    return np.clip(cosines, -1.0, 1.0)


def l2_scores(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Minus the Euclidean distance of each pair of embeddings as they are: [P, E] twice -> [P] float64, at most 0.

    Raises ValueError as `cosine_scores`.
    """
    a, b = _checked_rows(first, second)
    scores: NDArray[np.float64] = -np.linalg.norm(a - b, axis=1)
    return scores


def verify(scores: ArrayLike, same: ArrayLike, fold: ArrayLike, dist: str = "cos") -> Verification:
    """K-fold verification: each fold is judged at the threshold that is best on all other folds.

    scores: [P] similarities, higher is more alike, of the kind `dist`. same: [P] bool. fold: [P] int, any numbering.
    A pair is judged the same person when score > threshold, see `best_threshold`. A fold that lacks same (or
    different) pairs is left out of same_accuracy (diff_accuracy) only.

    Raises ValueError on shapes that differ, scores that are not finite (names the pairs), fewer than two
    folds, or pairs of one kind only. Protocol: LFW, http://vis-www.cs.umass.edu/lfw/README.txt ("View 2").
    The threshold maximises accuracy exactly, where some trainers take it from a histogram or a grid.
    """
    score, is_same = checked_pairs(scores, same)
    folds, numbers = checked_folds(fold, score.size)
    order = np.argsort(score)  # once for all folds
    ordered_score, ordered_same, ordered_fold = score[order], is_same[order], folds[order]

    all_right = np.zeros(score.size, dtype=np.bool_)
    thresholds: list[float] = []
    accuracies: list[float] = []
    same_accuracies: list[float] = []
    diff_accuracies: list[float] = []
    for number in numbers:
        held_out = folds == number
        others = ordered_fold != number
        threshold = _best_cut(ordered_score[others], ordered_same[others])
        kind = is_same[held_out]
        right = (score[held_out] > threshold) == kind
        all_right[held_out] = right
        thresholds.append(threshold)
        accuracies.append(float(right.mean()))
        if kind.any():
            same_accuracies.append(float(right[kind].mean()))
        if not kind.all():
            diff_accuracies.append(float(right[~kind].mean()))

    distances = tuple(ORIGINS[dist] - threshold for threshold in thresholds)
    return Verification(
        accuracy=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies)),
        same_accuracy=float(np.mean(same_accuracies)),
        diff_accuracy=float(np.mean(diff_accuracies)),
        auc=float(roc_auc_score(is_same, score)),
        threshold=float(np.mean(distances)),
        fold_accuracies=tuple(accuracies),
        fold_thresholds=distances,
        pairs=int(score.size),
        right=all_right,
        dist=dist,
    )


def best_threshold(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The threshold t for which `score > t` agrees with `same` most often. scores: [P] finite, same: [P].

    The U distinct scores allow U + 1 different verdicts, and each has one candidate:
    - all are the same person: the next float below the lowest score;
    - cut between two neighbours: their midpoint, or the lower one where no float lies between them;
    - none is: the highest score itself, as a score equal to the threshold is judged different.
    So every candidate is finite, and equal scores always fall on one side. Of equally good candidates the
    middle one is taken (the lower of two middle ones). Sorting and cumulative counts: exact, O(P log P).
    """
    order = np.argsort(scores)
    return _best_cut(scores[order], same[order])


def _best_cut(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """`best_threshold` of pairs in ascending order of their scores."""
    starts = np.flatnonzero(np.concatenate(([True], scores[1:] != scores[:-1])))  # [U]
    values = scores[starts]
    same_at = np.add.reduceat(same, starts, dtype=np.int64)  # [U]
    diff_at = np.diff(starts, append=scores.size) - same_at  # [U]
    # right[k]: pairs judged rightly when values[k:] are judged same. Integers, so equally good means equal.
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
    """scores [P] as float64 and same [P] as bool.

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
        raise ValueError(
            f"verification needs both same and different pairs, got {count} same of {score.size} pairs"
        )
    return score, is_same


def checked_folds(fold: ArrayLike, pairs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The fold of each pair [P] and the K numbers that occur, ascending.

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
    """Two finite arrays [P, E] as float64; ValueError otherwise."""
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
    # Dividing by the largest element first keeps the squares from overflowing or vanishing.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.einsum("pe,pe->p", scaled, scaled))[:, None]
    unit: NDArray[np.float64] = scaled / np.where(norm > 0, norm, 1.0)
    return unit


def _named(rows: NDArray[np.intp]) -> str:
    shown = ", ".join(str(row) for row in rows[:NAMED_AT_MOST])
    rest = rows.size - NAMED_AT_MOST
    return shown if rest <= 0 else f"{shown} and {rest} more"
