"""Decoded images for display and detectors: pixels as stored in the file, and EXIF's orientation.

Landmark lists refer to the pixels as stored; EXIF's orientation tells a viewer how to turn the image
(Exif 2.32, tag 0x0112, https://www.cipa.jp/std/documents/e/DC-X008-Translation-2019-E.pdf).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fr.errors import InputError

Pixels = NDArray[np.uint8]

# Largest image that is decoded, Pillow's own limit: a quarter of a gigabyte in RGB. A file of 10 kB can hold more.
MOST_PIXELS = (1 << 30) // 4 // 3
TOO_LARGE = f"can't be decoded: more than {MOST_PIXELS:,} pixels"

_BOMB = (Image.DecompressionBombWarning, Image.DecompressionBombError)
_START, _SCAN, _END = b"\xff\xd8", b"\xda", b"\xff\xd9"  # markers of a JPEG: first, start of a scan, last
_TAG = 0x0112
# Orientation → map of upright to stored coordinates: axes swapped, then x reversed, then y reversed.
_WAYS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True)
class StoredImage:
    """stored: [H, W, 3] RGB as in the file. orientation: EXIF's, 1 … 8."""

    stored: Pixels
    orientation: int

    @property
    def mirrored(self) -> bool:
        """True if the stored pixels are mirrored."""
        return sum(_WAYS[self.orientation]) % 2 == 1

    def upright(self) -> Pixels:
        """Pixels as a viewer shows them: [H, W, 3], or [W, H, 3] if turned by a quarter."""
        swapped, from_right, from_below = _WAYS[self.orientation]
        pixels = self.stored[:: -1 if from_below else 1, :: -1 if from_right else 1]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if swapped else pixels)

    def stored_places(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (x, y) [..., 2] from the upright to the stored image; (0, 0) is the centre of the first pixel."""
        swapped, *from_end = _WAYS[self.orientation]
        found = places[..., ::-1] if swapped else places
        height, width = self.stored.shape[:2]
        return np.where(from_end, np.array([width, height]) - 1 - found, found)


def upright_directions(directions: NDArray[np.float64], orientations: NDArray[np.int64]) -> NDArray[np.float64]:
    """Directions (x, y) [N, 2] in stored images → in the upright ones. orientations: EXIF's [N], 1 … 8."""
    ways = np.array([_WAYS[orientation] for orientation in orientations.tolist()]).reshape(-1, 3)
    signed = np.where(ways[:, 1:], -directions, directions)
    return np.where(ways[:, :1], signed[:, ::-1], signed)


def orientation_of(encoded: Pixels) -> int:
    """EXIF's orientation of an encoded image, 1 … 8; 1 if it has none, or can't be opened."""
    try:
        with _opened(encoded) as image:
            return _orientation(image)
    except Exception:  # any, as in `decode`
        return 1


def decode(encoded: NDArray[np.uint8], name: str) -> StoredImage:
    """Decode an image; InputError, with its name, if it can't be decoded or has more than MOST_PIXELS."""
    try:
        with _opened(encoded) as image:
            return StoredImage(_rgb(image), _orientation(image))
    except _BOMB as error:
        raise InputError(f"{name}: {TOO_LARGE}") from error
    except Exception as error:  # parsers raise many types on invalid bytes
        raise InputError(f"{name}: can't be decoded: cut off, damaged, or of an unknown format") from error


def is_too_large(encoded: Pixels) -> bool:
    """Return True if the header of an encoded image states more than MOST_PIXELS."""
    try:
        with _opened(encoded):
            return False
    except _BOMB:
        return True
    except Exception:  # any, as above
        return False


def is_cut_off(encoded: Pixels) -> bool:
    """Return True if a JPEG lacks its end marker (ITU-T T.81, B.1.1.3): nvJPEG decodes its missing part as grey."""
    if encoded[:2].tobytes() != _START or encoded[-2:].tobytes() == _END:
        return False
    content = encoded.tobytes()
    place = 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != _SCAN:
        if content[place + 1 : place + 2] == b"\xff":
            place += 1  # fill bytes before a marker (B.1.1.2)
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")  # a segment of known length
    return content.find(_END, place) < 0  # in a scan a byte FF is followed by 00 or a restart marker


def image_file(image: Image.Image, form: str, **settings: Any) -> bytes:
    """Content of an image file in one of Pillow's forms, such as PNG; settings: arguments of its `save`."""
    content = BytesIO()
    image.save(content, form, **settings)
    return content.getvalue()


@contextmanager
def _opened(encoded: Pixels) -> Iterator[Image.Image]:
    """Open an image by its header; raises one of _BOMB above MOST_PIXELS, and other exceptions for invalid bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(BytesIO(encoded.data)) as image:
            yield image


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16"):  # Pillow's conversion would clip at 255
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # convert() copies even an RGB image


def _orientation(image: Image.Image) -> int:
    try:
        said = image.getexif().get(_TAG)
    except Exception:  # any, as above; the pixels may be intact nevertheless
        return 1
    return said if said in _WAYS else 1
