"""Read and write safetensors files: the length of a JSON header, the header, and the tensors' bytes.

Format: https://github.com/huggingface/safetensors#format. Little-endian; the header gives dtype, shape and offsets of
each tensor, and metadata as text.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fr.errors import InputError, in_short
from fr.files.foreign_pickle import read_storage
from fr.files.restricted_pickle import Storage, count
from fr.files.untrusted import open_file

_METADATA = "__metadata__"
_LENGTH = 8  # bytes of the header's length
_LONGEST_HEADER = 100_000_000  # bytes, the format's limit
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def write(file: BinaryIO, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors of _TYPES and metadata; the widest types first, so that each tensor is aligned to its item size."""
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, tensor in ordered.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(_LENGTH, "little") + text)
    for tensor in ordered.values():
        file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata; InputError if it can't be read or is damaged."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH), "little")
            if length > min(size - _LENGTH, _LONGEST_HEADER):
                raise ValueError("a header longer than the file")
            begin = _LENGTH + length
            left = size - begin
            tensors = {}
            header = json.loads(file.read(length))
            metadata = header.pop(_METADATA, {})
            if {type(text) for text in metadata.values()} - {str}:
                raise ValueError("metadata that aren't texts")
            for name, entry in header.items():
                dtype, shape = _TYPES[entry["dtype"]], [count(side) for side in entry["shape"]]
                first, last = (count(place) for place in entry["data_offsets"])
                left -= last - first
                if begin + last > size or left < 0:
                    raise ValueError("tensors of more bytes than there are")
                file.seek(begin + first)
                storage = Storage(name, dtype, math.prod(shape))
                tensors[name] = read_storage(file, last - first, storage).reshape(shape)
            return tensors, metadata
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged header can raise anything
        raise InputError(f"{path}: damaged safetensors ({type(error).__name__}: {in_short(error)})") from error
