"""Where features go: a file for each picture, or one with all of them. N pictures, D numbers of each.

| format | file | content |
|---|---|---|
| npy | one a picture, its name with another ending | float32 [D] (VGGFace2-pytorch) |
| bin | one a picture, its name and --file_ending | matrix of D rows and a column (MegaFace) |
| npz | features.npz | `features` float32 [N, D], `names` [N], and `identities` [N] where they are known |
| parquet | features.parquet | columns `name`, `identity` where it is known, `feature`: D float32 |
| trillion | features.bin | matrix of a row a line of the list; zeros where there are none (Trillion Pairs) |

A matrix is as MegaFace's devkit reads it, OpenCV's: int32 rows, columns, bytes a row, type (5 = float32), then the
numbers; all little-endian.
"""

import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fr.errors import InputError
from fr.files.durable import sync_folder, write_durably, write_result
from tools.features.parts import Features, Part

_FLOAT32 = 5  # OpenCV's CV_32F
_PARTS = ".parts"

Vector = NDArray[np.float32]
Blocks = Callable[[], Iterator[tuple[Part, Features]]]  # each call begins with the first part again
Columns = dict[str, pa.StringArray]  # by name, [N] each: what is known of the pictures


class Sink(Protocol):
    """Where features go."""

    def is_done(self, part: Part) -> bool:
        """Whether all pictures of a part have theirs from a run before."""

    def take(self, part: Part, features: Features) -> None:
        """Write what a part gave; whole when it returns. InputError when it can't be written."""

    def finish(self, parts: Sequence[Part]) -> None:
        """What is to do when all parts are there, by one rank."""


def npy(values: Vector) -> bytes:
    """As numpy.save writes it."""
    content = BytesIO()
    np.lib.format.write_array(content, values, allow_pickle=False)
    return content.getvalue()


def matrix_header(rows: int, columns: int) -> bytes:
    """Of a matrix of float32."""
    return struct.pack("<4i", rows, columns, 4 * columns, _FLOAT32)


def column_matrix(values: Vector) -> bytes:
    """[D] as a matrix of D rows and a column."""
    return matrix_header(len(values), 1) + values.astype("<f4").tobytes()


@dataclass(frozen=True)
class FileEach:
    """A file for each picture. names [N]: below out. encode: row of the list, features [D] → content."""

    out: Path
    names: Sequence[str]
    encode: Callable[[int, Vector], bytes]

    def is_done(self, part: Part) -> bool:
        return all((self.out / self.names[row]).exists() for row in part.rows.tolist())

    def take(self, part: Part, features: Features) -> None:
        for row, values in zip(features.rows.tolist(), features.values, strict=True):
            write_result(self.out / self.names[row], self.encode(row, values))

    def finish(self, parts: Sequence[Part]) -> None:
        """Remove what a killed run left half written (`replace_file`), where the file is whole by now."""
        for folder in {(self.out / name).parent for name in self.names}:
            for left in folder.glob(".*.tmp"):
                if (ours := re.fullmatch(r"\.(.+)\.\d+\.tmp", left.name)) and (folder / ours[1]).exists():
                    left.unlink(missing_ok=True)


@dataclass(frozen=True)
class OneFile:
    """One file, put together from parts that lie in a folder beside it until then."""

    path: Path
    write: Callable[[BinaryIO, Blocks], None]

    def is_done(self, part: Part) -> bool:
        """One with bad pictures isn't: they are tried again."""
        if self.path.exists():
            return True
        return self._file(part).exists() and len(self._read(part).rows) == len(part.rows)

    def take(self, part: Part, features: Features) -> None:
        content = BytesIO()
        np.savez(content, rows=features.rows, values=features.values)
        write_result(self._file(part), content.getvalue())

    def finish(self, parts: Sequence[Part]) -> None:
        if not self.path.exists():
            if missing := [part for part in parts if not self._file(part).exists()]:
                raise InputError(
                    f"{self._file(missing[0])}: missing; --out must be one folder for all ranks, on all hosts"
                )
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            try:
                write_durably(temporary, lambda file: self.write(file, lambda: self._all(parts)))
                temporary.replace(self.path)
                sync_folder(self.path.parent)
            except OSError as error:
                raise InputError(f"{self.path}: can't be written: {error.strerror}") from error
        shutil.rmtree(self.path.parent / _PARTS, ignore_errors=True)

    def _all(self, parts: Sequence[Part]) -> Iterator[tuple[Part, Features]]:
        return ((part, self._read(part)) for part in parts)

    def _file(self, part: Part) -> Path:
        return self.path.parent / _PARTS / f"{part.number:06d}.npz"

    def _read(self, part: Part) -> Features:
        path = self._file(part)
        try:
            with np.load(path, allow_pickle=False) as stored:
                return Features(stored["rows"], stored["values"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: damaged: delete it, and run again") from error


def write_npz(columns: Columns, dimensions: int, file: BinaryIO, blocks: Blocks) -> None:
    """numpy.load reads it; the matrix is never in memory as a whole."""
    rows = np.concatenate([features.rows for _, features in blocks()])
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo("features.npy"), "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), dimensions)}
            np.lib.format.write_array_header_1_0(member, header)
            for _, features in blocks():
                member.write(features.values.astype("<f4").tobytes())
        for name, column in columns.items():
            with archive.open(zipfile.ZipInfo(f"{_PLURALS[name]}.npy"), "w", force_zip64=True) as member:
                texts = np.array(column.take(pa.array(rows)).to_pylist(), dtype=np.str_)
                np.lib.format.write_array(member, texts, allow_pickle=False)


_PLURALS = {"name": "names", "identity": "identities"}


def write_parquet(columns: Columns, dimensions: int, file: BinaryIO, blocks: Blocks) -> None:
    """A row group a part."""
    vectors = pa.list_(pa.float32(), dimensions)
    schema = pa.schema([*((name, pa.string()) for name in columns), ("feature", vectors)])
    with pq.ParquetWriter(file, schema) as writer:
        for _, features in blocks():
            known: list[Any] = [column.take(pa.array(features.rows)) for column in columns.values()]
            values = pa.FixedSizeListArray.from_arrays(pa.array(features.values.ravel()), dimensions)
            writer.write_table(pa.table([*known, values], schema=schema))


def write_trillion(dimensions: int, file: BinaryIO, blocks: Blocks) -> None:
    """A row a picture of the list, zeros for one without features."""
    file.write(matrix_header(sum(len(part.rows) for part, _ in blocks()), dimensions))
    for part, features in blocks():
        whole = np.zeros((len(part.rows), dimensions), dtype="<f4")
        whole[np.isin(part.rows, features.rows)] = features.values
        file.write(whole.tobytes())
