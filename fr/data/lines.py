"""Text files with one image a line → columns, by Arrow's operations on all lines at once.

Lists of faces have millions of lines: a Python object for each would take gigabytes, and groups of a regular
expression take 0.8 µs a line and more, six times as long as splitting.
"""

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fr.data.faces import refuse
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.untrusted import read_bytes, read_text

STAYS = "a path must start from --train_data_root and stay there, unless --allow_outside is given"
_STRAYS = r"^/|(?:^|/)\.\.(?:/|$)|\x00"  # leads out of the root, or isn't a path
_LONGEST = 4095  # bytes of a path, Linux's limit; it also bounds the lines in messages
_BLOCK = 4096
_QUOTED = 80  # characters of a line that a message shows


@dataclass(frozen=True)
class Lines:
    """Non-blank lines of a file, stripped. N lines."""

    path: Path
    numbers: NDArray[np.int64]  # [N] from 1
    texts: pa.LargeStringArray  # [N]

    def where(self, index: int) -> str:
        """File and number of line `index`, for messages."""
        return f"{self.path}:{self.numbers[index]}"

    def chosen(self, rows: NDArray[np.bool_]) -> "Lines":
        """Lines selected by a mask [N]."""
        return Lines(self.path, self.numbers[rows], self.texts.filter(pa.array(rows)))

    def columns(self, parts: pa.ListArray, count: int, form: str) -> list[pa.Array]:
        """The parts [N] of each line as `count` columns; InputError names the lines with more or fewer."""
        self.refuse_malformed(form, pc.not_equal(pc.list_value_length(parts), count))
        return [pc.list_element(parts, place) for place in range(count)]

    def refuse_malformed(self, form: str, rows: pa.BooleanArray) -> None:
        """Raise InputError for the lines of a mask [N], which don't have the form `form`."""
        refuse([f"{self.where(i)}: {self.texts[i].as_py()[:_QUOTED]!r} isn't {form}" for i in true_rows(rows)])

    def words(self, column: pa.Array, count: int, form: str) -> pa.Array:
        """`count` words a row, concatenated [N · count]; InputError names the lines with more or fewer."""
        words = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(column))
        self.refuse_malformed(form, pc.not_equal(pc.list_value_length(words), count))
        return words.flatten()

    def paths(self, column: pa.Array, root: DataRoot) -> pa.StringArray:
        """Names of images [N] as a column; InputError for those that aren't paths, or lead out of the root."""
        refuse([f"{self.where(i)}: {column[i].as_py()[:_QUOTED]!r}: {STAYS}" for i in true_rows(strays(column, root))])
        return column.cast(pa.string())

    def points(self, words: pa.Array) -> NDArray[np.float64]:
        """`x1 y1 … x5 y5` a line, as ten words each → [N, 5, 2]; InputError names what isn't a number."""
        try:
            numbers: NDArray[np.float64] = words.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            wrong = {i: words[i].as_py()[:_QUOTED] for i in _no_numbers(words)}
            refuse([f"{self.where(i // 10)}: {word!r} isn't a number" for i, word in wrong.items()])
            raise
        return numbers.reshape(-1, 5, 2)


def read_lines(path: Path) -> Lines:
    """A line ends with \\n, \\r\\n or \\r. InputError when the file is missing, unreadable, not UTF-8, or empty."""
    content = read_bytes(path).removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n")) + 1
    bounds = np.concatenate([[0], ends, [len(content)]])
    whole = pa.LargeStringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(content))
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid:
        read_text(path)  # raises with the line that isn't UTF-8
        raise
    texts = pc.utf8_trim_whitespace(whole)
    filled = pc.not_equal(pc.binary_length(texts), 0)
    rows = true_rows(filled)
    if not len(rows):
        raise InputError(f"{path}: the list is empty")
    return Lines(path, rows + 1, texts.filter(filled))


def single_spaces(content: bytes) -> bytes:
    """Lines with one space between words and none at their ends; without empty lines at the end."""
    lines = re.sub(rb"[ \t]+", b" ", content.removeprefix(codecs.BOM_UTF8))
    return re.sub(rb" ?\r?\n ?", b"\n", lines).rstrip() + b"\n"


def strays(paths: pa.Array, root: DataRoot) -> pa.BooleanArray:
    """Mask [N] of the paths that lead out of the root, unless that is allowed, or are too long."""
    long = pc.greater(pc.binary_length(paths), _LONGEST)
    return long if root.outside_allowed else pc.or_(long, pc.match_substring_regex(paths, _STRAYS))


def true_rows(column: pa.BooleanArray) -> NDArray[np.int64]:
    """Rows where a column is true."""
    return np.flatnonzero(column.to_numpy(zero_copy_only=False))


def _no_numbers(words: pa.Array) -> list[int]:
    """Rows of words that Arrow can't cast to numbers; its message names only the first at best."""

    def fails(part: pa.Array) -> bool:
        try:
            part.cast(pa.float64())
        except pa.ArrowInvalid:
            return True
        return False

    blocks = [start for start in range(0, len(words), _BLOCK) if fails(words[start : start + _BLOCK])]
    rows = [row for start in blocks for row in range(start, min(start + _BLOCK, len(words)))]
    return [row for row in rows if fails(words[row : row + 1])]


def folder_classes(names: pa.StringArray) -> tuple[NDArray[np.int64], list[str]]:
    """The folder of each image as its identity, in order of first appearance: labels [N], identities.

    names: paths with a folder each.
    """
    folders = pc.list_element(pc.split_pattern(names, "/", max_splits=1, reverse=True), 0)
    coded = folders.dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def sorted_classes(ids: pa.Array, key: Callable[[str], int] | None) -> tuple[NDArray[np.int64], list[str]]:
    """Labels [N] and identities of ids [N], ascending by `key`, or as text without one.

    Ids with the same key are one identity, named by the key.
    """
    coded = ids.dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    ids_by_key = [str(key(name)) for name in distinct] if key else distinct
    identities = sorted(set(ids_by_key), key=key)
    rank = {name: label for label, name in enumerate(identities)}
    labels = np.array([rank[name] for name in ids_by_key], dtype=np.int64)
    return labels[coded.indices.to_numpy(zero_copy_only=False)], identities


def listed_points(
    path: Path, first: int, lines: Sequence[str], separator: str, count: int, due: str, problems: list[str]
) -> NDArray[np.float64]:
    """Points [count, 2] from lines of two numbers. first: number of the first line in the file.

    If a line isn't two numbers, or their count differs, appends to `problems` and returns zeros. due: description of
    the expected lines, for the message.
    """
    found: list[list[float]] = []
    for number, line in enumerate(lines, start=first):
        try:
            x, y = map(float, line.split(None if separator == " " else separator))
        except ValueError:
            problems.append(f"{path}:{number}: {line[:_QUOTED]!r} isn't `x{separator}y`")
            return np.zeros((count, 2))
        found.append([x, y])
    if len(found) != count:
        problems.append(f"{path}: {len(found)} {due} {count}")
        return np.zeros((count, 2))
    return np.array(found)
