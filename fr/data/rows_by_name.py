"""Lookup of table rows by image name, tolerant of common variations in how names are written."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fr.data.faces import refuse, shown
from fr.errors import InputError
from fr.files.names import form_note

_ENDING = r"\.[^./]*$"
_IMAGE_ENDING = r"(?i)\.(jpg|jpeg|jpe|jfif|png|bmp|webp)$"
_DEEPEST = 100  # nested folders
_QUOTED = 80  # characters of a name that a message shows


def values_by_name(
    names: pa.StringArray, keys: pa.StringArray, columns: pa.Table, table: str, where: Callable[[int], str]
) -> NDArray[np.float64]:
    """Values of images [N], looked up by name without ending among the keys [K] of a table: [N, C].

    columns: C columns of K numbers. table: its name in messages. If names don't match exactly, endings of the keys,
    surrounding spaces, a leading `./` and backslashes are ignored, and then outer folders that only one side has
    (`train/n000002/0001_01.jpg`). InputError names, by `where`, images without a row, images that would share a row,
    and contradicting rows of one image.
    """
    sought = _without_ending(names)
    if sought.equals(keys):  # true of VGGFace2's own files; saves a second for 3 million names
        rows: NDArray[np.int32] | slice = slice(None)
    else:
        sought, keys, rows = _matched(names, sought, keys, table, where)
        _refuse_shared(names, rows, table, where)
    values = np.empty((len(names), columns.num_columns))
    for place, column in enumerate(columns.columns):  # one at a time to save memory: millions of rows take 250 MB
        values[:, place] = column.to_numpy()[rows]
    _refuse_contradictions(sought, keys, columns, table)
    return values


def _matched(
    names: pa.StringArray, sought: pa.StringArray, keys: pa.StringArray, table: str, where: Callable[[int], str]
) -> tuple[pa.StringArray, pa.StringArray, NDArray[np.int32]]:
    """Names and keys in matching form, and the row of each image; InputError names images without a row."""
    form, key_form, rows = _best_match(sought, keys)
    if not rows.null_count:
        return form, key_form, rows.to_numpy()
    there = set(key_form.to_pylist())
    problems = [
        f"{where(i)}: {names[i]} has no row in {table}{form_note(form[i].as_py(), there.__contains__)}"
        for i in np.flatnonzero(rows.is_null().to_numpy(zero_copy_only=False)).tolist()
    ]
    if rows.null_count == len(rows) and len(keys):
        looks = f"{table}: its names look like {keys[0].as_py()[:_QUOTED]!r}"
        raise InputError(*shown(problems), f"{looks}, but those of the images like {sought[0].as_py()[:_QUOTED]!r}")
    raise InputError(*shown(problems))


def has_rows(names: pa.StringArray, keys: pa.StringArray) -> NDArray[np.bool_]:
    """Mask [N] of the images that `values_by_name` finds among the keys [K] of a table."""
    *_, rows = _best_match(_without_ending(names), keys)
    mask: NDArray[np.bool_] = rows.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _best_match(sought: pa.StringArray, keys: pa.StringArray) -> tuple[pa.StringArray, pa.StringArray, pa.Int32Array]:
    """Names and keys in the form with most matches, and the row of each name, null if it has none."""
    best: tuple[pa.StringArray, pa.StringArray, pa.Int32Array] | None = None
    for form, key_form in _readings(sought, keys):
        rows = pc.index_in(form, value_set=key_form)
        if best is None or rows.null_count < best[2].null_count:
            best = form, key_form, rows
        if not rows.null_count:
            break
    assert best
    return best


def _readings(sought: pa.StringArray, keys: pa.StringArray) -> Iterator[tuple[pa.StringArray, pa.StringArray]]:
    """Names and keys unchanged, then normalised, then without outer folders."""
    yield sought, keys
    sought, keys = _plain(sought), pc.replace_substring_regex(_plain(keys), _IMAGE_ENDING, "")
    yield sought, keys
    depth = min(_depth(sought), _depth(keys))
    if 0 < depth <= _DEEPEST:
        yield _inner(sought, depth), _inner(keys, depth)


def _plain(names: pa.StringArray) -> pa.StringArray:
    slashes = pc.replace_substring(pc.utf8_trim_whitespace(names), "\\", "/")
    return pc.replace_substring_regex(slashes, r"^(\./)+", "")


def _depth(names: pa.StringArray) -> int:
    """The number of folders that most of the names have."""
    most = pc.mode(pc.count_substring(names, "/"))
    return int(most[0]["mode"].as_py()) if len(most) else 0


def _inner(names: pa.StringArray, depth: int) -> pa.StringArray:
    return pc.replace_substring_regex(names, rf"^.*/((?:[^/]*/){{{depth}}}[^/]*)$", r"\1")


def _refuse_contradictions(sought: pa.StringArray, keys: pa.StringArray, columns: pa.Table, table: str) -> None:
    """Raise InputError for images [N] that have several rows with different values."""
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    coded = keys.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.unique(coded, return_index=True)[1][coded]
    values = np.column_stack([column.to_numpy() for column in columns.columns])
    unlike = np.flatnonzero((values != values[first]).any(axis=1))
    used = pc.is_in(keys.take(pa.array(unlike)), value_set=sought).to_numpy(zero_copy_only=False)
    refuse(
        [f"{table}: rows {first[i] + 1} and {i + 1} are both of {keys[i]}, and differ" for i in unlike[used].tolist()]
    )


def _refuse_shared(names: pa.StringArray, rows: NDArray[np.int32], table: str, where: Callable[[int], str]) -> None:
    """Raise InputError for images [N] with different names that match the same row; rows: [N].

    An image that is listed twice is accepted.
    """
    shared = np.flatnonzero(np.bincount(rows)[rows] > 1)
    if not len(shared):  # the usual case; the rest takes longer
        return
    first = np.empty(rows.max() + 1, dtype=np.int64)
    first[rows[::-1]] = np.arange(len(rows))[::-1]  # the last write wins
    others = first[rows[shared]]
    unlike = pc.not_equal(names.take(pa.array(shared)), names.take(pa.array(others))).to_numpy(zero_copy_only=False)
    refuse([
        f"{where(i)}: {names[i]} and {names[other]} would share a row of {table}; rename one of them"
        for i, other in zip(shared[unlike].tolist(), others[unlike].tolist(), strict=True)
    ])


def _without_ending(names: pa.StringArray) -> pa.StringArray:
    ending = re.search(_ENDING, names[0].as_py())
    if ending and pc.all(pc.ends_with(names, ending[0])).as_py():  # slicing it off takes a tenth of the time
        return pc.utf8_slice_codeunits(names, 0, -len(ending[0]))
    return pc.replace_substring_regex(names, _ENDING, "")
