"""Weight files as other systems write them, from a state dict: for tests that read them back."""

import contextlib
import json
import struct
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
Layout = Mapping[str, tuple[int, ...]]


def filled(layout: Layout, seed: int = 0) -> Tensors:
    """Numbers of its own in each tensor, so small that a network stays finite; counters are whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {key: torch.rand(shape, generator=generator) for key, shape in layout.items()}
    for key, tensor in drawn.items():
        if tensor.ndim > 1:
            tensor.sub_(0.5).div_(tensor[0].numel() ** 0.5)
        elif key.endswith("tracked"):
            drawn[key] = (9 * tensor).long()
    return drawn


def with_prefix(tensors: Tensors, prefix: str = "module.") -> Tensors:
    return OrderedDict((f"{prefix}{key}", tensor) for key, tensor in tensors.items())


def save_legacy(content: Any, path: Path) -> None:
    """Save as torch.save did before 1.6."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class of these tests has no source file
        torch.save(content, path, _use_new_zipfile_serialization=False)


def save_safetensors(tensors: Tensors, path: Path) -> None:
    """Save in the format of https://github.com/huggingface/safetensors#format."""
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    names |= {torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    for name, tensor in tensors.items():
        begin = sum(map(len, parts))
        parts.append(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        end = begin + len(parts[-1])
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def python2_pickle(tensors: Tensors) -> bytes:
    """pickle.dump(dict of float32 arrays, file, 2) of Python 2.7 and its NumPy, written out opcode by opcode."""

    def text(content: bytes) -> bytes:
        length = b"U" + bytes([len(content)]) if len(content) < 256 else b"T" + struct.pack("<i", len(content))
        return length + content

    out = [b"\x80\x02}("]
    dtype = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    for key, tensor in tensors.items():
        shape = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in tensor.shape) + b"t"
        out += [text(key.encode()), b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"]
        out += [b"(K\x01", shape, dtype, b"I00\n", text(tensor.numpy().astype("<f4").tobytes()), b"tb"]
    return b"".join([*out, b"u."])


@contextlib.contextmanager
def foreign_module(name: str, **classes: type) -> Iterator[None]:
    """A module that exists while a file is written, and no longer when it is read."""
    module = types.ModuleType(name)
    for class_name, known in classes.items():
        known.__module__, known.__qualname__ = name, class_name
        setattr(module, class_name, known)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def average_meter() -> Any:
    """Object in VGGFace2-pytorch's checkpoints: an instance of its utils.AverageMeter."""
    meter = type("AverageMeter", (), {})()
    meter.val, meter.avg, meter.sum, meter.count = 0.1, 0.2, torch.tensor(3.0), 4
    return meter


class Part(nn.Module):
    """A network of no known class, pickled whole."""


def network_of(tensors: Tensors) -> nn.Module:
    """A module whose state dict these are."""
    network = Part()
    for key, tensor in tensors.items():
        *folders, name = key.split(".")
        part = network
        for folder in folders:
            if folder not in part._modules:
                part.add_module(folder, Part())
            part = part.get_submodule(folder)  # type: ignore[assignment]
        if name.startswith(("running", "num")):
            part.register_buffer(name, tensor)
        else:
            part.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
    network.register_buffer("passing", torch.zeros(3), persistent=False)
    return network
