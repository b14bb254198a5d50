"""Text files of one photograph a line → columns, by regular expressions that Arrow runs over all lines at once.

Lists of faces have millions of lines; one Python object a number would not fit into memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fr.data.annotations import read_text, refuse
from fr.errors import InputError

_STRAYS = r"^/|(?:^|/)\.\.(?:/|$)|\x00"  # leads out of the root, or nowhere
_BLOCK = 4096
_QUOTED = 80  # characters of a line that a message shows


@dataclass(frozen=True)
class Lines:
    """The lines of a file that aren't blank, without the space around them. N lines."""

    path: Path
    numbers: NDArray[np.int64]  # [N] from 1
    texts: pa.LargeStringArray  # [N]

    def where(self, index: int) -> str:
        """Line `index` as messages name it."""
        return f"{self.path}:{self.numbers[index]}"

    def chosen(self, rows: NDArray[np.bool_]) -> "Lines":
        """The marked ones alone; rows: [N]."""
        return Lines(self.path, self.numbers[rows], self.texts.filter(pa.array(rows)))

    def fields(self, pattern: str, form: str) -> dict[str, pa.Array]:
        """What the named groups of `pattern` match in each line; InputError names the lines that aren't like `form`."""
        found = pc.extract_regex(self.texts, pattern=f"(?s)^{pattern}$")
        self.refuse_unlike(form, found.is_null())
        return dict(zip((field.name for field in found.type), found.flatten(), strict=True))

    def refuse_unlike(self, form: str, rows: pa.BooleanArray) -> None:
        """InputError for the marked lines [N], which aren't like `form`."""
        refuse([f"{self.where(i)}: {self.texts[i].as_py()[:_QUOTED]!r} isn't {form}" for i in true_rows(rows)])

    def words(self, column: pa.Array, count: int, form: str) -> pa.Array:
        """`count` words a row, one after the other [N · count]; InputError names the lines with more or fewer.

        Counted here, not by a pattern: counted repetition costs RE2 6 ms a line.
        """
        words = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(column))
        self.refuse_unlike(form, pc.not_equal(pc.list_value_length(words), count))
        return words.flatten()

    def paths(self, column: pa.Array) -> pa.StringArray:
        """Names of photographs [N] as a column; InputError names those that aren't paths below the root."""
        refuse([
            f"{self.where(i)}: {column[i].as_py()[:_QUOTED]!r}: a path must start from --train_data_root and stay there"
            for i in true_rows(pc.match_substring_regex(column, _STRAYS))
        ])
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
    """InputError when the file is missing, unreadable, not UTF-8, or empty."""
    texts = [line.strip() for line in read_text(path).splitlines()]
    numbers = np.array([number for number, text in enumerate(texts, start=1) if text], dtype=np.int64)
    if not len(numbers):
        raise InputError(f"{path}: the list is empty")
    return Lines(path, numbers, pa.array([text for text in texts if text], type=pa.large_string()))


def true_rows(column: pa.BooleanArray) -> list[int]:
    """Where a column is true."""
    rows: list[int] = np.flatnonzero(column.to_numpy(zero_copy_only=False)).tolist()
    return rows


def _no_numbers(words: pa.Array) -> list[int]:
    """Which words Arrow can't cast; its message names the first at best."""

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
    """The folder of each photograph as its identity, in order of first appearance: labels [N], identities."""
    coded = pc.replace_substring_regex(names, r"/[^/]*$", "").dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def sorted_classes(ids: pa.Array, key: Callable[[str], int] | None) -> tuple[NDArray[np.int64], list[str]]:
    """Labels [N] and identities of ids [N], ascending by `key`, or as text without one.

    Ids of the same key are one identity, called by the key.
    """
    coded = ids.dictionary_encode()
    found = coded.dictionary.to_pylist()
    called = [str(key(name)) for name in found] if key else found
    identities = sorted(set(called), key=key)
    rank = {name: label for label, name in enumerate(identities)}
    labels = np.array([rank[name] for name in called], dtype=np.int64)
    return labels[coded.indices.to_numpy(zero_copy_only=False)], identities
