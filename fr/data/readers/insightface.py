"""Training data in insightface's format: `train.rec`, `train.idx` and `property` in one folder, read without MXNet.

`train.idx` has a line `key<tab>offset` for each record of the RecordIO file `train.rec` (`fr/files/record_io.py`).
`property` is `classes,height,width`; insightface's rec_builder.py adds the number of images in a second line, MXNet's
im2rec doesn't. The first label of an image's record is its class; images are aligned crops.
Record 0 may be a header, with labels a, b and no image: then records 1 … a - 1 are the images, ordered by class, and
each of a … b - 1 describes an identity, with the first of its images and the one after its last as labels
(insightface's `face2rec2.py`). So the classes of millions of images are known from two records for each identity.
"""

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import LabelledFaces, refuse
from fr.data.readers.source import Format
from fr.data.storage import MOST_BYTES, RecordFile, read_slice
from fr.errors import InputError, in_short, os_error_as
from fr.files.data_root import DataRoot
from fr.files.record_io import Damaged, unpack
from fr.files.untrusted import open_file, read_text
from fr.progress import tracked

FILES = ("train.rec", "train.idx", "property")
_EXACT = 1 << 24  # records store keys as float32, which represents all whole numbers up to here, but not beyond
_NAMED = 3  # records left out that are listed by number
_UNKNOWN, _NO_PICTURE = -1, -2  # in place of a class

Keys = NDArray[np.int64]


class _Records:
    """The records of a file at the offsets in its index, by ascending key."""

    def __init__(self, path: Path, index: Path) -> None:
        with os_error_as(f"{path}: can't be read"):
            size = path.stat().st_size
        keys, offsets = _read_index(index, path, size)
        by_offset, by_key = np.argsort(offsets), np.argsort(keys)
        sizes = np.empty_like(offsets)
        # Up to the next record in the index, which may be far if the index lists only some records.
        sizes[by_offset] = np.minimum(np.diff(offsets[by_offset], append=size), MOST_BYTES)
        self.path = path
        self.keys, self.offsets, self.sizes = keys[by_key], offsets[by_key], sizes[by_key]

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """Rows of the records with these keys; InputError names those that the index lacks."""
        rows = np.searchsorted(self.keys, keys)
        missing = self.keys[np.minimum(rows, len(self.keys) - 1)] != keys
        refuse([f"{self.path.with_suffix('.idx')}: no record {key}" for key in keys[missing].tolist()])
        return rows

    def labels(self, row: int) -> tuple[list[float], bool]:
        """The first two labels of a record, and True if it has an image; Damaged if it can't be read."""
        try:
            data = read_slice(str(self.path), int(self.offsets[row]), int(self.sizes[row]), None)
        except OSError as error:
            raise Damaged(error.strerror) from error
        header, picture = unpack(data)
        return header.labels[:2].tolist(), len(picture) > 0


def read_records(root: DataRoot) -> LabelledFaces:
    """The images of a folder's records in order of their keys. Classes ascend by label; gaps are closed.

    A record that can't be read is left out if nothing else gives its class. InputError if the files contradict each
    other.
    """
    root.check_exists("--train_data_root")
    path, index, facts = files = record_files(root.path)
    if not path.exists() and len(names := sorted(file.name for file in root.path.glob("*.rec"))) != 1:
        several = f"several .rec in it, and none is {FILES[0]}: {', '.join(names[:5])}"
        raise InputError(f"--train_data_root {root}: {several if names else 'no .rec in it'}")
    for file in files:
        root.check_inside(file)
    count = _class_count(facts)
    records = _Records(path, index)
    rows, bounds = _groups(records)
    shown = os.environ.get("LOCAL_RANK", "0") == "0"  # reading every record takes a minute; one rank shows progress
    groups = tracked(bounds, "group", "reading labels", shown=shown)
    classes = np.repeat([_class(records, rows[first:end]) for first, end in groups], np.diff(bounds).ravel())
    lost, rows, classes = rows[classes == _UNKNOWN], rows[classes >= 0], classes[classes >= 0]
    if not len(rows):
        raise InputError(f"{path}: no image can be read; does {index} belong to it?")
    refuse([
        f"{path}: record {records.keys[rows[i]]}: its class {classes[i]:,} isn't one of the {count:,} of {facts}"
        for i in ([] if count is None else np.flatnonzero(classes >= count).tolist())
    ])
    distinct, labels = np.unique(classes, return_inverse=True)
    notes = _notes(path, records.keys[lost].tolist())
    if count is not None and len(distinct) < count:
        notes.append(f"{facts} gives {counted(count, 'class')}, but the images are of {len(distinct):,}")
    return LabelledFaces(
        root,
        pa.array(records.keys[rows]).cast(pa.string()),
        np.zeros((len(rows), 0, 2)),
        labels.astype(np.int64),
        [str(label) for label in distinct.tolist()],
        storage=RecordFile(path.name, records.offsets[rows], records.sizes[rows]),
        notes=tuple(notes),
    )


