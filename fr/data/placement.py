"""Alignment matrices of images, which depend on image sizes where landmarks are fractions or images are aligned crops.

Sizes are read from the headers once the bytes are in memory: opening millions of files at the start would take hours.
"""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fr import alignment
from fr.data.faces import Faces
from fr.preprocessing import Preprocessing

_UNKNOWN = (0, 0)
LONGEST = 20  # largest ratio of sides of an image whose centre is cropped: all of it is resized, which takes memory


def sizes_of(encoded: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """(width, height) of encoded images as stored, EXIF's orientation ignored: [N, 2], zeros if unreadable."""
    return np.array([_size(image) for image in encoded], dtype=np.int64).reshape(-1, 2)


def _size(encoded: NDArray[np.uint8]) -> tuple[int, int]:
    try:
        with Image.open(BytesIO(encoded.tobytes())) as image:
            return image.size
    except Exception:  # parsers raise many types on invalid bytes; the decoder will reject this image
        return _UNKNOWN


def matrices(
    faces: Faces, indices: NDArray[np.int64], encoded: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing
) -> tuple[alignment.Array, NDArray[np.bool_]]:
    """Matrices image → input [N, 2, 3], and a mask of the images that can be placed [N].

    For a centre crop, from the image resized to a shorter side of `preprocessing.resized`. An image that can't be
    placed (unreadable size, box outside the image, sides of a ratio above LONGEST) gets a meaningless matrix.
    """
    if preprocessing.alignment == alignment.CENTER_CROP:
        sizes = sizes_of(encoded)
        usable = np.all(sizes > 0, axis=1) & (sizes.max(axis=1) <= LONGEST * sizes.min(axis=1))
        return center_crops(np.maximum(sizes, 1), preprocessing), usable
    if faces.landmarks.shape[1] == 0:
        sizes = sizes_of(encoded)
        return scaling(np.maximum(sizes, 1), preprocessing.input_size), np.all(sizes > 0, axis=1)
    points, placed = landmarks(faces, indices, encoded)
    template = alignment.template_points(preprocessing.template, preprocessing.input_size)
    return alignment.ALIGNMENTS[preprocessing.alignment](points, template), placed


def landmarks(
    faces: Faces, indices: NDArray[np.int64], encoded: Sequence[NDArray[np.uint8]]
) -> tuple[alignment.Array, NDArray[np.bool_]]:
    """Landmarks in pixels [N, 5, 2], meaningful where the mask [N] of the images that can be placed is True."""
    return landmarks_in(faces, indices, sizes_of(encoded if faces.boxes is not None else []))


def landmarks_in(
    faces: Faces, indices: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[alignment.Array, NDArray[np.bool_]]:
    """Same as `landmarks`, for images of `sizes` [N, 2] (width, height), which are ignored for faces without boxes."""
    if faces.boxes is None:
        return faces.landmarks[indices], np.ones(len(indices), dtype=bool)
    low, extent = cut_boxes(faces.boxes[indices], sizes)
    return low[:, None] + faces.landmarks[indices] * np.maximum(extent, 1)[:, None], np.all(extent > 0, axis=1)


def cut_boxes(boxes: alignment.Array, sizes: NDArray[np.int64]) -> tuple[alignment.Array, alignment.Array]:
    """Boxes [N, 4] (x, y, w, h) cut at the edges of images of `sizes` [N, 2]: low corners and extents, [N, 2] each.

    As NumPy cuts a slice at an array's end, which is how face_recognition.pytorch crops the box.
    """
    low = np.minimum(boxes[:, :2], sizes)
    return low, np.minimum(boxes[:, :2] + boxes[:, 2:], sizes) - low


def scaling(sizes: NDArray[np.int64], input_size: tuple[int, int]) -> alignment.Array:
    """Matrices of whole images of `sizes` [N, 2] (width, height) to the whole input, as cv2.resize: [N, 2, 3]."""
    factors = np.array(input_size[::-1]) / sizes
    scaled = np.zeros((len(sizes), 2, 3))
    scaled[:, [0, 1], [0, 1]] = factors
    scaled[:, :, 2] = factors / 2 - 0.5  # points count from the centre of the first pixel
    return scaled


def center_crops(sizes: NDArray[np.int64], preprocessing: Preprocessing) -> alignment.Array:
    """Matrices of centre crops of resized images, for images of `sizes` [N, 2] (width, height): [N, 2, 3]."""
    resized = preprocessing.resized * sizes // sizes.min(axis=1, keepdims=True)  # rounded as in torchvision
    corners = np.round((resized - preprocessing.input_size[::-1]) / 2)
    return np.concatenate([np.tile(np.eye(2), (len(sizes), 1, 1)), -corners[:, :, None]], axis=2)
