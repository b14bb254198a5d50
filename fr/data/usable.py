"""Batches without the images that can't be used, for tools that go on without them."""

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fr.data.pipeline import DaliSettings, FaceStream, Undecodable
from fr.data.samples import SampleBatch
from fr.preprocessing import Preprocessing


def usable_batches(
    batches: Iterator[SampleBatch],
    max_batch_size: int,
    preprocessing: Preprocessing,
    settings: DaliSettings,
) -> Iterator[tuple[torch.Tensor, NDArray[np.int64], dict[int, str]]]:
    """Batches without the images that can't be used: images [n, 3, H, W], indices [n], and index → problem of the rest.

    A batch that loses images isn't filled up from the next one. InputError where DALI fails on more than single images,
    OutsideRoot.
    """
    waiting: deque[SampleBatch] = deque()  # read ahead by a stream whose graph failed
    handed: deque[SampleBatch] = deque()  # to the stream, and not yet returned

    def opened(source: Iterator[SampleBatch]) -> FaceStream:
        return FaceStream(source, max_batch_size, preprocessing, settings)

    def usable_rows(
        batch: SampleBatch, bad: dict[int, str]
    ) -> tuple[torch.Tensor, NDArray[np.int64], dict[int, str]]:
        problems: dict[int, str] = {}
        while True:
            problems |= {int(batch.indices[row]): problem for row, problem in bad.items()}
            batch = batch.rows(np.delete(np.arange(len(batch.indices)), list(bad)))
            if not len(batch.indices):
                return torch.empty(0, 3, *preprocessing.input_size), batch.indices, problems
            try:
                return *next(opened(iter([batch]))), problems
            except Undecodable as failure:
                if not failure.rows:
                    raise
                bad = failure.rows

    stream = opened(_recorded(waiting, batches, handed))
    while True:
        bad: dict[int, str] = {}
        try:
            images, indices = next(stream)
        except StopIteration:
            return
        except Undecodable as failure:
            if not failure.rows:  # DALI failed, perhaps before any batch
                raise
            bad = failure.rows
        batch = handed.popleft()
        yield usable_rows(batch, bad) if bad else (images, indices, {})
        if stream.broken:  # its threads have ended, and draw no more of `batches`
            waiting.extendleft(reversed(handed))
            handed.clear()
            stream = opened(_recorded(waiting, batches, handed))


def _recorded(
    waiting: deque[SampleBatch], batches: Iterator[SampleBatch], handed: deque[SampleBatch]
) -> Iterator[SampleBatch]:
    """The waiting batches, then the others; each is appended to `handed`."""
    while waiting:
        handed.append(waiting.popleft())
        yield handed[-1]
    for batch in batches:
        handed.append(batch)
        yield batch
