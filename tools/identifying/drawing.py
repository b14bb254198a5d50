"""Drawing of boxes and names into an image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fr.files.images import Pixels
from fr.report.font import can_be_drawn, font

_KNOWN, _UNKNOWN, _WHITE = "#1f6f9f", "#c4572c", "#ffffff"
_LINES = 32  # lines of text per shorter side of the image
_SMALLEST = 11  # smallest readable text [pixels]


def annotated(pixels: Pixels, boxes: NDArray[np.float64], labels: Sequence[str], known: Sequence[bool]) -> Pixels:
    """Copy of the image [H, W, 3] with a box [F, 4] (x, y, width, height) and a label for each of F faces."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    size = max(_SMALLEST, min(picture.size) // _LINES)
    line = max(2, size // 8)
    for (x, y, width, height), label, is_known in zip(boxes.tolist(), labels, known, strict=True):
        color = _KNOWN if is_known else _UNKNOWN
        draw.rectangle((x, y, x + max(width, 0), y + max(height, 0)), outline=color, width=line)
        _write(draw, picture.size, (x, y), label, size, color)
    return np.array(picture)


def undrawable(names: Sequence[str]) -> list[str]:
    """A line about each name for which no font of this machine has the letters."""
    fonts = "boxes stand for letters of it in images: no font here has them (Debian: fonts-noto-cjk, fonts-noto-core)"
    return [f"{name}: {fonts}" for name in names if not can_be_drawn(name)]


def _write(
    draw: ImageDraw.ImageDraw, picture: tuple[int, int], corner: tuple[float, float], label: str, size: int, color: str
) -> None:
    """Draw a label on a background above a box, or inside it if there is no room; always within the image."""
    left, _, right, _ = draw.textbbox((0, 0), label, font=font(size, label))
    width, height = right - left + size // 2, size + size // 2
    x = max(0, min(corner[0], picture[0] - width))
    y = corner[1] - height if corner[1] >= height else max(0, corner[1])
    y = min(y, max(0, picture[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + size // 4 - left, y + size // 8), label, font=font(size, label), fill=_WHITE)
