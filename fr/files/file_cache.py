"""A cache of whole files of a store in a local folder, shared by the processes of a host.

A file is downloaded in parts to `NAME.part`, which a later try continues, and is renamed to NAME when it is complete.
NAME is a hash of URL, size and version, so another version of a file is another file. `NAME.lock` is locked by the
process that downloads or checks the file; it holds the file's size, and its modification time is that of the last use.
`NAME.sum` holds the CRC-32 of the content, which is checked when the file is used again after a day. Before a download
the least recently used files are removed until the new one fits.
"""

import errno
import fcntl
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fr.errors import os_error_as
from fr.files.durable import replace_file
from fr.files.remote import CHUNK, RemoteFailure, RemoteFile, Store

_ROOM_S = 0.1  # between looks for free space, while other processes use the files
_UNCHECKED_S = 86_400.0  # after which a file's checksum is checked again

_FAILED: dict[Path, tuple[float, RemoteFailure]] = {}  # by local copy: time and error of this process's last failure

Result = TypeVar("Result")


@dataclass(frozen=True)
class FileCache:
    """Local copies of remote files, up to `most` bytes in all."""

    folder: Path
    most: int

    def path(self, url: str, file: RemoteFile) -> Path:
        """Path of the local copy of a file below a URL, whether it exists yet or not."""
        text = f"{url}/{file.name}\0{file.size}\0{file.version}"
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def touch(self, path: Path) -> None:
        """Record that a file is in use, so that it is among the last to be removed."""
        with suppress(OSError):  # not downloaded yet
            os.utime(_lock_of(path))

    def fetch(self, store: Store, file: RemoteFile, use: Callable[[Path], Result]) -> Result:
        """Call `use` with the path of the local copy, which is downloaded if needed and kept meanwhile; its result.

        RemoteFailure if it can't be downloaded, InputError if it can't be written here; and exceptions of `use`.
        """
        path = self.path(store.url, file)
        with self._local_copy(store, file, path, wait=True):
            return use(path)

    def fetch_ahead(self, store: Store, file: RemoteFile) -> None:
        """Download a file unless it exists or another process is downloading it; raises as `fetch`."""
        with self._local_copy(store, file, self.path(store.url, file), wait=False):
            return

    @contextmanager
    def _local_copy(self, store: Store, file: RemoteFile, path: Path, wait: bool) -> Iterator[None]:
        """Context in which a local copy exists; without `wait` it may not, if another process holds its lock.

        Threads that waited for one that failed fail with it: each further try would take minutes.
        """
        began = time.monotonic()
        with ExitStack() as lock:
            with os_error_as(f"--shard_cache {self.folder}"):
                self.folder.mkdir(parents=True, exist_ok=True)
                ours = lock.enter_context(_locked(_lock_of(path), wait))
                if ours and not self._is_whole(path, file):
                    if path in _FAILED and _FAILED[path][0] > began:
                        raise _FAILED[path][1]
                    while not self._reserve(path, file):
                        time.sleep(_ROOM_S)
                    try:
                        _download(store, file, path)
                    except RemoteFailure as error:
                        _FAILED[path] = time.monotonic(), error
                        raise
                self.touch(path)
            yield

    def _is_whole(self, path: Path, file: RemoteFile) -> bool:
        """Return True if the file exists with the content that was written; a damaged one is removed."""
        sums = path.with_suffix(".sum")
        try:
            status, checked = path.stat(), sums.stat().st_mtime
            if status.st_size == file.size and time.time() - checked < _UNCHECKED_S:
                return True
            if status.st_size == file.size and _sum(path) == sums.read_text():
                os.utime(sums)
                return True
        except FileNotFoundError:
            pass
        _remove(path)
        return False

    def _reserve(self, path: Path, file: RemoteFile) -> bool:
        """Reserve space for `file` by removing the least recently used files; False if too many others are in use."""
        if file.size > self.most:
            raise OSError(errno.EFBIG, f"no room for {file.name}, {file.size:,} bytes; give a larger --shard_cache_gb")
        with _locked(self.folder / "room.lock", wait=True):
            others = [lock.with_suffix("") for lock in self.folder.glob("*.lock") if lock.name != "room.lock"]
            sizes = {other: _size(other) for other in others if other != path}
            by_use = sorted(sizes, key=_used)
            excess = sum(sizes.values()) + file.size - self.most
            for other in by_use:
                if excess <= 0:
                    break
                with _locked(_lock_of(other), wait=False) as free:
                    if free:
                        excess -= sizes[other]
                        _remove(other)
                        other.with_suffix(".part").unlink(missing_ok=True)
            if excess > 0:
                _lock_of(path).write_text("0")  # a killed download reserves nothing: else two could wait for ever
                return False
            _lock_of(path).write_text(str(file.size))
            path.with_suffix(".part").touch()
            return True


def _download(store: Store, file: RemoteFile, path: Path) -> None:
    """Download a file atomically; the part that a killed download left is continued."""
    part = path.with_suffix(".part")
    with part.open("ab") as target:
        done = target.tell()
        if done > file.size:
            target.truncate(done := 0)
        while done < file.size:
            data = store.read(file.name, done, min(done + CHUNK, file.size))
            target.write(data)
            target.flush()
            done += len(data)
        os.fsync(target.fileno())
    now = store.describe(file.name)
    if (now.size, now.version) != (file.size, file.version):
        part.unlink()
        raise RemoteFailure(
            f"{store.url}/{file.name}: changed while it was read, from {file.size:,} bytes ({file.version}) to "
            f"{now.size:,} ({now.version}); start again"
        )
    replace_file(path.with_suffix(".sum"), _sum(part).encode())
    part.replace(path)


def _sum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            checksum = zlib.crc32(data, checksum)
    return f"{checksum:08x}\n"


def _size(path: Path) -> int:
    """Bytes on the disk that a file takes once it is downloaded; 0 if none of it exists."""
    if path.with_suffix(".part").exists():
        text = _lock_of(path).read_text()
        return int(text) if text.isdecimal() else 0
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _used(path: Path) -> float:
    with suppress(FileNotFoundError):
        return _lock_of(path).stat().st_mtime
    return 0.0


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _remove(path: Path) -> None:
    path.with_suffix(".sum").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file, which ends with the process; yields False if another holds it and `wait` is False."""
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
