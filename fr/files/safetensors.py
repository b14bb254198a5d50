"""Read safetensors files: the length of a JSON header, the header, and the tensors' bytes.

Format: https://github.com/huggingface/safetensors#format. Little-endian; the header gives dtype, shape and place of
each tensor.
"""

import json
import math
import os
from pathlib import Path

import torch

from fr.errors import InputError, in_short
from fr.files.foreign_pickle import read_storage
from fr.files.restricted_pickle import Storage, count
from fr.files.untrusted import open_file

_LENGTH = 8  # bytes of the header's length
_LONGEST_HEADER = 100_000_000  # bytes, as the format has it
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


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; InputError when it can't be read or is damaged."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH), "little")
            if length > min(size - _LENGTH, _LONGEST_HEADER):
                raise ValueError("a header longer than the file")
            begin = _LENGTH + length
            left = size - begin
            tensors = {}
            for name, entry in json.loads(file.read(length)).items():
                if name == "__metadata__":
                    continue
                dtype, shape = _TYPES[entry["dtype"]], [count(side) for side in entry["shape"]]
                first, last = (count(place) for place in entry["data_offsets"])
                left -= last - first
                if begin + last > size or left < 0:
                    raise ValueError("tensors of more bytes than there are")
                file.seek(begin + first)
                storage = Storage(name, dtype, math.prod(shape))
                tensors[name] = read_storage(file, last - first, storage).reshape(shape)
            return tensors
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # whatever damaged bytes make of the header
        raise InputError(f"{path}: damaged safetensors ({type(error).__name__}: {in_short(error)})") from error
