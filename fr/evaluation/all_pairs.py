"""Scores of all pairs of images, in blocks: exact matrix products, of which only the highest scores are kept.

Letters: I images, E embedding size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Places = NDArray[np.int64]

_SCORES = 1 << 24  # at a time: 64 MB


def blocks(probes: int, images: int) -> list[slice]:
    """Blocks of probes whose scores with all gallery images fit into memory."""
    rows = max(1, _SCORES // max(1, images))
    return [slice(first, first + rows) for first in range(0, probes, rows)]


def highest(rows: Rows, person: Places, count: int, above: float = -np.inf) -> tuple[NDArray[np.float32], Places]:
    """The `count` highest scores of pairs of different people, in any order, and the rows of each pair [count, 2].

    rows: [I, E] of norm 1. person: [I]. above: only scores above this are returned, so there may be fewer.
    """
    scores, pairs = np.empty(0, dtype=np.float32), np.empty((0, 2), dtype=np.int64)
    for part in blocks(len(rows), len(rows)):
        products = rows[part] @ rows.T
        first = np.arange(len(rows))[part]
        products[(person[first][:, None] == person) | (first[:, None] > np.arange(len(rows)))] = -np.inf
        least = scores.min() if len(scores) == count else above
        row, other = np.nonzero(products > least)
        scores = np.concatenate([scores, products[row, other]])
        pairs = np.concatenate([pairs, np.stack([first[row], other], axis=1)])
        if len(scores) > count:
            kept = np.argpartition(scores, len(scores) - count)[-count:]
            scores, pairs = scores[kept], pairs[kept]
    return scores, pairs
