"""VGGFace2's `bb_landmark/loose_landmark_*.csv` and `loose_bb_*.csv`: points and box of each image, by name."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from fr.data.faces import PIXELS, check_landmarks, refuse
from fr.errors import InputError, in_short
from fr.files.names import form_note
from fr.files.untrusted import open_file, read_bytes, read_text

_QUOTED = 80  # characters of a field that a message shows
_ENDING = r"\.[^./]*$"
LANDMARK_COLUMNS = [f"P{point}{axis}" for point in range(1, 6) for axis in "XY"]
BOX_COLUMNS = ["X", "Y", "W", "H"]


def landmark_table(given: Path, source: Path) -> Path:
    """The CSV `given`; or of a folder the one for a list or folder named like `source`, or the only one."""
    if given.is_file():
        return given
    if not given.is_dir():
        raise InputError(f"--train_landmarks {given}: no such file or folder")
    kind = next((kind for kind in ("train", "test") if kind in source.name), "all")
    table = given / f"loose_landmark_{kind}.csv"
    if table.is_file():
        return table
    tables = list(given.glob("loose_landmark_*.csv"))
    if len(tables) != 1:
        raise InputError(
            f"{table}: no such file (chosen for the name {source.name}); give the CSV itself with --train_landmarks"
        )
    return tables[0]


def landmarks_of(names: pa.StringArray, table: Path, where: Callable[[int], str]) -> NDArray[np.float64]:
    """Landmarks of images [N], looked up by name without ending: [N, 5, 2] pixels.

    InputError names those without a row by `where`, and rows that give no similarity.
    """
    landmarks = _rows_of(names, table, LANDMARK_COLUMNS, where).reshape(-1, 5, 2)
    check_landmarks(landmarks, lambda i: f"{table}: the row of {names[i]}")
    return landmarks


def has_landmarks(names: pa.StringArray, table: Path) -> NDArray[np.bool_]:
    """Mask [N] of the images that have a row in a table."""
    known = _read_csv(table, LANDMARK_COLUMNS)["NAME_ID"]
    mask: NDArray[np.bool_] = pc.is_in(_without_ending(names), value_set=known).to_numpy(zero_copy_only=False)
    return mask


def boxes_of(names: pa.StringArray, table: Path, where: Callable[[int], str]) -> NDArray[np.float64]:
    """Boxes of images [N], as `landmarks_of`: [N, 4] x, y, width, height in pixels."""
    boxes = _rows_of(names, table, BOX_COLUMNS, where)
    good = (np.abs(boxes) < PIXELS.farthest).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)  # false for NaN, too
    refuse([f"{table}: the row of {names[i]}: no box, or {PIXELS.far}" for i in np.flatnonzero(~good).tolist()])
    return boxes


def _rows_of(
    names: pa.StringArray, table: Path, wanted: list[str], where: Callable[[int], str]
) -> NDArray[np.float64]:
    """Columns of a table [N, K], by name without ending; InputError names images without a row by `where`."""
    columns = _read_csv(table, wanted)
    values = np.empty((len(names), len(wanted)))
    rows = _places(names, columns["NAME_ID"].combine_chunks(), table, where)
    for place, column in enumerate(wanted):
        values[:, place] = columns[column].to_numpy()[rows]
    _refuse_contradictions(columns, wanted, table, names)
    return values


def _refuse_contradictions(columns: pa.Table, wanted: list[str], table: Path, names: pa.StringArray) -> None:
    """InputError for images [N] that have several rows with other values."""
    keys = columns["NAME_ID"].combine_chunks()
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    coded = keys.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.unique(coded, return_index=True)[1][coded]
    values = np.column_stack([columns[column].to_numpy() for column in wanted])
    unlike = np.flatnonzero((values != values[first]).any(axis=1))
    used = pc.is_in(keys.take(pa.array(unlike)), value_set=_without_ending(names)).to_numpy(zero_copy_only=False)
    refuse([
        f"{table}: rows {first[i] + 1} and {i + 1} are both of {keys[i]}, and differ"
        for i in unlike[used].tolist()
    ])


def _places(
    names: pa.StringArray, known: pa.StringArray, table: Path, where: Callable[[int], str]
) -> NDArray[np.int32] | slice:
    """Rows of the table by image."""
    wanted = _without_ending(names)
    if wanted.equals(known):  # as VGGFace2's own files are: a second less than looking each of 3 million names up
        return slice(None)
    indices = pc.index_in(wanted, value_set=known)
    missing = np.flatnonzero(indices.is_null().to_numpy(zero_copy_only=False)).tolist()
    if missing:
        read_bytes(table)  # which says if it has NULs, that Arrow takes for parts of names
    rows_there = set(known.to_pylist()) if missing else set()
    refuse([
        f"{where(i)}: {names[i]} has no row in {table}{form_note(wanted[i].as_py(), rows_there.__contains__)}"
        for i in missing
    ])
    rows: NDArray[np.int32] = indices.to_numpy()
    _refuse_shared(names, rows, table, where)
    return rows


def _refuse_shared(
    names: pa.StringArray, rows: NDArray[np.int32], table: Path, where: Callable[[int], str]
) -> None:
    """InputError for images [N] that differ only by their ending, and so share a row; rows: [N].

    An image that is listed twice isn't refused.
    """
    shared = np.flatnonzero(np.bincount(rows)[rows] > 1)
    if not len(shared):  # as most lists are; the rest would take longer than that
        return
    first = np.empty(rows.max() + 1, dtype=np.int64)
    first[rows[::-1]] = np.arange(len(rows))[::-1]  # what is written last stays
    others = first[rows[shared]]
    unlike = pc.not_equal(names.take(pa.array(shared)), names.take(pa.array(others))).to_numpy(zero_copy_only=False)
    refuse([
        f"{where(i)}: {names[i]} and {names[other]} would share a row of {table}; rename one of them"
        for i, other in zip(shared[unlike].tolist(), others[unlike].tolist(), strict=True)
    ])


def _without_ending(names: pa.StringArray) -> pa.StringArray:
    ending = re.search(_ENDING, names[0].as_py())
    if ending and pc.all(pc.ends_with(names, ending[0])).as_py():  # then cutting it off takes a tenth of the time
        return pc.utf8_slice_codeunits(names, 0, -len(ending[0]))
    return pc.replace_substring_regex(names, _ENDING, "")


def _read_csv(path: Path, wanted: list[str]) -> pa.Table:
    """NAME_ID, and the wanted columns as float64."""
    types: dict[str, pa.DataType] = {"NAME_ID": pa.string()} | dict.fromkeys(wanted, pa.float64())
    try:
        with open_file(path) as file:  # by its name Arrow would unpack a .gz, to any size
            return pyarrow.csv.read_csv(
                file,
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=types,
                    include_columns=list(types),
                    # `cat train.csv test.csv` leaves a second header inside; as nulls it matches no image.
                    null_values=wanted,
                ),
            )
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except pa.ArrowKeyError as error:
        read_text(path)  # which says if it isn't UTF-8 at all
        raise InputError(f"{path}:1: expected the header {','.join(types)}") from error
    except pa.ArrowInvalid as error:
        raise InputError(_bad_csv_row(path, wanted) or f"{path}: {in_short(error)}") from error


def _bad_csv_row(path: Path, wanted: list[str]) -> str:
    """The first row that pyarrow can't have read, found the slow way since its messages give no line."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if number == 1 or not line:
            continue
        try:
            fields = next(csv.reader([line]))
        except csv.Error as error:
            return f"{path}:{number}: {error}"
        if fields[1:] == wanted:
            continue
        if len(fields) != 1 + len(wanted):
            return f"{path}:{number}: {len(fields)} fields instead of a name and {len(wanted)} numbers"
        for field in fields[1:]:
            try:
                float(field)
            except ValueError:
                return f"{path}:{number}: {field[:_QUOTED]!r} isn't a number"
    return ""
