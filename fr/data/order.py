"""Which sample stands at which place: a pure function of the seed and the iteration (C2).

An epoch is one random permutation of the list, cut into batches of the global size; what is left over at its end
(fewer samples than a batch) is not shown in that epoch. The permutation differs by epoch, so over epochs every
sample is left out equally rarely.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fr.errors import InputError
from fr.randomness import Purpose, generator


@lru_cache(maxsize=2)  # prefetching reads across the border of two epochs
def epoch_permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of `count` samples in an epoch: [count] indices, each once."""
    return generator(seed, Purpose.ORDER, epoch).permutation(count)


@dataclass(frozen=True)
class Share:
    """One rank's part of a batch: places `first` … `first + count - 1` of an epoch, and the samples there."""

    epoch: int
    first: int
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """Order of a training run: `count` samples, `batch_size` of them an iteration over all ranks."""

    count: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size > self.count:
            raise InputError(
                f"--train_batch_size {self.batch_size} is more than the {self.count} images of the list: "
                f"choose {self.count} or less"
            )

    @property
    def iterations_per_epoch(self) -> int:
        return self.count // self.batch_size

    def share(self, iteration: int, part: int, parts: int) -> Share:
        """Part `part` of `parts` equal, contiguous ones of the batch of `iteration` (from 0).

        Parts in order make up the batch, so it holds the same samples at the same places for any number of ranks
        and of micro-batches.
        """
        epoch, batch = divmod(iteration, self.iterations_per_epoch)
        size = self.batch_size // parts
        first = batch * self.batch_size + part * size
        permutation = epoch_permutation(self.count, self.seed, epoch)
        return Share(epoch, first, permutation[first : first + size])
