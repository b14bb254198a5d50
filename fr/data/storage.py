"""Storage of encoded images that aren't separate files: slices of tar shards, of an LMDB or RecordIO file, rows of
Parquet files, or bytes in memory.

A storage consists of plain columns, so that it can be cached and mapped into memory. A process keeps a limited number
of files open. They are read by `pread`, not mapped: a file that shrinks during a run gives an error, not a signal.
No read is longer than MOST_BYTES, whatever size a file claims.
"""

import errno
import os
import resource
from dataclasses import dataclass, replace
from functools import _lru_cache_wrapper, lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fr.console import counted
from fr.data.row_groups import GROUPS
from fr.files import record_io
from fr.files.data_root import DataRoot
from fr.files.file_cache import FileCache
from fr.files.images import MOST_PIXELS
from fr.files.remote import RemoteFile, Store
from fr.files.untrusted import open_regular

MOST_BYTES = 3 * MOST_PIXELS  # of an encoded image, which needs no more than its pixels in RGB
_KEPT_OPEN = 256  # files at most; PyTorch, DALI and the sockets of a group need some, too
_SHARE = 4  # at most a fourth of the files that a process may have open (`ulimit -n`, often 1,024)


@dataclass(frozen=True)
class TarShards:
    """Images that are slices of files: of uncompressed tar files, or of an LMDB file. N images, S files."""

    shards: list[str]  # [S] paths below the root
    shard: NDArray[np.int32]  # [N] rows of shards
    offsets: NDArray[np.int64]  # [N] bytes from the start of the shard
    sizes: NDArray[np.int64]  # [N] bytes

    def path(self, root: DataRoot, index: int, name: str) -> str:
        """Name of an image in messages."""
        return f"{self.file(root, index)}: {name}"

    def read(self, root: DataRoot, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError if it can't be read completely, OutsideRoot."""
        place = int(self.offsets[index]), int(self.sizes[index])
        data = read_slice(self.file(root, index), *place, root.boundary)
        return np.frombuffer(data, dtype=np.uint8)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The chosen images."""
        return replace(self, shard=self.shard[rows], offsets=self.offsets[rows], sizes=self.sizes[rows])

    def file(self, root: DataRoot, index: int) -> str:
        """The file that an image is in."""
        return os.path.join(root.path, self.shards[self.shard[index]])


@dataclass(frozen=True)
class RemoteShards(TarShards):
    """Images inside tar files below a URL, read from their local copies in the root: S files of `bytes`, `versions`.

    most: limit on the bytes of all local copies. A file without a local copy is downloaded when it is read.
    """

    url: str
    bytes: NDArray[np.int64]  # [S]
    versions: list[str]  # [S]
    most: int

    def path(self, root: DataRoot, index: int, name: str) -> str:
        """Name of an image in messages."""
        return f"{self.url}/{self.shards[self.shard[index]]}: {name}"

    def read(self, root: DataRoot, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError as for `TarShards`, RemoteFailure if its file can't be downloaded."""
        try:
            return super().read(root, index)
        except FileNotFoundError:
            read, file = super().read, self._described(int(self.shard[index]))
            return self._cache(root).fetch(_store(self.url), file, lambda _path: read(root, index))

    def file(self, root: DataRoot, index: int) -> str:
        """The local copy that holds an image, whether it exists yet or not."""
        return str(self._cache(root).path(self.url, self._described(int(self.shard[index]))))

    def fetch_ahead(self, root: DataRoot, shard: int) -> None:
        """Download a file, unless it exists or another process is downloading it; RemoteFailure, InputError."""
        self._cache(root).fetch_ahead(_store(self.url), self._described(shard))

    def touch(self, root: DataRoot, shard: int) -> None:
        """Record that a file is in use."""
        cache = self._cache(root)
        cache.touch(cache.path(self.url, self._described(shard)))

    def _cache(self, root: DataRoot) -> FileCache:
        return FileCache(root.path, self.most)

    def _described(self, shard: int) -> RemoteFile:
        return RemoteFile(self.shards[shard], int(self.bytes[shard]), self.versions[shard])


_store = lru_cache(maxsize=4)(Store)


@dataclass(frozen=True)
class RecordFile:
    """Images in records of one RecordIO file. N images."""

    file: str  # path below the root
    offsets: NDArray[np.int64]  # [N] bytes from the start of the file
    sizes: NDArray[np.int64]  # [N] bytes up to the next record

    def path(self, root: DataRoot, index: int, name: str) -> str:
        """Name of an image in messages."""
        return f"{root}/{self.file}: record {name}"

    def read(self, root: DataRoot, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError if it can't be read, or its record isn't complete, OutsideRoot."""
        path, place = f"{root}/{self.file}", (int(self.offsets[index]), int(self.sizes[index]))
        data = read_slice(path, *place, root.boundary)
        try:
            return np.frombuffer(record_io.unpack(data)[1], dtype=np.uint8)
        except record_io.Damaged as damage:
            raise OSError(errno.EIO, str(damage), path) from damage

    def take(self, rows: NDArray[np.int64]) -> "RecordFile":
        """The chosen images."""
        return RecordFile(self.file, self.offsets[rows], self.sizes[rows])


@dataclass(frozen=True)
class ParquetRows:
    """Images in a column of Parquet files. N images, S files."""

    shards: list[str]  # [S] paths below the root
    column: str  # of the encoded images, by Parquet's name: `image.bytes` is a field of a struct
    shard: NDArray[np.int32]  # [N] rows of shards
    group: NDArray[np.int32]  # [N] row groups
    row: NDArray[np.int32]  # [N] rows in these
    group_bytes: NDArray[np.int64]  # [G] decoded, of each group of the files that has rows

    def path(self, root: DataRoot, index: int, name: str) -> str:
        """Name of an image in messages."""
        return f"{self.file(root, index)}: row {name.rpartition('/')[2]}"

    def read(self, root: DataRoot, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError if it can't be read, OutsideRoot."""
        place = int(self.group[index]), self.column, root.boundary
        images, row = GROUPS.column((self.file(root, index), *place)), int(self.row[index])
        if row >= len(images):
            raise OSError(errno.EIO, f"row group {place[0]} has {counted(len(images), 'row')} now")
        image = images[row].as_py()
        if image is None or len(image) > MOST_BYTES:
            raise OSError(errno.EIO, "no image in it" if image is None else f"{len(image):,} bytes")
        return np.frombuffer(image, dtype=np.uint8)

    def take(self, rows: NDArray[np.int64]) -> "ParquetRows":
        """The chosen images."""
        return replace(self, shard=self.shard[rows], group=self.group[rows], row=self.row[rows])

    def file(self, root: DataRoot, index: int) -> str:
        """The file that an image is in."""
        return os.path.join(root.path, self.shards[self.shard[index]])


@dataclass(frozen=True)
class Pack:
    """Images in memory, from one file that can't be read in parts. N images."""

    file: str  # path below the root
    pictures: list[bytes]  # [N]

    def path(self, root: DataRoot, index: int, name: str) -> str:
        """Name of an image in messages."""
        return f"{root}/{self.file}: picture {name}"

    def read(self, root: DataRoot, index: int) -> NDArray[np.uint8]:
        """The encoded image."""
        return np.frombuffer(self.pictures[index], dtype=np.uint8)

    def take(self, rows: NDArray[np.int64]) -> "Pack":
        """The chosen images."""
        return Pack(self.file, [self.pictures[row] for row in rows.tolist()])


Storage = TarShards | RecordFile | ParquetRows | Pack


class _Opened:
    """An open file, closed with its last reference, which may be after it was dropped from the cache."""

    def __init__(self, path: str, root: Path | None) -> None:
        self.descriptor = -1
        self.descriptor = open_regular(path, root)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


@lru_cache(maxsize=1)
def _opened() -> "_lru_cache_wrapper[_Opened]":
    """Cache of open files, sized by the process's limit on them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _KEPT_OPEN if soft == resource.RLIM_INFINITY else min(_KEPT_OPEN, soft // _SHARE)
    return lru_cache(maxsize=max(1, most))(_Opened)


def close_unused() -> None:
    """Close the files that aren't being read: a removed file takes up the disk until it is closed."""
    _opened().cache_clear()


def read_slice(path: str, offset: int, size: int, root: Path | None) -> bytes:
    """Read `size` bytes of a file, which stays open for the next call; root: as in `open_regular`.

    OSError if it can't be read or is too short, or `size` exceeds MOST_BYTES; OutsideRoot.
    """
    if size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"{size:,} bytes, more than {MOST_BYTES:,}", path)
    try:
        opened = _opened()(path, root)  # this reference keeps it open if another thread drops it from the cache
        data = os.pread(opened.descriptor, size, offset)
    except OSError:
        _opened().cache_clear()  # a network share that is back needs new descriptors
        raise
    if len(data) < size:
        raise OSError(errno.EIO, f"cut short, {size - len(data):,} bytes are missing", path)
    return data
