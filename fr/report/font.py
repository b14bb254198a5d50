"""Fonts for text in images: matplotlib's copy of DejaVu Sans, or a system font with the letters that it lacks."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

_PLAIN = str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"))
_PREFERRED = ("noto", "regular")  # parts of file names, such as NotoSansCJK-Regular.ttc of Debian's fonts-noto-cjk


def font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Font of a size in pixels that has all letters of a text; DejaVu Sans if there is none."""
    return ImageFont.truetype(_file_with(_letters(text)) or _PLAIN, size)


def can_be_drawn(text: str) -> bool:
    """Return True if a font of this machine has all letters of a text."""
    return bool(_file_with(_letters(text)))


def _letters(text: str) -> frozenset[int]:
    return frozenset(ord(letter) for letter in text if letter.isprintable() and not letter.isspace())


@cache
def _file_with(letters: frozenset[int]) -> str:
    """The first font file that has all letters; "" if there is none."""
    return next((file for file in _files() if letters <= _letters_of(file)), "")


def _files() -> Iterator[str]:
    yield _PLAIN
    yield from _system_files()


@cache
def _system_files() -> list[str]:
    files = font_manager.findSystemFonts()
    return sorted(files, key=lambda file: (*(part not in Path(file).name.lower() for part in _PREFERRED), file))


@cache
def _letters_of(file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # a damaged file, or a bitmap font
        return frozenset()
