"""insightface's verification packs, such as `agedb_30.bin`, `cfp_fp.bin` and `lfw.bin`.

A pack is a pickle of two lists, by Python 2 or 3: the encoded images, two a pair, and whether each pair is one person
(insightface, `recognition/arcface_torch/eval/verification.py`, `load_bin`). The images are aligned crops. It is read
by the unpickler that builds containers, numbers and text alone (C10).
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fr.data.faces import VerificationFaces, refuse
from fr.data.pairs.pair_faces import tenths
from fr.data.storage import Pack
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.restricted_pickle import InertUnpickler
from fr.files.untrusted import read_whole


def read_pack(path: Path) -> VerificationFaces:
    """The pairs of a pack, in tenths (`fr/data/pairs/pair_faces.py`); an image of several pairs is there once.

    Names are places in the pack, from 0. InputError for what is no pack, and for numbers that don't fit.
    """
    images, same = _contents(path)
    encoded = [_encoded(image) for image in images]
    refuse([f"{path}: image {i} isn't the bytes of one" for i, content in enumerate(encoded) if not content])
    refuse([f"{path}: pair {i} is neither True nor False" for i, label in enumerate(same) if label not in (0, 1)])
    if len(images) != 2 * len(same):
        raise InputError(f"{path}: {len(images)} images for {len(same)} pairs, where each has two")
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


def _contents(path: Path) -> tuple[list[Any], list[Any]]:
    try:
        content = read_whole(path, sys.maxsize)
        unpickled = InertUnpickler(io.BytesIO(content), len(content), {}).load()
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except Exception as error:  # whatever damaged bytes make of an unpickler
        raise InputError(f"{path}: damaged, or no pack of pairs ({type(error).__name__}: {str(error)[:80]})") from error
    match unpickled:
        case [list() | tuple() as images, list() | tuple() as same]:
            return list(images), list(same)
    raise InputError(f"{path}: no pack of pairs: expected a list of images and one of True and False")


def _encoded(image: Any) -> bytes:
    """The bytes of an image; none of what isn't. Python 2 wrote them as text."""
    try:
        return image.encode("latin-1") if isinstance(image, str) else bytes(memoryview(image))
    except (TypeError, UnicodeEncodeError):
        return b""
