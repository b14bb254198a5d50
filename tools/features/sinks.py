"""Feature files: one for each image, or one with all. N images, D feature size.

| format | file | content |
|---|---|---|
| npy | one per image, its name with another ending | float32 [D] (VGGFace2-pytorch) |
| bin | one per image, its name and --file_ending | matrix of D rows and one column (MegaFace) |
| npz | features.npz | `features` float32 [N, D], `names` [N], and `identities` [N] if known |
| parquet | features.parquet | columns `name`, `identity` if known, `feature`: D float32 |
| trillion | features.bin | matrix with one row per line of the list; zeros for bad images (Trillion Pairs) |

A matrix has OpenCV's format as MegaFace's devkit reads it: int32 rows, columns, bytes per row, type (5 = float32), then
the values; all little-endian.
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

from fr.errors import InputError, os_error_as
from fr.files.durable import sync_folder, write_durably, write_result
from tools.features.parts import Features, Part

_FLOAT32 = 5  # OpenCV's CV_32F
_PARTS = ".parts"

Vector = NDArray[np.float32]
Blocks = Callable[[], Iterator[tuple[Part, Features]]]  # each call starts with the first part
Columns = dict[str, pa.StringArray]  # image columns by name, [N] each


class Sink(Protocol):
    """Destination of features."""

    @property
    def where(self) -> str:
        """The files, as text to print."""

    def is_done(self, part: Part) -> bool:
        """Test whether a previous run wrote a part completely."""

    def take(self, part: Part, features: Features) -> None:
        """Write a part's features; they are complete when it returns. InputError if they can't be written."""

    def finish(self, parts: Sequence[Part]) -> None:
        """Finish the output after all parts, on one rank."""


def npy(values: Vector) -> bytes:
    """Content of a file of numpy.save."""
    content = BytesIO()
    np.lib.format.write_array(content, values, allow_pickle=False)
    return content.getvalue()


def matrix_header(rows: int, columns: int) -> bytes:
    """Header of a float32 matrix."""
    return struct.pack("<4i", rows, columns, 4 * columns, _FLOAT32)


def column_matrix(values: Vector) -> bytes:
    """Matrix file with the feature [D] as one column."""
    return matrix_header(len(values), 1) + values.astype("<f4").tobytes()


@dataclass(frozen=True)
class FileEach:
    """One file per image. names [N]: below out. encode: row of the list, features [D] → content."""

    out: Path
    names: Sequence[str]
    encode: Callable[[int, Vector], bytes]

    @property
    def where(self) -> str:
        return f"{self.out / self.names[0]} and one such file for each other image"

    def is_done(self, part: Part) -> bool:
        return all((self.out / self.names[row]).exists() for row in part.rows.tolist())

    def take(self, part: Part, features: Features) -> None:
        for row, values in zip(features.rows.tolist(), features.values, strict=True):
            write_result(self.out / self.names[row], self.encode(row, values))

    def finish(self, parts: Sequence[Part]) -> None:
        """Remove temporary files of killed runs (`replace_file`) if the file is complete now."""
        for folder in {(self.out / name).parent for name in self.names}:
            for left in folder.glob(".*.tmp"):
                if (ours := re.fullmatch(r"\.(.+)\.\d+\.tmp", left.name)) and (folder / ours[1]).exists():
                    left.unlink(missing_ok=True)


@dataclass(frozen=True)
class OneFile:
    """One file, assembled from parts in a folder next to it."""

    path: Path
    write: Callable[[BinaryIO, Blocks], None]

    @property
    def where(self) -> str:
        return str(self.path)

    def is_done(self, part: Part) -> bool:
        """Test whether a part is complete; one with bad images isn't, since they are tried again."""
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
            with os_error_as(f"{self.path}: can't be written"):
                write_durably(temporary, lambda file: self.write(file, lambda: self._all(parts)))
                temporary.replace(self.path)
                sync_folder(self.path.parent)
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
    """Write a file for numpy.load without the whole matrix in memory."""
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
    """Write a Parquet file with one row group per part."""
    vectors = pa.list_(pa.float32(), dimensions)
    schema = pa.schema([*((name, pa.string()) for name in columns), ("feature", vectors)])
    with pq.ParquetWriter(file, schema) as writer:
        for _, features in blocks():
            known: list[Any] = [column.take(pa.array(features.rows)) for column in columns.values()]
            values = pa.FixedSizeListArray.from_arrays(pa.array(features.values.ravel()), dimensions)
            writer.write_table(pa.table([*known, values], schema=schema))


def write_trillion(dimensions: int, file: BinaryIO, blocks: Blocks) -> None:
    """Write a matrix with one row per line of the list, zeros for an image without features."""
    file.write(matrix_header(sum(len(part.rows) for part, _ in blocks()), dimensions))
    for part, features in blocks():
        whole = np.zeros((len(part.rows), dimensions), dtype="<f4")
        whole[np.isin(part.rows, features.rows)] = features.values
        file.write(whole.tobytes())
