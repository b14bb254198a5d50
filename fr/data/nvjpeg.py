"""The nvJPEG library that DALI decodes with on a GPU.

torchvision's wheel brings an nvJPEG of its own, under the same library name as DALI's and older. A process that loads
torchvision's first uses it for DALI too. Versions before 13.2 can't decode a region of an image with fancy upsampling,
the chroma interpolation of CPU decoders: nvImageCodec then decodes each such image on the CPU. So `fr` loads DALI's
first.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

_FANCY_REGIONS = (13, 2)  # nvImageCodec's own bound


def load_dalis() -> None:
    """Load the nvJPEG installed for DALI, unless there is none (DALI's wheel for CUDA 12 finds its own)."""
    if path := _installed():
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
    found = [path for folder in folders for path in folder.glob("*/lib/libnvjpeg.so.*")]
    return max(found, key=lambda path: int(path.suffix[1:]), default=None)
