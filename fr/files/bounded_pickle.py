"""Python's unpickler with memory bounded by the file's length, and with bounded nesting of tuples.

Derived classes determine the classes and functions that a pickle may name. Without bounds a few bytes can allocate
gigabytes, a megabyte can copy a text a million times, and hashing tuples nested a million deep crashes the process.
"""

import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar

_DEEPEST = 50  # nested tuples
_SLACK = 1 << 20  # bytes that a file of any size may allocate
_FACTOR = 4  # bytes that may be allocated for each byte of the file
_ENTRY = 64  # bytes of an entry of a set or dict, at least


def _and_then(load: Callable[[Any], None], check: Callable[[Any], None]) -> Callable[[Any], None]:
    def load_and_check(unpickler: Any) -> None:
        load(unpickler)
        check(unpickler)

    return load_and_check


class BoundedUnpickler(pickle._Unpickler):
    """Unpickler based on Python's pure implementation: the C one allocates its memo by a number in the file.

    size: of the pickle [bytes]. UnpicklingError beyond the bounds.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = pickle._Unpickler.dispatch.copy()
    for _opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        del dispatch[_opcode[0]]  # these opcodes fetch objects from outside the file

    def __init__(self, file: Any, size: int, encoding: str = "ASCII") -> None:
        super().__init__(file, encoding=encoding)
        self._left = _FACTOR * size + _SLACK
        self._tuples: dict[int, tuple[Any, int]] = {}  # id → a tuple that holds others, kept for its id, and its depth

    def pay(self, size: int) -> None:
        """Count memory that a call allocates [bytes]; UnpicklingError beyond the bound."""
        self._left -= size
        if self._left < 0:
            raise pickle.UnpicklingError("it would take much more memory than the file is long")

    def _pay_for_last(self: Any) -> None:
        made = self.stack[-1]
        if isinstance(made, bytes | tuple | set | dict):
            self.pay(len(made) * (_ENTRY if isinstance(made, set | dict) else 1))

    def _check_depth(self: Any) -> None:
        made = self.stack[-1]
        depth = max((self._tuples.get(id(part), (part, 0))[1] + 1 for part in made if type(part) is tuple), default=0)
        if depth > _DEEPEST:
            raise pickle.UnpicklingError("tuples too deep in one another")
        if depth:
            self._tuples[id(made)] = made, depth

    def load_bytearray8(self: Any) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # the inherited method allocates that length before it reads

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    for _opcode in (pickle.REDUCE, pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX):
        dispatch[_opcode[0]] = _and_then(dispatch[_opcode[0]], _pay_for_last)
    for _opcode in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
        dispatch[_opcode[0]] = _and_then(dispatch[_opcode[0]], _check_depth)
