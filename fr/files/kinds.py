"""Kind of a model or weight file, by its content, and the command that accepts it.

Readers of snapshots, weights and ONNX models use `wrong_kind` to say what a wrong file is.
"""

import zipfile
from enum import Enum
from os import PathLike

from fr.files.untrusted import open_file

_LOOKED_AT = 1024  # bytes
_LFS = b"version https://git-lfs.github.com/spec/"
_MXNET = b"\x12\x01\0\0\0\0\0\0"  # kMXAPINDArrayListMagic, of ndarray.cc


class Kind(Enum):
    """A kind of file: its name, and advice on what to do with it."""

    EMPTY = ("an empty file", "copy or download it again")
    HTML = ("an HTML page, as a download that needs a login or a confirmation gives", "download the file itself")
    LFS = ("the pointer that git-lfs keeps for a file", "get the file itself by `git lfs pull`")
    TORCH = ("a file of torch.save", "other systems' weights become a snapshot by tools/import_weights.py FILE OUT.pt")
    PICKLE = ("a pickle, as of PyTorch before 1.6", "weights become a snapshot by tools/import_weights.py FILE OUT.pt")
    SAFETENSORS = ("a safetensors file", "its weights become a snapshot by tools/import_weights.py FILE OUT.pt")
    TORCHSCRIPT = (
        "a TorchScript archive (torch.jit.save)",
        "write its weights by torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth'), which runs code that is in "
        "the file, and convert them by tools/import_weights.py weights.pth OUT.pt",
    )
    ONNX = ("an ONNX model", "evaluate_lfw.py --snap and the tools with --snap take it; no training begins from one")
    MXNET = ("MXNet's parameters (.params)", "nothing here reads them; look for the network's PyTorch or ONNX file")
    HDF5 = ("an HDF5 file, as of Keras", "nothing here reads it; look for the network's PyTorch or ONNX file")
    ZIP = ("a zip file that isn't torch.save's", "if it is an archive of files, unpack it")
    ARCHIVE = ("an archive (gzip, bzip2, xz, 7z or tar)", "unpack it")


def wrong_kind(what: str, path: str | PathLike[str], *expected: Kind) -> str:
    """Message that a file isn't `what` but of a known kind that isn't `expected`; "" if its kind is unknown."""
    kind = kind_of(path)
    return f"{path}: not {what}, but {kind.value[0]}: {kind.value[1]}" if kind and kind not in expected else ""


def kind_of(path: str | PathLike[str]) -> Kind | None:
    """The kind of a file by its first bytes, or the names in a zip file; None = unknown, or it can't be read."""
    try:
        with open_file(path) as file:
            start = file.read(_LOOKED_AT)
            if start.startswith(b"PK\x03\x04"):
                return _zip_kind(zipfile.ZipFile(file).namelist())
    except OSError:
        return None
    except Exception:  # zipfile can raise anything on a damaged file
        return Kind.TORCH if b"data.pkl" in start else Kind.ZIP
    return _kind_of_start(start)


def _zip_kind(names: list[str]) -> Kind:
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" not in inner:
        return Kind.ZIP
    return Kind.TORCHSCRIPT if "constants.pkl" in inner else Kind.TORCH


def _kind_of_start(start: bytes) -> Kind | None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return Kind.EMPTY
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return Kind.HTML
    if start.startswith(_LFS):
        return Kind.LFS
    if start.startswith(_MXNET):
        return Kind.MXNET
    if start.startswith(b"\x89HDF\r\n"):
        return Kind.HDF5
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")) or start[257:262] == b"ustar":
        return Kind.ARCHIVE
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return Kind.SAFETENSORS
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return Kind.PICKLE
    # ModelProto begins with its first field, ir_version, which is a small number.
    return Kind.ONNX if len(start) > 2 and start[0] == 8 and 0 < start[1] < 32 else None
