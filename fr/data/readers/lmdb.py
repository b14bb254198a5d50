"""LMDB files of HaiyuWu's SOTA-Face-Recognition-Train-and-Test and Vec2Face, read without LMDB.

The keys are `0`, `1`, … in order of the images; a value is msgpack: `[image, label]`, or Vec2Face's
`[image, feature, label]`, the image as its encoded file. `__len__` holds the number of images and `__classnum__` that
of the labels, in msgpack; `__keys__` lists the keys. The images are aligned crops.
"""

import os
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa

from fr.console import counted
from fr.data.faces import LabelledFaces, refuse
from fr.data.readers.source import Format
from fr.data.storage import MOST_BYTES, TarShards, read_slice
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.lmdb_file import Damaged, entries
from fr.progress import tracked

_FORM = "keys 0, 1, … with msgpack's [image, label] or [image, feature, label]"
_AHEAD = 16  # bytes; the headers of an array and of its first item fit into them
_ARRAYS = {0x92: 2, 0x93: 3}
_INTEGERS = dict(zip(range(0xCC, 0xD4), [f">{code}" for code in "BHIQbhiq"], strict=True))
_BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}  # also those of msgpack before 1.0
_SHORT = 0xA0  # to 0xBF: bytes whose length is in the lower five bits


class _Unfit(Exception):
    """A value isn't in a form that this reader accepts."""


def read_lmdb(root: DataRoot) -> LabelledFaces:
    """The images of a folder's LMDB file in order of their keys. Identities ascend by label; gaps are closed.

    InputError names file and key of invalid content.
    """
    root.check_exists("--train_data_root")
    name = lmdb_name(root.path)
    path = root.path / name
    counts, images = _entries(root, path)
    offsets, sizes, labels = np.zeros((3, len(images)), dtype=np.int64)
    problems = []
    bar = tracked(sorted(images), "image", "reading labels", shown=os.environ.get("LOCAL_RANK", "0") == "0")
    for row, key in enumerate(bar):
        try:
            offsets[row], sizes[row], labels[row] = _image_and_label(str(path), *images[key], root)
        except (_Unfit, OSError) as error:
            problems.append(f"{path}: key {key}: {getattr(error, 'strerror', error)}")
    refuse(problems)
    count = counts.get("__len__", len(images))
    if count != len(images) or not images:
        raise InputError(f"{path}: {counted(len(images), 'image')}, but __len__ is {count:,}; write or copy it again")
    classes = counts.get("__classnum__", int(labels.max()) + 1)
    keys = np.array(sorted(images))
    refuse([
        f"{path}: key {keys[row]}: its label {labels[row]} isn't one of the {classes:,} of __classnum__"
        for row in np.flatnonzero(labels >= classes).tolist()
    ])
    distinct, coded = np.unique(labels, return_inverse=True)
    fewer = f"{path} gives {counted(classes, 'class')}, but the images are of {len(distinct):,}"
    return LabelledFaces(
        root,
        pa.array(keys).cast(pa.string()),
        np.zeros((len(keys), 0, 2)),
        coded.astype(np.int64),
        [str(label) for label in distinct.tolist()],
        storage=TarShards([name], np.zeros(len(keys), dtype=np.int32), offsets, sizes),
        notes=(fewer,) if len(distinct) < classes else (),
    )


def lmdb_name(folder: Path) -> str:
    """Path of a folder's LMDB file, relative to it: `data.mdb`, or its only `*.lmdb`, a file or a folder."""
    if (folder / "data.mdb").exists():
        return "data.mdb"
    names = sorted(path.name for path in folder.glob("*.lmdb"))
    if len(names) != 1:
        several = f"several *.lmdb: {', '.join(names[:3])}; give each a folder"
        raise InputError(f"--train_data_root {folder}: {several if names else 'no data.mdb or *.lmdb in it'}")
    return f"{names[0]}/data.mdb" if (folder / names[0]).is_dir() else names[0]


def _entries(root: DataRoot, path: Path) -> tuple[dict[str, int], dict[int, tuple[int, int]]]:
    """Values of `__len__` and `__classnum__`; offset and size [bytes] of each image's value by its key."""
    counts: dict[str, int] = {}
    images: dict[int, tuple[int, int]] = {}
    try:
        with root.open_file(path) as file:
            for key, offset, size in entries(file.fileno()):
                if key in (b"__len__", b"__classnum__"):
                    counts[key.decode()] = _integer(os.pread(file.fileno(), min(size, _AHEAD), offset))
                elif key.isdigit() and len(key) <= 18 and int(key) not in images:
                    images[int(key)] = offset, size
                elif key != b"__keys__":
                    raise InputError(f"{path}: key {key!r}: not one of {_FORM}")
    except (Damaged, _Unfit) as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    return counts, images


def _image_and_label(path: str, offset: int, size: int, root: DataRoot) -> tuple[int, int, int]:
    """Offset and size [bytes] of the image in a value, and its label; _Unfit, OSError, OutsideRoot."""

    def ahead(place: int) -> bytes:
        return read_slice(path, offset + place, max(0, min(_AHEAD, size - place)), root.boundary)

    head = ahead(0)
    parts = _ARRAYS.get(head[0], 0) if head else 0
    if not parts:
        raise _Unfit(f"not {_FORM}")
    begin, length = _span(head[1:])
    place = 1 + begin + length
    if parts == 3:
        place += sum(_span(ahead(place)))
    label = _integer(ahead(place))
    if not 0 < length <= MOST_BYTES:
        raise _Unfit(f"an image of {length:,} bytes")
    if not 0 <= label < 1 << 31:
        raise _Unfit(f"the label {label}")
    return offset + 1 + begin, length, label


def _span(data: bytes) -> tuple[int, int]:
    """Offset and length of the bytes whose msgpack header is at the start of `data`."""
    if data and _SHORT <= data[0] < _SHORT + 32:
        return 1, data[0] - _SHORT
    return _number(data, _BYTES)


def _integer(data: bytes) -> int:
    """The whole number at the start of the msgpack `data`."""
    if data and data[0] < 0x80:
        return data[0]
    return _number(data, _INTEGERS)[1]


def _number(data: bytes, forms: dict[int, str]) -> tuple[int, int]:
    """Length of a header [bytes], and the number in it."""
    form = forms.get(data[0], "") if data else ""
    if not form or len(data) < 1 + struct.calcsize(form):
        raise _Unfit(f"not {_FORM}")
    return 1 + struct.calcsize(form), struct.unpack_from(form, data, 1)[0]


FORMATS = {
    "lmdb": Format(
        lambda source: read_lmdb(source.data_root), lambda source: [Path(source.root, lmdb_name(Path(source.root)))]
    )
}
