"""MATLAB's MAT files of level 5 (MATLAB 5 to 7.2, scipy.io.savemat): untrusted files, read within bounds.

scipy.io.loadmat allocates any size that a file states. Here a value is never larger than the bytes it is made from.
Format: MathWorks, MAT-File Format (https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf).
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fr.errors import InputError, os_error_as
from fr.files.untrusted import read_whole

MOST_BYTES = 1 << 25  # of a file, and of its unpacked content; each Python object is made from at least 8 of them
_DEPTH = 16  # of nested values
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4  # classes of arrays; those of numbers follow
_NUMBERS = range(6, 16)
_COMPLEX = 0x0800
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}


@dataclass(frozen=True)
class Cells:
    """Cell array. values: one for each cell, column by column as MATLAB stores them."""

    shape: tuple[int, ...]
    values: list[Any]


@dataclass(frozen=True)
class Structs:
    """Structure array. fields: values of each field, one for each structure, in the order of `Cells`."""

    shape: tuple[int, ...]
    fields: dict[str, list[Any]]


def read_mat(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Variables of a MAT file by name: arrays of numbers, str, Cells, Structs; None for what isn't read here.

    Not read: sparse and complex arrays, texts of several rows, objects. InputError if a variable is missing, or the
    file can't be read, is damaged or too large.
    """
    with os_error_as(f"{path}: can't be read"):
        content = read_whole(path, MOST_BYTES)
    if content.startswith(b"MATLAB 7.3"):
        raise InputError(f"{path}: MATLAB 7.3 (HDF5), which isn't read here; save it in MATLAB with the option -v7")
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise InputError(f"{path}: not a MAT file of level 5 (MATLAB 5 to 7.2)")
    try:
        found = dict(_variables(memoryview(content)[_HEADER:], order, names))
    except (IndexError, OverflowError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: a damaged MAT file: {error}") from error
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{path}: no variable {' or '.join(missing)}")
    return {name: found[name] for name in names}


def _variables(data: memoryview, order: str, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    left = MOST_BYTES
    for kind, payload in _elements(data, order):
        parts = [(kind, payload)]
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(payload, left + 1)
            left -= len(unpacked)
            if left < 0:
                raise ValueError(f"more than {MOST_BYTES:,} bytes unpacked")
            parts = list(_elements(memoryview(unpacked), order))
        for inner, matrix in parts:
            if inner == _MATRIX:
                name, value = _matrix(matrix, order, names)
                yield name, value


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Types and contents of data elements, one after another."""
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start, step = place + 8, 8
        if kind >> 16:  # a small element: size, type and content in 8 bytes
            kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 1
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
        if size > len(data) - start:
            raise ValueError("an element that ends behind what holds it")
        yield kind, data[start : start + size]
        place = max(place + 8, start + (size if kind == _COMPRESSED else -(-size // step) * step))


def _matrix(data: memoryview, order: str, names: Sequence[str] = (), depth: int = 0) -> tuple[str, Any]:
    """Name and value of an array; None for a value that isn't in `names`, if there are any."""
    if not data:
        return "", np.zeros((0, 0))
    if depth > _DEPTH:
        raise ValueError(f"more than {_DEPTH} values in each other")
    parts = _elements(data, order)
    flags = _numbers(next(parts, None), order)
    shape = tuple(_numbers(next(parts, None), order).tolist())
    name = bytes(_numbers(next(parts, None), order)).decode()
    if not len(flags) or len(shape) < 2 or min(shape) < 0:
        raise ValueError("an array without a shape")
    if names and name not in names:
        return name, None
    return name, _value(int(flags[0]), shape, parts, order, depth)


def _value(flags: int, shape: tuple[int, ...], parts: Iterator[tuple[int, memoryview]], order: str, depth: int) -> Any:
    count, kind = math.prod(shape), flags & 0xFF
    if kind == _CELL:
        return Cells(shape, _contained(parts, count, order, depth))
    if kind == _STRUCT:
        length = int(_numbers(next(parts, None), order)[0])
        packed = bytes(_numbers(next(parts, None), order))
        if length < 1:
            raise ValueError("a structure without lengths of names")
        fields = [packed[at : at + length].split(b"\0")[0].decode() for at in range(0, len(packed), length)]
        values = _contained(parts, count * len(fields), order, depth)
        return Structs(shape, {field: values[place :: len(fields)] for place, field in enumerate(fields)})
    if kind == _CHAR:
        encoded, content = next(parts, (0, memoryview(b"")))
        if encoded not in _ENCODINGS or shape[0] > 1:
            return "" if not count else None
        encoding = _ENCODINGS[encoded] + (("-le" if order == "<" else "-be") if encoded in (4, 17) else "")
        return bytes(content).decode(encoding)
    if kind in _NUMBERS and not flags & _COMPLEX:
        numbers = _numbers(next(parts, None), order)
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers in an array of {count}")
        return numbers.reshape(shape, order="F")
    return None


def _contained(parts: Iterator[tuple[int, memoryview]], count: int, order: str, depth: int) -> list[Any]:
    """Values of the `count` arrays nested in an array."""
    values = [_matrix(data, order, depth=depth + 1)[1] for kind, data in parts if kind == _MATRIX]
    if len(values) != count:
        raise ValueError(f"{len(values)} values in an array of {count}")
    return values


def _numbers(part: tuple[int, memoryview] | None, order: str) -> Any:
    if part is None or part[0] not in _DTYPES:
        raise ValueError("an array without its parts")
    return np.frombuffer(part[1], dtype=np.dtype(order + _DTYPES[part[0]]))
