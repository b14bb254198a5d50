"""WebDataset: tar files ("shards") in which the files of a sample share a key.

The key is the path up to the last dot; the ending is the role of the file:

| file | content |
|---|---|
| `key.jpg` (`.jpeg`, `.jpe`, `.jfif`, `.png`, `.webp`, `.bmp`) | the encoded image |
| `key.cls` | the class: a whole number or a name, as text |
| `key.landmarks` | ten numbers, `x1 y1 … x5 y5` [pixels], as text: eyes, nose, corners of the mouth, left ones first |

Other files are skipped and counted; so are images such as `key.mask.png` beside a sample `key`. Either all samples have
landmarks, or none and the images must be aligned crops.
A shard is read in place: nothing is unpacked, and no file is created by a name in it. Names that lead out of a folder
are refused nevertheless, since tools write files with the names that are read here.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import LabelledFaces, refuse
from fr.data.lines import STAYS, strays, true_rows
from fr.data.readers.folders import others_note
from fr.data.readers.shards import class_labels, shard_names, shard_points
from fr.data.storage import TarShards
from fr.errors import InputError, os_error_as
from fr.files.data_root import DataRoot
from fr.files.names import is_unicode
from fr.files.tar_members import CutShort, tar_members
from fr.progress import tracked

IMAGE_ENDINGS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp")
_ROLES = dict.fromkeys(IMAGE_ENDINGS, "image") | {"cls": "class", "landmarks": "landmarks"}
_LONGEST = 1_000  # bytes of a class or of landmarks
_REMEDY = (
    "pack the images again with tools/pack_dataset.py and their landmarks, which tools/detect_faces.py finds in a "
    "folder of images"
)
_QUOTED = 80  # characters of a text that a message shows
_NOWHERE = [0.0] * 10
_Samples = dict[str, dict[str, "_Member"]]  # key → role → file


class _Member(NamedTuple):
    """A file in a shard; offset and size in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Shard:
    """Content of one shard. n samples."""

    names: pa.StringArray  # [n] of the images
    classes: pa.StringArray  # [n]
    points: NDArray[np.float64]  # [n, 5, 2]; meaningless for samples without landmarks
    landmarked: NDArray[np.bool_]  # [n]
    offsets: NDArray[np.int64]  # [n] of the images
    sizes: NDArray[np.int64]  # [n]
    imageless: int  # samples left out
    others: Counter[str]  # files left out, by ending
    note: str
    problems: list[str]


def read_tar(root: DataRoot, list_file: str, aligned: bool) -> LabelledFaces:
    """All samples of the shards that list_file names, one a line, or of all *.tar below `root`, sorted by name.

    Labels are in the order of the classes, as numbers if all are whole numbers, else as text; gaps are closed. aligned:
    the images are aligned crops. Of a truncated shard the complete samples are used, with a note. InputError names
    shard and member of invalid content.
    """
    shards = shard_names(root, list_file, ".tar")
    # It takes a minute for a million samples: the first rank of a host shows the progress.
    bar = tracked(shards, "shard", "reading shards", shown=os.environ.get("LOCAL_RANK", "0") == "0")
    parts = [index_shard(root.path / name, root, str(root.path / name)) for name in bar]
    storage = TarShards(
        shards,
        np.repeat(np.arange(len(shards), dtype=np.int32), [len(part.names) for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.sizes for part in parts]),
    )
    return labelled(root, parts, storage, aligned, str(root))


def labelled(root: DataRoot, parts: list[Shard], storage: TarShards, aligned: bool, called: str) -> LabelledFaces:
    """Faces from the shards' contents; called: name of the data root in messages. InputError as in `read_tar`."""
    refuse([problem for part in parts for problem in part.problems])
    names = pa.concat_arrays([part.names for part in parts])
    if not len(names):
        raise InputError(f"--train_data_root {called}: no sample in {counted(len(parts), 'shard')}")

    def where(row: int) -> str:
        return storage.path(root, row, names[row].as_py()[:_QUOTED])

    refuse([f"{where(row)}: {STAYS}" for row in true_rows(strays(names, root)).tolist()])
    landmarked = np.concatenate([part.landmarked for part in parts])
    points = shard_points(landmarked, np.concatenate([part.points for part in parts]), aligned, root, where, _REMEDY)
    labels, identities = class_labels(pa.concat_arrays([part.classes for part in parts]))
    notes = _notes(parts, called)
    return LabelledFaces(root, names, points, labels, identities, storage=storage, notes=notes)


def _notes(parts: list[Shard], root: str) -> tuple[str, ...]:
    imageless = sum(part.imageless for part in parts)
    samples = f"{counted(imageless, 'sample')} without an image (.{', .'.join(IMAGE_ENDINGS)}) left out"
    left_out = [samples] if imageless else []
    others = sum((part.others for part in parts), Counter())
    return (*(part.note for part in parts if part.note), *left_out, *others_note(root, others))


