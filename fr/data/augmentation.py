"""Random augmentation of a batch, drawn as arrays; geometric transforms are folded into the alignment matrix.

Transforms, in this order:
- mirror, rotation, zoom about the centre, shift, and a crop that is brought back to the full size: one matrix;
- colour: brightness, contrast, saturation, or grey (ITU-R BT.601); torchvision's ColorJitter and RandomGrayscale;
- cut-out: black boxes over landmarks, then the 5×5 box blur, both of face_recognition.pytorch;
- low resolution (AdaFace, arXiv:2204.00964): resized down, then back;
- JPEG: compressed, then decoded;
- random erasing (Zhong et al., arXiv:1708.04896): one black rectangle;
- mixing (mixup, arXiv:1710.09412, used for distillation as in arXiv:2106.05237): blended with another image.

Shapes: N samples of a batch, K = 3 boxes at most. Lengths are pixels of the network input, or fractions of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, types

from fr.alignment import Array, compose, template_points, transform
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing
from fr.randomness import Purpose, uniforms

MAX_BOXES = 3
ERASED_AT_LEAST = 0.02  # of the input; random erasing's own figure
_BLUR_SIDE = 5  # pixels; the box blur of face_recognition.pytorch
_BEST_JPEG = 100
_COLUMNS = 32  # uniform numbers reserved for each sample; constant, so that a new transform doesn't change older draws

Bools = NDArray[np.bool_]


class Effect(NamedTuple):
    """A pixel transform of a batch: the samples that it applies to, and its parameters."""

    drawn: Bools  # [N]
    parameters: NDArray[Any]  # [N, …]


@dataclass(frozen=True)
class Draws:
    """Random transforms of a batch of N samples."""

    flip: Bools  # [N]
    angle: Array  # [N] radians, counter-clockwise as seen
    zoom: Array  # [N] factor; 1 = none
    shift: Array  # [N, 2] fractions of (width, height), to the right and down
    crop_side: Array  # [N] fraction of the input's sides; 1 = none
    crop_corner: Array  # [N, 2] fractions of (width, height)
    color: Bools  # [N]
    color_factors: Array  # [N, 3] of brightness, contrast, saturation
    gray: Bools  # [N]
    box_count: NDArray[np.int64]  # [N] 0 … 3
    box_points: NDArray[np.int64]  # [N, K] distinct landmarks, the first box_count of which are covered
    box_side: Array  # [N] fraction of the input's side
    blur: Bools  # [N]
    lowres: Bools  # [N]
    lowres_ratio: Array  # [N] of the smaller image's sides
    jpeg: Bools  # [N]
    jpeg_quality: NDArray[np.int64]  # [N] 1 … 100
    erase: Bools  # [N]
    erase_corner: Array  # [N, 2] fractions of (height, width)
    erase_extent: Array  # [N, 2] fractions of (height, width)


def draw(augmentation: Augmentation, seed: int, epoch: int, first: int, count: int) -> Draws:
    """Draws for positions `first` … `first + count - 1` of an epoch: a function of (seed, epoch, position) only."""
    a = augmentation
    u = uniforms(seed, Purpose.AUGMENTATION, first, count, _COLUMNS, epoch)
    v = uniforms(seed, Purpose.PIXELS, first, count, _COLUMNS, epoch)
    boxes = 1 + (u[:, 4] * MAX_BOXES).astype(np.int64)
    crop_side = np.where(u[:, 12] < a.crop_prob, a.crop_side, 1.0)
    strengths = np.array([a.color_brightness, a.color_contrast, a.color_saturation])
    darkest = np.maximum(1 - strengths, 0)
    extent = _rectangles(a, v[:, 10], v[:, 11])
    return Draws(
        flip=u[:, 0] < a.flip_prob,
        angle=np.where(u[:, 1] < a.rotate_prob, np.deg2rad(a.rotate_degrees) * _symmetric(u[:, 2]), 0.0),
        zoom=1 + np.where(u[:, 15] < a.zoom_prob, a.zoom_range * _symmetric(u[:, 16]), 0.0),
        shift=np.where(u[:, 17:18] < a.shift_prob, a.shift_range * _symmetric(u[:, 18:20]), 0.0),
        crop_side=crop_side,
        crop_corner=(1 - crop_side)[:, None] * u[:, 13:15],
        color=v[:, 0] < a.color_prob,
        color_factors=darkest + (1 + strengths - darkest) * v[:, 1:4],
        gray=v[:, 4] < a.gray_prob,
        box_count=np.where(u[:, 3] < a.cutout_prob, boxes, 0),
        box_points=np.argsort(u[:, 5:10], axis=1)[:, :MAX_BOXES],
        # The boxes together cover 5–10 % of the input when there is one, less when there are more (as in 001).
        box_side=np.sqrt(0.05 + 0.05 * u[:, 10]) / boxes,
        blur=u[:, 11] < a.blur_prob,
        lowres=v[:, 5] < a.lowres_prob,
        lowres_ratio=a.lowres_ratio + (1 - a.lowres_ratio) * v[:, 6],
        jpeg=v[:, 7] < a.jpeg_prob,
        jpeg_quality=a.jpeg_quality + (v[:, 8] * (_BEST_JPEG + 1 - a.jpeg_quality)).astype(np.int64),
        erase=v[:, 9] < a.erase_prob,
        erase_corner=(1 - extent) * v[:, 12:14],
        erase_extent=extent,
    )


def mix(augmentation: Augmentation, seed: int, epoch: int, first: int, images: torch.Tensor) -> torch.Tensor:
    """Blend some of the images [N, …] of positions `first` … with a neighbour: the first with the second, and so on.

    An image's own weight is 0.5 to 1, drawn for its position. The last of an odd number has no neighbour.
    """
    u = uniforms(seed, Purpose.MIXING, first, len(images), 2, epoch)
    shares = torch.from_numpy(np.where(u[:, 0] < augmentation.mix_prob, u[:, 1] / 2, 0).astype(np.float32))
    neighbours = torch.arange(len(images), device=images.device).bitwise_xor(1).clamp_max(len(images) - 1)
    shares = shares.to(images.device, non_blocking=True)
    return torch.lerp(images, images[neighbours], shares.view(-1, *[1] * (images.ndim - 1)))


def _symmetric(u: Array) -> Array:
    """Uniform numbers in [0, 1) → [-1, 1)."""
    return 2 * u - 1


def _rectangles(augmentation: Augmentation, u: Array, v: Array) -> Array:
    """Heights and widths of rectangles to erase, as fractions: [N, 2]; u, v: uniform numbers [N].

    The paper draws again if a side is longer than the input; here the aspect ratio is drawn, on a logarithmic scale,
    from those that fit.
    """
    area = ERASED_AT_LEAST + (augmentation.erase_area - ERASED_AT_LEAST) * u
    farthest = -np.log(np.maximum(augmentation.erase_aspect, area))
    root = np.exp(farthest * _symmetric(v) / 2)
    extent: Array = np.sqrt(area)[:, None] * np.stack([root, 1 / root], axis=1)
    return extent


def geometry(draws: Draws, input_size: tuple[int, int]) -> Array:
    """Geometric augmentation as matrices input → input: [N, 2, 3].

    Mirror, rotation and zoom about the centre of the input, shift, and the cropped window resized to full size.
    """
    height, width = input_size
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    cos, sin = np.cos(draws.angle), np.sin(draws.angle)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    # The y axis points down: counter-clockwise as seen is [[cos, sin], [-sin, cos]].
    rotation = _matrices(
        [cos, sin, center_x - cos * center_x - sin * center_y],
        [-sin, cos, center_y + sin * center_x - cos * center_y],
    )
    mirror = _matrices(
        [np.where(draws.flip, -1.0, 1.0), zero, np.where(draws.flip, width - 1.0, 0.0)], [zero, one, zero]
    )
    return compose(_stretches(draws, np.array([width, height])), compose(rotation, mirror))


def _matrices(*rows: Sequence[Array]) -> Array:
    """Matrices [N, 2, 3] from their two rows of three columns [N] each."""
    return np.ascontiguousarray(np.moveaxis(np.array(rows), 2, 0))


def _stretches(draws: Draws, size: NDArray[np.int64]) -> Array:
    """Zoom, shift and crop, which keep the axes, as matrices: [N, 2, 3]. size: (width, height)."""
    center = (size - 1) / 2
    zoom, side = draws.zoom[:, None], draws.crop_side[:, None]
    moved = center - zoom * center + draws.shift * size
    # A window's corner is the corner of its first pixel, half a pixel before the centre that coordinates count from.
    offset = (moved + 0.5 - draws.crop_corner * size) / side - 0.5
    return np.concatenate([np.eye(2) * (zoom / side)[:, :, None], offset[:, :, None]], axis=2)


def boxes(draws: Draws, moves: Array, preprocessing: Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut-out squares over the (moved) template points: corners and sides, [N, 2·K] each as (y, x, y, x, …).

    An unused box has side 0. The squares stay upright when the face is rotated.
    """
    height, width = preprocessing.input_size
    points = template_points(preprocessing.template, preprocessing.input_size)
    centers = transform(moves, points[draws.box_points])[:, :, ::-1]  # (y, x)
    used = np.arange(MAX_BOXES) < draws.box_count[:, None]
    side = (draws.box_side[:, None] * (height, width))[:, None, :]  # [N, 1, 2]
    low = np.clip(np.round(centers - side / 2), 0, (height, width))
    high = np.clip(np.round(centers + side / 2), 0, (height, width))
    extent = np.where(used[:, :, None], high - low, 0)
    return _rows(low), _rows(extent)


