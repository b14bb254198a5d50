"""The DALI graph and the loaders around it: encoded bytes and one matrix a sample → batches of aligned faces.

Our order of samples and our random draws go in through `fn.external_source`; nothing inside DALI is random (C2).
Decoding reads only the region that the warp touches, and the pixels are interpolated once (C3).
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, math, pipeline_def, types

from fr.data import alignment, placement
from fr.data.annotations import Faces
from fr.data.samples import SampleBatch, plain_batch
from fr.distributed import Ranks
from fr.errors import InputError
from fr.preprocessing import Preprocessing

_BLUR_SIZE = 5  # pixels; the box blur of face_recognition.pytorch
_KEEP = np.ones((1, 1), dtype=np.float32)
_UNREADABLE = np.zeros(1, dtype=np.uint8)
_BLUR = np.full((_BLUR_SIZE, _BLUR_SIZE), 1 / _BLUR_SIZE**2, dtype=np.float32)


@dataclass(frozen=True)
class DaliSettings:
    """Where and how wide DALI runs. device: `cpu` or `gpu`; gpu: index of the GPU, None without one."""

    device: str
    gpu: int | None
    threads: int


def regions(matrices: alignment.Array, input_size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """What the warp reads: first and last corner of the region in the photograph, the matrix back, anti-aliasing.

    In DALI's coordinates, where (0, 0) is the corner of the first pixel: half a pixel from ours.
    `sigma` [N] pixels: Gaussian that takes out what the smaller output can't show; 0 where it doesn't shrink.
    """
    height, width = input_size
    back = alignment.invert(matrices)
    back[:, :, 2] += 0.5 - back[:, :, :2].sum(axis=2) / 2
    frame = np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])
    touched = alignment.transform(back, np.broadcast_to(frame, (len(back), 4, 2)))
    shrink = np.sqrt(np.abs(np.linalg.det(back[:, :, :2])))
    # The variance of a box of `shrink` pixels less that of one pixel, which bilinear interpolation brings itself.
    sigma = np.sqrt(np.maximum(shrink**2 - 1, 0) / 12)
    sigma[shrink < 1.2] = 0  # under 20 % there is nothing to see, and the filter would be paid for
    margin = 1 + np.ceil(3 * sigma)[:, None]
    return {
        "low": np.floor(touched.min(axis=1) - margin).astype(np.float32),
        "high": np.ceil(touched.max(axis=1) + margin).astype(np.float32),
        "matrix": back.astype(np.float32),
        "sigma": sigma.astype(np.float32),
    }


def _region(encoded: Any, start: Any, end: Any, dali_device: str, color_order: str) -> Any:
    """The pixels between two corners (x, y) of encoded pictures, as stored: landmark lists count the pixels of the
    file, so EXIF's orientation isn't applied."""
    return fn.decoders.image_slice(
        encoded,
        device="mixed" if dali_device == "gpu" else "cpu",
        start=fn.cast(start, dtype=types.INT32),
        end=fn.cast(end, dtype=types.INT32),
        axis_names="WH",
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # on a GPU too the chroma of the CPU's decoder
        output_type=types.RGB if color_order == "rgb" else types.BGR,
    )


@pipeline_def(exec_dynamic=True)  # type: ignore[untyped-decorator]
def first_pixel_graph(source: Any, dali_device: str) -> Any:
    """bytes → the first pixel, [1, 1, 3] uint8."""
    (encoded,) = fn.external_source(source=source, num_outputs=1, batch=True)
    corner = types.Constant([0, 0])
    return _region(encoded, corner, corner + 1, dali_device, "rgb")


@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def face_graph(source: Any, preprocessing: Preprocessing, dali_device: str, augmented: bool) -> Any:
    """bytes, region, matrix (, boxes, blur) → [N, 3, H, W] float32 in the units of `preprocessing`."""
    encoded, low, high, matrix, sigma, *random = fn.external_source(
        source=source, num_outputs=8 if augmented else 5, batch=True
    )
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    size = fn.cast(fn.stack(shape[1], shape[0]), dtype=types.FLOAT)
    start = math.clamp(low, 0.0, size - 1.0)
    end = math.clamp(high, start + 1.0, size)
    images = _region(encoded, start, end, dali_device, preprocessing.color_order)
    if sigma > 0:
        images = fn.gaussian_blur(images, sigma=sigma)
    matrix = fn.cat(matrix[:, :2], fn.reshape(matrix[:, 2] - start, shape=[2, 1]), axis=1)
    images = fn.warp_affine(
        images, matrix=matrix, size=preprocessing.input_size, fill_value=0, interp_type=types.INTERP_LINEAR
    )
    if augmented:
        corners, sides, kernel = random
        images = fn.erase(images, anchor=corners, shape=sides, axis_names="HW", fill_value=0)
        images = fn.filter(images, kernel)
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in preprocessing.mean],
        std=[255 * value for value in preprocessing.std],
    )


class Undecodable(InputError):
    """Photographs that can't be read, placed or decoded. rows: row of the batch → what is wrong with the one there;
    empty when each of them passes by itself."""

    def __init__(self, rows: dict[int, str], said: object) -> None:
        super().__init__(*(rows.values() or [f"DALI failed: {said}"]))
        self.rows = rows


class FaceStream:
    """Runs the graph over batches of samples: iterate for [N, 3, H, W] float32 on DALI's device, and [N] indices.

    Photographs are read while the graph is a batch or two ahead. Undecodable names what is wrong in the iteration
    that needs it, and is the end of this stream.
    """

    def __init__(
        self,
        faces: Faces,
        batches: Iterator[SampleBatch],
        max_batch_size: int,
        preprocessing: Preprocessing,
        settings: DaliSettings,
        augmented: bool,
    ) -> None:
        self._faces = faces
        self._preprocessing = preprocessing
        self._settings = settings
        self._augmented = augmented
        self._in_flight: deque[SampleBatch] = deque()
        self._stream = torch.cuda.current_stream(settings.gpu) if settings.device == "gpu" else None
        self._graph = face_graph(
            # A generator that doesn't know this stream: in a circle the memory of a dropped graph would stay for long.
            source=_inputs(faces, batches, self._in_flight, preprocessing, augmented),
            preprocessing=preprocessing,
            dali_device=settings.device,
            augmented=augmented,
            batch_size=max_batch_size,
            num_threads=settings.threads,
            device_id=settings.gpu if settings.device == "gpu" else None,
            prefetch_queue_depth=2,
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
                for _ in FaceStream(self._faces, ones, 1, self._preprocessing, self._settings, self._augmented):
                    row += 1
            except Undecodable as failure:
                found[row] = str(failure)
                row += 1
        return found


def _inputs(
    faces: Faces,
    batches: Iterator[SampleBatch],
    in_flight: deque[SampleBatch],
    preprocessing: Preprocessing,
    augmented: bool,
) -> Iterator[tuple[Any, ...]]:
    """What `face_graph` takes, batch by batch, each of which is noted in `in_flight`."""
    for batch in batches:
        in_flight.append(batch)
        encoded = [_read(faces.path(int(index))) for index in batch.indices]
        matrices, placed = placement.matrices(faces, batch.indices, encoded, preprocessing)
        encoded = [picture if there else _UNREADABLE for picture, there in zip(encoded, placed, strict=True)]
        if batch.moves is not None:
            matrices = alignment.compose(batch.moves, matrices)
        region = regions(matrices, preprocessing.input_size)
        kernels = [_BLUR if blurred else _KEEP for blurred in batch.blur]
        random = (batch.box_corners, batch.box_sides, kernels) if augmented else ()
        yield (encoded, *region.values(), *random)


def _read(path: str) -> NDArray[np.uint8]:
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError:
        # Reading runs ahead of the training; this byte makes the graph fail in the iteration concerned.
        return _UNREADABLE


def _complaint(faces: Faces, index: NDArray[np.int64], preprocessing: Preprocessing) -> str:
    """What is wrong with a photograph that the graph didn't take, for people. index: [1]."""
    path = faces.path(int(index[0]))
    try:
        encoded = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        return f"{path}: can't be read: {error.strerror}"
    if placement.sizes_of([encoded]).all() and not placement.matrices(faces, index, [encoded], preprocessing)[1].all():
        return f"{path}: the box of its face lies outside the picture"
    return f"{path}: can't be decoded: {'cut off, damaged, or of an unknown format' if len(encoded) else 'it is empty'}"


def has_first_pixel(path: str, settings: DaliSettings) -> bool:
    """Whether the first pixel of a photograph decodes; if not, no region does, since all decoders begin there."""
    graph = first_pixel_graph(
        source=iter([([_read(path)],)]),
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
    for images, _ in FaceStream(faces, batches, batch_size, preprocessing, settings, augmented=False):
        yield images


def dali_settings(device_wish: str, threads: int, ranks: Ranks) -> DaliSettings:
    """`auto` (as the network), `cpu` or `gpu`; threads: of a rank, 0 = its share of the cores this process may use."""
    on_gpu = ranks.device.type == "cuda"
    if device_wish == "gpu" and not on_gpu:
        raise InputError("--dali_device gpu needs --device cuda; DALI works on the GPU of its rank")
    cores = max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)
    device = "gpu" if on_gpu and device_wish != "cpu" else "cpu"
    return DaliSettings(device, ranks.device.index if device == "gpu" else None, threads or cores)
