"""Batches as the order and the random draws determine them, before any file is read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fr import alignment
from fr.data import augmentation
from fr.data.augmentation import Effect
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing


@dataclass(frozen=True)
class SampleBatch:
    """Indices and random transforms of a batch of N samples."""

    indices: NDArray[np.int64]  # [N]
    moves: alignment.Array | None  # [N, 2, 3] geometric augmentation, input → input; None = none
    effects: dict[str, Effect]  # enabled pixel transforms, in order, by a name of `fr/data/augmentation.py`
    for_teacher: "SampleBatch | None" = None  # the same samples and draws, for the input of the teacher

    def row(self, number: int) -> "SampleBatch":
        """One of the samples, as a batch of its own."""
        return self.rows(slice(number, number + 1))

    def rows(self, chosen: slice | NDArray[np.int64]) -> "SampleBatch":
        """Some of the samples, as a batch of their own."""
        moves = None if self.moves is None else self.moves[chosen]
        effects = {
            name: Effect(effect.drawn[chosen], effect.parameters[chosen]) for name, effect in self.effects.items()
        }
        return SampleBatch(self.indices[chosen], moves, effects, self.for_teacher and self.for_teacher.rows(chosen))


def plain_batch(indices: NDArray[np.int64]) -> SampleBatch:
    """A batch without augmentation."""
    return SampleBatch(indices, None, {})


def augmented_batch(
    indices: NDArray[np.int64],
    preprocessing: Preprocessing,
    settings: Augmentation,
    seed: int,
    epoch: int,
    first: int,
    teacher: Preprocessing | None = None,
) -> SampleBatch:
    """A batch at positions `first` … of an epoch, with the draws of those positions; teacher: its preprocessing."""
    draws = augmentation.draw(settings, seed, epoch, first, len(indices))

    def transformed(contract: Preprocessing, for_teacher: SampleBatch | None = None) -> SampleBatch:
        moves = augmentation.geometry(draws, contract.input_size)
        return SampleBatch(indices, moves, augmentation.effects(settings, draws, moves, contract), for_teacher)

    return transformed(preprocessing, transformed(teacher) if teacher else None)
