"""insightface's verification packs, such as `agedb_30.bin`, `cfp_fp.bin` and `lfw.bin`.

A pack is a pickle of two lists, by Python 2 or 3: the encoded images, two for each pair, and for each pair True if it
is one person (insightface, `recognition/arcface_torch/eval/verification.py`, `load_bin`). An image is bytes or, from
cv2.imencode, a NumPy array of bytes (`build_eval_pack.py`); the booleans may be NumPy's, too. The images are aligned
crops. The pickle is read by an unpickler that builds only containers, numbers and text.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fr.console import counted
from fr.data.faces import VerificationFaces, refuse
from fr.data.pairs.pair_faces import tenths
from fr.data.pairs.whole_sets import SetForm, check_kind, set_name
from fr.data.storage import Pack
from fr.errors import InputError, os_error_as
from fr.files.data_root import DataRoot
from fr.files.kinds import Kind, wrong_kind
from fr.files.restricted_pickle import ArrayAt, InertUnpickler
from fr.files.untrusted import read_whole


def read_pack(path: Path) -> VerificationFaces:
    """The pairs of a pack, in folds of `tenths`; an image that occurs in several pairs is stored once.

    Names are positions in the pack, from 0. InputError if it isn't a pack, or its lists don't match.
    """
    encoded, same = _contents(path)
    refuse([
        f"{path}: image {i} isn't the bytes of an encoded image, such as a JPEG's"
        for i, content in enumerate(encoded)
        if not content
    ])
    refuse([f"{path}: pair {i} is neither True nor False" for i, label in enumerate(same) if label not in (0, 1)])
    if len(encoded) != 2 * len(same):
        images = counted(len(encoded), "image")
        raise InputError(f"{path}: {images} for {counted(len(same), 'pair')}, where each has two")
    kinds = np.array(same, dtype=bool)
    fold = tenths(kinds.tolist(), str(path))
    first: dict[bytes, int] = {}
    places = np.array([first.setdefault(content, place) for place, content in enumerate(encoded)])
    kept, rows = np.unique(places, return_inverse=True)
    names = pa.array([str(place) for place in kept.tolist()], type=pa.string())
    storage = Pack(path.name, [encoded[place] for place in kept.tolist()])
    points = np.zeros((len(kept), 0, 2))
    pairs = rows.reshape(-1, 2).astype(np.int64)
    return VerificationFaces(DataRoot(path.parent), names, points, pairs, kinds, fold, storage=storage)


def _contents(path: Path) -> tuple[list[bytes], list[Any]]:
    """The bytes of each image, b"" for anything else, and the label of each pair."""
    try:
        content = read_whole(path, sys.maxsize)
        unpickler = InertUnpickler(io.BytesIO(content), len(content), {})
        match unpickler.load():
            case [list() | tuple() as images, list() | tuple() | ArrayAt() as same]:
                verdicts = _plain(same, unpickler.pay)
                if isinstance(verdicts, list | tuple):
                    encoded = [_encoded(_array(image, unpickler.pay)) for image in images]
                    return encoded, [_plain(verdict, unpickler.pay) for verdict in verdicts]
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except Exception as error:  # an unpickler can raise anything on damaged bytes
        said = f"{path}: damaged, or no pack of pairs ({type(error).__name__}: {str(error)[:80]})"
        raise InputError(wrong_kind("a pack of pairs", path, Kind.PICKLE) or said) from error
    raise InputError(f"{path}: no pack of pairs: expected a list of images and one of True and False")


def _array(value: Any, pay: Callable[[int], None]) -> Any:
    """A tensor in place of an array's description; pay: of `BoundedUnpickler`."""
    return value.read(pay) if isinstance(value, ArrayAt) else value


def _plain(value: Any, pay: Callable[[int], None]) -> Any:
    """Python's numbers in place of an array's description."""
    array = _array(value, pay)
    return array.tolist() if isinstance(array, torch.Tensor) else array


def _encoded(image: Any) -> bytes:
    """The bytes of an encoded image; b"" for anything else, such as pixels. Python 2 pickled them as text."""
    if isinstance(image, torch.Tensor):
        is_row = image.dtype == torch.uint8 and max(image.shape, default=0) == image.numel()  # [N] or [N, 1]
        return image.numpy().tobytes() if is_row else b""
    try:
        return image.encode("latin-1") if isinstance(image, str) else bytes(memoryview(image))
    except (TypeError, UnicodeEncodeError):
        return b""


def _is_at(path: Path) -> bool:
    """Return True if a file is a pack: by its ending, or the first byte of a pickle, which no text file has."""
    if not path.is_file() or path.suffix == ".bin":
        return path.is_file()
    with os_error_as(f"{path}: can't be read"), path.open("rb") as file:
        return file.read(1) == b"\x80"


def _read(root: DataRoot, kind: str, _option: str) -> tuple[str, VerificationFaces]:
    check_kind(kind, "bin", root.path)
    return set_name(root.path, "bin", kind), read_pack(root.path)


FORM = SetForm("a .bin pack", _is_at, _read)
