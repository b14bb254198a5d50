"""Lists, landmark tables and pairs → columns, checked as a whole before anything runs (C9).

Formats as published: VGGFace2's `train_list.txt` and `bb_landmark/loose_landmark_*.csv`, LFW's `pairs.txt` and
`lfw_landmark.txt`. Rows of a list and of a landmark table are joined by name, never by row number.
"""

import csv
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from fr.errors import InputError

LANDMARK_COLUMNS = [f"P{point}{axis}" for point in range(1, 6) for axis in "XY"]
_SHOWN = 10  # problems named one by one; the rest is counted
_FARTHEST = 1e6  # pixels; squares of what is far beyond it overflow in the fit
_ONE_SPOT = 1e-3  # pixels
_NUMBER = re.compile("[0-9]{1,9}")  # str.isdigit also takes what int() doesn't
_PERSON = re.compile(r"[^/\0]+")  # stays below the root


@dataclass(frozen=True)
class Faces:
    """Photographs with landmarks. N photographs."""

    root: Path
    names: pa.StringArray  # [N] paths below root
    landmarks: NDArray[np.float64]  # [N, 5, 2] pixels

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index].as_py())


@dataclass(frozen=True)
class LabelledFaces(Faces):
    """Faces to train on: labels count identities in order of first appearance in the list."""

    labels: NDArray[np.int64]  # [N] 0 … len(identities) - 1
    identities: list[str]

    def fingerprint(self) -> str:
        """Hash of everything that decides what an iteration sees, the pixels aside."""
        digest = hashlib.sha256()
        for column in (*self.names.buffers(), self.labels.tobytes(), self.landmarks.tobytes()):
            digest.update(column or b"")
        return digest.hexdigest()


@dataclass(frozen=True)
class VerificationFaces(Faces):
    """Distinct photographs and the P pairs drawn from them, in F folds."""

    pairs: NDArray[np.int64]  # [P, 2] rows of names
    same: NDArray[np.bool_]  # [P]
    fold: NDArray[np.int64]  # [P] 0 … F - 1


def read_text(path: Path) -> str:
    """The whole file as text; InputError when it is missing, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def refuse(problems: list[str]) -> None:
    """Raise the problems together, the first few by name."""
    if problems:
        hidden = len(problems) - _SHOWN
        raise InputError(*problems[:_SHOWN], *([f"… and {hidden:,} more like these"] if hidden > 0 else []))


# --- VGGFace2 -------------------------------------------------------------------------------------------------------


def read_vgg(root: str, list_file: str, landmarks: str) -> LabelledFaces:
    """VGGFace2: `n000002/0001_01.jpg` a line, joined with bb_landmark's table by name.

    landmarks: the bb_landmark folder (the table is chosen by the list's file name, as in
    face_recognition.pytorch), or one CSV. InputError names file and line of what doesn't fit.
    """
    list_path, folder = Path(list_file), _existing_folder("--train_data_root", root)
    names = _read_list(list_path)
    table_path = _landmark_table(Path(landmarks), list_path)
    keys, points = _read_landmark_csv(table_path)
    wanted = pc.replace_substring_regex(names, r"\.[^./]*$", "")
    rows = pc.index_in(wanted, value_set=keys)
    if rows.null_count:
        lines = np.flatnonzero(rows.is_null().to_numpy(zero_copy_only=False))
        lines_of_list = _line_numbers(list_path)
        refuse([f"{list_path}:{lines_of_list[i]}: {names[i]} has no row in {table_path}" for i in lines.tolist()])
    order = rows.to_numpy(zero_copy_only=False)
    chosen = points[order]
    _check_landmarks(chosen, lambda i: f"{table_path}: the row of {names[i]}")
    coded = pc.replace_substring_regex(names, r"/[^/]*$", "").dictionary_encode()
    labels = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    faces = LabelledFaces(folder, names, chosen, labels, coded.dictionary.to_pylist())
    _check_first_photograph(faces, "--train_data_root")
    return faces


def _existing_folder(option: str, root: str) -> Path:
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"{option} {root}: no such folder")
    return folder


def _read_list(path: Path) -> pa.StringArray:
    lines = [line.strip() for line in read_text(path).splitlines()]
    problems = [
        f"{path}:{number}: {line!r} isn't <identity>/<file>"
        for number, line in enumerate(lines, start=1)
        if line and ("/" not in line or line.startswith("/") or ".." in line.split("/") or "\0" in line)
    ]
    refuse(problems)
    names = [line for line in lines if line]
    if not names:
        raise InputError(f"{path}: the list is empty")
    return pa.array(names, type=pa.string())


def _line_numbers(path: Path) -> list[int]:
    """Line numbers of the list's entries, blank lines skipped as `_read_list` does."""
    return [number for number, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]


def _landmark_table(given: Path, list_path: Path) -> Path:
    if given.is_file():
        return given
    if not given.is_dir():
        raise InputError(f"--train_landmarks {given}: no such file or folder")
    kind = next((kind for kind in ("train", "test") if kind in list_path.name), "all")
    table = given / f"loose_landmark_{kind}.csv"
    if not table.is_file():
        raise InputError(
            f"{table}: no such file (chosen since the list is called {list_path.name}); "
            "give the CSV itself with --train_landmarks"
        )
    return table


