"""Similarity transforms that align a face, from its five landmarks, to the input of the network.

Points are (x, y) in pixels with (0, 0) at the centre of the first pixel, as OpenCV counts and as the published
landmark files do. Matrices are [2, 3] and map image → network input.

Shapes: N faces, 5 landmarks (left eye, right eye, nose, left and right mouth corner, as seen in the image).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Landmark positions as fractions of (width, height).
TEMPLATES: dict[str, tuple[tuple[float, float], ...]] = {
    # SphereFace's 96×112 points over (96, 112), as face_recognition.pytorch scales them to any (also square) input.
    "sphereface": (
        (0.315569, 0.461574),
        (0.682623, 0.459834),
        (0.500262, 0.640505),
        (0.349472, 0.824692),
        (0.653436, 0.823251),
    ),
    # ArcFace's 112×112 points (arXiv:1801.07698; insightface's alignment).
    "arcface": (
        (38.2946 / 112, 51.6963 / 112),
        (73.5318 / 112, 51.5014 / 112),
        (56.0252 / 112, 71.7366 / 112),
        (41.5493 / 112, 92.3655 / 112),
        (70.7299 / 112, 92.2041 / 112),
    ),
}


def template_points(name: str, input_size: tuple[int, int]) -> Array:
    """Landmark positions of a template in an input of (height, width): [5, 2] pixels."""
    height, width = input_size
    return np.array(TEMPLATES[name]) * (width, height)


def _rotation_and_spreads(points: Array, template: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Centred sums of both fits: means, the complex correlation (a + ib) [N], and both sums of squares."""
    center = points.mean(axis=1)
    target_center = template.mean(axis=0)
    x, y = np.moveaxis(points - center[:, None], 2, 0)
    u, v = np.moveaxis(template - target_center, 1, 0)
    correlation = (x * u + y * v).sum(axis=1) + 1j * (x * v - y * u).sum(axis=1)
    return center, target_center, correlation, (x * x + y * y).sum(axis=1), (u * u + v * v).sum()


def _similarity(scale: Array, correlation: Array, center: Array, target_center: Array) -> Array:
    # A rotation of the plane is a unit complex number, so the result is never a reflection.
    cos, sin = scale * np.cos(np.angle(correlation)), scale * np.sin(np.angle(correlation))
    linear = np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)
    shift = target_center - (linear @ center[:, :, None])[:, :, 0]
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def procrustes(points: Array, template: Array) -> Array:
    """Centred Procrustes similarity: best rotation, scale = ratio of the spreads. [N, 5, 2], [5, 2] → [N, 2, 3].

    The fit of face_recognition.pytorch, except that reflections are excluded here.
    """
    center, target_center, correlation, spread, target_spread = _rotation_and_spreads(points, template)
    return _similarity(np.sqrt(target_spread / spread), correlation, center, target_center)


def umeyama(points: Array, template: Array) -> Array:
    """Least-squares similarity without reflection (Umeyama 1991, eq. 40–43). [N, 5, 2], [5, 2] → [N, 2, 3]."""
    center, target_center, correlation, spread, _ = _rotation_and_spreads(points, template)
    return _similarity(np.abs(correlation) / spread, correlation, center, target_center)


ALIGNMENTS: dict[str, Callable[[Array, Array], Array]] = {"procrustes": procrustes, "umeyama": umeyama}
CENTER_CROP = "center_crop"  # alternative to the two fits: needs no landmarks (`fr.preprocessing`)


def compose(after: Array, before: Array) -> Array:
    """The matrix that applies `before`, then `after`: [N, 2, 3] each → [N, 2, 3]."""
    linear = after[:, :, :2] @ before[:, :, :2]
    shift = after[:, :, :2] @ before[:, :, 2:] + after[:, :, 2:]
    return np.concatenate([linear, shift], axis=2)


def invert(matrices: Array) -> Array:
    """The inverse maps, network input → image: [N, 2, 3] → [N, 2, 3]."""
    linear = np.linalg.inv(matrices[:, :, :2])
    return np.concatenate([linear, -linear @ matrices[:, :, 2:]], axis=2)


def transform(matrices: Array, points: Array) -> Array:
    """Transform points [N, K, 2] by matrices [N, 2, 3] → [N, K, 2]."""
    moved: Array = points @ np.swapaxes(matrices[:, :, :2], 1, 2) + matrices[:, None, :, 2]
    return moved
