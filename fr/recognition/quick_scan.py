"""The most alike of a large gallery by FAISS: all of it is looked at in 8 bits a number, the best of that exactly.

That reads a quarter of the memory, which is what a search for few faces waits for. FAISS's exact index (IndexFlatIP)
is no faster than a matrix product, and its trees and cells (HNSW, IVF) miss people: figures in LOG.md.

Letters: G pictures, E embedding size, Q probes.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]

LARGE = 50_000  # pictures; below, a search is a few milliseconds anyway
FEW = 4  # probes at a time; for more the product, which reads the gallery once for all of them, is faster
_CANDIDATES = 32  # that are compared exactly: 8 bits change a cosine by less than the best of many differ by
_TRAINED_WITH = 20_000  # rows that set the range of the 8 bits


class QuickScan:
    """Of unit rows [G, E], which stay the caller's to keep. Takes E bytes a picture."""

    def __init__(self, rows: Rows) -> None:
        faiss = importlib.import_module("faiss")
        kind = faiss.ScalarQuantizer.QT_8bit
        self._rows = rows
        self._index = faiss.IndexScalarQuantizer(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        self._index.train(rows[:: max(1, len(rows) // _TRAINED_WITH)])
        self._index.add(rows)

    def best(self, probes: Rows) -> tuple[NDArray[np.int64], Rows]:
        """The row most like each unit probe [Q, E], the first of several, and the cosine: [Q] each."""
        _, found = self._index.search(probes, min(_CANDIDATES, len(self._rows)))
        candidates = np.sort(found, axis=1)
        cosines = np.einsum("qe,qke->qk", probes, self._rows[candidates])
        place = cosines.argmax(axis=1)[:, None]
        return np.take_along_axis(candidates, place, axis=1)[:, 0], np.take_along_axis(cosines, place, axis=1)[:, 0]


def quick_scan(rows: Rows) -> QuickScan | None:
    """For a large gallery where FAISS is installed (init_venv.sh --with faiss)."""
    return QuickScan(rows) if len(rows) >= LARGE and find_spec("faiss") else None
