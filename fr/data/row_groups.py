"""Cache of decoded Parquet row groups: a group is decoded as a whole, so recently used ones are kept."""

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fr.errors import in_short
from fr.files.untrusted import open_file

MOST_OF_A_GROUP = 1 << 28  # bytes of a row group's images
_ROWS = 8  # decoded at a time
KEPT = 1 << 30  # bytes of the groups that a process keeps
_DECODING = threading.BoundedSemaphore(KEPT // MOST_OF_A_GROUP)  # groups at a time, which would be as many as readers

_Key = tuple[str, int, str, Path | None]  # file, group, column, and root folder of the file


class RowGroups:
    """Thread-safe cache of decoded columns by row group; drops the least recently used above `most` bytes."""

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Future[pa.Array]] = OrderedDict()

    def column(self, key: _Key) -> pa.Array:
        """The encoded images of a row group [rows]; OSError if they can't be read, OutsideRoot.

        A thread that needs a group that another thread is reading waits for it.
        """
        with self._lock:
            kept = self._kept.get(key)
            future = self._kept.setdefault(key, Future())
            self._kept.move_to_end(key)
        if kept is None:
            self._read(key, future)
        return future.result()

    def _read(self, key: _Key, future: "Future[pa.Array]") -> None:
        try:
            with _DECODING:
                future.set_result(_decoded(*key))
        except BaseException as error:
            with self._lock:
                self._kept.pop(key, None)  # so that it is read again, as from a network share that is back
            future.set_exception(error)
            return
        with self._lock:
            sizes = [(key, one.result().nbytes) for key, one in self._kept.items() if one.done()]
            excess = sum(size for _, size in sizes) - self._most
            for old, size in sizes:
                if excess > 0 and old != key:
                    del self._kept[old]
                    excess -= size


def _decoded(path: str, group: int, column: str, root: Path | None) -> pa.Array:
    with open_file(path, root) as file:
        try:
            footer = _metadata(path, os.fstat(file.fileno()).st_mtime_ns)
            parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), metadata=footer)
            parts, size = [], 0
            for batch in parquet.iter_batches(_ROWS, row_groups=[group], columns=[column], use_threads=False):
                parts.append(batch.column(0))
                size += batch.nbytes
                if size > MOST_OF_A_GROUP:  # the footer's size counts repeated images once
                    raise OSError(f"more than {MOST_OF_A_GROUP:,} bytes of images")
            images: Any = pa.concat_arrays(parts)
            return images.field("bytes") if pa.types.is_struct(images.type) else images
        except (pa.ArrowException, OSError, ValueError, IndexError) as error:
            raise OSError(None, f"row group {group}: {in_short(error)}", path) from error


@lru_cache(maxsize=256)
def _metadata(path: str, _changed: int) -> pq.FileMetaData:
    """Footer of a file, cached by its modification time, since parsing thousands of groups is slow."""
    with open_file(path) as file:
        return pq.read_metadata(pa.PythonFile(file, mode="r"))


GROUPS = RowGroups()
