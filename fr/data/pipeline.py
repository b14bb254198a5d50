"""The loaders around the DALI graph: encoded bytes and one matrix a sample → batches of aligned faces."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fr import alignment
from fr.data import placement
from fr.data.faces import Faces
from fr.data.graph import face_graph, first_pixel_graph, regions
from fr.data.samples import SampleBatch, plain_batch
from fr.distributed import Ranks
from fr.errors import InputError
from fr.files.images import TOO_LARGE, is_too_large
from fr.files.untrusted import OutsideRoot
from fr.preprocessing import Preprocessing

_UNREADABLE = np.zeros(1, dtype=np.uint8)


@dataclass(frozen=True)
class DaliSettings:
    """Where and how wide DALI runs. device: `cpu` or `gpu`; gpu: index of the GPU, None without one."""

    device: str
    gpu: int | None
    threads: int


class Undecodable(InputError):
    """Photographs that can't be read, placed or decoded. rows: row of the batch → what is wrong with the one there;
    empty when each of them passes by itself."""

    def __init__(self, rows: dict[int, str], said: object) -> None:
        super().__init__(*(rows.values() or [f"DALI failed: {said}"]))
        self.rows = rows


class FaceStream:
    """Runs the graph over batches of samples: iterate for [N, 3, H, W] float32 on DALI's device, and [N] indices.

    Photographs are read while the graph is up to `ahead` - 1 batches ahead. Undecodable names what is wrong in the
    iteration that needs it, and is the end of this stream.
    """

    def __init__(
        self,
        faces: Faces,
        batches: Iterator[SampleBatch],
        max_batch_size: int,
        preprocessing: Preprocessing,
        settings: DaliSettings,
        effects: tuple[str, ...],
        ahead: int = 2,
    ) -> None:
        self._faces = faces
        self._preprocessing = preprocessing
        self._settings = settings
        self._effects = effects
        self._in_flight: deque[SampleBatch] = deque()
        self._stream = torch.cuda.current_stream(settings.gpu) if settings.device == "gpu" else None
        self._graph = face_graph(
            # A generator that doesn't know this stream: in a circle the memory of a dropped graph would stay for long.
            source=graph_inputs(faces, batches, self._in_flight, preprocessing),
            preprocessing=preprocessing,
            dali_device=settings.device,
            effects=effects,
            batch_size=max_batch_size,
            num_threads=settings.threads,
            device_id=settings.gpu if settings.device == "gpu" else None,
            prefetch_queue_depth=ahead,
        )

    def __iter__(self) -> "FaceStream":
        return self

    def __next__(self) -> tuple[torch.Tensor, NDArray[np.int64]]:
        try:
            (output,) = self._graph.run(self._stream) if self._stream else self._graph.run()
        except RuntimeError as error:
            raise Undecodable(self._at_fault(self._in_flight[0]) if self._in_flight else {}, error) from error
        images: torch.Tensor = torch.from_dlpack(output.as_tensor())
        return images, self._in_flight.popleft().indices

    def _at_fault(self, batch: SampleBatch) -> dict[int, str]:
        """What is wrong with which row of a failed batch, found by showing the graph one at a time."""
        if len(batch.indices) == 1:
            return {0: _complaint(self._faces, batch.indices, self._preprocessing)}
        found: dict[int, str] = {}
        row = 0
        while row < len(batch.indices):
            ones = (batch.row(number) for number in range(row, len(batch.indices)))
            try:
                for _ in FaceStream(self._faces, ones, 1, self._preprocessing, self._settings, self._effects):
                    row += 1
            except Undecodable as failure:
                found[row] = str(failure)
                row += 1
        return found


def usable_batches(
    faces: Faces,
    batches: Iterator[SampleBatch],
    max_batch_size: int,
    preprocessing: Preprocessing,
    settings: DaliSettings,
) -> Iterator[tuple[torch.Tensor, NDArray[np.int64], dict[int, str]]]:
    """Each batch without the photographs that can't be used: images [n, 3, H, W] and indices [n] of those that can,
    and what is wrong with the others, by index. What is left of a batch stays together: no later one moves up.

    InputError where DALI fails on more than single photographs, OutsideRoot.
    """
    again: deque[SampleBatch] = deque()  # what a stream that failed had read ahead
    handed: deque[SampleBatch] = deque()  # what the stream was given, and hasn't given back
    problems: dict[int, str] = {}  # of the first of these
    while True:
        given = _given(again, batches, handed)
        try:
            for images, indices in FaceStream(faces, given, max_batch_size, preprocessing, settings, effects=()):
                handed.popleft()
                found, problems = problems, {}
                yield images, indices, found
            return
        except Undecodable as failure:
            if not failure.rows:
                raise
            first = handed.popleft()
            problems = {int(first.indices[row]): said for row, said in failure.rows.items()}
            rest = np.delete(np.arange(len(first.indices)), list(failure.rows))
            if len(rest):
                handed.appendleft(first.rows(rest))
            else:
                found, problems = problems, {}
                yield torch.empty(0, 3, *preprocessing.input_size), first.indices[:0], found
            again.extendleft(reversed(handed))
            handed.clear()


def _given(
    again: deque[SampleBatch], batches: Iterator[SampleBatch], handed: deque[SampleBatch]
) -> Iterator[SampleBatch]:
    while again:
        handed.append(again.popleft())
        yield handed[-1]
    for batch in batches:
        handed.append(batch)
        yield batch


def graph_inputs(
    faces: Faces,
    batches: Iterator[SampleBatch],
    in_flight: deque[SampleBatch],
    preprocessing: Preprocessing,
) -> Iterator[tuple[Any, ...]]:
    """What `face_graph` takes, batch by batch, each of which is noted in `in_flight`."""
    for batch in batches:
        in_flight.append(batch)
        encoded = [_read(faces, int(index)) for index in batch.indices]
        matrices, placed = placement.matrices(faces, batch.indices, encoded, preprocessing)
        encoded = [picture if there else _UNREADABLE for picture, there in zip(encoded, placed, strict=True)]
        if batch.moves is not None:
            matrices = alignment.compose(batch.moves, matrices)
        region = regions(matrices, preprocessing.input_size)
        random = [array for effect in batch.effects.values() for array in effect]
        yield (encoded, *region.values(), *random)


def _read(faces: Faces, index: int) -> NDArray[np.uint8]:
    try:
        return faces.read(index)
    except (OSError, OutsideRoot):
        # Reading runs ahead of the training; this byte makes the graph fail in the iteration concerned.
        return _UNREADABLE


def _complaint(faces: Faces, index: NDArray[np.int64], preprocessing: Preprocessing) -> str:
    """What is wrong with a photograph that the graph didn't take, for people. index: [1]. OutsideRoot for one that
    isn't a photograph of these data: nothing stands in for that."""
    path = faces.path(int(index[0]))
    try:
        encoded = faces.read(int(index[0]))
    except OSError as error:
        return f"{path}: can't be read: {error.strerror}"
    if is_too_large(encoded):
        return f"{path}: {TOO_LARGE}"
    if placement.sizes_of([encoded]).all() and not placement.matrices(faces, index, [encoded], preprocessing)[1].all():
        return f"{path}: the box of its face lies outside the picture"
    return f"{path}: can't be decoded: {'cut off, damaged, or of an unknown format' if len(encoded) else 'it is empty'}"


