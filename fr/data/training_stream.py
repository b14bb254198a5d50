"""The batches of a training run. A photograph that can't be decoded at its place is replaced by another (C9).

What stands at a place is the first of `stand_ins` that decodes there: a function of seed, epoch, place, list and files
alone, whatever was met before and wherever a run was resumed (C2, C7). "There" matters: of a JPEG that is cut off the
decoder takes the regions above the cut and no others, so such a file can serve at one place and not at another.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fr.data.augmentation import Augmentation
from fr.data.bad_images import BadImages, stand_ins
from fr.data.faces import LabelledFaces
from fr.data.order import Order, Share
from fr.data.pipeline import DaliSettings, FaceStream, Undecodable, has_first_pixel
from fr.data.samples import augmented_batch
from fr.distributed import Ranks
from fr.errors import InputError
from fr.preprocessing import Preprocessing

Indices = NDArray[np.int64]  # [b] samples of a micro-batch


@dataclass(frozen=True)
class TrainingStream:
    """Images and labels of one rank for the given iterations, `accumulate` micro-batches each.

    Iterate for [b, 3, H, W] float32 on DALI's device and [b] int64 on the CPU, where
    b = batch_size / ranks / accumulate. Photographs that are replaced are reported to `bad`. InputError when they are
    too many, when nothing can stand in, or when DALI fails for a reason that no photograph explains.
    """

    faces: LabelledFaces
    order: Order
    iterations: range
    ranks: Ranks
    accumulate: int
    preprocessing: Preprocessing
    augment: Augmentation
    settings: DaliSettings
    bad: BadImages
    _hopeless: set[int] = field(default_factory=set, init=False)  # samples that decode at no place: not tried again

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A failed graph is no longer to be used (DALI says so): a new one goes on from the batch that failed."""
        number, mended = 0, None
        while number < len(self.iterations) * self.accumulate:
            try:
                for images, indices in self._open(self._shown_from(number, mended), self._size):
                    yield images, torch.from_numpy(self.faces.labels[indices])
                    number, mended = number + 1, None
            except Undecodable as failure:
                due = self._share(number)
                before = self._standing(due.indices) if mended is None else mended
                chosen = self._mended(due, before, failure.rows)
                if mended is not None and np.array_equal(chosen, mended):
                    raise  # failed again as it was; once may be a disk that was away for a moment
                mended = chosen

    @property
    def _size(self) -> int:
        return self.order.batch_size // (self.ranks.world_size * self.accumulate)

    def _share(self, number: int) -> Share:
        """What the order puts into this rank's micro-batch `number` of the run."""
        turn, micro = divmod(number, self.accumulate)
        part = micro * self.ranks.world_size + self.ranks.rank
        return self.order.share(self.iterations[turn], part, self.ranks.world_size * self.accumulate)

    def _shown_from(self, number: int, first: Indices | None) -> Iterator[tuple[Indices, int, int]]:
        """Samples, epoch and first place of the micro-batches from `number` on; `first` instead of the samples due."""
        for later in range(number, len(self.iterations) * self.accumulate):
            share = self._share(later)
            yield self._standing(share.indices) if first is None else first, share.epoch, share.first
            first = None

    def _open(self, shown: Iterable[tuple[Indices, int, int]], size: int) -> FaceStream:
        batches = (
            augmented_batch(indices, self.preprocessing, self.augment, self.order.seed, epoch, first)
            for indices, epoch, first in shown
        )
        return FaceStream(self.faces, batches, size, self.preprocessing, self.settings, self.augment.effects)

    def _standing(self, indices: Indices) -> Indices:
        if self._hopeless.isdisjoint(indices.tolist()):
            return indices
        return np.array([next(self._candidates(index), index) for index in indices.tolist()])

    def _candidates(self, index: int) -> Iterator[int]:
        return (other for other in stand_ins(self.faces.labels, index) if other not in self._hopeless)

    def _mended(self, share: Share, shown: Indices, rows: Iterable[int]) -> Indices:
        """The samples shown for a share, those at the failed rows replaced."""
        chosen = shown.copy()
        for row in rows:
            chosen[row] = self._replacement(int(share.indices[row]), share.epoch, share.first + row)
        return chosen

    def _replacement(self, due: int, epoch: int, place: int) -> int:
        """The first stand-in of the sample due that decodes at this place, with the draws of this place."""
        for index in self._candidates(due):
            try:
                next(self._open([(np.array([index]), epoch, place)], 1))
            except Undecodable as failure:
                self.bad.report(index, str(failure))
                if not has_first_pixel(self.faces, index, self.settings):
                    self._hopeless.add(index)
            else:
                return index
        raise InputError(f"{self.faces.root}: no photograph of the list can be decoded")
