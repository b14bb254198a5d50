"""Batches as the order and the random draws determine them, before any file is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fr import alignment
from fr.data import augmentation
from fr.data.augmentation import Effect
from fr.data.faces import Faces
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing


@dataclass(frozen=True)
class SampleBatch:
    """Images and random transforms of a batch of N samples; without augmentation unless there are transforms."""

    faces: Faces  # which `indices` count
    indices: NDArray[np.int64]  # [N]
    moves: alignment.Array | None = None  # [N, 2, 3] geometric augmentation, input → input; None = none
    effects: dict[str, Effect] = field(default_factory=dict)  # pixel transforms, in order, by their names
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
        for_teacher = self.for_teacher and self.for_teacher.rows(chosen)
        return SampleBatch(self.faces, self.indices[chosen], moves, effects, for_teacher)


def plain_batches(faces: Faces, indices: NDArray[np.int64], size: int) -> Iterator[SampleBatch]:
    """Batches of the indices in order, without augmentation; the last may be smaller."""
    return (SampleBatch(faces, indices[first : first + size]) for first in range(0, len(indices), size))


def augmented_batch(
    faces: Faces,
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
        return SampleBatch(faces, indices, moves, augmentation.effects(settings, draws, moves, contract), for_teacher)

    return transformed(preprocessing, transformed(teacher) if teacher else None)
