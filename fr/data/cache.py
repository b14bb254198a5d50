"""Cache of the columns of training data: one file that all ranks of a host share by mapping it into memory.

A file is an Arrow IPC stream (one row, each column a list), a magic word and the CRC-32 of the stream. The schema's
metadata hold the key and, as JSON, the structure that the columns fill: dataclasses of `_CLASSES`, tuples, lists of
text, paths, text, numbers and None; nothing is unpickled. The CRC is checked whenever a file is opened, at 1.5 GB/s.
It detects every flipped bit, but it is no signature: anyone who can write here can also change the training data.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import mmap
import os
import struct
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from fr.data.faces import LabelledFaces
from fr.data.storage import ParquetRows, RecordFile, RemoteShards, TarShards
from fr.files.data_root import DataRoot
from fr.files.untrusted import open_file

_STORAGES = (RecordFile, TarShards, RemoteShards, ParquetRows)
_CLASSES = {kind.__name__: kind for kind in (LabelledFaces, *_STORAGES, DataRoot)}
_KEPT = 8  # entries kept in a folder
_UNSETTLED = 2.0  # seconds; a file may change twice within one tick of its file system's clock
_ABANDONED = 86_400.0  # seconds after which a temporary file is taken to have no writer
_TAIL = struct.Struct("<8sI")
_MAGIC = b"FRCACHE\n"
_CHUNK = 1 << 20


class Damaged(Exception):
    """A file of the cache is damaged."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of the cache. question: identifies the value. state: of the files it was read from. Both are JSON."""

    folder: Path
    question: str
    state: str

    @property
    def path(self) -> Path:
        return self.folder / f"faces-{_digest(self.question)}-{_digest(_code() + self.state)}.arrow"

    def load(self) -> Any:
        """The stored value, its columns read-only and mapped; None if there is none. Raises Damaged."""
        try:
            with open_file(self.path) as file:
                _check_sum(file)
                value = self._mapped(file)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(self.path)  # the most recently used entries are kept
        return value

    def store(self, value: object) -> Any:
        """Write the entry atomically and remove obsolete ones; returns the value as `load` would.

        OSError if it can't be written.
        """
        columns: list[pa.Array] = []
        packed = _packed(value, columns)
        lists = [pa.LargeListArray.from_arrays(pa.array([0, len(one)], pa.int64()), one) for one in columns]
        metadata = {"key": json.dumps(self._key), "value": json.dumps(packed)}
        batch = pa.record_batch(lists, names=[str(i) for i in range(len(lists))], metadata=metadata)
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f"{self.path.name}.", suffix=".tmp", dir=self.folder)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                with pa.ipc.new_stream(file, batch.schema) as writer:
                    writer.write_batch(batch)
                file.write(_TAIL.pack(_MAGIC, _sum(file, file.tell())))
                file.flush()
                os.fsync(descriptor)
                kept = self._mapped(file)
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):  # the reason is the error before it
                os.unlink(temporary)
            raise
        with contextlib.suppress(OSError):  # another process may be removing the same files
            self._clean()
        return kept

    def _mapped(self, file: BinaryIO) -> Any:
        """The value in a file with a valid checksum; the file stays mapped as long as a column of it is in use."""
        whole = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            batch = pa.ipc.open_stream(whole).read_next_batch()
            batch.validate(full=True)
            key, value = (json.loads(batch.schema.metadata[name]) for name in (b"key", b"value"))
            unpacked = _unpacked(value, [column.flatten() for column in batch.columns])
        except (pa.ArrowException, OSError, StopIteration, LookupError, TypeError, ValueError, RecursionError) as error:
            raise Damaged(f"{self.path}: {error}") from error
        if key != self._key:
            raise Damaged(f"{self.path}: it was written under another name")
        return unpacked

    @property
    def _key(self) -> list[Any]:
        return [_code(), self.question, self.state]

    def _clean(self) -> None:
        """Remove this question's other states, the least recently used entries, and files of killed writers."""
        own = f"faces-{_digest(self.question)}-"
        times = {path: path.stat().st_mtime for path in self.folder.glob("faces-*-*.arrow*")}
        entries = sorted((path for path in times if path.suffix == ".arrow"), key=times.__getitem__, reverse=True)
        old = [path for path in times if path.suffix == ".tmp" and times[path] < time.time() - _ABANDONED]
        stale = [path for path in entries if path.name.startswith(own) and path != self.path]
        for path in {*old, *stale, *entries[_KEPT:]}:
            path.unlink(missing_ok=True)


def state_of(files: list[Path]) -> str | None:
    """Path, size and times of files as JSON; None if one is missing or may still be changing."""
    try:
        statuses = [(os.path.abspath(path), os.stat(path)) for path in files]
    except OSError:
        return None
    if any(abs(time.time() - status.st_mtime) < _UNSETTLED for _, status in statuses):
        return None
    return json.dumps([[path, status.st_size, status.st_mtime_ns, status.st_ctime_ns] for path, status in statuses])


@functools.cache
def _code() -> str:
    """Hash of the source code that reads and stores the data, in place of a version number."""
    digest = hashlib.sha256()
    data = Path(__file__).parent
    for path in sorted([*data.rglob("*.py"), *data.with_name("files").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sum(file: BinaryIO, size: int) -> int:
    """CRC-32 of the first `size` bytes. They are read, not mapped: touched pages would count as the rank's memory."""
    file.seek(0)
    checksum = 0
    for first in range(0, size, _CHUNK):
        checksum = zlib.crc32(file.read(min(_CHUNK, size - first)), checksum)
    return checksum


def _check_sum(file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size - _TAIL.size
    if size < 0:
        raise Damaged(f"{file.name}: cut off")
    expected = _sum(file, size)
    if file.read() != _TAIL.pack(_MAGIC, expected):
        raise Damaged(f"{file.name}: its checksum isn't that of its content")


def _packed(value: object, columns: list[pa.Array]) -> Any:
    """JSON for a value; its arrays are appended to the columns."""
    match value:
        case None | str() | int() | float():
            return value
        case Path():
            return {"path": str(value)}
        case list() if all(isinstance(item, str) for item in value):
            return value
        case tuple():
            return {"tuple": [_packed(item, columns) for item in value]}
        case np.ndarray():
            columns.append(pa.array(value.ravel()))
            return {"array": len(columns) - 1, "shape": value.shape}
        case pa.StringArray():
            columns.append(value)
            return {"strings": len(columns) - 1}
    name = type(value).__name__
    if _CLASSES.get(name) is not type(value):
        raise TypeError(f"{name} has no place in the cache")
    fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
    return {"class": name, "fields": {name: _packed(item, columns) for name, item in fields.items()}}


def _unpacked(packed: Any, columns: list[pa.Array]) -> Any:
    match packed:
        case {"path": text}:
            return Path(text)
        case {"tuple": items}:
            return tuple(_unpacked(item, columns) for item in items)
        case {"array": column, "shape": shape}:
            return columns[column].to_numpy(zero_copy_only=False).reshape(shape)
        case {"strings": column}:
            return columns[column]
        case {"class": name, "fields": fields}:
            return _CLASSES[name](**{name: _unpacked(item, columns) for name, item in fields.items()})
    return packed


def cache_folder(option: str) -> Path | None:
    """Folder of --data_cache: a path, `auto` (the user's cache folder by the XDG specification), or `none` → None.

    None also if the user has no home folder.
    """
    if option != "auto":
        return None if option == "none" else Path(option)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if home.startswith("~") else Path(home) / "face-recognition-trainer"
