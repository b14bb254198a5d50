"""Parquet files as Hugging Face's `datasets` writes them: a row for each image.

| column | content |
|---|---|
| the only one of bytes, or `image` | the encoded image: bytes, or a struct with `bytes` (and `path`, not used) |
| `label` (`labels`, `identity`, `cls`) | a whole number, or text; the names of a ClassLabel are the identities' |
| `landmarks` | ten numbers, `x1 y1 … x5 y5` [pixels], in all rows; no such column for aligned crops |

Other columns aren't read. A row group is decoded as a whole for any of its images (`fr/data/row_groups.py`).
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import LabelledFaces, refuse
from fr.data.readers.shards import class_labels, shard_files, shard_names, shard_points
from fr.data.readers.source import Format
from fr.data.row_groups import MOST_OF_A_GROUP
from fr.data.storage import ParquetRows
from fr.errors import InputError, in_short
from fr.files.data_root import DataRoot
from fr.progress import tracked

_REMEDY = "add a column `landmarks` with ten numbers x1 y1 … x5 y5, in pixels"
_LABELS = ("label", "labels", "identity", "cls")
_SMALLER = "write it with smaller row groups (pyarrow: row_group_size=100)"


class _Table(NamedTuple):
    """Content of one file with n rows."""

    image: str  # column of the encoded images
    names: tuple[str, ...]  # of the classes that the labels are numbers of; () = none
    labels: pa.Array  # [n] int64 or string
    points: NDArray[np.float64]  # [n, 5, 2], or [n, 0, 2] without landmarks
    groups: list[int]  # rows of each row group
    group_bytes: list[int]  # of the images of each, decoded


def read_parquet(root: DataRoot, list_file: str, aligned: bool) -> LabelledFaces:
    """All rows of the files that list_file names, one a line, or of all *.parquet below `root`, sorted by name.

    Numeric labels keep their order, text labels are ordered as by `class_labels`; gaps are closed. aligned: the images
    are aligned crops. InputError names file and row of invalid content.
    """
    files = shard_names(root, list_file, ".parquet")
    bar = tracked(files, "file", "reading labels", shown=os.environ.get("LOCAL_RANK", "0") == "0")
    tables = [_read(root.path / name, root) for name in bar]
    _check_same_columns(tables, [root.path / name for name in files])
    counts = [len(table.labels) for table in tables]
    if not sum(counts):
        raise InputError(f"--train_data_root {root}: no row in {counted(len(files), 'file')}")
    stems = [os.path.splitext(name)[0] for name in files]
    groups = [np.repeat(np.arange(len(table.groups)), table.groups) for table in tables]
    storage = ParquetRows(
        files,
        tables[0].image,
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.concatenate(groups).astype(np.int32),
        np.concatenate([np.arange(rows) for table in tables for rows in table.groups]).astype(np.int32),
        np.array([size for table in tables for size in table.group_bytes]),
    )
    names = pa.array([f"{stem}/{row}" for stem, count in zip(stems, counts, strict=True) for row in range(count)])
    landmarked = np.repeat([table.points.shape[1] > 0 for table in tables], counts)
    points = np.concatenate([np.resize(table.points, (len(table.labels), 5, 2)) for table in tables])  # 0 without

    def where(row: int) -> str:
        return storage.path(root, row, names[row].as_py())

    labels, identities = _identities(tables, where)
    points = shard_points(landmarked, points, aligned, root, where, _REMEDY)
    return LabelledFaces(root, names, points, labels, identities, storage=storage)


def _read(path: Path, root: DataRoot) -> _Table:
    try:
        with root.open_file(path) as file:
            return _table(path, pq.ParquetFile(pa.PythonFile(file, mode="r")))
    except (pa.ArrowException, ValueError, IndexError) as error:
        raise InputError(f"{path}: not a Parquet file that can be read: {in_short(error)}") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or in_short(error)}") from error


def _table(path: Path, parquet: pq.ParquetFile) -> _Table:
    schema, metadata = parquet.schema_arrow, parquet.metadata
    if len({*schema.names}) < len(schema.names):
        raise InputError(f"{path}: two of its columns have one name: {', '.join(schema.names)}")
    image = _image_column(path, schema)
    sizes = _check_images(path, metadata, image)
    label = next((name for name in _LABELS if name in schema.names), None)
    if label is None:
        raise InputError(f"{path}: no column {' or '.join(_LABELS)}; it has {', '.join(schema.names)}")
    kept = [label, *(["landmarks"] if "landmarks" in schema.names else [])]
    table = parquet.read(columns=kept, use_threads=False)
    labels = table[label].combine_chunks()
    text, number = labels.type in (pa.string(), pa.large_string()), pa.types.is_integer(labels.type)
    if not text and not number:
        raise InputError(f"{path}: column {label}: {labels.type}, and neither whole numbers nor text")
    labels = labels.cast(pa.string() if text else pa.int64())
    empty = pc.fill_null(pc.equal(labels, "") if text else pc.less(labels, 0), True)
    refuse([f"{path}: row {row}: no {label}" for row in np.flatnonzero(empty).tolist()])
    names = _class_names(path, schema, label) if number else ()
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    points = _points(path, table["landmarks"]) if len(kept) > 1 else np.zeros((len(labels), 0, 2))
    return _Table(image, names, labels, points, groups, sizes)


def _image_column(path: Path, schema: pa.Schema) -> str:
    """Parquet's name of the column with the encoded images."""
    columns = {}
    for field in schema:
        is_struct = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        kind = field.type.field("bytes").type if is_struct else field.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            columns[field.name] = f"{field.name}.bytes" if is_struct else field.name
    if "image" not in columns and len(columns) != 1:
        some = f"several columns of bytes, {', '.join(columns)}: which has the images? Name it image"
        none = f"no column of images as bytes; it has {', '.join(schema.names)}"
        raise InputError(f"{path}: {some if columns else none}")
    return columns.get("image") or next(iter(columns.values()))