def effects(settings: Augmentation, draws: Draws, moves: Array, preprocessing: Preprocessing) -> dict[str, Effect]:
    """Pixel transforms of a batch, by the names of `settings.effects`. Parameters of a sample:

    color: factors of brightness, contrast and saturation, [3]. cutout: corners and sides of the boxes, [2, 2·K].
    blur: the kernel, [5, 5]. lowres: height and width of the smaller image, [2]. jpeg: quality 1 … 100.
    erase: corner and sides of the rectangle, [2, 2] as (y, x).
    """
    size = np.array(preprocessing.input_size)

    def color() -> Effect:
        factors = np.where(draws.color[:, None], draws.color_factors, 1.0)
        factors[draws.gray, 2] = 0
        return Effect(draws.color | draws.gray, factors.astype(np.float32))

    def erase() -> Effect:
        low = np.round(draws.erase_corner * size)
        high = np.round((draws.erase_corner + draws.erase_extent) * size)
        return Effect(draws.erase, np.stack([low, high - low], axis=1).astype(np.float32))

    def lowres() -> Effect:
        return Effect(draws.lowres, np.maximum(np.round(draws.lowres_ratio[:, None] * size), 1).astype(np.float32))

    def blur() -> Effect:
        return Effect(draws.blur, np.full((len(moves), _BLUR_SIDE, _BLUR_SIDE), 1 / _BLUR_SIDE**2, dtype=np.float32))

    effect_of = {
        "color": color,
        "cutout": lambda: Effect(draws.box_count > 0, np.stack(boxes(draws, moves, preprocessing), axis=1)),
        "blur": blur,
        "lowres": lowres,
        "jpeg": lambda: Effect(draws.jpeg, draws.jpeg_quality.astype(np.int32)),
        "erase": erase,
    }
    return {name: effect_of[name]() for name in settings.effects}


