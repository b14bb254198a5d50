"""Atomic and durable writing of files."""

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fr.errors import os_error_as


def replace_file(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then rename: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it would hide the reason
            temporary.unlink()


def write_result(path: Path, content: bytes) -> None:
    """Write a file atomically, creating its folder if needed; InputError if it can't be written."""
    with os_error_as(f"{path}: can't be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)


def write_json(path: Path, content: object, indent: int = 1) -> None:
    """Write JSON as `write_result` does."""
    write_result(path, (json.dumps(content, indent=indent) + "\n").encode())


def csv_file(rows: Iterable[Iterable[object]]) -> bytes:
    """Content of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


@contextmanager
def raise_cause() -> Iterator[None]:
    """Context in which a failed write in torch.save raises its OSError, not torch's error about file positions."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def write_durably(path: Path, write_into: Callable[[BinaryIO], object]) -> None:
    """Write a file through `write_into`; on return its content is on the disk, its name only after `sync_folder`."""
    with raise_cause(), path.open("wb") as file:
        write_into(file)
        file.flush()
        _sync(file.fileno())


def write_whole(
    path: Path, write_into: Callable[[BinaryIO], object], before_naming: Callable[[], None] = lambda: None
) -> None:
    """Write a file durably and atomically through `write_into`; OSError if that fails.

    before_naming: called when all of it is on the disk, before the temporary name is replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_durably(temporary, write_into)
        before_naming()
        sync_folder(path.parent)
        temporary.replace(path)
    finally:
        with suppress(OSError):  # it would hide the reason
            temporary.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (new names) durable, on file systems that can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


_NO_SUCH_CALL = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of CIFS, sshfs, gocryptfs, DrvFs


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
