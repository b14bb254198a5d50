"""Open untrusted files: only regular ones, inside their root folder; read plain text.

A pipe or device in place of a file would block a reader for good, or have no end; a symbolic link may lead anywhere.
"""

import codecs
import errno
import os
import stat
import sys
from functools import lru_cache
from typing import BinaryIO

from fr.errors import InputError, os_error_as

_Name = str | os.PathLike[str]


class OutsideRoot(InputError):
    """A link leads out of the folder that a file was named in: the data aren't what they seem, not one image."""


def open_regular(path: _Name, root: _Name | None = None) -> int:
    """Descriptor of a regular file. root: the folder it must be in, wherever links lead; None = it may be anywhere.

    OSError when it can't be opened or is something else (/dev/null is an empty file), OutsideRoot.
    """
    # Without O_NONBLOCK opening a pipe waits for its writer; regular files don't mind it. One open and no stat before,
    # which is a question more to a file server for each image.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode) and os.fspath(path) != os.devnull:
            raise OSError(errno.EINVAL, "not a regular file", path)
        if root is not None:
            _refuse_outside(path, os.readlink(f"/proc/self/fd/{descriptor}"), root)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(path: _Name, root: _Name | None = None) -> BinaryIO:
    """Same as `open_regular`, as a file object."""
    return open(path, "rb", opener=lambda name, _flags: open_regular(name, root))


def read_whole(path: _Name, most: int, root: _Name | None = None) -> bytes:
    """The content of a file as `open_regular` takes it; OSError also if it is more than `most` bytes."""
    descriptor = open_regular(path, root)
    try:
        size = os.fstat(descriptor).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than {most:,}", path)
        try:
            content = os.read(descriptor, size)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), path) from error
        while 0 < len(content) < size and (more := os.read(descriptor, size - len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


def check_inside(path: _Name, root: _Name) -> None:
    """OutsideRoot when links lead from a file or folder named below `root` to one that isn't there."""
    _refuse_outside(path, os.path.realpath(path), root)


def _refuse_outside(path: _Name, real: str, root: _Name) -> None:
    if not f"{real}/".startswith(_real(os.fspath(root))):
        raise OutsideRoot(f"{path}: leads out of {root}, to {real}; if the data may lie there, give --allow_outside")


@lru_cache(maxsize=16)
def _real(root: str) -> str:
    """A root may itself be a link."""
    return os.path.join(os.path.realpath(root), "")


def read_bytes(path: _Name, most: int = sys.maxsize, label: str = "") -> bytes:
    """The whole of a text file, which isn't decoded. label: what messages call it; "" = path.

    InputError when it can't be read, is more than `most` bytes, is UTF-16, or holds a NUL.
    """
    label = label or str(path)
    with os_error_as(f"{label}: can't be read"):
        content = read_whole(path, most)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{label}: UTF-16 text; save it as UTF-8")
    if (place := content.find(b"\0")) >= 0:
        raise InputError(f"{label}:{_line(content, place)}: a NUL byte: not text, or UTF-16; save it as UTF-8")
    return content


def read_text(path: _Name, most: int = sys.maxsize, label: str = "") -> str:
    """The whole file as text, lines ended by \n; as of `read_bytes`, and InputError when it isn't UTF-8."""
    content = read_bytes(path, most, label)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        # Of the whole: what is left of it without a mark at its start is what `error` counts in.
        place = error.start + len(content) - len(error.object)
        raise InputError(f"{label or path}:{_line(content, place)}: not UTF-8 text") from error


def _line(content: bytes, place: int) -> int:
    """The number of the line that a byte is in; a line ends with \\n, \\r\\n or \\r."""
    before = content[:place]
    return before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1
