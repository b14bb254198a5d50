"""Errors against rejection: FNMR where the pairs of the poorest images are rejected, at a threshold that stays.

Grother & Tabassi, Performance of biometric quality measures, IEEE TPAMI 29(4), 2007; the "error versus discard
characteristic" of ISO/IEC 29794-1. A pair is as good as the poorer of its images. A quality that tells something lets
the FNMR fall; rejection at random leaves it as it is.

Letters: P pairs, R shares.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHARES = np.linspace(0, 0.5, 51)  # of the pairs, rejected


def fnmr_after_rejection(
    scores: NDArray[np.float64], same: NDArray[np.bool_], quality: NDArray[np.float64], score: float
) -> NDArray[np.float64]:
    """Share [R] of the same pairs left that are below `score`, for each of SHARES; NaN where no same pair is left.

    scores, same: [P]. quality: [P, 2] of both images, higher is better. Of equally good pairs the later ones are
    rejected first.
    """
    best_first = np.argsort(-quality.min(axis=1), kind="stable")
    missed = np.concatenate(([0], np.cumsum((same & (scores < score))[best_first])))
    there = np.concatenate(([0], np.cumsum(same[best_first])))
    left = np.round(len(scores) * (1 - SHARES)).astype(np.int64)
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = missed[left] / there[left]
    return share
