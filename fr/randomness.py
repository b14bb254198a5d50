"""Counter-based random numbers: a function of seed and position, independent of earlier draws.

A counter-based generator (Philox 4x64, Salmon et al., SC 2011) gives the numbers of any row without drawing those
before it. So the numbers drawn for a sample or a class depend on the seed and its position only: never on the rank,
the world size, the timing of threads, or the iteration that a run was resumed from.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_WORDS_PER_COUNT = 4  # Philox 4x64 gives four 64-bit words for each value of its counter


class Purpose(IntEnum):
    """Purpose of random numbers; each has a sequence of its own under the same seed."""

    ORDER = 1
    AUGMENTATION = 2
    HEAD = 3
    SAMPLING = 4
    PIXELS = 5
    FEATURES = 6
    MIXING = 7
    DROPS = 8


def generator(seed: int, purpose: Purpose, epoch: int = 0, first_count: int = 0) -> np.random.Generator:
    """The generator of (seed, purpose, epoch), set to the value `first_count` of its counter."""
    key = np.array([seed, (int(purpose) << 32) | epoch], dtype=np.uint64)
    counter = np.array([first_count, 0, 0, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def uniforms(seed: int, purpose: Purpose, first: int, rows: int, columns: int, epoch: int = 0) -> NDArray[np.float64]:
    """Rows `first` … `first + rows - 1` of an endless table of uniform numbers in [0, 1), as [rows, columns]."""
    counts_per_row = -(-columns // _WORDS_PER_COUNT)
    source = generator(seed, purpose, epoch, first * counts_per_row)
    return source.random((rows, counts_per_row * _WORDS_PER_COUNT))[:, :columns]
