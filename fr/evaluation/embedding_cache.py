"""Embedding cache next to the snapshot (--cache), so that another protocol, score or report takes seconds.

The key is a hash of all inputs: the weights file, encoded images, landmarks, preprocessing, mirror image, devices, and
the software. File format: `fr/data/cache.py`, with a checksum.
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

from fr.console import counted
from fr.data.cache import Damaged, Entry
from fr.data.faces import Faces
from fr.distributed import Ranks, gather_objects
from fr.errors import InputError
from fr.files.untrusted import open_file

Rows = NDArray[np.float32]  # [N, E]


def weights_digest(path: Path) -> str:
    """SHA-256 of a weights file; "" if it can't be read, or may refer to weights in other files."""
    try:
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Key by which an ONNX file refers to other files (onnx.proto, TensorProto.external_data).
            if not zipfile.is_zipfile(file) and content.find(b"location") >= 0:
                return ""
            return hashlib.sha256(content).hexdigest()
    except (OSError, ValueError):  # the latter for an empty file
        return ""


def cached_embeddings(
    snap: Path, weights: str, how: list[Any], faces: Faces, ranks: Ranks, embed: Callable[[], Rows]
) -> Rows:
    """Load the embeddings [N, E] of all images from the cache, or compute them with `embed` and store them.

    Collective; the first rank reads and writes. weights: `weights_digest(snap)` from before the network was read.
    how: all other inputs, JSON-serialisable. A failure to store is only printed.
    """
    images = _images_digest(faces, ranks)
    if not (weights and images):
        why = "an image can't be read" if weights else f"{snap} may have weights in other files"
        _print_on_first_rank(ranks, f"--cache: embeddings aren't kept: {why}")
        return embed()
    folder = snap.with_suffix(".embeddings")
    names = hashlib.sha256(json.dumps(faces.names.to_pylist()).encode()).hexdigest()
    question = json.dumps([snap.name, str(faces.root), names, how])
    entry = Entry(folder, question, json.dumps([weights, images, _code()]))
    cached = _loaded(entry) if ranks.is_main else None
    shape = gather_objects(None if cached is None else cached.shape)[0]
    if shape is not None:
        _print_on_first_rank(ranks, f"--cache: embeddings of {counted(len(faces), 'image')} read from {folder}")
        shared = torch.empty(shape) if cached is None else torch.from_numpy(cached.copy())
        dist.broadcast(shared, 0)
        return shared.numpy()
    rows = embed()
    # If an input changed while it was read, the key is wrong.
    if _images_digest(faces, ranks) == images and ranks.is_main and weights_digest(snap) == weights:
        try:
            entry.store(rows)
        except OSError as error:
            _print_on_first_rank(ranks, f"--cache: embeddings can't be kept in {folder}: {error.strerror}")
    return rows


def _loaded(entry: Entry) -> Rows | None:
    try:
        cached: Rows | None = entry.load()
    except Damaged as error:
        print(f"--cache: {error}; computing the embeddings again", file=sys.stderr, flush=True)
        return None
    return cached


def _images_digest(faces: Faces, ranks: Ranks) -> str:
    """SHA-256 of the encoded images, landmarks and boxes, on every rank; "" if an image can't be read."""
    own: list[bytes] | None = None
    share = np.array_split(np.arange(len(faces)), ranks.world_size)[ranks.rank]
    with contextlib.suppress(OSError, InputError):  # reported when the images are embedded
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
    """Hash of library versions and this package's source code: other versions may give other embeddings."""
    versions = [library.__version__ for library in (torch, nvidia.dali, onnxruntime, cv2, np)]
    digest = hashlib.sha256(json.dumps(versions).encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _print_on_first_rank(ranks: Ranks, text: str) -> None:
    if ranks.is_main:
        print(text, file=sys.stderr, flush=True)
