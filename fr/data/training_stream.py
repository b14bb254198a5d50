"""The batches of a training run. An image that can't be decoded at its position is replaced by another.

The replacement is the first of `stand_ins` that decodes at the position: a function of seed, epoch, position, list and
files alone, whatever was met before and wherever a run was resumed. The position matters: of a truncated JPEG
the decoder takes the regions above the cut and no others, so the file can be usable at one position and not at another.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fr.data.augmentation import mix
from fr.data.bad_images import BadImages, stand_ins
from fr.data.faces import LabelledFaces
from fr.data.order import Order, Share
from fr.data.pipeline import DaliSettings, FaceStream, Undecodable, has_first_pixel
from fr.data.samples import augmented_batch
from fr.distributed import Ranks
from fr.errors import InputError
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing

Indices = NDArray[np.int64]  # [b] samples of a micro-batch


@dataclass(frozen=True)
class TrainingStream:
    """Images and labels of one rank for the given iterations, `accumulate` micro-batches each.

    Iterate for [b, 3, H, W] float32 on DALI's device and [b] int64 on the CPU, where
    b = batch_size / ranks / accumulate; teacher: the preprocessing of a third output, the same faces with the same
    draws [b, 3, H_t, W_t]. Images that are replaced are reported to `bad`. InputError when they are too
    many, when no image can be a replacement, or when DALI fails for a reason that no single image explains.
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
    teacher: Preprocessing | None = None
    prefetch: Callable[[int], None] = lambda _iteration: None  # called before the images of an iteration are read
    _hopeless: set[int] = field(default_factory=set, init=False)  # samples that decode at no position: not tried again

    def __iter__(self) -> Generator[tuple[torch.Tensor, ...]]:
        stream = self._open(self._shown_from(0))
        for number in range(len(self.iterations) * self.accumulate):
            if stream.broken:
                stream = self._open(self._shown_from(number))
            bad = None
            try:
                (images, *for_teacher), indices = stream.views()
            except Undecodable as failure:
                bad = failure.rows
            if bad is not None:
                (images, *for_teacher), indices = self._replaced(self._share(number), bad)
            if self.augment.mix_prob:
                images, *for_teacher = (self._mixed(self._share(number), view) for view in (images, *for_teacher))
            yield images, torch.from_numpy(self.faces.labels[indices]), *for_teacher

    def _mixed(self, share: Share, images: torch.Tensor) -> torch.Tensor:
        return mix(self.augment, self.order.seed, share.epoch, share.first, images)

    @property
    def _size(self) -> int:
        return self.order.batch_size // (self.ranks.world_size * self.accumulate)

    def _share(self, number: int) -> Share:
        """This rank's part of micro-batch `number` of the run, by the order alone."""
        turn, micro = divmod(number, self.accumulate)
        part = micro * self.ranks.world_size + self.ranks.rank
        return self.order.share(self.iterations[turn], part, self.ranks.world_size * self.accumulate)

    def _shown_from(self, number: int) -> Iterator[tuple[Indices, int, int]]:
        """Samples, epoch and first position of the micro-batches from `number` on."""
        for later in range(number, len(self.iterations) * self.accumulate):
            self.prefetch(self.iterations[later // self.accumulate])
            share = self._share(later)
            yield self._standing(share.indices), share.epoch, share.first

    def _open(self, shown: Iterable[tuple[Indices, int, int]], size: int = 0) -> FaceStream:
        """size: of a batch; 0 = that of a micro-batch."""
        drawn = self.augment, self.order.seed
        batches = (
            augmented_batch(self.faces, indices, self.preprocessing, *drawn, epoch, first, self.teacher)
            for indices, epoch, first in shown
        )
        how = self.preprocessing, self.settings, self.augment.effects
        return FaceStream(batches, size or self._size, *how, teacher=self.teacher)

    def _standing(self, indices: Indices) -> Indices:
        """The indices, and for those that decode at no position their first stand-ins."""
        bad = self._hopeless
        if bad.isdisjoint(indices.tolist()):
            return indices
        return np.array([next(self._candidates(one), one) if one in bad else one for one in indices.tolist()])

    def _candidates(self, index: int) -> Iterator[int]:
        return (other for other in stand_ins(self.faces.labels, index) if other not in self._hopeless)

    def _replaced(self, share: Share, bad: Iterable[int]) -> tuple[list[torch.Tensor], Indices]:
        """Images, of each network, and samples of a share, those of the bad rows replaced."""
        chosen = self._standing(share.indices)
        while True:
            before, chosen = chosen, chosen.copy()
            for row in bad:
                chosen[row] = self._replacement(int(share.indices[row]), share.epoch, share.first + row)
            try:
                return self._open([(chosen, share.epoch, share.first)]).views()
            except Undecodable as failure:
                if np.array_equal(chosen, before):
                    raise  # the second time with the same images; the first may be a disk away for a moment
                bad = failure.rows

    def _replacement(self, due: int, epoch: int, position: int) -> int:
        """The first stand-in of the sample due that decodes at a position, with the draws of that position."""
        for index in self._candidates(due):
            try:
                next(self._open([(np.array([index]), epoch, position)], size=1))
                return index
            except Undecodable as failure:
                self.bad.report(index, str(failure))
            if not has_first_pixel(self.faces, index, self.settings):
                self._hopeless.add(index)
        raise InputError(f"{self.faces.root}: no image of the list can be decoded")
