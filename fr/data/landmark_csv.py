"""VGGFace2's `bb_landmark/loose_landmark_*.csv` and `loose_bb_*.csv`: points and box of each image, by name.

Copies saved by a spreadsheet are read too: with tabs or semicolons (and decimal commas), spaces after the commas, more
columns, or a header in another case.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import PIXELS, check_landmarks, refuse
from fr.data.rows_by_name import has_rows, values_by_name
from fr.errors import InputError, in_short
from fr.files.untrusted import open_file, read_bytes, read_text

_QUOTED = 80  # characters of a field that a message shows
_LONGEST_HEADER = 1 << 16  # bytes
LANDMARK_COLUMNS = [f"P{point}{axis}" for point in range(1, 6) for axis in "XY"]
BOX_COLUMNS = ["X", "Y", "W", "H"]


def landmark_table(given: Path, source: Path) -> Path:
    """The CSV `given`; or, in the folder `given`, the CSV named like `source` (a list or folder), or the only one."""
    if given.is_file():
        return given
    if not given.is_dir():
        raise InputError(f"--train_landmarks {given}: no such file or folder")
    kind = next((kind for kind in ("train", "test") if kind in source.name), "all")
    table = given / f"loose_landmark_{kind}.csv"
    if table.is_file():
        return table
    others = landmark_csvs(given)
    if len(others) != 1:
        there = f"; there: {', '.join(path.name for path in others[:3])}" if others else ""
        raise InputError(
            f"{table}: no such file (chosen for the name {source.name}){there}; give the CSV itself with "
            "--train_landmarks"
        )
    return others[0]


def landmark_csvs(folder: Path) -> list[Path]:
    """CSV files of a folder, sorted, without tables of boxes."""
    return sorted(path for path in folder.glob("*.csv") if path.is_file() and not path.name.startswith("loose_bb_"))


def given_landmarks(
    names: pa.StringArray, given: str, source: Path, where: Callable[[int], str]
) -> NDArray[np.float64]:
    """Landmarks of images [N] from the table of --train_landmarks (`landmark_table`); [N, 0, 2] if `given` is ""."""
    if not given:
        return np.zeros((len(names), 0, 2))
    return landmarks_of(names, landmark_table(Path(given), source), where)


def landmarks_of(names: pa.StringArray, table: Path, where: Callable[[int], str]) -> NDArray[np.float64]:
    """Landmarks of images [N], looked up by name as in `values_by_name`: [N, 5, 2] pixels.

    InputError names images without a row, by `where`, and rows that no similarity fits.
    """
    landmarks = _rows_of(names, table, LANDMARK_COLUMNS, where).reshape(-1, 5, 2)
    check_landmarks(landmarks, lambda i: f"{table}: the row of {names[i]}")
    return landmarks


def has_landmarks(names: pa.StringArray, table: Path) -> NDArray[np.bool_]:
    """Mask [N] of the images that have a row in a table."""
    return has_rows(names, _read_csv(table, LANDMARK_COLUMNS)["NAME_ID"].combine_chunks())


def boxes_of(names: pa.StringArray, table: Path, where: Callable[[int], str]) -> NDArray[np.float64]:
    """Boxes of images [N], as `landmarks_of`: [N, 4] x, y, width, height in pixels."""
    boxes = _rows_of(names, table, BOX_COLUMNS, where)
    good = (np.abs(boxes) < PIXELS.farthest).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)  # false for NaN, too
    refuse([f"{table}: the row of {names[i]}: no box, or {PIXELS.far}" for i in np.flatnonzero(~good).tolist()])
    return boxes


def qualities_of(names: pa.StringArray, table: Path, where: Callable[[int], str]) -> NDArray[np.float64]:
    """Quality scores of images, column SCORE, as `landmarks_of`: [N], higher is better."""
    scores = _rows_of(names, table, ["SCORE"], where)[:, 0]
    refuse([f"{table}: the row of {names[i]}: no number" for i in np.flatnonzero(~np.isfinite(scores)).tolist()])
    return scores


def _rows_of(names: pa.StringArray, table: Path, wanted: list[str], where: Callable[[int], str]) -> NDArray[np.float64]:
    """Columns of a table [N, K] by name; InputError names images without a row by `where`."""
    columns = _read_csv(table, wanted)
    try:
        return values_by_name(names, columns["NAME_ID"].combine_chunks(), columns.select(wanted), str(table), where)
    except InputError:
        read_bytes(table)  # raises for NUL bytes, which Arrow would read as parts of names
        raise


@dataclass(frozen=True)
class _Dialect:
    """Separator and decimal point of a table, and the fields of its header, in capitals, stripped."""

    header: list[str]
    delimiter: str
    decimal_point: str


def _dialect(path: Path) -> _Dialect:
    """Determine the dialect by the first two lines; OSError if they can't be read."""
    with open_file(path) as file:
        begin = file.read(_LONGEST_HEADER).decode("utf-8-sig", errors="replace")
    first, *others = begin.replace("\r", "\n").split("\n")
    second = next(filter(None, others), "")
    delimiter = max(",;\t", key=first.count)
    header = [field.strip().strip('"').strip().upper() for field in first.split(delimiter)]
    return _Dialect(header, delimiter, "," if delimiter != "," and "," in second else ".")


def _read_csv(path: Path, wanted: list[str]) -> pa.Table:
    """NAME_ID, and the wanted columns as float64."""
    types: dict[str, pa.DataType] = {"NAME_ID": pa.string()} | dict.fromkeys(wanted, pa.float64())
    try:
        dialect = _dialect(path)
        if not types.keys() <= {*dialect.header}:
            begin = read_text(path).partition("\n")[0][:_QUOTED]  # raises if it isn't UTF-8 at all
            raise InputError(f"{path}:1: expected the header {','.join(types)}; the file begins with {begin!r}")
        with open_file(path) as file:  # given a path, Arrow would unpack a .gz, to any size
            return pyarrow.csv.read_csv(
                file,
                pyarrow.csv.ReadOptions(column_names=dialect.header, skip_rows=1),
                pyarrow.csv.ParseOptions(delimiter=dialect.delimiter),
                pyarrow.csv.ConvertOptions(
                    column_types=types,
                    include_columns=list(types),
                    # `cat train.csv test.csv` leaves a second header inside; read as nulls it matches no image.
                    null_values=wanted,
                    decimal_point=dialect.decimal_point,
                ),
            )
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except pa.ArrowInvalid as error:
        raise InputError(_bad_csv_row(path, dialect, wanted) or f"{path}: {in_short(error)}") from error


def _bad_csv_row(path: Path, dialect: _Dialect, wanted: list[str]) -> str:
    """Message about the first row that pyarrow can't read. Found by a slow search: its messages give no line."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if number == 1 or not line:
            continue
        try:
            fields = next(csv.reader([line], delimiter=dialect.delimiter))
        except csv.Error as error:
            return f"{path}:{number}: {error}"
        if len(fields) != len(dialect.header):
            return f"{path}:{number}: {counted(len(fields), 'field')}, where the header has {len(dialect.header)}"
        for name, field in zip(dialect.header, fields, strict=True):
            if name not in wanted or field == name:
                continue
            try:
                float(field.replace(dialect.decimal_point, "."))
            except ValueError:
                return f"{path}:{number}: {field[:_QUOTED]!r} isn't a number"
    return ""
