"""MXNet's RecordIO, read without MXNet: one record's bytes → its header and content.

A record is a chain of parts: the magic number, a word of three bits of flag and 29 of length, the content, zeros up
to a multiple of four bytes. A whole record has flag 0. One whose content holds the magic number at a multiple of four
is cut there, and the magic number left out: flags 1, 2 …, 3 (dmlc-core, `src/recordio.cc`). The content of an image
record begins with MXNet's IRHeader (`python/mxnet/recordio.py`): flag (uint32), label (float32), id and id2 (uint64),
little-endian; a flag above 0 counts the float32 labels that follow, which stand for the label.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAGIC = struct.pack("<I", 0xCED7230A)
_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class Damaged(Exception):
    """The bytes aren't a record."""


@dataclass(frozen=True)
class Header:
    """Header of a record. labels: [flag], or [1] when flag is 0."""

    flag: int
    labels: NDArray[np.float32]


def unpack(data: bytes) -> tuple[Header, memoryview]:
    """Parse the record at the start of `data`; further bytes are ignored. Damaged if it isn't a record."""
    content = memoryview(_content(data))
    if len(content) < _HEADER.size:
        raise Damaged("the record is damaged: too short for its header")
    flag, label, _, _ = _HEADER.unpack_from(content)
    if flag == 0:
        return Header(0, np.array([label], dtype=np.float32)), content[_HEADER.size :]
    end = _HEADER.size + 4 * flag
    if len(content) < end:
        raise Damaged(f"the record is damaged: too short for {flag:,} labels")
    return Header(flag, np.frombuffer(content[_HEADER.size : end], dtype="<f4")), content[end:]


def _content(data: bytes) -> bytes | memoryview:
    flag, content, end = _part(data, 0)
    if flag == _WHOLE:
        return content
    if flag != _FIRST:
        raise Damaged("the record is damaged: it begins in the middle")
    parts = [content]
    while flag != _LAST:
        flag, content, end = _part(data, end)
        if flag not in (_MIDDLE, _LAST):
            raise Damaged("the record is damaged: another one begins inside it")
        parts.append(content)
    return MAGIC.join(parts)


def _part(data: bytes, start: int) -> tuple[int, memoryview, int]:
    """Flag and content of a part, and the start of the next one."""
    if len(data) < start + _PART.size:
        raise Damaged("the record is damaged: cut short")
    magic, word = _PART.unpack_from(data, start)
    if magic != MAGIC:
        raise Damaged("the record is damaged: no magic number where it begins")
    first, length = start + _PART.size, word & (1 << 29) - 1
    if len(data) < first + length:
        raise Damaged("the record is damaged: longer than its place in the file")
    return word >> 29, memoryview(data)[first : first + length], first + (length + 3) // 4 * 4
