"""Tables of people's groups, identity → group, in the published forms of data sets.

| form | recognised by | groups |
|---|---|---|
| VGGFace2's identity_meta.csv | its header | gender, by Class_ID and by name |
| RFW's folder | a folder | the folders in it; identities are the folders in those |
| BFW's table of pairs | columns p1, p2, att1, att2 | att, or the chosen columns, named without their 1 and 2 |
| MAAD-Face's attributes | values -1, 0, 1 | majority of the identity's images |
| any other CSV | a column of identities or images | the chosen columns, joined by spaces |

An image's identity is the folder that it is in; without a folder, its file name without the number at the end.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import refuse
from fr.data.pairs.pair_faces import ENDINGS
from fr.data.readers.vgg import META_HEADER, genders
from fr.errors import InputError
from fr.files.untrusted import read_text

MOST_GROUPS = 50
_IDENTITIES = ("identity", "class_id", "id", "person", "name", "subject", "filename", "image", "file", "path")
_GROUPS = ("group", "gender", "sex", "race", "ethnicity")
_MAAD = ["filename", "identity"]  # its identity column isn't used: folders aren't named by those numbers
_VOTES = {"-1": -1, "0": 0, "1": 1}
_SHOWN = 60  # characters of a field in a message
_Entry = tuple[int, str, list[str]]  # line, identity, values


def read_group_table(path: Path, columns: Sequence[str] = ()) -> dict[str, str]:
    """Group of each identity; those of unknown group are absent.

    columns: of a CSV, whose values form the groups. InputError with file and line for malformed content, an identity in
    two groups, missing columns, and more than MOST_GROUPS groups.
    """
    if path.is_dir():
        _refuse_columns(columns, path, "a folder")
        table = _of_folders(path)
    else:
        table = _of_csv(path, columns)
    groups = sorted({*table.values()})
    if not groups:
        raise InputError(f"--groups {path}: no identity has a group")
    if len(groups) > MOST_GROUPS:
        raise InputError(
            f"--groups {path}: {len(groups):,} groups, such as {groups[0][:_SHOWN]!r}: {MOST_GROUPS} at most; choose "
            "columns with --groups_columns"
        )
    return table


def identity_of(image: str) -> str:
    """Identity of an image by its path: the folder that it is in, or else its name without ending and number."""
    path = PurePosixPath(image)
    return path.parent.name or re.sub(r"_[0-9]+$", "", path.stem)


def _refuse_columns(columns: Sequence[str], path: Path, form: str) -> None:
    if columns:
        raise InputError(f"--groups_columns {' '.join(columns)}: no effect on {path}, {form}")


def _of_folders(path: Path) -> dict[str, str]:
    table: dict[str, str] = {}
    try:
        for group in sorted(folder for folder in path.iterdir() if folder.is_dir()):
            for identity in sorted(folder for folder in group.iterdir() if folder.is_dir()):
                if (other := table.setdefault(identity.name, group.name)) != group.name:
                    raise InputError(f"--groups {identity}: {identity.name} is in {path / other}, too")
    except OSError as error:
        raise InputError(f"--groups {error.filename or path}: can't be read: {error.strerror}") from error
    if not table:
        raise InputError(f"--groups {path}: expected a folder a group, and in it a folder an identity")
    return table


@dataclass(frozen=True)
class _Csv:
    """Header of a CSV in lower case, and its other rows with their line numbers."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    @classmethod
    def read(cls, path: Path, text: str) -> "_Csv":
        """Parse a CSV; InputError names rows that have more or fewer fields than the header."""
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
        try:
            rows = [(reader.line_num, [field.strip() for field in row]) for row in reader if any(row)]
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: {error}") from error
        header = [name.lower() for name in rows[0][1]] if rows else []
        refuse([
            f"{path}:{number}: {counted(len(row), 'field')}, where the header has {len(header)}"
            for number, row in rows
            if len(row) != len(header)
        ])
        return cls(path, header, rows[1:])

    def places(self, names: Sequence[str]) -> list[int]:
        """Positions of columns; InputError names missing ones."""
        if missing := [name for name in names if name.lower() not in self.header]:
            there = ", ".join(self.header)[:1000]
            raise InputError(f"{self.path}:1: no column {', '.join(missing)}; --groups_columns takes those of: {there}")
        return [self.header.index(name.lower()) for name in names]

    def entries(self, identity: str, columns: Sequence[str]) -> Iterator[_Entry]:
        """The line, identity and values of each row."""
        who, *places = self.places([identity, *columns])
        for number, row in self.rows:
            yield number, _identity(row[who]), [row[place] for place in places]


def _of_csv(path: Path, columns: Sequence[str]) -> dict[str, str]:
    text = read_text(path)
    if [word.strip() for word in text.partition("\n")[0].split(",")] == META_HEADER.split(", "):
        _refuse_columns(columns, path, "whose groups are the genders")
        return genders(path)
    table = _Csv.read(path, text)
    if {"p1", "p2"} <= {*table.header}:
        sides = [table.entries(f"p{side}", [f"{name}{side}" for name in columns or ["att"]]) for side in (1, 2)]
        return _by_text(path, chain(*sides))
    identity = _MAAD[0] if table.header[:2] == _MAAD else next((n for n in _IDENTITIES if n in table.header), "")
    if not identity:
        raise InputError(f"{path}:1: no column of identities: expected one of {', '.join(_IDENTITIES)}")
    columns = columns or _default_columns(table, identity)
    entries = list(table.entries(identity, columns))
    if any("-1" in values for _, _, values in entries):
        return _by_votes(path, entries, columns)
    return _by_text(path, entries)


def _default_columns(table: _Csv, identity: str) -> list[str]:
    """Column with a usual name, or the only one besides the identities."""
    others = [name for name in table.header if name != identity]
    usual = [name for name in _GROUPS if name in others][:1]
    if not usual and len(others) != 1:
        raise InputError(
            f"{table.path}:1: choose the groups with --groups_columns: no column is named {', '.join(_GROUPS)}; there: "
            f"{', '.join(others)[:1000]}"
        )
    return usual or others


def _identity(text: str) -> str:
    """Identity of a field that is an identity or the path of one of its images."""
    return identity_of(text) if "/" in text or text.endswith(ENDINGS) else text


def _by_text(path: Path, entries: Iterable[_Entry]) -> dict[str, str]:
    table: dict[str, tuple[str, int]] = {}
    problems = []
    for number, identity, values in entries:
        if not all(values):
            continue
        mine = " ".join(values)
        group, line = table.setdefault(identity, (mine, number))
        if group != mine:
            problems.append(f"{path}:{number}: {identity} is in the group {mine}, but in line {line} in {group}")
    refuse(problems)
    return {identity: group for identity, (group, _) in table.items()}


def _by_votes(path: Path, entries: Iterable[_Entry], columns: Sequence[str]) -> dict[str, str]:
    """Group by the majority of an identity's rows: the columns that apply, or none; a tie is unknown."""
    votes: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(len(columns), dtype=np.int64))
    problems = []
    for number, identity, values in entries:
        if wrong := [value for value in values if value not in _VOTES]:
            problems.append(f"{path}:{number}: {wrong[0][:_SHOWN]!r} isn't an attribute: -1, 0 or 1")
        else:
            votes[identity] += [_VOTES[value] for value in values]
    refuse(problems)
    table = {}
    for identity, sums in votes.items():
        if (sums > 0).any():
            table[identity] = " ".join(name for name, total in zip(columns, sums, strict=True) if total > 0)
        elif (sums < 0).all():
            table[identity] = f"not {', '.join(columns)}"
    return table