def _rows(corners: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(corners.reshape(len(corners), -1), dtype=np.float32)


# These operators exist in DALI for both CPU and GPU, and none of them draws random numbers itself. Images are
# [H, W, 3] uint8, RGB.


def _color(images: Any, factors: Any) -> Any:
    """Brightness, contrast and saturation, each clipped to 0–255, as in torchvision; contrast about the mean grey."""
    images = fn.brightness(images, brightness=factors[0])
    mean = fn.reductions.mean(_luma(images)).cpu()  # an argument is read on the CPU
    images = fn.contrast(images, contrast=factors[1], contrast_center=mean)
    if factors[2] > 0:
        images = fn.saturation(images, saturation=factors[2])
    else:  # equal to saturation 0, in a tenth of the time
        images = fn.color_space_conversion(_luma(images), image_type=types.GRAY, output_type=types.RGB)
    return images


def _luma(images: Any) -> Any:
    """Grey by ITU-R BT.601: [H, W, 1]."""
    return fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)


def _erase(images: Any, boxes: Any) -> Any:
    return fn.erase(images, anchor=boxes[0], shape=boxes[1], axis_names="HW", fill_value=0)


def _lowres(images: Any, size: Any) -> Any:
    """Resize down and back, linear both ways; down with a filter as wide as a pixel of the smaller image."""
    full = fn.cast(images.shape()[:2], dtype=types.FLOAT)
    return fn.resize(fn.resize(images, size=size), size=full)


def _jpeg(images: Any, quality: Any) -> Any:
    return fn.jpeg_compression_distortion(images, quality=quality)


EFFECTS: dict[str, Callable[[Any, Any], Any]] = {
    "color": _color,
    "cutout": _erase,
    "blur": fn.filter,
    "lowres": _lowres,
    "jpeg": _jpeg,
    "erase": _erase,
}
"""Pixel transforms of an aligned face inside the DALI graph; `effects` documents the parameters."""
