"""torch.distributed.checkpoint's files: written the same everywhere, read without running what stands in them (C10)."""

import pickle
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from fr.errors import InputError
from fr.files import told_by_cause


def causes(error: CheckpointException) -> str:
    """What failed, on whichever rank; all ranks get the same."""
    return "; ".join(sorted({f"{type(cause[0]).__name__}: {cause[0]}" for cause in error.failures.values()}))


_METADATA_CLASSES = {
    ("torch.distributed.checkpoint.metadata", name)
    for name in (
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch", "float32"),
    ("torch", "int64"),
    ("torch", "uint8"),
}


class PathlessWriter(dcp.FileSystemWriter):
    """Leaves the temporary folder's path out of the index: a `Path` pickles differently between Pythons."""

    def write_data(self, *arguments: Any) -> Any:
        with told_by_cause():
            return super().write_data(*arguments)

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _METADATA_CLASSES:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a snapshot")
        return super().find_class(module, name)


def shapes_in(metadata: Metadata, folder: Path) -> dict[str, tuple[int, ...]]:
    """Of the tensors that an index names."""
    entries: dict[str, Any] = getattr(metadata, "state_dict_metadata", {})
    try:
        return {name: tuple(entry.size) for name, entry in entries.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(f"{folder}: the index is damaged: {error}") from error


class SafeReader(dcp.FileSystemReader):
    """Reads a checkpoint whose index may name only the classes that an index is made of: the stock reader runs any."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        index = Path(self.path) / ".metadata"
        try:
            with index.open("rb") as file:
                metadata = _MetadataUnpickler(file).load()
        except OSError as error:
            raise InputError(f"{index}: can't be read: {error.strerror}") from error
        except Exception as error:  # whatever damaged bytes make of an unpickler
            raise InputError(f"{index}: damaged: {error}") from error
        if not isinstance(metadata, Metadata):
            raise InputError(f"{index}: damaged: no checkpoint index")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata
