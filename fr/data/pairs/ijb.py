"""IJB-B and IJB-C, 1:1 verification, in insightface's layout (`recognition/arcface_torch/eval_ijbc.py`).

`loose_crop/` holds the images. `meta/` holds, with `ijbb` or `ijbc` for x:
- `x_face_tid_mid.txt`, lines `name template media`: the members of a template; the frames of a video are one media;
- `x_name_5pts_score.txt`, lines `name x1 y1 … x5 y5 score` for the same images in the same order: landmarks in pixels
  of the image, and the detector's score;
- `x_template_pair_label.txt`, lines `template template 0|1`: the millions of pairs to score.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import Faces, check_landmarks, refuse, refuse_rows
from fr.data.lines import single_spaces, strays, true_rows
from fr.data.pairs.pair_faces import check_kinds
from fr.errors import InputError, os_error_as
from fr.files.data_root import DataRoot
from fr.files.untrusted import read_bytes, read_text

_MEMBERS, _POINTS, _PAIRS = "_face_tid_mid.txt", "_name_5pts_score.txt", "_template_pair_label.txt"
_ROUNDING = 1e-4  # scores may exceed 1 by so much, from detectors that compute in float16 or float32
_NAMED, _WHOLE, _NUMBER = pa.string(), pa.int64(), pa.float64()


@dataclass(frozen=True)
class Ijb:
    """N images, T templates, P pairs."""

    name: str  # ijbb or ijbc
    faces: Faces
    ids: NDArray[np.int64]  # [T] of the templates as the files number them, ascending
    template: NDArray[np.int64]  # [N] 0 … T - 1
    media: NDArray[np.int64]  # [N] as the file numbers them
    detector: NDArray[np.float64]  # [N] 0 … 1
    pairs: NDArray[np.int32]  # [P, 2] templates
    same: NDArray[np.bool_]  # [P]


def read_ijb(root: DataRoot) -> Ijb:
    """IJB-B or IJB-C from its folder.

    InputError names lines that don't fit, pairs of unknown templates, and images that are missing.
    """
    root.check_exists("the set")
    folder, crops = root.path, root.below("loose_crop")
    pair_lists = sorted((folder / "meta").glob(f"*{_PAIRS}"))
    if len(pair_lists) != 1:
        raise InputError(f"{folder}/meta: {len(pair_lists)} files *{_PAIRS}; a folder holds one set, IJB-B or IJB-C")
    name = pair_lists[0].name.removesuffix(_PAIRS)
    members, points = (folder / "meta" / f"{name}{ending}" for ending in (_MEMBERS, _POINTS))
    pictures, templates, media = _columns(members, [_NAMED, _WHOLE, _WHOLE])
    again, *numbers = _columns(points, [_NAMED, *[_NUMBER] * 11])
    if len(again) != len(pictures):
        raise InputError(f"{points}: {counted(len(again), 'image')}, where {members} has {len(pictures):,}")
    differ = true_rows(pc.not_equal(again, pictures))
    strayed = true_rows(pc.or_(strays(pictures, crops), pc.equal(pictures, "")))
    refuse([f"{points}:{i + 1}: {again[i]}, where {members} has {pictures[i]}" for i in differ.tolist()])
    inside = f"a path must start from {crops} and stay there"
    refuse([f"{members}:{i + 1}: {pictures[i].as_py()[:80]!r}: {inside}" for i in strayed.tolist()])
    landmarks = np.stack([column.to_numpy() for column in numbers[:10]], axis=1).reshape(-1, 5, 2)
    check_landmarks(landmarks, lambda i: f"{points}:{i + 1}")
    detector = numbers[10].to_numpy()
    detector = np.where((detector > 1) & (detector <= 1 + _ROUNDING), 1, detector)
    unsure = np.flatnonzero(~((detector > 0) & (detector <= 1))).tolist()  # true for NaN, too
    refuse([f"{points}:{i + 1}: a score of {detector[i]:g}; it must be above 0 and at most 1" for i in unsure])
    known, template = np.unique(templates.to_numpy(), return_inverse=True)
    pairs, same = _pairs(pair_lists[0], known, members)
    faces = Faces(crops, pictures, landmarks)
    _check_images(faces, members)
    return Ijb(name, faces, known, template.astype(np.int64), media.to_numpy(), detector, pairs, same)


def _pairs(path: Path, known: NDArray[np.int64], members: Path) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    first, second, label = (column.to_numpy() for column in _columns(path, [_WHOLE, _WHOLE, _WHOLE]))
    refuse_rows(np.flatnonzero(label & ~1), lambda i: f"{path}:{i + 1}: {label[i]} where 0 or 1 is due")
    pairs = np.empty((len(first), 2), dtype=np.int32)
    for side, ids in enumerate((first, second)):
        pairs[:, side] = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    strange = (known[pairs[:, 0]] != first) | (known[pairs[:, 1]] != second)
    refuse_rows(
        np.flatnonzero(strange), lambda i: f"{path}:{i + 1}: {first[i]} or {second[i]} is no template of {members}"
    )
    same = label == 1
    check_kinds(same, path)
    return pairs, same


def _columns(path: Path, types: list[pa.DataType]) -> list[pa.Array]:
    """The words of all lines, separated by spaces; InputError for a malformed or empty file."""
    names = [str(place) for place in range(len(types))]

    def read(file: Any) -> pa.Table:
        return pyarrow.csv.read_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            parse_options=pyarrow.csv.ParseOptions(delimiter=" ", quote_char=False, ignore_empty_lines=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict(zip(names, types, strict=True)), null_values=[], strings_can_be_null=False
            ),
        )

    try:
        try:
            table = read(path)
        except pa.ArrowInvalid:  # tabs or several spaces; replacing them takes longer than reading
            table = read(pa.BufferReader(single_spaces(read_bytes(path))))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise InputError(next(_problems(path, types), f"{path}: {str(error).splitlines()[0][:200]}")) from error
    if not len(table):
        raise InputError(f"{path}: it is empty")
    return [column.combine_chunks() for column in table.columns]


def _problems(path: Path, types: list[pa.DataType]) -> Iterator[str]:
    """Messages about lines that Arrow can't read. Found by a slow search: its messages seldom name them."""
    readers = {_NAMED: str, _WHOLE: int, _NUMBER: float}
    for number, line in enumerate(read_text(path).rstrip().split("\n"), start=1):
        words = line.split()
        try:
            for read, word in zip((readers[kind] for kind in types), words, strict=True):
                read(word)
        except ValueError:
            yield f"{path}:{number}: {line[:80]!r} isn't {len(types)} words with blanks between, numbers after a name"


def _check_images(faces: Faces, members: Path) -> None:
    """Raise InputError for missing images.

    By one listing of the folder: on a file server, a request for each of half a million images would take minutes.
    """
    with os_error_as(f"{faces.root}: can't be read"):
        there = pa.array([entry.name for entry in os.scandir(faces.root.path)], type=pa.string())
    unlisted = true_rows(pc.invert(pc.is_in(faces.names, value_set=there))).tolist()
    refuse([f"{members}:{i + 1}: {faces.path(i)}: no such file" for i in unlisted if not os.path.exists(faces.path(i))])
