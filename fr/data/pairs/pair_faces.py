"""Pairs of named images → VerificationFaces: the last step of all readers of lists of pairs."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import VerificationFaces, check_landmarks, refuse, with_first_image
from fr.data.landmark_csv import landmarks_of
from fr.data.lines import strays, true_rows
from fr.data.rows_by_name import values_by_name
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.names import form_note
from fr.files.untrusted import read_text

FOLDS = 10  # of a list without folds
Landmarks = str | Callable[[list[str]], NDArray[np.float64]]  # a file, or a function of N names to [N, 5, 2]
_ENDINGS = (".jpg", ".png", ".jpeg", ".bmp", ".webp")  # of cropped copies, which keep the names
PairRow = tuple[tuple[str, str], bool, str]  # paths of the two images, whether of one person, place in the list
ENDINGS = (*_ENDINGS, *(ending.upper() for ending in _ENDINGS))


@dataclass(frozen=True)
class Pairs:
    """Content of a list of P pairs. where: file and line of the first occurrence of each image."""

    names: list[tuple[str, str]]  # [P] paths below the root
    same: list[bool]  # [P]
    fold: NDArray[np.int64]  # [P]
    where: dict[str, str]

    @classmethod
    def of(cls, rows: Sequence[PairRow], fold: NDArray[np.int64]) -> "Pairs":
        """Pairs of the rows [P] of a list, in these folds [P]."""
        where: dict[str, str] = {}
        for pair, _, place in rows:
            for image in pair:
                where.setdefault(image, place)
        return cls([pair for pair, _, _ in rows], [same for _, same, _ in rows], fold, where)


def check_kinds(same: NDArray[np.bool_], path: Path) -> None:
    """Raise InputError if all pairs [P] of a file are same, or all different."""
    if same.all() or not same.any():
        given = f"{counted(same.sum(), 'same pair')} of {same.size:,}"
        raise InputError(f"{path}: {given}; a verification needs both kinds")


def tenths(same: Sequence[bool], source: str) -> NDArray[np.int64]:
    """Folds [P] for pairs [P] of a list without folds: fold n has the n-th tenth of the same and of the different ones.

    For a list in LFW's order these are LFW's folds; for a list that begins with all the same pairs, such as CALFW's,
    each fold has both kinds. InputError, with the name `source`, for fewer than two pairs of a kind.
    """
    kinds = np.asarray(same, dtype=bool)
    fold = np.zeros(len(kinds), dtype=np.int64)
    for kind, called in ((True, "same"), (False, "different")):
        rows = np.flatnonzero(kinds == kind)
        if len(rows) < 2:
            given = counted(len(rows), f"{called} pair")
            raise InputError(f"{source}: {given}; a verification needs two of each kind at least")
        fold[rows] = np.arange(len(rows)) * FOLDS // len(rows)
    return fold


def faces_of_pairs(root: DataRoot, pairs: Pairs, landmarks: Landmarks, option: str) -> VerificationFaces:
    """The images of a list of pairs, each once, in order of first appearance.

    landmarks: LFW's landmark file or a CSV like bb_landmark's, both in pixels; empty = aligned crops; or a function. A
    missing image is replaced by one with another of ENDINGS. option: the option that gave the root, for messages.
    InputError names paths that lead out of the root, images without landmarks, and missing ones, all together.
    """
    root.check_exists(option)
    names = list(pairs.where)
    strayed = true_rows(strays(pa.array(names, type=pa.string()), root))
    refuse([
        f"{pairs.where[names[i]]}: {names[i][:80]!r}: a path must start from {root} and stay there" for i in strayed
    ])
    if callable(landmarks):
        points = landmarks(names)
    else:
        points = _landmarks(names, Path(landmarks), pairs.where) if landmarks else np.zeros((len(names), 0, 2))
    row = {name: index for index, name in enumerate(names)}
    indices = np.array([(row[first], row[second]) for first, second in pairs.names], dtype=np.int64)
    listed = pa.array([_with_ending(root.path, name) for name in names], type=pa.string())
    faces = VerificationFaces(root, listed, points, indices, np.array(pairs.same), pairs.fold)
    missing = [index for index in range(len(faces)) if not os.path.exists(faces.path(index))]
    if len(missing) < len(faces):
        refuse([
            f"{pairs.where[names[i]]}: {faces.path(i)}: no such file{form_note(faces.path(i), os.path.exists)}"
            for i in missing
        ])
    return with_first_image(faces, option)


def _with_ending(folder: Path, name: str) -> str:
    """The name if its file exists, or else the first existing one with another of ENDINGS."""
    if os.path.exists(folder / name):  # False also for a name too long for the file system
        return name
    stem = name.removesuffix(Path(name).suffix)
    return next((stem + ending for ending in ENDINGS if os.path.exists(folder / (stem + ending))), name)


def _landmarks(names: list[str], path: Path, where: dict[str, str]) -> NDArray[np.float64]:
    """Landmarks of named images [N], in pixels: [N, 5, 2]."""
    listed = pa.array(names, type=pa.string())

    def at(row: int) -> str:
        return where[names[row]]

    if path.suffix.lower() == ".csv":
        return landmarks_of(listed, path, at)
    known = _read_lfw_landmarks(path)
    rows = np.array([*known.values()], dtype=np.float64).reshape(-1, 10)
    columns = pa.table({str(place): column for place, column in enumerate(rows.T)})
    points = values_by_name(listed, pa.array([*known], type=pa.string()), columns, str(path), at).reshape(-1, 5, 2)
    check_landmarks(points, lambda i: f"{path}: the row of {names[i]}")
    return points


def _read_lfw_landmarks(path: Path) -> dict[str, list[float]]:
    """Name → ten numbers; the last row of a name counts."""
    known: dict[str, list[float]] = {}
    problems: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        text = line.strip()
        if not text:
            continue
        # If the fields are separated by tabs only, spaces belong to the name.
        name, *fields = text.split("\t") if "\t" in text else text.rsplit(maxsplit=10)
        try:
            numbers = [float(field) for field in fields]
        except ValueError:
            problems.append(f"{path}:{number}: a landmark isn't a number")
            continue
        if len(numbers) != 10:
            problems.append(f"{path}:{number}: {counted(len(numbers), 'number')} instead of ten after the name")
            continue
        known[name] = numbers
    refuse(problems)
    return known
