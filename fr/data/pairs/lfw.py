"""LFW: the lines of its `pairs.txt`, and the whole set from images, pairs and landmarks."""

import re
from pathlib import Path

import numpy as np

from fr.console import counted
from fr.data.faces import VerificationFaces, refuse
from fr.data.pairs.pair_faces import PairRow, Pairs, faces_of_pairs
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.untrusted import read_text

HEADER = "the number of folds and of pairs of a kind in each, such as 10 300"
_NUMBER = re.compile("[0-9]{1,9}")  # str.isdigit also takes what int() doesn't
_PERSON = re.compile(r"(?!\.\.?$)[^/]+")  # a folder of the root, neither itself nor the one above


def read_lfw(root: DataRoot, pairs_file: str, landmark_file: str) -> VerificationFaces:
    """LFW's view 2: pairs in folds, landmarks by relative path (whole or decimal pixels)."""
    root.check_exists("--val_data_root")
    return faces_of_pairs(root, read_lfw_pairs(Path(pairs_file)), landmark_file, "--val_data_root")


def read_lfw_pairs(path: Path) -> Pairs:
    """`name i j` and `name i other j` after a line with the number of folds and of pairs of a kind in each.

    Fields are separated by tabs, or by spaces: names with spaces are read too, unless a word of them is a number.
    InputError names malformed lines, and a number of pairs that differs from the first line.
    """
    lines = read_text(path).splitlines()
    header = lines[0].split() if lines else []
    if len(header) != 2 or not all(_NUMBER.fullmatch(field) and int(field) > 0 for field in header):
        raise InputError(f"{path}:1: expected {HEADER}")
    per_fold = 2 * int(header[1])
    rows: list[PairRow] = []
    problems: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        fields = _fields(line)
        match fields:
            case [name, first, second]:
                pair = _lfw_name(name, first), _lfw_name(name, second)
            case [name, first, other, second]:
                pair = _lfw_name(name, first), _lfw_name(other, second)
            case []:
                continue
            case _:
                pair = "", ""
        if not all(pair):
            problems.append(f"{path}:{number}: neither `name i j` nor `name i other j`, separated by tabs")
            continue
        rows.append((pair, len(fields) == 3, f"{path}:{number}"))
    refuse(problems)
    if len(rows) != int(header[0]) * per_fold:
        raise InputError(f"{path}: {counted(len(rows), 'pair')} where the header says {header[0]} × 2 × {header[1]}")
    return Pairs.of(rows, np.arange(len(rows)) // per_fold)


def _fields(line: str) -> list[str]:
    """Names and numbers of a line; its words if it has another form."""
    text = line.strip()
    if "\t" in text:
        return [field.strip() for field in text.split("\t")]
    words = text.split()
    match [place for place, word in enumerate(words) if place and _NUMBER.fullmatch(word)]:
        case [first, last] if last == len(words) - 1:
            other = [" ".join(words[first + 1 : last])] if last > first + 1 else []
            return [" ".join(words[:first]), words[first], *other, words[last]]
    return words


def _lfw_name(person: str, number: str) -> str:
    """Path of an image below the root; "" if the arguments aren't a name and a number."""
    if not _PERSON.fullmatch(person) or not _NUMBER.fullmatch(number):
        return ""
    return f"{person}/{person}_{int(number):04d}.jpg"
