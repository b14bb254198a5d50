"""The nvJPEG library that DALI decodes with on a GPU.

torchvision's wheel brings an nvJPEG of its own, under the same library name as DALI's and older. A process that loads
torchvision's first uses it for DALI too. Versions before 13.2 can't decode a region of an image with fancy upsampling,
the chroma interpolation of CPU decoders: nvImageCodec then decodes each such image on the CPU. So the modules that
bring DALI (`fr/data/graph.py`) or torchvision (`fr/models/`) load DALI's first.
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
    """Load the nvJPEG installed for DALI, unless there is none (DALI's wheel for CUDA 12 finds its own).

    One that can't be loaded is left to DALI, which does without on a CPU.
    """
    if path := _installed():
        with suppress(OSError):
            ctypes.CDLL(str(path))


def version() -> tuple[int, ...]:
    """Version of the nvJPEG that DALI gets in this process; () if there is none."""
    path = _installed()
    try:
        # By name, as DALI asks for it: the loader gives the one that was loaded first.
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
    """Whether this process's nvJPEG decodes regions with fancy upsampling."""
    return version() >= _FANCY_REGIONS


@cache
def _installed() -> Path | None:
    """The newest libnvjpeg of the wheels called nvidia-nvjpeg…"""
    package = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (package and package.submodule_search_locations) or ()]
    return newest([path for folder in folders for path in folder.glob("*/lib/libnvjpeg.so.*")])


def newest(libraries: Iterable[Path]) -> Path | None:
    """The library of the highest version by its name, `libnvjpeg.so.13` or `libnvjpeg.so.13.0.2`; None for none."""

    def of(path: Path) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", path.name.partition(".so")[2])]

    return max(libraries, key=of, default=None)