def has_first_pixel(faces: Faces, index: int, settings: DaliSettings) -> bool:
    """Whether the first pixel of a photograph decodes; if not, no region does, since all decoders begin there."""
    graph = first_pixel_graph(
        source=iter([([_read(faces, index)],)]),
        dali_device=settings.device,
        batch_size=1,
        num_threads=1,
        device_id=settings.gpu,
        prefetch_queue_depth=1,
    )
    try:
        graph.run()
    except RuntimeError:
        return False
    return True


def plain_stream(
    faces: Faces,
    indices: NDArray[np.int64],
    batch_size: int,
    preprocessing: Preprocessing,
    settings: DaliSettings,
) -> Iterator[torch.Tensor]:
    """The named photographs in order, aligned, without augmentation; the last batch may be smaller.

    InputError names those that can't be used: figures of other photographs would be figures of another set.
    """
    chunks = [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]
    batches = (plain_batch(chunk) for chunk in chunks)
    for images, _ in FaceStream(faces, batches, batch_size, preprocessing, settings, effects=()):
        yield images


def dali_settings(device_wish: str, threads: int, ranks: Ranks) -> DaliSettings:
    """`auto` (as the network), `cpu` or `gpu`; threads: of a rank, 0 = its share of the cores this process may use."""
    on_gpu = ranks.device.type == "cuda"
    if device_wish == "gpu" and not on_gpu:
        raise InputError("--dali_device gpu needs --device cuda; DALI works on the GPU of its rank")
    cores = max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)
    device = "gpu" if on_gpu and device_wish != "cpu" else "cpu"
    return DaliSettings(device, ranks.device.index if device == "gpu" else None, threads or cores)
