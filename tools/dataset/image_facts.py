"""Image facts for the data set check, measured by several processes and cached.

N images. The cache is a folder of Parquet files with CHUNK images each. The key of an image is its path, its landmarks,
and the size and time of its file. Unusable images aren't cached but tried again by the next run.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from fr import alignment
from fr.data import placement
from fr.data.faces import Faces
from fr.data.storage import Pack, ParquetRows, RecordFile, TarShards
from fr.errors import InputError, os_error_as
from fr.files.durable import replace_file
from fr.files.images import TOO_LARGE, is_too_large, orientation_of
from fr.preprocessing import Preprocessing
from fr.progress import tracked
from tools.dataset.near_duplicates import SIDE, Signatures, signature
from tools.dataset.parallel import map_in_processes

CHUNK = 256  # images per work item and cache file
_VERSION = 2  # of the keys; increase it when the measurements change
FACE = Preprocessing((4 * SIDE, 4 * SIDE), template="arcface", alignment="umeyama")  # the measured face
_GREY_LEVELS = 2  # of 255; rounding of a grey image stored as colour JPEG


class Fact(NamedTuple):
    """Facts of one image."""

    content: bytes  # SHA-256 of its encoded bytes
    signature: bytes  # of its aligned face
    width: int  # pixels, as stored
    height: int
    grey: bool  # its face has no colour
    orientation: int  # EXIF's, 1 … 8


@dataclass(frozen=True)
class ImageFacts:
    """Facts of N images; those with a problem have only that."""

    problems: dict[int, str]  # row → reason for which a training can't use it
    content: NDArray[np.bytes_]  # [N] SHA-256, 32 bytes each
    signatures: Signatures  # [N, 4]
    sizes: NDArray[np.int64]  # [N, 2] width, height in pixels
    grey: NDArray[np.bool_]  # [N]
    orientation: NDArray[np.int64]  # [N] EXIF's, 1 … 8


_SCHEMA = pa.schema([
    ("key", pa.binary(16)),
    ("content", pa.binary(32)),
    ("signature", pa.binary(32)),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("grey", pa.bool_()),
    ("orientation", pa.int8()),
])


def gather(faces: Faces, folder: Path, workers: int) -> ImageFacts:
    """Facts of all images, from the cache in `folder` or measured and added to it.

    workers: processes, 0 = one per core. InputError if the folder can't be used.
    """
    keys = _keys(faces)
    known = _kept(folder)
    new = pc.invert(pc.is_in(keys, value_set=known["key"])).to_numpy(zero_copy_only=False)
    first = np.unique(keys.dictionary_encode().indices.to_numpy(), return_index=True)[1]  # some may be listed twice
    rows = np.sort(first[new[first]])
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    problems: dict[bytes, str] = {}
    tables = [known]
    looked_at = map_in_processes(
        measure_facts, [part_of(faces, chunk) for chunk in chunks], workers, "looking at images", f"{CHUNK} img"
    )
    for chunk, facts in zip(chunks, looked_at, strict=True):
        named = dict(zip(keys.take(pa.array(chunk)).to_pylist(), facts, strict=True))
        problems |= {key: fact for key, fact in named.items() if isinstance(fact, str)}
        tables.append(_keep(folder, {key: fact for key, fact in named.items() if isinstance(fact, Fact)}))
    return _by_row(keys, pa.concat_tables(tables).combine_chunks(), problems)


def measure_facts(faces: Faces) -> list[Fact | str]:
    """Facts of each image, or its problem."""
    cv2.setNumThreads(1)  # each worker has one core
    results: list[Fact | str] = []
    for index in range(len(faces)):
        try:
            results.append(_fact(faces, index))
        except Unusable as problem:
            results.append(str(problem))
    return results


class Unusable(Exception):
    """Raised for an image that training would replace."""


def _fact(faces: Faces, index: int) -> Fact:
    encoded = _read(faces, index)
    pixels, matrix = _placed(faces, index, encoded)
    face = face_of(pixels, matrix, FACE.input_size)
    height, width = pixels.shape[:2]
    red, green, blue = np.moveaxis(face, 2, 0)
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    grey = bool(spread.max() <= _GREY_LEVELS)
    small = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)).reshape(SIDE, 4, SIDE, 4).mean(axis=(1, 3))
    content, orientation = hashlib.sha256(encoded.data).digest(), orientation_of(encoded)
    return Fact(content, signature(small).tobytes(), width, height, grey, orientation)


def placed_image(faces: Faces, index: int) -> tuple[NDArray[np.uint8], alignment.Array]:
    """Pixels [H, W, 3] of an image as stored, RGB, and the matrix to FACE [2, 3]. Raises Unusable if it has none."""
    return _placed(faces, index, _read(faces, index))


def _read(faces: Faces, index: int) -> NDArray[np.uint8]:
    try:
        encoded = faces.read(index)
    except OSError as error:
        raise Unusable(f"can't be read: {error.strerror}") from error
    if is_too_large(encoded):
        raise Unusable(TOO_LARGE)
    return encoded


def _placed(faces: Faces, index: int, encoded: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], alignment.Array]:
    pixels = _decoded(encoded)
    matrices, placed = placement.matrices(faces, np.array([index]), [encoded], FACE)
    if not placed[0]:
        raise Unusable("the box of its face lies outside the image")
    return pixels, matrices[0]


@pipeline_def(exec_dynamic=True)  # type: ignore[untyped-decorator]
def _decoding() -> Any:
    """Decode bytes to the whole image with the decoder of `fr/data/graph.py`."""
    return fn.decoders.image(
        fn.external_source(name="encoded"),
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        output_type=types.RGB,
    )


@lru_cache(maxsize=1)
def _decoder() -> Any:
    # One image at a time: a failure then has one cause, and memory holds one large image.
    return _decoding(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)


def _decoded(encoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode to RGB [H, W, 3]."""
    if not len(encoded):
        raise Unusable("can't be decoded: it is empty")
    try:
        _decoder().feed_input("encoded", [encoded])
        (output,) = _decoder().run()
    except RuntimeError as error:
        _decoder.cache_clear()  # DALI doesn't guarantee that a failed graph can be run again
        raise Unusable("can't be decoded whole: cut off, damaged, or of an unknown format") from error
    return np.array(output.at(0))


