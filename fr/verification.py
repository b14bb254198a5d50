"""Pair verification as on LFW: scores of pairs, K-fold accuracy, AUC and the six lines of the field's output.

Letters: P pairs, E embedding size, K folds, U distinct scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

NAMED_AT_MOST = 8  # rows named one by one in an error; beyond that a count is more use


@dataclass(frozen=True)
class Verification:
    """The result of `verify`. Accuracies are fractions in [0, 1]; thresholds are cosine distances 1 - cos.

    accuracy: mean over folds of the share of pairs judged rightly.
    accuracy_std: population standard deviation over folds (ddof=0, NumPy's default, as LFW tables print it).
    same_accuracy, diff_accuracy: mean share of same (different) pairs judged rightly, over folds with any.
    auc: area under the ROC curve of all pairs together.
    threshold: mean of `fold_thresholds`.
    fold_accuracies, fold_thresholds: K values, in ascending order of the fold number.
    pairs: how many pairs were judged (P).
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

    @property
    def threshold_cosine(self) -> float:
        """The threshold as a cosine: a pair is judged the same person when its cosine is above it."""
        return 1.0 - self.threshold

    def figures(self) -> dict[str, float]:
        """The scalar results by name, not rounded."""
        return {
            "accuracy": self.accuracy,
            "accuracy_std": self.accuracy_std,
            "same_accuracy": self.same_accuracy,
            "diff_accuracy": self.diff_accuracy,
            "auc": self.auc,
            "threshold": self.threshold,
            "threshold_cosine": self.threshold_cosine,
        }

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
    a = np.asarray(first, dtype=np.float64)
    b = np.asarray(second, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"cosine_scores needs two arrays of one shape [P, E], got {a.shape} and {b.shape}")
    bad = np.flatnonzero(~(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)))
    if bad.size:
        raise ValueError(f"embeddings are not finite in rows {_named(bad)}")
    cosines: NDArray[np.float64] = np.einsum("pe,pe->p", _unit_rows(a), _unit_rows(b))
    return np.clip(cosines, -1.0, 1.0)


def verify(scores: ArrayLike, same: ArrayLike, fold: ArrayLike) -> Verification:
    """K-fold verification: each fold is judged at the threshold that is best on all other folds.

    scores: [P] similarities, higher is more alike (cosines). same: [P] bool. fold: [P] int, any numbering.
    A pair is judged the same person when score > threshold, see `best_threshold`. A fold that lacks same (or
    different) pairs is left out of same_accuracy (diff_accuracy) only.

    Raises ValueError on shapes that differ, scores that are not finite (names the pairs), fewer than two
    folds, or pairs of one kind only. Protocol: LFW, http://vis-www.cs.umass.edu/lfw/README.txt ("View 2").
    The threshold maximises accuracy exactly, where some trainers take it from a histogram or a grid.
    """
    score, is_same = checked_pairs(scores, same)
    folds = np.asarray(fold)
    if folds.shape != score.shape or not np.issubdtype(folds.dtype, np.integer):
        raise ValueError(f"fold must be {score.shape} integers, got {folds.shape} of {folds.dtype}")
    numbers = np.unique(folds)
    if numbers.size < 2:
        raise ValueError(f"verification needs at least 2 folds, got {numbers.size}")

    cosines: list[float] = []
    accuracies: list[float] = []
    same_accuracies: list[float] = []
    diff_accuracies: list[float] = []
    for number in numbers:
        held_out = folds == number
        cosine = best_threshold(score[~held_out], is_same[~held_out])
        kind = is_same[held_out]
        right = (score[held_out] > cosine) == kind
        cosines.append(cosine)
        accuracies.append(float(right.mean()))
        if kind.any():
            same_accuracies.append(float(right[kind].mean()))
        if not kind.all():
            diff_accuracies.append(float(right[~kind].mean()))

    distances = tuple(1.0 - cosine for cosine in cosines)
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
    values, position = np.unique(scores, return_inverse=True)  # [U] ascending, [P]
    same_at = np.bincount(position[same], minlength=values.size)  # [U]
    diff_at = np.bincount(position[~same], minlength=values.size)  # [U]
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


def _unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
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
