"""Feature extraction for a long list in batches and parts, the parts distributed over the ranks.

A batch is embedded at once, a part is written at once. Both depend only on the list and --batch_size, so ranks and
interruptions don't change the features. N images, D feature size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from fr.data.bad_images import BadImages
from fr.data.faces import Faces
from fr.data.pipeline import DaliSettings
from fr.data.samples import SampleBatch
from fr.data.usable import usable_batches
from fr.distributed import Ranks, patient_group, raise_together
from fr.errors import InputError
from fr.evaluation.embedding import Network
from fr.preprocessing import Preprocessing
from fr.progress import progress

_MOST = 1000  # parts; a kill loses at most one part of each rank


@dataclass(frozen=True)
class Part:
    """Images written at once. number: from 0. rows [n]: of the list. batch: images embedded at once."""

    number: int
    rows: NDArray[np.int64]
    batch: int

    def batches(self) -> list[NDArray[np.int64]]:
        return [self.rows[first : first + self.batch] for first in range(0, len(self.rows), self.batch)]


@dataclass(frozen=True)
class Features:
    """Features of some images of the list. rows: [n]. values: [n, D]."""

    rows: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Iterable["Features"]) -> "Features":
        """All features of some parts."""
        some = [part for part in parts if len(part.rows)] or [cls(np.zeros(0, np.int64), np.zeros((0, 0), np.float32))]
        return cls(np.concatenate([part.rows for part in some]), np.concatenate([part.values for part in some]))


@dataclass(frozen=True)
class Extractor:
    """Network, images and settings for feature extraction. network: [B, 3, H, W] → [B, D]."""

    network: Network
    faces: Faces
    preprocessing: Preprocessing
    dali: DaliSettings
    batch: int

    @torch.inference_mode()
    def dimensions(self, device: torch.device) -> int:
        """Feature size D."""
        return self.network(torch.zeros(1, 3, *self.preprocessing.input_size, device=device)).shape[1]

    def parts(self, rows: NDArray[np.int64]) -> list[Part]:
        """Parts of some rows of the list [N]."""
        size = self.batch * max(1, -(-len(rows) // (self.batch * _MOST)))
        starts = range(0, len(rows), size)
        return [Part(number, rows[first : first + size], self.batch) for number, first in enumerate(starts)]

    def of(self, parts: Sequence[Part], device: torch.device) -> Iterator[tuple[Features, dict[int, str]]]:
        """Yield the features of each batch, and the problems of images without features."""
        batches = (SampleBatch(self.faces, rows) for part in parts for rows in part.batches())
        for images, rows, problems in usable_batches(batches, self.batch, self.preprocessing, self.dali):
            values = self._embed(images.to(device, non_blocking=True)) if len(rows) else np.zeros((0, 0), np.float32)
            finite = np.isfinite(values).all(axis=1)
            problems |= {row: f"{self.faces.path(row)}: its embedding isn't finite" for row in rows[~finite].tolist()}
            yield Features(rows[finite], values[finite]), problems

    @torch.inference_mode()
    def _embed(self, images: torch.Tensor) -> NDArray[np.float32]:
        return self.network(images).float().cpu().numpy()


def extract(
    extractor: Extractor,
    parts: Sequence[Part],
    ranks: Ranks,
    bad: BadImages,
    take: Callable[[Part, Features], None],
    what: str = "embedding",
) -> None:
    """Extract all parts, all ranks together; `take` gets each part on one rank once it is complete.

    Bad images are recorded in `bad`, on all ranks, and printed. what: text of the progress bar. InputError on all ranks
    as soon as one raises it, or for too many bad images.
    """
    mine = parts[ranks.rank :: ranks.world_size]
    stream = extractor.of(mine, ranks.device)
    count = sum(len(part.rows) for part in mine)
    # A part may take longer than the usual half-hour timeout.
    with patient_group() as group, progress(count, "img", what, shown=ranks.is_main) as bar:
        for turn in range(-(-len(parts) // ranks.world_size)):
            failure = None
            try:
                if turn < len(mine):
                    take(mine[turn], _gathered(islice(stream, len(mine[turn].batches())), bad, bar))
            except InputError as error:
                failure = error
            raise_together(failure, "another rank can't continue, and prints the reason", group)
            news = bad.share()
            if ranks.is_main and news:
                tqdm.write("\n".join(news))
            if excess := bad.excess():
                raise excess


def _gathered(batches: Iterator[tuple[Features, dict[int, str]]], bad: BadImages, bar: "tqdm[None]") -> Features:
    """Features of a part. InputError if this rank alone has too many bad images."""
    some = []
    for features, problems in batches:
        for row, problem in problems.items():
            bad.report(row, problem)
        bar.update(len(features.rows) + len(problems))
        some.append(features)
    return Features.joined(some)
