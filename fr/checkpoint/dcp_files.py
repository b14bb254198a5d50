"""Files of torch.distributed.checkpoint: written reproducibly, read without running code in them."""

import io
import pickle
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.futures import Future

from fr.errors import InputError, in_short
from fr.files.bounded_pickle import BoundedUnpickler
from fr.files.durable import raise_cause
from fr.files.foreign_pickle import read_archive
from fr.files.untrusted import open_file, read_whole

_LARGEST_INDEX = 1 << 28  # bytes; ten times the index of a thousand tensors on a thousand ranks
_PART = re.compile(r"__\d+_\d+\.distcp")  # PyTorch's name of a file of tensors


def causes(error: CheckpointException) -> str:
    """Reasons of a failure, from all ranks; the same text on every rank."""
    return "; ".join(sorted({f"{type(cause[0]).__name__}: {cause[0]}" for cause in error.failures.values()}))


_METADATA_CLASSES = {  # module: names in it that an index may refer to
    "torch.distributed.checkpoint.metadata": "ChunkStorageMetadata Metadata MetadataIndex StorageMeta TensorProperties "
    "TensorStorageMetadata _MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem": "_StorageInfo",
    "torch": "Size bfloat16 bool float16 float32 float64 int16 int32 int64 int8 uint8",
    "torch.serialization": "_get_layout",
}


class PathlessWriter(dcp.FileSystemWriter):
    """Writer that leaves the temporary folder's path out of the index: Python versions pickle a `Path` differently.

    It never asks for a CUDA stream, as torch's does in order to copy while it writes: in the thread of a background
    write that would be one of GPU 0, with memory there for each process of the host.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, per_thread_copy_ahead=0)

    def write_data(self, *arguments: Any) -> Any:
        with raise_cause():
            return super().write_data(*arguments)

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class _MetadataUnpickler(BoundedUnpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = BoundedUnpickler.dispatch.copy()

    def find_class(self, module: str, name: str) -> Any:
        if name not in _METADATA_CLASSES.get(module, "").split():
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a snapshot")
        return super().find_class(module, name)

    def load_build(self: Any) -> None:
        built = self.stack[-2]
        if isinstance(built, type) or not is_dataclass(built):  # attributes set on a class would affect all its users
            raise pickle.UnpicklingError("attributes for what isn't of an index")
        BoundedUnpickler.dispatch[pickle.BUILD[0]](self)

    dispatch[pickle.BUILD[0]] = load_build


def shapes_in(metadata: Metadata, folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in an index."""
    entries: dict[str, Any] = getattr(metadata, "state_dict_metadata", {})
    try:
        return {name: tuple(entry.size) for name, entry in entries.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(f"{folder}: the index is damaged: {error}") from error


class SafeReader(dcp.FileSystemReader):
    """Checkpoint reader whose index may name only the classes of an index; PyTorch's reader runs any callable.

    `fr/files/foreign_pickle.py` reads the tensors: torch.load unpacks compressed parts to any size, and ends the whole
    process on some files, `weights_only` or not.
    """

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        index = Path(self.path) / ".metadata"
        try:
            content = read_whole(index, _LARGEST_INDEX)
            metadata = _MetadataUnpickler(io.BytesIO(content), len(content)).load()
        except OSError as error:
            raise InputError(f"{index}: can't be read: {error.strerror}") from error
        except Exception as error:  # an unpickler can raise anything on damaged bytes
            raise InputError(f"{index}: damaged: {in_short(error)}") from error
        if not isinstance(metadata, Metadata):
            raise InputError(f"{index}: damaged: no checkpoint index")
        _check_places(index, metadata)
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata

    def read_data(self, plan: dcp.LoadPlan, planner: dcp.LoadPlanner) -> Future[None]:
        for item in plan.items:
            place = self.storage_data[item.storage_index]
            with open_file(Path(self.path) / place.relative_path) as file:
                stored = read_archive(io.BufferedReader(_Stretch(file, place.offset, place.length)))
            if not isinstance(stored, torch.Tensor):
                raise pickle.UnpicklingError(f"{place.relative_path} holds something else than a tensor")
            part = narrow_tensor_by_index(stored, item.storage_offsets, item.lengths)
            target = planner.resolve_tensor(item).detach()
            if target.size() != part.size():
                raise pickle.UnpicklingError(f"{list(part.size())} where {list(target.size())} is due")
            target.copy_(part)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


class _Stretch(io.RawIOBase):
    """Read-only view of a part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"a place {-at} bytes before the start")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        content = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _check_places(index: Path, metadata: Metadata) -> None:
    """Raise InputError unless all tensors lie in existing files of the folder with PyTorch's names."""
    places = getattr(metadata, "storage_data", None)
    for place in places.values() if isinstance(places, dict) else [None]:
        path, start, size, way = (
            getattr(place, name, None) for name in ("relative_path", "offset", "length", "transform_descriptors")
        )
        whole = type(start) is int and type(size) is int and start >= 0 and size >= 0
        if not (isinstance(path, str) and _PART.fullmatch(path) and whole and not way):
            raise InputError(f"{index}: damaged: no place in this folder: {str(path)[:80]!r}")
