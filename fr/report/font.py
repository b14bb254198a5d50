"""Letters in pictures: DejaVu Sans as matplotlib carries it, which has no Chinese, Japanese or Korean."""

from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageFont


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """size: of a line [pixels]."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
