"""Pickles that run what they name when the stock reader reads them, in every container that weights come in."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from fr.files.restricted_pickle import InertUnpickler
from tests.weight_files import python2_pickle, save_legacy


def pushed(value: str | tuple[Any, ...]) -> bytes:
    """Opcodes that put a text, or a tuple of texts, on the stack."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(pushed, value)) + b"t"
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def calls(module: str, name: str, args: tuple[str, ...]) -> dict[str, bytes]:
    """Every way in which a pickle calls a function or a class, or has others call it."""
    named, given = f"c{module}\n{name}\n".encode(), pushed(args)
    reduced = named + given + b"R"
    part = b"ctorch.nn.modules.linear\nLinear\n)\x81"
    parts = b"".join(map(pushed, args))
    return {
        "REDUCE": reduced,
        "STACK_GLOBAL": pushed(module) + pushed(name) + b"\x93" + given + b"R",
        "INST": b"(" + parts + f"i{module}\n{name}\n".encode(),
        "OBJ": b"(" + named + parts + b"o",
        "NEWOBJ": named + given + b"\x81",
        "NEWOBJ_EX": named + given + b"}\x92",
        "in BUILD": part + b"}" + pushed("weight") + reduced + b"sb",
        "in BUILD's slots": part + b"N}" + pushed("weight") + reduced + b"s\x86b",
        "BUILD on the function": named + b"}" + pushed("__code__") + reduced + b"sb",
        "BUILD on a known function": b"ctorch._utils\n_rebuild_tensor_v2\nN}" + pushed("__code__") + named + b"s\x86b",
        "BUILD on a dict": b"ccollections\nOrderedDict\n)R}" + pushed("items") + named + b"sb",
        "as the type of a storage": b"(" + pushed("storage") + reduced + pushed("0") + pushed("cpu") + b"K\x01tQ",
        "twice over": b"c__builtin__\napply\n(" + named + given + b"tR",
        "as arguments of a tensor": b"ctorch._utils\n_rebuild_tensor_v2\n(" + 6 * reduced + b"tR",
        "as a dtype": b"cnumpy\ndtype\n(" + reduced + b"tR",
        "as an array's state": b"cnumpy.core.multiarray\n_reconstruct\n)R" + reduced + b"b",
        "of a stand-in": reduced + given + b"R" + given + b"R",
        "in APPENDS": b"cbuiltins\nlist\n)R(" + reduced + b"e",
        "in a set": b"c__builtin__\nset\n(]" + reduced + b"atR",
    }


def gadgets(mark: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Functions that make the file `mark`, by one argument of text or two."""
    code = f"__import__('os').mkdir({mark!r})"
    return [
        ("os", "system", (f"mkdir {mark}",)),
        ("posix", "system", (f"mkdir {mark}",)),
        ("os", "mkdir", (mark,)),
        ("builtins", "eval", (code,)),
        ("__builtin__", "eval", (code,)),
        ("builtins", "exec", (code,)),
        ("subprocess", "getoutput", (f"mkdir {mark}",)),
        ("numpy.testing._private.utils", "runstring", (code, "")),
        ("numpy", "memmap", (mark, "uint8", "w+")),
        ("numpy", "savetxt", (mark, "1")),
        ("torch.serialization", "load", (mark,)),
        ("torch._inductor.codecache", "eval", (code,)),
        ("shutil", "copyfile", (__file__, mark)),
        ("pathlib", "Path.mkdir", (mark,)),
    ]


def in_plain_pickle(value: bytes, _folder: Path) -> list[bytes]:
    whole = python2_pickle({"conv1.weight": torch.ones(2)})
    return [b"\x80\x02" + value + b".", whole[:-2] + pushed("extra") + value + b"u."]


def in_zip(value: bytes, folder: Path) -> list[bytes]:
    """Payload as the whole pickle, and beside the tensors of a state dict."""
    torch.save({"state_dict": {"weight": torch.ones(2)}}, folder / "whole.tmp")
    contents = []
    with zipfile.ZipFile(folder / "whole.tmp") as whole:
        pickled = whole.read(next(name for name in whole.namelist() if name.endswith("data.pkl")))
        for index in (b"\x80\x02" + value + b".", pickled[:-1] + pushed("extra") + value + b"s."):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as hostile:
                for name in whole.namelist():
                    hostile.writestr(name, index if name.endswith("data.pkl") else whole.read(name))
            contents.append(buffer.getvalue())
    return contents


def in_legacy(value: bytes, folder: Path) -> list[bytes]:
    """In place of each of its pickles in turn, and beside the tensors."""
    save_legacy({"weight": torch.ones(2)}, folder / "whole.tmp")
    whole = io.BytesIO((folder / "whole.tmp").read_bytes())
    pickles = []
    for _ in range(5):
        start = whole.tell()
        inert = InertUnpickler(whole, len(whole.getvalue()), {})
        inert.load()
        pickles.append(whole.getvalue()[start : whole.tell()])
    rest = whole.read()
    hostile = b"\x80\x02" + value + b"."
    files = [b"".join([*pickles[:place], hostile, *pickles[place + 1 :], rest]) for place in range(5)]
    beside = pickles[3][:-1] + pushed("extra") + value + b"s."
    return [*files, b"".join([*pickles[:3], beside, pickles[4], rest])]