def _check_images(path: Path, metadata: pq.FileMetaData, column: str) -> list[int]:
    """Decoded bytes of the images in each row group that has rows, by the footer.

    InputError for missing images, and for row groups too large to be decoded for one image.
    """
    first, sizes = 0, []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        chunk = next(chunk for chunk in chunks if chunk.path_in_schema == column)
        if chunk.total_uncompressed_size > MOST_OF_A_GROUP:
            size = f"{chunk.total_uncompressed_size:,} bytes of images, more than {MOST_OF_A_GROUP:,}"
            raise InputError(f"{path}: row group {number}: {size}; {_SMALLER}")
        missing = chunk.statistics.null_count if chunk.statistics and chunk.statistics.has_null_count else 0
        if missing:
            rows = f"rows {first}–{first + group.num_rows - 1}"
            remedy = "put the files into the table (datasets: save with embed_external_files=True)"
            raise InputError(f"{path}: {rows}: {missing:,} without {column}; {remedy}, or leave the rows out")
        first += group.num_rows
        sizes += [chunk.total_uncompressed_size] * (group.num_rows > 0)
    return sizes


def _class_names(path: Path, schema: pa.Schema, label: str) -> tuple[str, ...]:
    """The names of a ClassLabel, from the metadata of `datasets`; () if there are none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = features.get("info", {}).get("features", {}).get(label, {}).get("names") or ()
    except (ValueError, AttributeError, RecursionError):
        names = ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path}: column {label}: the names of its classes aren't a list of texts")
    if len({*names}) < len(names):
        raise InputError(f"{path}: column {label}: two of its classes have the same name")
    return tuple(names)


def _points(path: Path, column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Landmarks [n, 5, 2] of a column of ten numbers each."""
    rows = column.to_pylist()
    wrong = [row for row, numbers in enumerate(rows) if np.size(numbers) != 10 or None in np.ravel(numbers)]
    refuse([f"{path}: row {row}: landmarks that aren't ten numbers, x1 y1 … x5 y5" for row in wrong])
    return np.array([np.ravel(numbers) for numbers in rows], dtype=np.float64).reshape(-1, 5, 2)


def _check_same_columns(tables: list[_Table], paths: list[Path]) -> None:
    """Raise InputError unless all files have the same columns and class names."""
    first = tables[0]
    for table, path in zip(tables, paths, strict=True):
        if (table.image, table.labels.type) != (first.image, first.labels.type):
            raise InputError(f"{path}: its columns of images and labels aren't those of {paths[0]}")
        if table.names != first.names:
            raise InputError(f"{path}: the names of its classes aren't those of {paths[0]}")


def _identities(tables: list[_Table], where: Callable[[int], str]) -> tuple[NDArray[np.int64], list[str]]:
    """Labels [N] and identities of all rows."""
    labels, names = pa.concat_arrays([table.labels for table in tables]), tables[0].names
    if not names:
        return class_labels(labels.cast(pa.string()))
    numbers = labels.to_numpy()
    beyond = np.flatnonzero(numbers >= len(names)).tolist()
    refuse([f"{where(row)}: label {numbers[row]}, and there are {len(names):,} class names" for row in beyond])
    distinct, coded = np.unique(numbers, return_inverse=True)
    return coded.astype(np.int64), [names[number] for number in distinct.tolist()]


FORMATS = {
    "parquet": Format(
        lambda source: read_parquet(source.data_root, source.list_file, source.aligned), shard_files(".parquet")
    )
}
