"""Embeddings kept beside the snapshot (--cache), so that another protocol, score or report takes seconds.

They are found by what they depend on, and by its content: the file of the weights, the encoded pictures, landmarks,
preprocessing, mirror image, devices, and the software. The files are those of `fr/data/cache.py`, with a checksum.
"""

import contextlib
import functools
import hashlib
import json
import mmap
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import nvidia.dali
import onnxruntime
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from fr.data.cache import Damaged, Entry
from fr.data.faces import Faces
from fr.distributed import Ranks, gather_objects
from fr.errors import InputError
from fr.files.untrusted import open_file

Rows = NDArray[np.float32]  # [N, E]


def weights_digest(path: Path) -> str:
    """SHA-256 of a file of weights; "" when it can't be read, or may have weights in other files."""
    try:
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # An ONNX file names others by a key of this name (onnx.proto, TensorProto.external_data).
            if not zipfile.is_zipfile(file) and content.find(b"location") >= 0:
                return ""
            return hashlib.sha256(content).hexdigest()
    except (OSError, ValueError):  # the latter for an empty file
        return ""


def kept_or_embedded(
    snap: Path, weights: str, how: list[Any], faces: Faces, ranks: Ranks, embed: Callable[[], Rows]
) -> Rows:
    """The embeddings [N, E] of all photographs: kept ones of just these, or those of `embed`, to be kept then.

    All ranks together; the first reads and writes. weights: `weights_digest(snap)` before the network was read. how:
    all else that they depend on, for JSON. What can't be kept is a note to people and no failure.
    """
    pictures = _pictures_digest(faces, ranks)
    if not (weights and pictures):
        why = "a photograph can't be read" if weights else f"{snap} may have weights in other files"
        _say(ranks, f"--cache: embeddings aren't kept: {why}")
        return embed()
    folder = snap.with_suffix(".embeddings")
    names = hashlib.sha256(json.dumps(faces.names.to_pylist()).encode()).hexdigest()
    question = json.dumps([snap.name, str(faces.root), names, how])
    entry = Entry(folder, question, json.dumps([weights, pictures, _code()]))
    found = _loaded(entry) if ranks.is_main else None
    shape = gather_objects(None if found is None else found.shape)[0]
    if shape is not None:
        _say(ranks, f"--cache: embeddings of {len(faces):,} photographs as kept in {folder}")
        rows = torch.empty(shape) if found is None else torch.from_numpy(found.copy())
        dist.broadcast(rows, 0)
        return rows.numpy()
    embedded = embed()
    # What changed while it was read has no name that is true.
    if _pictures_digest(faces, ranks) == pictures and ranks.is_main and weights_digest(snap) == weights:
        try:
            entry.store(embedded)
        except OSError as error:
            _say(ranks, f"--cache: embeddings can't be kept in {folder}: {error.strerror}")
    return embedded


def _loaded(entry: Entry) -> Rows | None:
    try:
        found: Rows | None = entry.load()
    except Damaged as error:
        print(f"--cache: {error}; embedding anew", file=sys.stderr, flush=True)
        return None
    return found


def _pictures_digest(faces: Faces, ranks: Ranks) -> str:
    """SHA-256 of the pictures and where the faces are in them, on every rank; "" when a picture can't be read."""
    own: list[bytes] | None = None
    share = np.array_split(np.arange(len(faces)), ranks.world_size)[ranks.rank]
    with contextlib.suppress(OSError, InputError):  # embedding will say which and why
        own = [hashlib.sha256(faces.read(index).data).digest() for index in share.tolist()]
    parts = gather_objects(own)
    digest = hashlib.sha256()
    for part in parts:
        if part is None:
            return ""
        digest.update(b"".join(part))
    for column in (faces.landmarks, faces.boxes):
        digest.update(b"none" if column is None else f"{column.shape}".encode() + column.tobytes())
    return digest.hexdigest()


@functools.cache
def _code() -> str:
    """Hash of what reads, aligns and embeds: another version may give other numbers."""
    versions = [of.__version__ for of in (torch, nvidia.dali, onnxruntime, cv2, np)]
    digest = hashlib.sha256(json.dumps(versions).encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _say(ranks: Ranks, text: str) -> None:
    if ranks.is_main:
        print(text, file=sys.stderr, flush=True)
