"""Comparison of two images for near-duplicates: one is registered to the other, then they are correlated.

A view of an image is its face with some surroundings, or the whole image if it has no landmarks. Landmarks of copies at
another size differ by a few pixels, which registration corrects. Different images of one person correlate less.
"""

from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fr import alignment
from fr.data import placement
from fr.data.faces import Faces
from tools.dataset.image_facts import FACE, Unusable, face_of, part_of, placed_image
from tools.dataset.parallel import map_in_processes

_SIDE = 96  # pixels of a view
_FACE = 0.7  # share of a view's side that is the face
_LEVELS = (4, 2, 1)  # pyramid of the registration: factors by which the views are reduced
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)  # iterations of a level
# On real images, 42 copies at half or four times the size, or cropped, have correlations of at least 0.999, two images
# of one person at the same event of at most 0.977 (LOG.md).
_SAME = 0.99
_LEAST_SEEN = 0.25  # share of a view that both images must show
_CHUNK = 256  # pairs of a work item

Pairs = NDArray[np.int64]  # [P, 2] rows of images
_EDGE = round((1 - _FACE) / 2 * _SIDE)  # pixels of a view beside the face
_TO_VIEW = placement.scaling(np.array([FACE.input_size]), (_SIDE - 2 * _EDGE, _SIDE - 2 * _EDGE))
_TO_VIEW[:, :, 2] += _EDGE


class View(NamedTuple):
    """A view of an image. grey: [96, 96]. shown: mask of the pixels inside the image, [96, 96]."""

    grey: NDArray[np.uint8]
    shown: NDArray[np.bool_]


def same_pictures(faces: Faces, pairs: Pairs, workers: int) -> Pairs:
    """Pairs [P, 2] that show the same picture, at another size or cropped; without pairs that can't be read."""
    items = []
    for first in range(0, len(pairs), _CHUNK):
        rows, places = np.unique(pairs[first : first + _CHUNK], return_inverse=True)
        items.append((part_of(faces, rows), places.reshape(-1, 2)))
    same = map_in_processes(compare, items, workers, "comparing images", f"{_CHUNK} pairs")
    there: Pairs = pairs[np.concatenate([np.zeros(0, dtype=bool), *same])]
    return there


def compare(item: tuple[Faces, Pairs]) -> NDArray[np.bool_]:
    """Mask [P] of the pairs of images that show the same picture."""
    cv2.setNumThreads(1)  # each worker has one core
    faces, pairs = item
    views = [_view(faces, row) for row in range(len(faces))]
    pairs_of_views = ((views[first], views[second]) for first, second in pairs.tolist())
    return np.array([bool(a and b and registered_correlation(a, b) >= _SAME) for a, b in pairs_of_views])


def _view(faces: Faces, row: int) -> View | None:
    """View of an image, None if it can't be used."""
    try:
        pixels, matrix = placed_image(faces, row)
    except Unusable:
        return None
    matrix = alignment.compose(_TO_VIEW, matrix[None])[0]
    grey = np.asarray(cv2.cvtColor(face_of(pixels, matrix, (_SIDE, _SIDE)), cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    across, down = np.meshgrid(np.arange(_SIDE), np.arange(_SIDE))
    corners = np.stack([across, down], axis=2).reshape(1, -1, 2).astype(np.float64)
    places = alignment.transform(alignment.invert(matrix[None]), corners)
    inside = ((places >= 0) & (places <= np.array(pixels.shape[1::-1]) - 1)).all(axis=2)
    return View(grey, inside.reshape(_SIDE, _SIDE))


def registered_correlation(first: View, second: View) -> float:
    """Correlation of two views after affine registration of the second: the lower of that of the face and of the whole.

    Evangelidis and Psarakis, "Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization", 2008.
    """
    moved = np.eye(2, 3, dtype=np.float32)
    try:
        for level in _LEVELS:
            side = _SIDE // level
            small = partial(cv2.resize, dsize=(side, side), interpolation=cv2.INTER_AREA)
            moved[:, 2] /= level
            shown = small(second.shown.astype(np.uint8))
            window = 3 if level > 2 else 5
            found = cv2.findTransformECC(
                small(first.grey), small(second.grey), moved, cv2.MOTION_AFFINE, _STOP, shown, window
            )
            moved = np.asarray(found[1], dtype=np.float32)
            moved[:, 2] *= level
    except cv2.error:  # it doesn't converge: they are different
        return 0.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    registered, seen = (
        np.asarray(cv2.warpAffine(array, moved, (_SIDE, _SIDE), flags=flags), dtype=np.float32)
        for array in _smooth(second)
    )
    smooth, own = _smooth(first)
    both = (own == 1) & (seen > 0.99)
    if both.mean() < _LEAST_SEEN:
        return 0.0
    face = np.zeros_like(both)
    face[_EDGE:-_EDGE, _EDGE:-_EDGE] = True
    return min(_correlation(smooth, registered, mask) for mask in (both, both & face))


def _smooth(view: View) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Filtered pixels of a view, and 1 where no pixel outside the image contributes, else 0: [96, 96] each."""
    window = (5, 5)
    grey = np.asarray(cv2.GaussianBlur(view.grey.astype(np.float32), window, 0), dtype=np.float32)
    return grey, np.asarray(cv2.erode(view.shown.astype(np.float32), np.ones(window)), dtype=np.float32)


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32], seen: NDArray[np.bool_]) -> float:
    """Pearson correlation of the pixels in the mask; 0 if they are uniform."""
    if not seen.any() or not (first[seen].std() and second[seen].std()):
        return 0.0
    return float(np.corrcoef(first[seen], second[seen])[0, 1])
