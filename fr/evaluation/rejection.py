"""Error-versus-discard curves: FNMR when the pairs with the poorest images are rejected, at a fixed threshold.

Grother & Tabassi, Performance of biometric quality measures, IEEE TPAMI 29(4), 2007; the "error versus discard
characteristic" of ISO/IEC 29794-1. The quality of a pair is that of its poorer image. With an informative quality
measure the FNMR decreases; with random rejection it stays the same.

Letters: P pairs, R shares, N images, E embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.roc import ENOUGH_MATCHES, FARS, false_matches, roc_curve, score_at

_ROUNDING = 1e-4  # smaller relative differences of lengths are rounding
SHARES = np.linspace(0, 0.5, 51)  # rejected shares of the pairs


def fnmr_after_rejection(
    scores: NDArray[np.float64], same: NDArray[np.bool_], quality: NDArray[np.float64], score: float
) -> NDArray[np.float64]:
    """FNMR [R] of the remaining pairs at the threshold `score`, for each of SHARES; NaN if no same pair remains.

    scores, same: [P]. quality: [P, 2] of both images, higher is better. Among pairs of equal quality the later ones
    are rejected first.
    """
    best_first = np.argsort(-quality.min(axis=1), kind="stable")
    missed = np.concatenate(([0], np.cumsum((same & (scores < score))[best_first])))
    there = np.concatenate(([0], np.cumsum(same[best_first])))
    left = np.round(len(scores) * (1 - SHARES)).astype(np.int64)
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = missed[left] / there[left]
    return share


def embedding_lengths(embeddings: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Norms [N] of embeddings [N, E], MagFace's quality (https://arxiv.org/abs/2103.06627); None if all are equal."""
    lengths: NDArray[np.float64] = np.linalg.norm(embeddings, axis=1).astype(np.float64)
    return None if np.ptp(lengths) <= _ROUNDING * lengths.max() else lengths


def rejection_curves(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    pairs: NDArray[np.int64],
    qualities: Mapping[str, NDArray[np.float64]],
) -> dict[str, NDArray[np.float64]]:
    """`fnmr_after_rejection` by quality and threshold: those of FMR 0.1, 0.01 and 0.001, if there are enough pairs.

    Thresholds with fewer than ENOUGH_MATCHES false non-matches among all pairs are left out.
    scores, same: [P]. pairs: [P, 2] rows of the images. qualities: of the images [N], by name; higher is better.
    """
    roc = roc_curve(scores, same)
    places = {far: score_at(roc, far) for far in FARS[:3] if false_matches(far, int(np.count_nonzero(~same)))}
    measured = {far: place for far, place in places.items() if np.sum(scores[same] < place) >= ENOUGH_MATCHES}
    return {
        f"{name}, FMR {far:g}": fnmr_after_rejection(scores, same, quality[pairs], place)
        for name, quality in qualities.items()
        for far, place in measured.items()
    }
