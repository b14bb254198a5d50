"""The random draws of a batch, as arrays; geometry goes into the alignment matrix (C3).

The set of face_recognition.pytorch: mirror, black boxes over landmarks (cut-out), rotation, box blur.
Shapes: N samples of a batch, K = 3 boxes at most. Lengths are pixels of the network input.
"""

import argparse
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fr.data.alignment import Array, compose, template_points, transform
from fr.preprocessing import Preprocessing
from fr.randomness import Purpose, uniforms

MAX_BOXES = 3
_BLUR_SIDE = 5  # pixels; the box blur of face_recognition.pytorch
_COLUMNS = 32  # uniform numbers reserved a sample; a constant, so that a new draw leaves the older ones as they are


@dataclass(frozen=True)
class Augmentation:
    """Probabilities in [0, 1] (0 = off) and strengths; each is the option of train.py with that name."""

    flip_prob: float = 0.5
    rotate_prob: float = 0.95
    rotate_degrees: float = 10.0
    cutout_prob: float = 0.05
    blur_prob: float = 0.2

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Augmentation":
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @property
    def effects(self) -> tuple[str, ...]:
        """Names of what may befall the pixels, in the order in which it does."""
        return tuple(name for name in ("cutout", "blur") if getattr(self, f"{name}_prob"))


class Effect(NamedTuple):
    """One thing that may befall the pixels of each sample."""

    drawn: NDArray[np.bool_]  # [N]
    parameters: NDArray[Any]  # [N, …]


@dataclass(frozen=True)
class Draws:
    """What befalls each sample of a batch."""

    flip: NDArray[np.bool_]  # [N]
    angle: Array  # [N] radians, counter-clockwise as seen
    box_count: NDArray[np.int64]  # [N] 0 … 3
    box_points: NDArray[np.int64]  # [N, K] distinct landmarks, the first box_count of which are covered
    box_side: Array  # [N] fraction of the input's side
    blur: NDArray[np.bool_]  # [N]


def draw(augmentation: Augmentation, seed: int, epoch: int, first: int, count: int) -> Draws:
    """The draws of places `first` … `first + count - 1` of an epoch: a function of (seed, epoch, place) alone."""
    u = uniforms(seed, Purpose.AUGMENTATION, first, count, _COLUMNS, epoch)
    angle = np.deg2rad(augmentation.rotate_degrees) * (2 * u[:, 2] - 1)
    boxes = 1 + (u[:, 4] * MAX_BOXES).astype(np.int64)
    return Draws(
        flip=u[:, 0] < augmentation.flip_prob,
        angle=np.where(u[:, 1] < augmentation.rotate_prob, angle, 0.0),
        box_count=np.where(u[:, 3] < augmentation.cutout_prob, boxes, 0),
        box_points=np.argsort(u[:, 5:10], axis=1)[:, :MAX_BOXES],
        # The boxes together cover 5–10 % of the input when there is one, less when there are more (as in 001).
        box_side=np.sqrt(0.05 + 0.05 * u[:, 10]) / boxes,
        blur=u[:, 11] < augmentation.blur_prob,
    )


def geometry(draws: Draws, input_size: tuple[int, int]) -> Array:
    """Mirror, then rotation about the centre of the input, as matrices input → input: [N, 2, 3]."""
    height, width = input_size
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    cos, sin = np.cos(draws.angle), np.sin(draws.angle)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    # The y axis points down: counter-clockwise as seen is [[cos, sin], [-sin, cos]].
    rotation = np.stack(
        [
            np.stack([cos, sin, center_x - cos * center_x - sin * center_y], axis=1),
            np.stack([-sin, cos, center_y + sin * center_x - cos * center_y], axis=1),
        ],
        axis=1,
    )
    sign = np.where(draws.flip, -1.0, 1.0)
    mirror = np.stack(
        [
            np.stack([sign, zero, np.where(draws.flip, width - 1.0, 0.0)], axis=1),
            np.stack([zero, one, zero], axis=1),
        ],
        axis=1,
    )
    return compose(rotation, mirror)


def boxes(
    draws: Draws, moves: Array, preprocessing: Preprocessing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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


def effects(
    settings: Augmentation, draws: Draws, moves: Array, preprocessing: Preprocessing
) -> dict[str, Effect]:
    """What befalls the pixels, by the names of `settings.effects`. Parameters of a sample:

    cutout: corners and sides of the boxes, [2, 2·K]. blur: the kernel, [5, 5].
    """
    kernel = np.full((len(moves), _BLUR_SIDE, _BLUR_SIDE), 1 / _BLUR_SIDE**2, dtype=np.float32)
    every = {
        "cutout": lambda: Effect(draws.box_count > 0, np.stack(boxes(draws, moves, preprocessing), axis=1)),
        "blur": lambda: Effect(draws.blur, kernel),
    }
    return {name: every[name]() for name in settings.effects}


def _rows(corners: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(corners.reshape(len(corners), -1), dtype=np.float32)
