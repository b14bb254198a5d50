"""Lists of scores of any matcher: a line `label score` for each pair, label 1 for one person and 0 for two.

Columns are separated by tabs, commas, semicolons or spaces. A header may name them in any order: label, score, and
optionally first and second (names of the two people, or of the two images) and fold; other columns aren't read.
Without a header they are label, score; then fold, or first, second, or first, second and fold.
"""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from fr.data.faces import refuse_rows
from fr.data.lines import single_spaces
from fr.data.pairs.pair_faces import check_kinds, tenths
from fr.errors import InputError
from fr.files.untrusted import read_bytes
from fr.options.types import is_number

_TYPES = {
    "label": pa.float64(),  # numpy.savetxt writes 1.000000000000000000e+00
    "score": pa.float64(),
    "first": pa.string(),
    "second": pa.string(),
    "fold": pa.int64(),
}
_COLUMNS = {2: "label score", 3: "label score fold", 4: "label score first second", 5: " ".join(_TYPES)}
_SHOWN = 80  # characters of a line in a message


@dataclass(frozen=True)
class ScoreList:
    """P scored pairs. scores: as in the file. fold: that of `tenths` if the file has none.

    names: [N] distinct names, in order of first appearance; None if the file has none. pairs: rows of `names`.
    """

    scores: NDArray[np.float64]  # [P]
    same: NDArray[np.bool_]  # [P]
    fold: NDArray[np.int64]  # [P]
    names: pa.StringArray | None
    pairs: NDArray[np.int64]  # [P, 2]; [0, 2] without names


def read_scores(path: Path) -> ScoreList:
    """Read a list of scores; InputError names malformed lines, and lists that can't be verified."""
    content = read_bytes(path).removeprefix(codecs.BOM_UTF8).rstrip() + b"\n"
    if not content.strip():
        raise InputError(f"{path}: is empty")
    first_line = content.partition(b"\n")[0]
    separator = next((mark for mark in "\t,;" if mark.encode() in first_line), " ")
    if separator == " ":
        content = single_spaces(content)
    names, headed = _columns_of(path, content.partition(b"\n")[0].decode(errors="replace"), separator)
    table = _table(path, content, names, separator, headed)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    label, score = (columns[name].to_numpy() for name in ("label", "score"))

    def refuse_where(rows: NDArray[np.bool_], problem: str) -> None:
        refuse_rows(np.flatnonzero(rows), lambda row: f"{path}:{row + (2 if headed else 1)}: {problem}")

    refuse_where(~np.isin(label, (0, 1)), "the label isn't 1 for one person or 0 for two")
    refuse_where(~np.isfinite(score), "the score isn't finite")
    same = label == 1
    check_kinds(same, path)
    fold = columns["fold"].to_numpy() if "fold" in columns else tenths(same.tolist(), str(path))
    if len(np.unique(fold)) < 2:
        raise InputError(f"{path}: one fold; each is scored at the threshold of the others: two at least")
    if "first" not in columns:
        return ScoreList(score, same, fold, None, np.zeros((0, 2), dtype=np.int64))
    both = pc.utf8_trim_whitespace(pa.concat_arrays([columns["first"], columns["second"]]))
    # In the order of a verification set, so that the same names get the same bootstrap draws.
    coded = both.take(pa.array(np.arange(len(both)).reshape(2, -1).T.ravel())).dictionary_encode()
    pairs = coded.indices.to_numpy().astype(np.int64).reshape(-1, 2)
    refuse_where(~same & (pairs[:, 0] == pairs[:, 1]), "a pair of different people with one name")
    return ScoreList(score, same, fold, coded.dictionary, pairs)


def _columns_of(path: Path, first_line: str, separator: str) -> tuple[list[str], bool]:
    """Names of the columns, and True if the first line is a header."""
    words = [word.strip() for word in _words(first_line, separator)]
    names = [word.lower() for word in words]
    if not {"label", "score"} <= {*names}:
        if len(words) in _COLUMNS and is_number(words[0]) and is_number(words[1]):
            return _COLUMNS[len(words)].split(), False
        forms = ", or ".join(_COLUMNS.values())
        raise InputError(f"{path}:1: {first_line[:_SHOWN]!r}: expected {forms}; or a header that names such columns")
    doubled = {name for name in _TYPES if names.count(name) > 1}
    if doubled or ("first" in names) != ("second" in names):
        problem = f"names {' and '.join(sorted(doubled))} twice" if doubled else "has only one of first and second"
        raise InputError(f"{path}:1: the header {problem}")
    return names, True


def _table(path: Path, content: bytes, names: list[str], separator: str, headed: bool) -> pa.Table:
    # A column that isn't read may have any name, also one twice.
    known = [name if name in _TYPES else f"{place}" for place, name in enumerate(names)]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            pyarrow.csv.ReadOptions(column_names=known, skip_rows=int(headed)),
            pyarrow.csv.ParseOptions(delimiter=separator, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(
                column_types=_TYPES,
                include_columns=[name for name in known if name in _TYPES],
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        problem = next(_misfits(path, content, known, separator, headed), f"{path}: {str(error).splitlines()[0][:200]}")
        raise InputError(problem) from error
    if not len(table):
        raise InputError(f"{path}: no pairs")
    return table


def _misfits(path: Path, content: bytes, names: list[str], separator: str, headed: bool) -> Iterator[str]:
    """Messages about lines that Arrow can't read. Found by a slow search: its messages seldom name them."""
    for number, raw in enumerate(content.split(b"\n")[:-1], start=1):
        line = raw.decode(errors="replace").rstrip("\r")
        words = _words(line, separator)
        numbers = (word for name, word in zip(names, words, strict=False) if name in ("label", "score", "fold"))
        fits = len(words) == len(names) and all(map(is_number, numbers))
        if not fits and (number > 1 or not headed):
            what = " ".join(name if name in _TYPES else "…" for name in names)
            yield f"{path}:{number}: {line[:_SHOWN]!r} isn't `{what}`"


def _words(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:  # a field longer than the module's limit
        return []