def face_of(pixels: NDArray[np.uint8], matrix: alignment.Array, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Warp the face to a size (height, width): RGB, black outside the image. matrix: [2, 3] image → face."""
    height, width = size
    frame = np.array([[[-1, -1], [width, -1], [-1, height], [width, height]]])
    corners = alignment.transform(alignment.invert(matrix[None]), frame)[0]
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, pixels.shape[1::-1])
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, pixels.shape[1::-1])
    region = pixels[low[1] : high[1], low[0] : high[0]]
    if not region.size:
        return np.zeros((height, width, 3), dtype=np.uint8)
    moved = alignment.compose(matrix[None], np.array([[[1.0, 0, low[0]], [0, 1, low[1]]]]))
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if scale < 1:  # bilinear interpolation alone would alias
        across, down = np.maximum(np.round(np.array(region.shape[1::-1]) * scale), 1).astype(int).tolist()
        shrunk = placement.scaling(np.array([region.shape[1::-1]]), (down, across))
        region = np.asarray(cv2.resize(region, (across, down), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        moved = alignment.compose(moved, alignment.invert(shrunk))
    return np.asarray(cv2.warpAffine(region, moved[0], (width, height)), dtype=np.uint8)


def _keys(faces: Faces) -> pa.FixedSizeBinaryArray:
    """Cache keys of the images: [N]."""
    digests = []
    for index in tracked(range(len(faces)), "img", "looking at files"):
        try:
            stat = os.stat(_file(faces, index))
            stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            stamp = ""
        digest = hashlib.blake2b(f"{_VERSION}\0{faces.path(index)}\0{stamp}".encode(), digest_size=16)
        digest.update(faces.landmarks[index].tobytes())
        if faces.boxes is not None:
            digest.update(faces.boxes[index].tobytes())
        digests.append(digest.digest())
    return pa.array(digests, type=pa.binary(16))


def _file(faces: Faces, index: int) -> str:
    match faces.storage:
        case TarShards() | ParquetRows() as parts:
            return parts.file(faces.root, index)
        case RecordFile() | Pack() as whole:
            return f"{faces.root}/{whole.file}"
        case None:
            return faces.path(index)


def part_of(faces: Faces, rows: NDArray[np.int64]) -> Faces:
    """Subset of the images, small enough to be sent to a worker."""
    storage = faces.storage.take(rows) if faces.storage else None
    boxes = None if faces.boxes is None else faces.boxes[rows]
    names = faces.names.take(pa.array(rows))
    return Faces(faces.root, names, faces.landmarks[rows], boxes=boxes, storage=storage)


def _kept(folder: Path) -> pa.Table:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("*.parquet"))
        return pa.concat_tables([_SCHEMA.empty_table(), *(pq.read_table(file, schema=_SCHEMA) for file in files)])
    except OSError as error:
        raise InputError(f"{folder}: can't be used: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise InputError(f"{folder}: damaged: {error}; delete it, and run again") from error


def _keep(folder: Path, facts: dict[bytes, Fact]) -> pa.Table:
    columns: Iterable[Any] = zip(*([key, *fact] for key, fact in facts.items()), strict=True)
    table = pa.table(list(columns), schema=_SCHEMA) if facts else _SCHEMA.empty_table()
    if facts:
        name = hashlib.blake2b(b"".join(facts), digest_size=16).hexdigest()
        buffer = BytesIO()
        pq.write_table(table, buffer)
        with os_error_as(f"{folder}: can't be written"):
            replace_file(folder / f"{name}.parquet", buffer.getvalue())
    return table


def _by_row(keys: pa.FixedSizeBinaryArray, table: pa.Table, problems: dict[bytes, str]) -> ImageFacts:
    rows = pc.index_in(keys, value_set=table["key"])
    unusable = np.flatnonzero(rows.is_null().to_numpy(zero_copy_only=False)).tolist()
    blank = pa.table([[b"\0" * 16], [b"\0" * 32], [b"\0" * 32], [0], [0], [False], [1]], schema=_SCHEMA)
    ordered = pa.concat_tables([table, blank]).take(pc.fill_null(rows, len(table))).combine_chunks()
    column = {name: ordered[name].to_numpy() for name in ordered.column_names}
    return ImageFacts(
        {row: problems[keys[row].as_py()] for row in unusable},
        column["content"].astype("S32"),
        np.frombuffer(b"".join(column["signature"]), dtype=np.uint64).reshape(-1, 4),
        np.stack([column["width"], column["height"]], axis=1).astype(np.int64),
        column["grey"].astype(bool),
        column["orientation"].astype(np.int64),
    )
