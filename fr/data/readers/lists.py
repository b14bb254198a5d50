"""Lists with the identity of each image, some with landmarks and box as well.

| format | line | landmarks |
|---|---|---|
| list | `path id` (FaceTechnologyTool), or `path<TAB>identity` | none: a CSV beside it, or aligned crops |
| trp | `path label x1 y1 … x5 y5` (Trillion Pairs, as face_recognition.pytorch reads it) | pixels |
| ms1m | `id/img | x1 y1 … x5 y5 | x y w h` (MS-Celeb-1M, from its align_images.py) | fractions of the box |
| imdbface | the same (IMDB-Face) | fractions of the whole image; the box isn't used |

Paths may hold spaces, and so may an identity after a tab. Lines of ms1m and imdbface without three fields are images in
which no face was found.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import FRACTIONS, LabelledFaces, check_landmarks, refuse, with_first_image
from fr.data.landmark_csv import given_landmarks
from fr.data.lines import Lines, folder_classes, read_lines, sorted_classes, true_rows
from fr.data.readers.source import Format, text_files
from fr.errors import InputError
from fr.files.data_root import DataRoot

_WHOLE = "[0-9]{1,18}"
_FORM = "`id/img | x1 y1 … x5 y5 | x y w h`"


def read_labelled_list(root: DataRoot, list_file: str, landmarks: str) -> LabelledFaces:
    """Read `path id` or `path<TAB>id` a line. Labels are in the order of the ids, as numbers if all are whole numbers.

    landmarks: as in `read_vgg`; "" for aligned crops. InputError names file and line of invalid content.
    """
    root.check_exists("--train_data_root")
    lines = read_lines(Path(list_file))
    path, identity = lines.columns(parts_of(lines.texts), 2, "`path id`")
    names = lines.paths(path, root)
    points = given_landmarks(names, landmarks, lines.path, lines.where)
    ids = identity.unique().to_pylist()
    numbered = all(re.fullmatch(_WHOLE, name) for name in ids)
    labels, identities = sorted_classes(identity, int if numbered else None)
    return with_first_image(LabelledFaces(root, names, points, labels, identities), "--train_data_root")


def parts_of(texts: pa.LargeStringArray) -> pa.ListArray:
    """Path and identity of each line [N], split at its last tab, or else its last space; one part if there is none."""
    at_spaces = pc.ascii_split_whitespace(texts, max_splits=1, reverse=True)
    tabs = pc.match_substring(texts, "\t")
    if not pc.any(tabs).as_py():  # faster by ten times than the code below
        return at_spaces
    return pc.if_else(tabs, pc.split_pattern(texts, "\t", max_splits=1, reverse=True), at_spaces)


def read_trillion_pairs(root: DataRoot, list_file: str) -> LabelledFaces:
    """Read `path label x1 y1 … x5 y5` a line, in pixels. Classes ascend by label; gaps are closed.

    InputError names file and line of invalid content.
    """
    root.check_exists("--train_data_root")
    lines = read_lines(Path(list_file))
    form = "`path label x1 y1 … x5 y5`"
    parts = pc.ascii_split_whitespace(lines.texts, max_splits=11, reverse=True)
    path, label = lines.columns(parts, 12, form)[:2]
    lines.refuse_malformed(form, pc.invert(pc.match_substring_regex(label, f"^{_WHOLE}$")))
    words = pc.list_flatten(pc.list_slice(parts, 2, 12))
    names, points = lines.paths(path, root), lines.points(words)
    check_landmarks(points, lines.where)
    labels, identities = sorted_classes(label, int)
    return with_first_image(LabelledFaces(root, names, points, labels, identities), "--train_data_root")


def read_ms1m(root: DataRoot, list_file: str) -> LabelledFaces:
    """Read `id/img | landmarks | x y w h` a line, the landmarks as fractions of the box, the box in whole pixels.

    A box is cut at the edges of the image, and a negative number is read as 0 (as in face_recognition.pytorch).
    Classes are in order of first appearance. InputError names file and line of invalid content.
    """
    detected = _detected(Path(list_file))
    lines = detected.lines
    words = lines.words(detected.boxes, 4, _FORM)
    whole = pc.match_substring_regex(words, r"^-?[0-9]{1,9}$").to_numpy(zero_copy_only=False).reshape(-1, 4)
    lines.refuse_malformed(_FORM, pa.array(~whole.all(axis=1)))
    boxes = np.maximum(words.cast(pa.float64()).to_numpy().reshape(-1, 4), 0)
    refuse([f"{lines.where(i)}: the box is empty" for i in true_rows(pa.array((boxes[:, 2:] == 0).any(axis=1)))])
    return _detected_faces(root, detected, boxes)


def read_imdb_face(root: DataRoot, list_file: str) -> LabelledFaces:
    """Read IMDB-Face: as `read_ms1m`, but the landmarks are fractions of the whole image, and the box isn't read."""
    detected = _detected(Path(list_file))
    whole = np.tile([0.0, 0.0, np.inf, np.inf], (len(detected.lines.numbers), 1))
    return _detected_faces(root, detected, whole)


def has_face(texts: pa.Array) -> pa.BooleanArray:
    """Mask [N] of the lines of ms1m or imdbface with landmarks and box."""
    return pc.greater_equal(pc.count_substring(texts, "|"), 2)


@dataclass(frozen=True)
class _Detected:
    """The three fields of the lines with a face, and notes about the others."""

    lines: Lines
    names: pa.Array
    points: pa.Array
    boxes: pa.Array
    notes: tuple[str, ...]


def _detected(path: Path) -> _Detected:
    lines = read_lines(path)
    with_face = has_face(lines.texts).to_numpy(zero_copy_only=False)
    if not with_face.any():
        raise InputError(f"{path}: no face in any line; a line with one is {_FORM}")
    failed = int(len(with_face) - with_face.sum())
    notes = (f"{counted(failed, 'image')} of {path} without a face left out",) if failed else ()
    lines = lines.chosen(with_face)
    names, points, boxes = lines.columns(pc.split_pattern(lines.texts, "|"), 3, _FORM)
    return _Detected(lines, pc.utf8_rtrim_whitespace(names), points, boxes, notes)


def _detected_faces(root: DataRoot, detected: _Detected, boxes: NDArray[np.float64]) -> LabelledFaces:
    root.check_exists("--train_data_root")
    lines = detected.lines
    names, points = lines.paths(detected.names, root), lines.points(lines.words(detected.points, 10, _FORM))
    refuse([f"{lines.where(i)}: not <identity>/<file>" for i in true_rows(pc.invert(pc.match_substring(names, "/")))])
    check_landmarks(points, lines.where, FRACTIONS)
    labels, identities = folder_classes(names)
    faces = LabelledFaces(root, names, points, labels, identities, boxes=boxes, notes=detected.notes)
    return with_first_image(faces, "--train_data_root")


def _format(reader: Callable[[DataRoot, str], LabelledFaces]) -> Format:
    return Format(lambda source: reader(source.data_root, source.list_file), text_files)


FORMATS = {
    "list": Format(lambda source: read_labelled_list(source.data_root, source.list_file, source.landmarks), text_files),
    "ms1m": _format(read_ms1m),
    "imdbface": _format(read_imdb_face),
    "trp": _format(read_trillion_pairs),
}
