"""Read weight files of other systems without running code in them.

A pickle is a program that names the functions it calls. Here it may build containers, numbers and text, and describe
tensors; any other class or function that it names becomes a `StandIn`, which does nothing. Formats, by the content:

- zip files of torch.save since PyTorch 1.6: `*/data.pkl`, and `*/data/<key>` for each storage;
- its older files: pickles of a magic number, a version, the machine, the object and the storages' keys, and then
  each storage as its length and its bytes (torch/serialization.py, `_legacy_save`);
- plain pickles of NumPy arrays, also of Python 2 (text in latin-1).
"""

import io
import mmap
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from fr.errors import InputError, in_short
from fr.files.kinds import Kind, wrong_kind
from fr.files.restricted_pickle import ArrayAt, InertUnpickler, StandIn, Storage, TensorAt, count
from fr.files.untrusted import open_file

_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP = b"PK\x03\x04"
_PIECE = 1 << 20  # bytes read at a time; far larger pieces get memory pages of their own, which takes twice as long
_MOST_MODULES, _LONGEST_NAME = 100_000, 1000  # of a pickled module; one that contains itself would have no end


def read(path: Path) -> Any:
    """Read a file as dicts, lists, numbers and text, CPU tensors for tensors and arrays, a `StandIn` for the rest.

    InputError if it can't be read or is damaged.
    """
    try:
        with open_file(path) as file:
            zipped = file.read(len(_ZIP)) == _ZIP
            file.seek(0)
            return read_archive(file) if zipped else _read_pickles(file)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # an unpickler can raise anything on damaged bytes
        unknown = isinstance(error, KeyError) and isinstance(next(iter(error.args), ""), int)  # an opcode
        reason = "not a pickle" if unknown else f"{type(error).__name__}: {in_short(error)}"
        said = f"{path}: damaged, or not a file of weights ({reason})"
        raise InputError(wrong_kind("weights to train on", path, Kind.TORCH, Kind.PICKLE) or said) from error


def module_tensors(module: StandIn, path: Path) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a pickled module, named as in its `state_dict()`.

    InputError for endless nesting.
    """
    found: dict[str, torch.Tensor] = {}
    pending: list[tuple[str, StandIn]] = [("", module)]
    for prefix, part in pending:  # the loop appends to it
        buffers = part.members("_buffers")
        passing = part.state.get("_non_persistent_buffers_set")
        lasting = {name: b for name, b in buffers.items() if not isinstance(passing, set) or name not in passing}
        tensors = part.members("_parameters") | lasting
        found |= {f"{prefix}{name}": tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
        children = part.members("_modules").items()
        pending += [(f"{prefix}{name}.", child) for name, child in children if isinstance(child, StandIn)]
        if len(pending) > _MOST_MODULES or len(prefix) > _LONGEST_NAME:
            raise InputError(f"{path}: the pickled module is nested without end; export its state_dict() instead")
    return found


# --- containers -----------------------------------------------------------------------------------------------------


def read_archive(file: IO[bytes]) -> Any:
    """Same as `read`, for a zip file of torch.save only; raises any exception if it isn't one, or is damaged.

    torch.load, `weights_only` or not, would unpack compressed parts to any size and check no checksum.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        names, members = archive.namelist(), archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise pickle.UnpicklingError("compressed, as torch never does")  # and might unpack to any size
        if sum(member.file_size for member in members) > size:
            raise pickle.UnpicklingError("parts that lie over one another")
        folder = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
        if folder is None:
            raise pickle.UnpicklingError("a zip file, but none of torch.save")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise pickle.UnpicklingError("written on a big-endian machine")
        storages: dict[str, Storage] = {}
        pickled = archive.read(f"{folder}data.pkl")
        unpickler = InertUnpickler(io.BytesIO(pickled), len(pickled), storages)
        tree = unpickler.load()
        flat = {}
        for key, storage in storages.items():
            name = f"{folder}data/{key}"
            with archive.open(name) as part:
                flat[key] = read_storage(part, archive.getinfo(name).file_size, storage)
        return _resolved(tree, flat, unpickler.pay)


def _read_pickles(file: IO[bytes]) -> Any:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # reads end at the file's end
        storages: dict[str, Storage] = {}
        unpicklers = [InertUnpickler(content, len(content), storages) for _ in range(5)]
        tree = unpicklers[0].load()
        pay = unpicklers[0].pay
        if tree != _MAGIC:
            return _resolved(tree, {}, pay)
        _version, _machine, tree, keys = (unpickler.load() for unpickler in unpicklers[1:])
        flat = {}
        for key in keys:
            (elements,) = struct.unpack("<q", content.read(8))
            storage = storages[key]._replace(elements=count(elements))
            flat[key] = read_storage(content, min(storage.size, len(content) - content.tell()), storage)
        return _resolved(tree, flat, pay)


def read_storage(file: IO[bytes] | mmap.mmap, size: int, storage: Storage) -> torch.Tensor:
    """Read a storage of `size` bytes from the file's position, in pieces to avoid a second copy in memory."""
    if size != storage.size:
        raise pickle.UnpicklingError(f"{size} bytes of a storage of {storage.elements} × {storage.dtype}")
    flat = torch.empty(storage.elements, dtype=storage.dtype)
    content = flat.view(torch.uint8).numpy()
    for start in range(0, size, _PIECE):
        part = content[start : start + _PIECE]
        part[:] = np.frombuffer(file.read(len(part)), dtype=np.uint8)
    return flat


# --- from descriptions to tensors -----------------------------------------------------------------------------------


def _resolved(tree: Any, flat: dict[str, torch.Tensor], pay: Callable[[int], None]) -> Any:
    """Replace descriptions in the tree by tensors; each container is visited once, however often it is referenced.

    pay: of `BoundedUnpickler`.
    """

    def resolve(value: Any) -> Any:
        if isinstance(value, TensorAt):
            return value.read(flat[value.storage.key])
        if isinstance(value, Storage):
            return flat[value.key]
        return value.read(pay) if isinstance(value, ArrayAt) else value

    _for_each_value(tree := resolve(tree), resolve)
    return tree


def _for_each_value(tree: Any, change: Callable[[Any], Any]) -> None:
    seen: set[int] = set()
    pending = [tree]
    while pending:
        container = pending.pop()
        if id(container) in seen:
            continue
        seen.add(id(container))
        if isinstance(container, StandIn):
            pending.append(container.state)
        elif isinstance(container, dict | list):
            for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
                container[key] = change(value)
                pending.append(container[key])
