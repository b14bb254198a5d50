"""The DALI graph and the loaders around it: encoded bytes and one matrix a sample → batches of aligned faces.

Our order of samples and our random draws go in through `fn.external_source`; nothing inside DALI is random (C2).
Decoding reads only the region that the warp touches, and the pixels are interpolated once (C3).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, math, pipeline_def, types
from PIL import Image

from fr.data import alignment, augmentation, placement
from fr.data.annotations import Faces, LabelledFaces
from fr.data.augmentation import MAX_BOXES, Augmentation
from fr.data.order import Order, Share
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


@dataclass(frozen=True)
class SampleBatch:
    """What the graph needs of a batch of N samples, by index of the photograph."""

    indices: NDArray[np.int64]  # [N]
    moves: alignment.Array | None  # [N, 2, 3] of the aligned face, input → input; None = none
    box_corners: NDArray[np.float32]  # [N, 2·K] (y, x, y, x, …)
    box_sides: NDArray[np.float32]  # [N, 2·K]
    blur: NDArray[np.bool_]  # [N]


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


@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def face_graph(source: Any, preprocessing: Preprocessing, dali_device: str, augmented: bool) -> Any:
    """bytes, region, matrix (, boxes, blur) → [N, 3, H, W] float32 in the units of `preprocessing`."""
    encoded, low, high, matrix, sigma, *random = fn.external_source(
        source=source, num_outputs=8 if augmented else 5, batch=True
    )
    shape = fn.peek_image_shape(encoded)
    size = fn.cast(fn.stack(shape[1], shape[0]), dtype=types.FLOAT)
    start = math.clamp(low, 0.0, size - 1.0)
    end = math.clamp(high, start + 1.0, size)
    images = fn.decoders.image_slice(
        encoded,
        device="mixed" if dali_device == "gpu" else "cpu",
        start=fn.cast(start, dtype=types.INT32),
        end=fn.cast(end, dtype=types.INT32),
        axis_names="WH",
        jpeg_fancy_upsampling=True,  # on a GPU too the chroma of the CPU's decoder
        output_type=types.RGB if preprocessing.color_order == "rgb" else types.BGR,
    )
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


class FaceStream:
    """Runs the graph over batches of samples: iterate for [N, 3, H, W] float32 on DALI's device.

    Photographs are read while the graph is a batch or two ahead. InputError names a photograph that can't be read
    or decoded, in the iteration that needs it.
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
        self._batches = batches
        self._preprocessing = preprocessing
        self._augmented = augmented
        self._in_flight: list[NDArray[np.int64]] = []
        self._stream = torch.cuda.current_stream(settings.gpu) if settings.device == "gpu" else None
        self._graph = face_graph(
            source=self._feed,
            preprocessing=preprocessing,
            dali_device=settings.device,
            augmented=augmented,
            batch_size=max_batch_size,
            num_threads=settings.threads,
            device_id=settings.gpu if settings.device == "gpu" else None,
            prefetch_queue_depth=2,
        )

    def _feed(self) -> tuple[Any, ...]:
        batch = next(self._batches)  # its StopIteration is how DALI learns of the end
        self._in_flight.append(batch.indices)
        encoded = [self._read(int(index)) for index in batch.indices]
        matrices, placed = placement.matrices(self._faces, batch.indices, encoded, self._preprocessing)
        encoded = [picture if there else _UNREADABLE for picture, there in zip(encoded, placed, strict=True)]
        if batch.moves is not None:
            matrices = alignment.compose(batch.moves, matrices)
        region = regions(matrices, self._preprocessing.input_size)
        if not self._augmented:
            return (encoded, *region.values())
        kernels = [_BLUR if blurred else _KEEP for blurred in batch.blur]
        return (encoded, *region.values(), batch.box_corners, batch.box_sides, kernels)

    def _read(self, index: int) -> NDArray[np.uint8]:
        try:
            return np.fromfile(self._faces.path(index), dtype=np.uint8)
        except OSError:
            # Reading runs ahead of the training; empty bytes make the graph fail in the iteration concerned.
            return _UNREADABLE

    def __iter__(self) -> "FaceStream":
        return self

    def __next__(self) -> torch.Tensor:
        try:
            (output,) = self._graph.run(self._stream) if self._stream else self._graph.run()
        except RuntimeError as error:
            bad = self._undecodable(self._in_flight[0]) if self._in_flight else []
            raise InputError(*(bad or [f"DALI failed: {error}"])) from error
        self._in_flight.pop(0)
        images: torch.Tensor = torch.from_dlpack(output.as_tensor())
        return images

    def _undecodable(self, indices: NDArray[np.int64]) -> list[str]:
        """Which photographs of a failed batch are at fault, found one by one with another decoder."""
        problems = []
        for index in indices:
            path = self._faces.path(int(index))
            try:
                with Image.open(path) as image:
                    image.load()
                one, encoded = np.array([index]), [self._read(int(index))]
                if not placement.matrices(self._faces, one, encoded, self._preprocessing)[1].all():
                    problems.append(f"{path}: the box of its face lies outside the picture")
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                problems.append(f"{path}: can't be decoded: {str(error).splitlines()[0]}")
        return problems


def training_stream(
    faces: LabelledFaces,
    order: Order,
    iterations: range,
    ranks: Ranks,
    accumulate: int,
    preprocessing: Preprocessing,
    augment: Augmentation,
    settings: DaliSettings,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels of one rank for the given iterations, `accumulate` micro-batches each.

    Yields [b, 3, H, W] float32 on DALI's device and [b] int64 on the CPU, where
    b = batch_size / ranks / accumulate.
    """
    parts = ranks.world_size * accumulate

    def shares() -> Iterator[Share]:
        for iteration in iterations:
            for micro in range(accumulate):
                yield order.share(iteration, micro * ranks.world_size + ranks.rank, parts)

    def batches() -> Iterator[SampleBatch]:
        for share in shares():
            yield augmented_batch(
                share.indices, preprocessing, augment, order.seed, share.epoch, share.first
            )

    stream = FaceStream(faces, batches(), order.batch_size // parts, preprocessing, settings, augmented=True)
    for share, images in zip(shares(), stream, strict=True):
        yield images, torch.from_numpy(faces.labels[share.indices])


def plain_stream(
    faces: Faces,
    indices: NDArray[np.int64],
    batch_size: int,
    preprocessing: Preprocessing,
    settings: DaliSettings,
) -> FaceStream:
    """The named photographs in order, aligned, without augmentation; the last batch may be smaller."""
    chunks = [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]
    batches = (plain_batch(chunk) for chunk in chunks)
    return FaceStream(faces, batches, batch_size, preprocessing, settings, augmented=False)


def dali_settings(device_wish: str, threads: int, ranks: Ranks) -> DaliSettings:
    """`auto` (as the network), `cpu` or `gpu`; threads: of a rank, 0 = its share of the cores this process may use."""
    on_gpu = ranks.device.type == "cuda"
    if device_wish == "gpu" and not on_gpu:
        raise InputError("--dali_device gpu needs --device cuda; DALI works on the GPU of its rank")
    cores = max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)
    device = "gpu" if on_gpu and device_wish != "cpu" else "cpu"
    return DaliSettings(device, ranks.device.index if device == "gpu" else None, threads or cores)
