"""The exact ROC curve of scored pairs and what is read off it: area, equal error rate, TAR at a FAR.

Letters: P pairs, U distinct scores, N = U + 1 points of the curve. `...` stands for any axes in front, such as those
of bootstrap replicates, so that a figure and its interval come from the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fr.evaluation.verification import checked_pairs

Rates = NDArray[np.float64]
FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ENOUGH_MATCHES = 10  # a TAR that rests on fewer false matches says so


@dataclass(frozen=True, eq=False)
class Roc:
    """FAR [N], TAR [N] and thresholds [N], from (0, 0) at +inf to (1, 1), one point a distinct score.

    At each, the pairs accepted are those with score >= threshold, so equal scores fall on one side.
    """

    far: Rates
    tar: Rates
    thresholds: Rates


def roc_curve(scores: ArrayLike, same: ArrayLike) -> Roc:
    """The curve of the [P] pairs. Raises ValueError for scores that aren't finite or pairs of one kind only."""
    score, is_same = checked_pairs(scores, same)
    order, ends = falling(score)
    far, tar = rates(np.ones(score.size, dtype=np.int64), is_same[order], ends)
    return Roc(far, tar, np.concatenate(([np.inf], score[order[ends]])))


def falling(scores: Rates) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order [P] of falling scores, and where in it each distinct score has its last pair [U]."""
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    return order, np.flatnonzero(np.concatenate((ordered[1:] != ordered[:-1], [True])))


def rates(
    weights: NDArray[np.int64], same: NDArray[np.bool_], ends: NDArray[np.intp]
) -> tuple[Rates, Rates]:
    """FAR [..., N] and TAR [..., N] of pairs in the order of `falling`: weights [..., P], same [P], ends [U].

    The weights of same pairs, and those of different pairs, must not all be 0.
    """
    return _share(np.where(same, 0, weights), ends), _share(np.where(same, weights, 0), ends)


def _share(weights: NDArray[np.int64], ends: NDArray[np.intp]) -> Rates:
    accepted = np.zeros((*weights.shape[:-1], ends.size + 1), dtype=np.int64)
    accepted[..., 1:] = np.cumsum(weights, axis=-1)[..., ends]
    share: Rates = accepted / accepted[..., -1:]
    return share


def area(far: Rates, tar: Rates) -> Rates:
    """Area under the curves [..., N] -> [...], by trapezoids: a tie of a same and a different pair counts half."""
    return np.asarray(np.trapezoid(tar, far, axis=-1))


def equal_error_rate(far: Rates, tar: Rates) -> Rates:
    """Where FAR = 1 - TAR: curves [..., N] -> [...].

    Between the last point with FAR < 1 - TAR and the next one the curve is taken for a straight line, as it is
    for its area.
    """
    gap = far + tar - 1  # rises from -1 to 1
    after = np.argmax(gap >= 0, axis=-1)[..., None]
    low, high = (np.take_along_axis(gap, at, axis=-1) for at in (after - 1, after))
    far_low, far_high = (np.take_along_axis(far, at, axis=-1) for at in (after - 1, after))
    crossing: Rates = (far_low + (far_high - far_low) * low / (low - high))[..., 0]
    return crossing


def tar_at(far: Rates, tar: Rates, most: float) -> Rates:
    """The highest measured TAR whose FAR is at most `most`: curves [..., N] -> [...]. Nothing is interpolated."""
    last = np.count_nonzero(far <= most, axis=-1)[..., None] - 1
    highest: Rates = np.take_along_axis(tar, last, axis=-1)[..., 0]
    return highest


def false_matches(far: float, different: int) -> int:
    """How many of the different pairs a FAR allows to be accepted; a FAR that allows none can't be measured."""
    return int(far * different + 1e-9)  # 0.01 × 300 is a hair's breadth below 3 in floating point
