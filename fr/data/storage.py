"""Where the encoded pictures are when they aren't a file each: slices of tar shards, or of one RecordIO file.

A storage is plain columns, so that it can be written down and mapped into memory. What is open belongs to the process:
reading goes through a few descriptors, by `pread`, so that a file that shrinks under a run is an error and no signal.
No more is asked for than a picture may have, whatever a file says of itself.
"""

import errno
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.files import record_io
from fr.files.images import MOST_PIXELS
from fr.files.untrusted import open_regular

MOST_BYTES = 3 * MOST_PIXELS  # of an encoded picture: no file needs more than its pixels in RGB
_KEPT_OPEN = 256  # files; a process may have 1,024 by default, and PyTorch and DALI need some


@dataclass(frozen=True)
class TarShards:
    """Pictures inside uncompressed tar files. N pictures, S shards."""

    shards: list[str]  # [S] paths below the root
    shard: NDArray[np.int32]  # [N] rows of shards
    offsets: NDArray[np.int64]  # [N] bytes from the start of the shard
    sizes: NDArray[np.int64]  # [N] bytes

    def path(self, root: Path, index: int, name: str) -> str:
        """How people are told of a picture."""
        return f"{self._file(root, index)}: {name}"

    def read(self, root: Path, index: int, outside: bool) -> NDArray[np.uint8]:
        """The encoded picture; OSError when it can't be read, whole. outside: as of `Faces`, for OutsideRoot."""
        place = int(self.offsets[index]), int(self.sizes[index])
        data = read_slice(self._file(root, index), *place, None if outside else root)
        return np.frombuffer(data, dtype=np.uint8)

    def take(self, rows: NDArray[np.int64]) -> "TarShards":
        """The chosen pictures alone."""
        return TarShards(self.shards, self.shard[rows], self.offsets[rows], self.sizes[rows])

    def _file(self, root: Path, index: int) -> str:
        return os.path.join(root, self.shards[self.shard[index]])


@dataclass(frozen=True)
class RecordFile:
    """Pictures in records of one RecordIO file. N pictures."""

    file: str  # path below the root
    offsets: NDArray[np.int64]  # [N] bytes from the start of the file
    sizes: NDArray[np.int64]  # [N] bytes up to the next record

    def path(self, root: Path, index: int, name: str) -> str:
        """How people are told of a picture."""
        return f"{root}/{self.file}: record {name}"

    def read(self, root: Path, index: int, outside: bool) -> NDArray[np.uint8]:
        """The encoded picture; OSError when it can't be read, or its record isn't whole. outside: as of `Faces`."""
        path, place = f"{root}/{self.file}", (int(self.offsets[index]), int(self.sizes[index]))
        data = read_slice(path, *place, None if outside else root)
        try:
            return np.frombuffer(record_io.unpack(data)[1], dtype=np.uint8)
        except record_io.Damaged as damage:
            raise OSError(errno.EIO, str(damage), path) from damage

    def take(self, rows: NDArray[np.int64]) -> "RecordFile":
        """The chosen pictures alone."""
        return RecordFile(self.file, self.offsets[rows], self.sizes[rows])


@dataclass(frozen=True)
class Pack:
    """Pictures in memory, out of one file that can't be read in parts. N pictures."""

    file: str  # path below the root
    pictures: list[bytes]  # [N]

    def path(self, root: Path, index: int, name: str) -> str:
        """How people are told of a picture."""
        return f"{root}/{self.file}: picture {name}"

    def read(self, root: Path, index: int, outside: bool) -> NDArray[np.uint8]:
        """The encoded picture; outside: as of `Faces`, no matter here."""
        return np.frombuffer(self.pictures[index], dtype=np.uint8)

    def take(self, rows: NDArray[np.int64]) -> "Pack":
        """The chosen pictures alone."""
        return Pack(self.file, [self.pictures[row] for row in rows.tolist()])


class _Opened:
    """Closed when nobody uses it any more, which may be after it left the cache."""

    def __init__(self, path: str, root: Path | None) -> None:
        self.descriptor = -1
        self.descriptor = open_regular(path, root)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


_opened = lru_cache(maxsize=_KEPT_OPEN)(_Opened)


def read_slice(path: str, offset: int, size: int, root: Path | None) -> bytes:
    """`size` bytes of a file, which stays open for the next call; root: as of `open_regular`.

    OSError when it can't be read, ends before, or if that is more than a picture may have; OutsideRoot.
    """
    if size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"{size:,} bytes, more than {MOST_BYTES:,}", path)
    try:
        data = os.pread(_opened(path, root).descriptor, size, offset)
    except OSError:
        _opened.cache_clear()  # a share that came back needs new descriptors
        raise
    if len(data) < size:
        raise OSError(errno.EIO, f"cut short, {size - len(data):,} bytes are missing", path)
    return data
