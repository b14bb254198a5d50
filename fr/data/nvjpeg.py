"""The nvJPEG library that DALI decodes with on a GPU.

torchvision's wheel contains an older nvJPEG with the same library name as DALI's. A process that loads torchvision's
first uses it for DALI too. Versions before 13.2 can't decode a region of an image with fancy upsampling, the chroma
interpolation of CPU decoders: nvImageCodec then decodes each such image on the CPU. So the modules that import DALI
(`fr/data/graph.py`) or torchvision (`fr/models/`) load DALI's nvJPEG first.
"""

import ctypes
import importlib.util
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

_FANCY_REGIONS = (13, 2)  # nvImageCodec's own bound


def load_dalis() -> None:
    """Load the nvJPEG installed for DALI, if there is one (DALI's wheel for CUDA 12 finds its own).

    A failure to load it is ignored, since DALI doesn't need it on a CPU.
    """
    if path := _installed():
        with suppress(OSError):
            ctypes.CDLL(str(path))


def version() -> tuple[int, ...]:
    """Version of the nvJPEG that DALI gets in this process; () if there is none."""
    path = _installed()
    try:
        # By name, as DALI loads it: the loader returns the library of this name that was loaded first.
        library = ctypes.CDLL(path.name if path else "libnvjpeg.so.12")
    except OSError:
        return ()
    parts = []
    for part in range(3):  # major, minor, patch: `libraryPropertyType` of CUDA
        value = ctypes.c_int()
        library.nvjpegGetProperty(part, ctypes.byref(value))
        parts.append(value.value)
    return tuple(parts)


def decodes_fancy_regions() -> bool:
    """Return True if this process's nvJPEG decodes regions with fancy upsampling."""
    return version() >= _FANCY_REGIONS


@cache
def _installed() -> Path | None:
    """The newest libnvjpeg in the wheels named nvidia-nvjpeg…"""
    package = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (package and package.submodule_search_locations) or ()]
    return newest([path for folder in folders for path in folder.glob("*/lib/libnvjpeg.so.*")])


def newest(libraries: Iterable[Path]) -> Path | None:
    """The library with the highest version in its name, such as `libnvjpeg.so.13.0.2`; None if there is none."""

    def of(path: Path) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", path.name.partition(".so")[2])]

    return max(libraries, key=of, default=None)