def index_shard(path: Path, root: DataRoot, called: str) -> Shard:
    """Content of a shard; called: its name in messages. InputError if it can't be read."""
    with os_error_as(f"{called}: can't be read"), root.open_file(path) as file:
        samples, others, problems, cut = _samples(file, called)
        return _contents(file, called, samples, others, problems, cut)


def _samples(file: BinaryIO, path: str) -> tuple[_Samples, Counter[str], list[str], bool]:
    """Files of the samples, number of other files by ending, problems, and True if the shard is truncated."""
    samples: _Samples = {}
    others: Counter[str] = Counter()
    problems: list[str] = []
    try:
        for member in tar_members(file, path):
            key, role = _key_and_role(member.name)
            if member.isdir() or os.path.basename(member.name).startswith("."):
                continue
            if not role:
                others[os.path.splitext(member.name)[1].lower()] += 1
                continue
            parts = samples.setdefault(key, {})
            if not is_unicode(member.name):
                problems.append(f"{path}: {member.name!r}: the name isn't UTF-8")
            elif not member.isreg() or member.issparse():
                problems.append(
                    f"{path}: {member.name}: a link or another special file; with --dereference and --hard-dereference "
                    "tar puts the file itself there"
                )
            elif role in parts:
                problems.append(f"{path}: {member.name}: a second {role} of {key}")
            else:
                parts[role] = _Member(member.name.removeprefix("./"), member.offset_data, member.size)
    except CutShort:
        _drop_half_a_sample(samples, os.fstat(file.fileno()).st_size)
        return samples, others, problems, True
    return samples, others, problems, False


def _drop_half_a_sample(samples: _Samples, file_size: int) -> None:
    """Drop the last sample of a truncated shard, unless only its image is truncated: that is an ordinary bad image."""
    if not samples:
        return
    whole = next(iter(samples.values()))
    key, last = samples.popitem()
    cut = [role for role, member in last.items() if member.offset + member.size > file_size]
    if last.keys() == whole.keys() and cut in ([], ["image"]):
        samples[key] = last


def _key_and_role(name: str) -> tuple[str, str]:
    """Key of the sample that a member belongs to, and its role; "" if it has none."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ending = base.rpartition(".")
    return folder + slash + stem, _ROLES.get(ending.lower(), "")


def _shorter(key: str) -> str:
    """A key up to the first dot of its last part, which is WebDataset's key; "" if that is the key itself."""
    folder, slash, base = key.rpartition("/")
    stem, dot, _ = base.partition(".")
    return folder + slash + stem if dot else ""


def _contents(
    file: BinaryIO, path: str, samples: _Samples, others: Counter[str], problems: list[str], cut: bool
) -> Shard:
    """The columns of a shard's samples. others, problems: found so far; extended here."""
    images: list[_Member] = []
    classes: list[str] = []
    points: list[list[float]] = []
    for key, parts in samples.items():
        if "image" not in parts:
            continue
        if parts.keys() == {"image"} and _shorter(key) in samples:
            others[parts["image"].name.removeprefix(_shorter(key))] += 1
            continue
        try:
            if "class" not in parts:
                raise InputError(f"{path}: {parts['image'].name}: no {key}.cls with its class")
            name = _class(file, path, parts["class"])
            points.append(_points(file, path, parts["landmarks"]) if "landmarks" in parts else _NOWHERE)
        except InputError as error:
            problems += error.problems
        else:
            classes.append(name)
            images.append(parts["image"])
    note = f"{path} is cut short or damaged: {len(images):,} samples in it are used, what follows isn't"
    return Shard(
        pa.array([image.name for image in images], type=pa.string()),
        pa.array(classes, type=pa.string()),
        np.array(points, dtype=np.float64).reshape(-1, 5, 2),
        np.array([numbers is not _NOWHERE for numbers in points], dtype=np.bool_),
        np.array([image.offset for image in images], dtype=np.int64),
        np.array([image.size for image in images], dtype=np.int64),
        sum("image" not in parts for parts in samples.values()),
        others,
        note if cut else "",
        problems,
    )


def _class(file: BinaryIO, path: str, member: _Member) -> str:
    text = _text(file, path, member).strip()
    if not text or not text.isprintable():
        raise InputError(f"{path}: {member.name}: {text[:_QUOTED]!r} isn't a class")
    return text


def _points(file: BinaryIO, path: str, member: _Member) -> list[float]:
    text = _text(file, path, member)
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) != len(_NOWHERE):
        raise InputError(f"{path}: {member.name}: {text[:_QUOTED]!r} isn't `x1 y1 … x5 y5`")
    return numbers


def _text(file: BinaryIO, path: str, member: _Member) -> str:
    if member.size > _LONGEST:
        raise InputError(f"{path}: {member.name}: longer than {_LONGEST:,} bytes")
    try:
        return os.pread(file.fileno(), member.size, member.offset).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {member.name}: not UTF-8 text") from error
