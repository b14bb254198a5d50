"""Unpickler for untrusted files: builds containers, numbers, text and descriptions of tensors and arrays.

Any other class or function becomes a `StandIn`, which does nothing. `torch.load(weights_only=True)` would not do: it
refuses pickled modules and unknown classes, and limits neither memory nor depth.
"""

import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from fr.files.bounded_pickle import BoundedUnpickler

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MOST_SIDES = 64  # dimensions of a tensor, torch's limit
_ARRAY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")


class StandIn:
    """Inert replacement of an object of an unknown class. state: the attributes that it would have had."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "StandIn":
        made = super().__new__(cls)
        made.state = {}
        return made

    state: dict[Any, Any]

    def __call__(self, *_args: Any, **_kwargs: Any) -> "StandIn":
        return StandIn()

    def __setstate__(self, state: Any) -> None:
        first = state[0] if isinstance(state, tuple) and state else state  # (attributes, slots)
        if isinstance(first, dict):
            self.state = first

    def _ignore(self, *_items: Any) -> None: ...

    append = extend = add = __setitem__ = _ignore

    def members(self, attribute: str) -> dict[Any, Any]:
        """An attribute that is a dict; empty if it is missing."""
        value = self.state.get(attribute)
        return value if isinstance(value, dict) else {}


# --- what a pickle may describe -------------------------------------------------------------------------------------


class Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    elements: int
    first: int = 0  # start of a view of a storage, in files from before 2018

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.elements * self.dtype.itemsize


class TensorAt(NamedTuple):
    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self, flat: torch.Tensor) -> torch.Tensor:
        if math.prod(self.size) > len(flat):  # an expanded tensor (stride 0) may be larger than memory
            raise pickle.UnpicklingError(f"a tensor of {self.size} in a storage of {len(flat)}")
        return torch.as_strided(flat, self.size, self.stride, self.storage.first + self.offset)


class _DType:
    """NumPy's dtype, called as dtype("f4", …); the BUILD opcode sets its byte order."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def resolved(self) -> np.dtype[Any] | None:
        """The dtype; None if it isn't of numbers, such as that of an array of objects."""
        known = self.code in _ARRAY_TYPES and self.order in ("<", ">", "=", "|")
        return np.dtype(f"{self.order}{self.code}") if known else None


class ArrayAt:
    """Description of NumPy's array or scalar."""

    def __init__(self, dtype: Any = None, shape: Any = (), data: Any = b"", by_columns: bool = False) -> None:
        self.content = (dtype, shape, data, by_columns)
        self.made: torch.Tensor | StandIn | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, data = state
        self.content = (dtype, shape, data, by_columns)

    def read(self, pay: Callable[[int], None]) -> "torch.Tensor | StandIn":
        """The tensor, created once; a StandIn if it doesn't hold numbers. pay: of `BoundedUnpickler`."""
        self.made = self._read(pay) if self.made is None else self.made
        return self.made

    def _read(self, pay: Callable[[int], None]) -> "torch.Tensor | StandIn":
        dtype, shape, data, by_columns = self.content
        numbers = dtype.resolved() if isinstance(dtype, _DType) else None
        if numbers is None:
            return StandIn()
        pay(len(data))
        raw = data.encode("latin-1") if isinstance(data, str) else bytes(memoryview(data))
        flat = np.frombuffer(raw, numbers)
        array = flat.reshape(tuple(map(count, shape)), order="F" if by_columns else "C")
        return torch.from_numpy(np.array(array, dtype=flat.dtype.newbyteorder("="), order="C"))


def count(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise pickle.UnpicklingError("a size isn't a number")  # its text, which may be endless, isn't quoted
    return number


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise pickle.UnpicklingError("a storage without a name")
    return key


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_flags_and_hooks: Any) -> Any:
    if not isinstance(storage, Storage):
        return StandIn()
    if max(len(size), len(stride)) > _MOST_SIDES:
        raise pickle.UnpicklingError(f"a tensor with {len(size)} sides")
    return TensorAt(storage, count(offset), tuple(map(count, size)), tuple(map(count, stride)))


def _known() -> dict[tuple[str, str], Any]:
    known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): dict,
        ("_codecs", "encode"): lambda text, _encoding: text.encode("latin-1"),  # as Python 3 writes bytes for Python 2
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_flag_and_hooks: tensor,
        ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_more: tensor,
        ("numpy", "dtype"): lambda code, *_flags: _DType(code),
    }
    for module in ("builtins", "__builtin__"):
        known[module, "set"] = set
        known[module, "bytes"] = lambda: b""  # how Python 3 writes none for Python 2
    for module in ("numpy.core", "numpy._core"):
        known[f"{module}.multiarray", "_reconstruct"] = lambda *_empty: ArrayAt()
        known[f"{module}.multiarray", "scalar"] = lambda dtype, data=b"": ArrayAt(dtype, (), data)
        known[f"{module}.numeric", "_frombuffer"] = lambda data, dtype, shape, order: ArrayAt(
            dtype, shape, data, order == "F"
        )
    for module in ("torch", "torch.cuda"):
        known |= {(module, name): dtype for name, dtype in _STORAGES.items()}
    return known


_KNOWN = _known()


class InertUnpickler(BoundedUnpickler):
    """Unpickler of inert objects. size: of the file [bytes]. storages: filled with the storages named, by key."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = BoundedUnpickler.dispatch.copy()

    def __init__(self, file: Any, size: int, storages: dict[str, Storage]) -> None:
        super().__init__(file, size, encoding="latin-1")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name.startswith("_rebuild") and (module, name) not in _KNOWN:
            raise pickle.UnpicklingError("a tensor that isn't plain numbers")  # but sparse, quantised …
        return _KNOWN.get((module, name), StandIn)

    def load_build(self: Any) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, StandIn | ArrayAt | _DType):  # no attributes are set on anything else, such as a function
            built.__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> Any:
        kind, *data = pid
        if kind == "module":  # a class with its source code
            return data[0]
        dtype, key, _device, elements, *view = data
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage of no known type")
        storage = self._storages.setdefault(key, Storage(_text(key), dtype, count(elements)))
        if view and view[0] is not None:
            _, first, elements = view[0]
            return Storage(storage.key, storage.dtype, count(elements), count(first))
        return storage
