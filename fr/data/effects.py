"""Pixel transforms of an aligned face inside the DALI graph, one function an effect.

Images are [H, W, 3] uint8, RGB; `augmentation.effects` documents the parameters. The operators are those that DALI
has for CPU and GPU alike (C12), and none draws anything by itself (C2).
"""

from collections.abc import Callable
from typing import Any

from nvidia.dali import fn, types


def _color(images: Any, factors: Any) -> Any:
    """Brightness, contrast and saturation, each clipped to 0–255, as in torchvision; contrast about the mean grey."""
    images = fn.brightness(images, brightness=factors[0])
    mean = fn.reductions.mean(_luma(images)).cpu()  # an argument is read on the CPU
    images = fn.contrast(images, contrast=factors[1], contrast_center=mean)
    if factors[2] > 0:
        images = fn.saturation(images, saturation=factors[2])
    else:  # what saturation 0 gives, in a tenth of the time
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