def _read_landmark_csv(path: Path) -> tuple[pa.StringArray, NDArray[np.float64]]:
    """NAME_ID and the five points of every row: names, [N, 5, 2] pixels."""
    types: dict[str, pa.DataType] = {"NAME_ID": pa.string()} | dict.fromkeys(LANDMARK_COLUMNS, pa.float64())
    try:
        table = pyarrow.csv.read_csv(
            path,
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                # `cat train.csv test.csv` leaves a second header inside; as a row of nulls it matches no photograph.
                null_values=LANDMARK_COLUMNS,
            ),
        )
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error}") from error
    except pa.ArrowKeyError as error:
        raise InputError(f"{path}:1: expected the header {','.join(types)}") from error
    except pa.ArrowInvalid as error:
        raise InputError(_bad_csv_row(path) or f"{path}: {error}") from error
    points = np.stack([table[column].to_numpy() for column in LANDMARK_COLUMNS], axis=1)
    return table["NAME_ID"].combine_chunks(), points.reshape(-1, 5, 2)


def _bad_csv_row(path: Path) -> str:
    """The first row that pyarrow can't have read, found the slow way since its messages give no line."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if number == 1 or not line:
            continue
        try:
            fields = next(csv.reader([line]))
        except csv.Error as error:
            return f"{path}:{number}: {error}"
        if fields[1:] == LANDMARK_COLUMNS:
            continue
        if len(fields) != 11:
            return f"{path}:{number}: {len(fields)} fields instead of a name and ten numbers"
        for field in fields[1:]:
            try:
                float(field)
            except ValueError:
                return f"{path}:{number}: {field!r} isn't a number"
    return ""


def _check_landmarks(points: NDArray[np.float64], where: Callable[[int], str]) -> None:
    """Refuse landmarks that give no similarity: not finite (or beyond any photograph), or all on one spot."""
    not_finite = ~(np.abs(points) < _FARTHEST).all(axis=(1, 2))  # true for NaN, too
    one_spot = np.asarray(np.ptp(points, axis=1).max(axis=1) < _ONE_SPOT)
    refuse(
        [f"{where(i)}: not finite, or a million pixels away" for i in np.flatnonzero(not_finite).tolist()]
        + [f"{where(i)}: all five on one spot" for i in np.flatnonzero(one_spot).tolist()]
    )


def _check_first_photograph(faces: Faces, option: str) -> None:
    """One look at the disk: a wrong root is the commonest mistake, and best found before the first iteration."""
    if not os.path.exists(faces.path(0)):
        raise InputError(f"{faces.path(0)}: no such file; is {option} {faces.root} right?")


# --- LFW ------------------------------------------------------------------------------------------------------------


def read_lfw(root: str, pairs_file: str, landmark_file: str) -> VerificationFaces:
    """LFW's view 2: pairs in folds, landmarks by relative path (whole or decimal pixels)."""
    folder = _existing_folder("--val_data_root", root)
    pairs_path, landmark_path = Path(pairs_file), Path(landmark_file)
    pairs, same, fold, line_of = _read_pairs(pairs_path)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    known = _read_lfw_landmarks(landmark_path)
    unknown = [name for name in names if name not in known]
    refuse([f"{pairs_path}:{line_of[name]}: {name} has no row in {landmark_path}" for name in unknown])
    points = np.array([known[name] for name in names]).reshape(-1, 5, 2)
    _check_landmarks(points, lambda i: f"{landmark_path}: the row of {names[i]}")
    row = {name: index for index, name in enumerate(names)}
    indices = np.array([(row[first], row[second]) for first, second in pairs], dtype=np.int64)
    faces = VerificationFaces(
        folder, pa.array(names, type=pa.string()), points, indices, np.array(same), np.array(fold, dtype=np.int64)
    )
    _check_first_photograph(faces, "--val_data_root")
    return faces


def _read_pairs(path: Path) -> tuple[list[tuple[str, str]], list[bool], list[int], dict[str, int]]:
    """Pairs, whether they are of one person, their folds, and the first line that names each photograph."""
    lines = read_text(path).splitlines()
    header = lines[0].split() if lines else []
    if len(header) != 2 or not all(_NUMBER.fullmatch(field) and int(field) > 0 for field in header):
        raise InputError(f"{path}:1: expected the number of folds and of pairs of a kind in each, such as 10 300")
    per_fold = 2 * int(header[1])
    pairs: list[tuple[str, str]] = []
    same: list[bool] = []
    line_of: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        match line.split("\t"):
            case [name, first, second]:
                pair = _lfw_name(name, first), _lfw_name(name, second)
            case [name, first, other, second]:
                pair = _lfw_name(name, first), _lfw_name(other, second)
            case [""]:
                continue
            case _:
                pair = "", ""
        if not all(pair):
            problems.append(f"{path}:{number}: neither `name i j` nor `name i other j`, separated by tabs")
            continue
        pairs.append(pair)
        same.append(line.count("\t") == 2)
        for photograph in pair:
            line_of.setdefault(photograph, number)
    refuse(problems)
    if len(pairs) != int(header[0]) * per_fold:
        raise InputError(f"{path}: {len(pairs)} pairs where the header says {header[0]} × 2 × {header[1]}")
    return pairs, same, [index // per_fold for index in range(len(pairs))], line_of


def _lfw_name(person: str, number: str) -> str:
    """The photograph's path below the root; empty when these are no name and number."""
    if not _PERSON.fullmatch(person) or not _NUMBER.fullmatch(number):
        return ""
    return f"{person}/{person}_{int(number):04d}.jpg"


def _read_lfw_landmarks(path: Path) -> dict[str, list[float]]:
    known: dict[str, list[float]] = {}
    problems: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name, *fields = line.split("\t")
        if not line.strip():
            continue
        try:
            known[name] = [float(field) for field in fields]
        except ValueError:
            problems.append(f"{path}:{number}: a landmark isn't a number")
            continue
        if len(fields) != 10:
            problems.append(f"{path}:{number}: {len(fields)} numbers instead of ten after the name")
    refuse(problems)
    return known