def record_files(folder: Path) -> list[Path]:
    """Records, index and property file of a folder: FILES, or the files of its only `.rec` if it has another name."""
    named = folder / FILES[0]
    others = [] if named.exists() else list(folder.glob("*.rec"))
    records = others[0] if len(others) == 1 else named
    return [records, records.with_suffix(".idx"), folder / FILES[2]]


def _groups(records: _Records) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the records that may be images [N], and start and end in these of each group of one class [G, 2]."""
    ranges = _identity_ranges(records)
    if ranges is not None:
        return records.rows(np.arange(1, ranges[-1, 1])), ranges - 1
    every = np.arange(len(records.keys))
    return every, np.stack([every, every + 1], axis=1)


def _identity_ranges(records: _Records) -> NDArray[np.int64] | None:
    """First key and the one after the last of each identity's images [R, 2], ascending.

    None unless the header and the records of identities cover all of 1 … a - 1 exactly.
    """
    try:
        labels, pictured = records.labels(0)
        bounds = _whole(labels)
        if records.keys[0] != 0 or pictured or bounds is None:
            return None
        first, last = bounds
        if last > len(records.keys):
            raise InputError(
                f"{records.path}: its header counts {counted(last, 'record')}, and its index {len(records.keys):,}; do "
                "they belong together?"
            )
        pairs = [_whole(records.labels(row)[0]) for row in records.rows(np.arange(first, last)).tolist()]
    except Damaged:
        return None
    ranges = np.array(sorted(pair for pair in pairs if pair), dtype=np.int64).reshape(-1, 2)
    edges = [1, *ranges[:, 1].tolist()]
    gapless = len(ranges) == last - first > 0 and ranges[:, 0].tolist() == edges[:-1] and edges[-1] == first
    return ranges if gapless else None


def _whole(labels: list[float]) -> tuple[int, int] | None:
    """Two labels as keys; None if they aren't whole numbers that float32 represents exactly."""
    if len(labels) < 2 or not all(1 <= label <= _EXACT and label.is_integer() for label in labels[:2]):
        return None
    return int(labels[0]), int(labels[1])


def _class(records: _Records, rows: NDArray[np.int64]) -> int:
    """The class of a group, from its first readable record."""
    for row in rows.tolist():
        try:
            labels, pictured = records.labels(row)
        except Damaged:
            continue
        if not pictured:
            return _NO_PICTURE
        if 0 <= labels[0] < _EXACT and labels[0].is_integer():
            return int(labels[0])
    return _UNKNOWN


def _notes(path: Path, lost: list[int]) -> list[str]:
    if not lost:
        return []
    named = ", ".join(map(str, lost[:_NAMED])) + (", …" if len(lost) > _NAMED else "")
    return [f"{counted(len(lost), 'record')} of {path} whose class can't be read left out: {named}"]


def _class_count(path: Path) -> int | None:
    """The number of classes in a property file; None without the file."""
    if not path.exists():
        return None
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*,\s*[0-9]+\s*,\s*[0-9]+\s*(\n\s*[0-9]+\s*)?", read_text(path))
    if not match:
        raise InputError(f"{path}: isn't `classes,height,width`, with or without the number of images on a second line")
    return int(match[1])


def _read_index(path: Path, of: Path, size: int) -> tuple[Keys, NDArray[np.int64]]:
    """Keys and offsets [bytes] of the records of a file of `size` bytes, as its index has them."""
    columns = {"key": pa.int64(), "offset": pa.int64()}
    try:
        with open_file(path) as file:
            table = pyarrow.csv.read_csv(
                file,
                pyarrow.csv.ReadOptions(column_names=list(columns)),
                pyarrow.csv.ParseOptions(delimiter="\t"),
                pyarrow.csv.ConvertOptions(column_types=columns, null_values=[]),
            )
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except pa.ArrowInvalid as error:
        read_text(path)  # raises if it isn't text at all
        raise InputError(f"{path}: isn't lines of `key<tab>offset`: {in_short(error)}") from error
    keys, offsets = table["key"].to_numpy(), table["offset"].to_numpy()
    if not len(keys):
        raise InputError(f"{path}: the index is empty")
    unfit = (offsets < 0) | (offsets >= size) | (offsets % 4 != 0)
    refuse([
        f"{path}: record {keys[i]} at {offsets[i]:,}, where in the {size:,} bytes of {of} none can begin"
        for i in np.flatnonzero(unfit).tolist()
    ])
    for column, what in ((keys, "key"), (offsets, "offset")):
        values, counts = np.unique(column, return_counts=True)
        refuse([f"{path}: the {what} {value} for the second time" for value in values[counts > 1].tolist()])
    return keys, offsets


FORMATS = {
    "rec": Format(
        lambda source: read_records(source.data_root),
        lambda source: [path for path in record_files(Path(source.root)) if path.name != FILES[2] or path.exists()],
    )
}
