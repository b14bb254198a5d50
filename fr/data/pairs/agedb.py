"""AgeDB (Moschoglou et al., CVPR Workshops 2017) in its published form: protocols and images.

`04_FINAL_protocol_30_years.mat` (also 5, 10, 20) has the variable `splits`: a cell for each of ten folds, with one
structure of two fields: the pairs, 2 x 600 cells of structures whose first field is the name of an image without
ending; and their kinds, 1 for one person and -1 for two. `03_Protocol_Images/` has the images, and beside each its 68
landmarks (iBUG's order) in `NAME.pts`. If there is no such file at all, the images are aligned crops.
"""

import re
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fr.data.faces import VerificationFaces, check_landmarks, refuse
from fr.data.lines import listed_points
from fr.data.pairs.pair_faces import Landmarks, PairRow, Pairs, faces_of_pairs
from fr.data.pairs.whole_sets import SetForm, landmarks_in
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.mat_file import Cells, Structs, read_mat
from fr.files.untrusted import read_text

_IMAGES, _ENDING = "03_Protocol_Images", ".jpg"
_PROTOCOL = "04_FINAL_protocol_30_years.mat"
_YEARS = re.compile("protocol_([0-9]{1,3})_years")
_KINDS = ("auto", "agedb")
_SAME, _DIFFERENT = 1, -1
_MARKS = 68
_EYES, _TIP, _CORNERS = ((36, 39), (42, 45)), 30, (48, 54)  # an eye is the middle of its two corners
_MOST_BYTES = 1 << 16


def read_protocol(path: Path) -> Pairs:
    """Pairs of a protocol, in its folds; names end in `.jpg`. InputError if the file isn't as described above."""
    splits = read_mat(path, ["splits"])["splits"]
    if not isinstance(splits, Cells):
        raise InputError(f"{path}: splits isn't a cell array")
    rows: list[PairRow] = []
    fold: list[int] = []
    for number, split in enumerate(splits.values):
        place = f"{path}: split {number + 1}"
        for row, (pair, kind) in enumerate(_pairs_of(split, place), start=1):
            if kind not in (_SAME, _DIFFERENT) or not all(pair):
                raise InputError(f"{place}: pair {row} isn't two names and 1 or -1")
            rows.append((pair, kind == _SAME, f"{place}: pair {row}"))
            fold.append(number)
    if not rows:
        raise InputError(f"{path}: no pairs")
    return Pairs.of(rows, np.array(fold, dtype=np.int64))


def _pairs_of(split: Any, place: str) -> list[tuple[tuple[str, str], Any]]:
    """Names with endings and kind of each pair of a split; "" for an invalid name."""
    match list(split.fields.values()) if isinstance(split, Structs) else []:
        case [[Cells(shape=(2, count), values=images), *_], [np.ndarray() as kinds, *_], *_] if kinds.size == count:
            names = [_name(image) for image in images]
            return list(zip(zip(names[::2], names[1::2], strict=True), kinds.ravel().tolist(), strict=True))
    raise InputError(f"{place}: no structure with 2 x N cells of images and N kinds of pairs")


def _name(image: Any) -> str:
    match list(image.fields.values()) if isinstance(image, Structs) else []:
        case [[str() as name, *_], *_] if name:
            return name + _ENDING
    return ""


def read_pts(root: DataRoot, names: list[str]) -> NDArray[np.float64]:
    """Landmarks [N, 5, 2] in pixels, from the `.pts` file of each image.

    InputError, OutsideRoot for files that are missing, lie outside the root, or don't hold 68 points.
    """
    paths = [(root.path / name).with_suffix(".pts") for name in names]
    problems: list[str] = []
    points = np.array([_marks(root, path, problems) for path in paths])
    refuse(problems)
    eyes = [points[:, corners].mean(axis=1) for corners in _EYES]
    landmarks = np.stack([*eyes, points[:, _TIP], *(points[:, corner] for corner in _CORNERS)], axis=1)
    check_landmarks(landmarks, lambda i: str(paths[i]))
    return landmarks


def _marks(root: DataRoot, path: Path, problems: list[str]) -> NDArray[np.float64]:
    """Points [68, 2]: lines `x y` between braces; for any other content appends to `problems` and returns zeros."""
    root.check_inside(path)
    lines = read_text(path, _MOST_BYTES).rstrip().split("\n")
    start = next((number for number, line in enumerate(lines, start=1) if line.strip() == "{"), len(lines))
    between = [*takewhile(lambda line: line.strip() != "}", lines[start:])]
    return listed_points(path, start + 1, between, " ", _MARKS, "points between braces; AgeDB has", problems)


def _is_at(path: Path) -> bool:
    return path.suffix == ".mat" or (path / _PROTOCOL).is_file()


def _read(root: DataRoot, kind: str, option: str) -> tuple[str, VerificationFaces]:
    path = root.path if root.path.suffix == ".mat" else root.path / _PROTOCOL
    years = _YEARS.search(path.stem)
    name = f"agedb_{years[1]}" if years else "agedb"
    if kind not in (*_KINDS, name):
        raise InputError(f"{path}: not {kind}, but AgeDB's protocol")
    images, pairs = DataRoot(path.parent / _IMAGES, root.outside_allowed), read_protocol(path)
    landmarks: Landmarks = landmarks_in(path.parent)
    if not landmarks and (images.path / next(iter(pairs.where))).with_suffix(".pts").is_file():
        landmarks = partial(read_pts, images)
    return name, faces_of_pairs(images, pairs, landmarks, option)


FORM = SetForm(f"AgeDB's protocol, or a folder with {_PROTOCOL}", _is_at, _read)
