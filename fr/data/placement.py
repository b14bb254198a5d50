"""Which matrix brings each photograph to the input of the network, once its size is known where that counts.

Landmarks in pixels need the landmarks alone. Landmarks that are fractions of a box, and aligned crops, need the size
of the picture too, which is read from its header when its bytes are in memory: opening millions of files for it at
the start would take hours.
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


def sizes_of(encoded: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """(width, height) of encoded pictures as they are stored, whatever EXIF says: [N, 2], zeros if unreadable."""
    return np.array([_size(picture) for picture in encoded], dtype=np.int64).reshape(-1, 2)


def _size(encoded: NDArray[np.uint8]) -> tuple[int, int]:
    try:
        with Image.open(BytesIO(encoded.tobytes())) as image:
            return image.size
    except Exception:  # any: foreign bytes trip parsers in many ways, and the decoder will complain of this picture
        return _UNKNOWN


def matrices(
    faces: Faces, indices: NDArray[np.int64], encoded: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing
) -> tuple[alignment.Array, NDArray[np.bool_]]:
    """Photograph → input [N, 2, 3] for the named faces, and which of them can be placed [N].

    One that can't (no picture, or its box lies outside it) gets a matrix all the same, of no meaning.
    """
    if faces.landmarks.shape[1] == 0:
        sizes = sizes_of(encoded)
        return scaling(np.maximum(sizes, 1), preprocessing.input_size), np.all(sizes > 0, axis=1)
    points, placed = landmarks(faces, indices, encoded)
    template = alignment.template_points(preprocessing.template, preprocessing.input_size)
    return alignment.ALIGNMENTS[preprocessing.alignment](points, template), placed


def landmarks(
    faces: Faces, indices: NDArray[np.int64], encoded: Sequence[NDArray[np.uint8]]
) -> tuple[alignment.Array, NDArray[np.bool_]]:
    """Landmarks of the named faces in pixels [N, 5, 2], and of which they can be told [N]; the others' mean nothing."""
    return landmarks_in(faces, indices, sizes_of(encoded if faces.boxes is not None else []))


def landmarks_in(
    faces: Faces, indices: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[alignment.Array, NDArray[np.bool_]]:
    """As `landmarks`, of pictures of `sizes` [N, 2] (width, height); of faces without boxes these don't count."""
    if faces.boxes is None:
        return faces.landmarks[indices], np.ones(len(indices), dtype=bool)
    low, extent = cut_boxes(faces.boxes[indices], sizes)
    return low[:, None] + faces.landmarks[indices] * np.maximum(extent, 1)[:, None], np.all(extent > 0, axis=1)


def cut_boxes(boxes: alignment.Array, sizes: NDArray[np.int64]) -> tuple[alignment.Array, alignment.Array]:
    """Boxes [N, 4] (x, y, w, h) cut at the edges of pictures of `sizes` [N, 2]: low corners and extents, [N, 2] each.

    As an array's slice is cut, by which face_recognition.pytorch takes the box out of the picture.
    """
    low = np.minimum(boxes[:, :2], sizes)
    return low, np.minimum(boxes[:, :2] + boxes[:, 2:], sizes) - low


def scaling(sizes: NDArray[np.int64], input_size: tuple[int, int]) -> alignment.Array:
    """The whole of pictures of `sizes` [N, 2] (width, height) onto the whole input, as cv2.resize: [N, 2, 3]."""
    factors = np.array(input_size[::-1]) / sizes
    found = np.zeros((len(sizes), 2, 3))
    found[:, [0, 1], [0, 1]] = factors
    found[:, :, 2] = factors / 2 - 0.5  # points count from the centre of the first pixel
    return found
