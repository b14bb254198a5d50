"""A batch as the order and the draws describe it, before any file is read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fr.data import alignment, augmentation
from fr.data.augmentation import MAX_BOXES, Augmentation
from fr.preprocessing import Preprocessing


@dataclass(frozen=True)
class SampleBatch:
    """What the graph needs of a batch of N samples, by index of the photograph."""

    indices: NDArray[np.int64]  # [N]
    moves: alignment.Array | None  # [N, 2, 3] of the aligned face, input → input; None = none
    box_corners: NDArray[np.float32]  # [N, 2·K] (y, x, y, x, …)
    box_sides: NDArray[np.float32]  # [N, 2·K]
    blur: NDArray[np.bool_]  # [N]

    def row(self, number: int) -> "SampleBatch":
        """One of the samples, as a batch of its own."""
        one = slice(number, number + 1)
        moves = None if self.moves is None else self.moves[one]
        return SampleBatch(self.indices[one], moves, self.box_corners[one], self.box_sides[one], self.blur[one])


def plain_batch(indices: NDArray[np.int64]) -> SampleBatch:
    """The faces as the contract puts them, nothing random."""
    none = np.zeros((len(indices), 2 * MAX_BOXES), dtype=np.float32)
    return SampleBatch(indices, None, none, none, np.zeros(len(indices), dtype=bool))


def augmented_batch(
    indices: NDArray[np.int64],
    preprocessing: Preprocessing,
    settings: Augmentation,
    seed: int,
    epoch: int,
    first: int,
) -> SampleBatch:
    """The faces at places `first` … of an epoch, with the draws of those places."""
    draws = augmentation.draw(settings, seed, epoch, first, len(indices))
    moves = augmentation.geometry(draws, preprocessing.input_size)
    corners, sides = augmentation.boxes(draws, moves, preprocessing)
    return SampleBatch(indices, moves, corners, sides, draws.blur)
