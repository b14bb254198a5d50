"""Loose crops: the enlarged face box of an image, not resampled."""

import numpy as np
from numpy.typing import NDArray

from fr.alignment import Array
from fr.data import placement
from fr.data.faces import Faces
from fr.errors import InputError, os_error_as
from fr.files.images import Pixels, StoredImage, decode
from fr.files.untrusted import OutsideRoot
from tools.dataset.crop_files import Targets

# Side of a box from landmarks alone, in units of their spread (root mean square distance from their mean). MTCNN's
# boxes are 3.4 wide and 4.6 high (medians of faces-mini); a square suits rotated images too.
_SIDE = 4.2


def write_loose(faces: Faces, boxes: Array | None, targets: Targets, enlarge: float, square: bool, index: int) -> str:
    """Crop and write one image; returns its problem, "" = none. OutsideRoot as `Faces.read`."""
    try:
        pixels = loose_crop(faces, boxes, enlarge, square, index)
    except OutsideRoot:
        raise
    except InputError as error:
        return str(error)
    targets.write_crop(index, pixels[:, :, ::-1])
    return ""


def loose_crop(faces: Faces, boxes: Array | None, enlarge: float, square: bool, index: int) -> Pixels:
    """Loose crop [H, W, 3] RGB of an image, turned upright by EXIF.

    boxes: [N, 4] x, y, width, height, or None for boxes from the landmarks. enlarge, square: as in `cut`. InputError
    for an unusable image.
    """
    path = faces.path(index)
    with os_error_as(f"{path}: can't be read"):
        image = decode(faces.read(index), path)
    height, width = image.stored.shape[:2]
    box = _box_by_landmarks(faces, index, (width, height)) if boxes is None else boxes[index]
    low, high = cut(box, enlarge, square, (width, height))
    if (high <= low).any():
        raise InputError(f"{path}: the box of its face lies outside the image")
    part = image.stored[low[1] : high[1], low[0] : high[0]]
    return StoredImage(part, image.orientation).upright()


def cut(box: Array, enlarge: float, square: bool, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel (x, y) and the one after the last of a box [4] enlarged about its centre and clipped to the image.

    size: (width, height) of the image. square: both sides as long as the longer one, before clipping.
    """
    extent = box[2:].max() if square else box[2:]
    middle = box[:2] + box[2:] / 2
    corners = np.round([middle - extent * enlarge / 2, middle + extent * enlarge / 2]).astype(np.int64)
    low, high = np.clip(corners, 0, size)
    return low, high


def box_of(points: Array) -> Array:
    """Face box [4] x, y, width, height from five landmarks [5, 2]: a square of 4.2 times their spread.

    The origin is the corner of the first pixel for boxes, its centre for landmarks.
    """
    middle = points.mean(axis=0)
    side = _SIDE * np.sqrt(((points - middle) ** 2).sum(axis=1).mean())
    return np.array([*(middle + 0.5 - side / 2), side, side])


def _box_by_landmarks(faces: Faces, index: int, size: tuple[int, int]) -> Array:
    points: Array = faces.landmarks[index]
    if faces.boxes is not None:
        low, extent = placement.cut_boxes(faces.boxes[index : index + 1], np.array([size]))
        points = low[0] + points * extent[0]
    return box_of(points)
