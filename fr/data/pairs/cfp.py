"""CFP (Celebrities in Frontal-Profile, http://www.cfpw.io): frontal–profile and frontal–frontal pairs.

`Protocol/Pair_list_F.txt` and `Pair_list_P.txt` number the frontal and the profile images from 1, by lines
`number path`, the path as seen from `Protocol`. `Protocol/Split/FP/01/same.txt`, `diff.txt` … `10` hold pairs
`number,number`: of FP a frontal and a profile image, of FF two frontal ones. Without a landmark file, landmarks come
from `Data/Fiducials`; without these, too, the images are aligned crops.
"""

import posixpath
import re
from functools import partial
from pathlib import Path

import numpy as np

from fr.console import counted
from fr.data.faces import VerificationFaces, refuse
from fr.data.pairs.cfp_fiducials import FIDUCIALS, read_fiducials
from fr.data.pairs.pair_faces import Landmarks, PairRow, Pairs, faces_of_pairs
from fr.data.pairs.whole_sets import SetForm, landmarks_in
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.untrusted import read_text

_PROTOCOL = Path("Protocol")
_LISTS = {"F": "Pair_list_F.txt", "P": "Pair_list_P.txt"}
_SPLITS = {"cfp_fp": "FP", "cfp_ff": "FF"}
_PAIR = re.compile("([0-9]{1,9}) *, *([0-9]{1,9})")
_IMAGE = re.compile("([0-9]{1,9})[ \t]+(.+)")
_SHOWN = 80  # characters of a line in a message


def _read_pairs(root: Path, kind: str) -> Pairs:
    """The pairs of `cfp_fp` or `cfp_ff`, with the splits as folds; paths start from `root`.

    InputError names malformed lines, and lines with an image that no list has.
    """
    protocol, split = root / _PROTOCOL, _SPLITS[kind]
    lists = [_LISTS[letter] for letter in _LISTS if letter in split]
    known = {letter: _images(protocol / _LISTS[letter]) for letter in split}
    folder = protocol / "Split" / split
    parts = sorted(part for part in folder.glob("*") if part.is_dir())
    if len(parts) < 2:
        raise InputError(f"{folder}: {counted(len(parts), 'folder')} of pairs; CFP has ten")
    rows: list[PairRow] = []
    fold: list[int] = []
    problems: list[str] = []
    for number, part in enumerate(parts):
        for kind_of_pair in ("same", "diff"):
            path = part / f"{kind_of_pair}.txt"
            before = len(rows)
            for line_number, line in _lines(path):
                place = f"{path}:{line_number}"
                match = _PAIR.fullmatch(line)
                if not match:
                    problems.append(f"{place}: {line[:_SHOWN]!r} isn't `number,number`")
                    continue
                numbers = zip(split, map(int, match.groups()), strict=True)
                first, second = (known[letter].get(image_number) for letter, image_number in numbers)
                if first is None or second is None:
                    problems.append(f"{place}: {line} names an image that {' or '.join(lists)} doesn't")
                    continue
                rows.append(((first, second), kind_of_pair == "same", place))
                fold.append(number)
            if len(rows) == before:
                problems.append(f"{path}: no pairs")
    refuse(problems)
    return Pairs.of(rows, np.array(fold, dtype=np.int64))


def _images(path: Path) -> dict[int, str]:
    """Number → path from the root."""
    known: dict[int, str] = {}
    problems = []
    for line_number, line in _lines(path):
        match = _IMAGE.fullmatch(line)
        if not match or int(match[1]) in known:
            why = "isn't `number path`" if not match else "has a number that was there before"
            problems.append(f"{path}:{line_number}: {line[:_SHOWN]!r} {why}")
            continue
        known[int(match[1])] = posixpath.normpath(posixpath.join(_PROTOCOL.name, match[2]))
    refuse(problems)
    return known


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbers and text of the lines that aren't blank."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _is_at(path: Path) -> bool:
    return (path / _PROTOCOL / _LISTS["F"]).is_file()


def _read(root: DataRoot, kind: str, option: str) -> tuple[str, VerificationFaces]:
    kind = "cfp_fp" if kind == "auto" else kind
    if kind not in _SPLITS:
        raise InputError(f"{root}: not {kind}, but CFP: {' or '.join(_SPLITS)}")
    landmarks: Landmarks = landmarks_in(root.path)
    if not landmarks and (root.path / FIDUCIALS).is_dir():
        landmarks = partial(read_fiducials, root)
    return kind, faces_of_pairs(root, _read_pairs(root.path, kind), landmarks, option)


FORM = SetForm(f"a folder with {_PROTOCOL}/{_LISTS['F']}", _is_at, _read)
