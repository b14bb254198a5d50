"""Open untrusted files: only regular ones, inside their root folder; read plain text.

A pipe or device in place of a file could block a reader for ever, or have no end; a symbolic link may lead anywhere.
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
    """A link leads out of the root folder. It concerns the whole data set, so the file isn't treated as a bad image."""


def open_regular(path: _Name, root: _Name | None = None) -> int:
    """Descriptor of a regular file. root: folder it must be in after links are resolved; None = it may be anywhere.

    OSError if it can't be opened or isn't a regular file (/dev/null counts as an empty one), OutsideRoot.
    """
    # Without O_NONBLOCK opening a pipe waits for its writer; it has no effect on regular files. There is no stat before
    # the open: for each image it would be one more request to a file server.
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
    """Content of a file, opened as by `open_regular`; OSError also if it exceeds `most` bytes."""
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
    """Raise OutsideRoot if symbolic links of a path below `root` lead out of it."""
    _refuse_outside(path, os.path.realpath(path), root)


def _refuse_outside(path: _Name, real: str, root: _Name) -> None:
    if not f"{real}/".startswith(_real(os.fspath(root))):
        raise OutsideRoot(f"{path}: leads out of {root}, to {real}; if the data may lie there, give --allow_outside")


@lru_cache(maxsize=16)
def _real(root: str) -> str:
    """Resolved path of a root, which may itself be a link."""
    return os.path.join(os.path.realpath(root), "")


def read_bytes(path: _Name, most: int = sys.maxsize, label: str = "") -> bytes:
    """Content of a text file, undecoded. label: name of the file in messages; "" = path.

    InputError if it can't be read, exceeds `most` bytes, is UTF-16, or holds a NUL.
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
    """Content of a text file, with lines ended by \\n; InputError as `read_bytes`, and if it isn't UTF-8."""
    content = read_bytes(path, most, label)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        # `error` counts from after a byte order mark, so the line is counted in the whole content.
        place = error.start + len(content) - len(error.object)
        raise InputError(f"{label or path}:{_line(content, place)}: not UTF-8 text") from error


def _line(content: bytes, place: int) -> int:
    """The number of the line that a byte is in; a line ends with \\n, \\r\\n or \\r."""
    before = content[:place]
    return before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1
