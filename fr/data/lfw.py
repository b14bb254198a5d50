"""LFW's `pairs.txt` and `lfw_landmark.txt`, joined by name."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from fr.data.annotations import (
    VerificationFaces,
    check_first_photograph,
    check_landmarks,
    existing_folder,
    refuse,
)
from fr.errors import InputError
from fr.reading import read_text

_NUMBER = re.compile("[0-9]{1,9}")  # str.isdigit also takes what int() doesn't
_PERSON = re.compile(r"(?!\.\.?$)[^/]+")  # a folder of the root, neither itself nor the one above


def read_lfw(root: str, pairs_file: str, landmark_file: str, outside: bool = False) -> VerificationFaces:
    """LFW's view 2: pairs in folds, landmarks by relative path (whole or decimal pixels).

    outside: links may lead out of the root.
    """
    folder = existing_folder("--val_data_root", root)
    pairs_path, landmark_path = Path(pairs_file), Path(landmark_file)
    pairs, same, fold, line_of = _read_pairs(pairs_path)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    known = _read_lfw_landmarks(landmark_path)
    unknown = [name for name in names if name not in known]
    refuse([f"{pairs_path}:{line_of[name]}: {name} has no row in {landmark_path}" for name in unknown])
    points = np.array([known[name] for name in names]).reshape(-1, 5, 2)
    check_landmarks(points, lambda i: f"{landmark_path}: the row of {names[i]}")
    row = {name: index for index, name in enumerate(names)}
    indices = np.array([(row[first], row[second]) for first, second in pairs], dtype=np.int64)
    faces = VerificationFaces(
        folder,
        pa.array(names, type=pa.string()),
        points,
        indices,
        np.array(same),
        np.array(fold, dtype=np.int64),
        outside=outside,
    )
    check_first_photograph(faces, "--val_data_root")
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
