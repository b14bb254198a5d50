"""Exact ROC curve of scored pairs: area, equal error rate, TAR at a FAR.

Letters: P pairs, U distinct scores, N = U + 1 points of the curve. `...`: leading axes such as bootstrap replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fr.evaluation.verification import checked_pairs
from fr.files.durable import write_result

Rates = NDArray[np.float64]
FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ENOUGH_MATCHES = 10  # a TAR from fewer false matches gets a note


@dataclass(frozen=True, eq=False)
class Roc:
    """FAR [N], TAR [N] and thresholds [N], from (0, 0) at +inf to (1, 1), one point per distinct score.

    Pairs with score >= threshold are accepted, so equal scores are accepted together. band [2, N]: lower and upper ends
    of the 95 % interval of each TAR (`fr/evaluation/bands.py`); None = unknown.
    """

    far: Rates
    tar: Rates
    thresholds: Rates
    band: Rates | None = None


def roc_curve(scores: ArrayLike, same: ArrayLike) -> Roc:
    """ROC curve of [P] pairs. Raises ValueError for scores that aren't finite or pairs of one kind only."""
    score, is_same = checked_pairs(scores, same)
    order, ends = falling(score)
    far, tar = rates(np.ones(score.size, dtype=np.int64), is_same[order], ends)
    return Roc(far, tar, np.concatenate(([np.inf], score[order[ends]])))


def write_curve(name: str, suffix: str, roc: Roc) -> None:
    """Write a ROC curve to `name`, with `suffix` before .txt: a line `TPR FPR` for each point, for tools/plot_roc.py.

    The form is that of face_recognition.pytorch; with a band, its ends follow in the line.
    """
    columns = [roc.tar, roc.far, *([] if roc.band is None else roc.band)]
    lines = (" ".join(f"{value:.17g}" for value in point) + "\n" for point in zip(*columns, strict=True))
    write_result(Path(f"{name.removesuffix('.txt')}{suffix}.txt"), "".join(lines).encode())


def falling(scores: Rates) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order [P] of descending scores, and the last position [U] in it of each distinct score."""
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    return order, np.flatnonzero(np.concatenate((ordered[1:] != ordered[:-1], [True])))


def rates(weights: NDArray[np.int64], same: NDArray[np.bool_], ends: NDArray[np.intp]) -> tuple[Rates, Rates]:
    """FAR [..., N] and TAR [..., N] of pairs in the order of `falling`: weights [..., P], same [P], ends [U].

    Neither the same nor the different pairs may all have weight 0.
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
    """Equal error rate, FAR = 1 - TAR, of curves [..., N] -> [...], with linear interpolation as for the area."""
    gap = far + tar - 1  # rises from -1 to 1
    after = np.argmax(gap >= 0, axis=-1)[..., None]
    low, high = (np.take_along_axis(gap, at, axis=-1) for at in (after - 1, after))
    far_low, far_high = (np.take_along_axis(far, at, axis=-1) for at in (after - 1, after))
    crossing: Rates = (far_low + (far_high - far_low) * low / (low - high))[..., 0]
    return crossing


def score_at(roc: Roc, max_far: float) -> float:
    """The lowest threshold at which the FAR doesn't exceed `max_far`; +inf if every threshold accepts too many."""
    return float(roc.thresholds[np.count_nonzero(roc.far <= max_far) - 1])


def tar_at(far: Rates, tar: Rates, max_far: float) -> Rates:
    """Highest measured TAR with FAR <= `max_far`: curves [..., N] -> [...], without interpolation."""
    last = np.count_nonzero(far <= max_far, axis=-1)[..., None] - 1
    highest: Rates = np.take_along_axis(tar, last, axis=-1)[..., 0]
    return highest


def false_matches(far: float, different: int) -> int:
    """Number of false matches among `different` pairs that a FAR allows; a FAR that allows none can't be measured."""
    return int(far * different + 1e-9)  # tolerance for products just below an integer in floating point
