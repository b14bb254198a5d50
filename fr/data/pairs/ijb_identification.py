"""IJB-B and IJB-C, 1:N: the templates of their galleries and probes.

In `meta/`, beside the files of `fr/data/pairs/ijb.py`, with `ijbb` or `ijbc` for x: `x_1N_gallery_G1.csv` and `_G2.csv`
(for IJB-B `_S1` and `_S2`), galleries of different people, and `x_1N_probe_mixed.csv`. After a header there is a line
for each image, which begins with template and subject; the other fields aren't read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from fr.data.faces import refuse_rows
from fr.data.pairs.ijb import Ijb
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.untrusted import open_file

_GALLERIES, _PROBES = "_1N_gallery_", "_1N_probe_mixed.csv"


@dataclass(frozen=True)
class TemplateList:
    """N templates. template: [N] rows of `Ijb.ids`. subject: [N] as the file numbers them."""

    template: NDArray[np.int64]
    subject: NDArray[np.int64]


def read_identification(root: DataRoot, ijb: Ijb) -> tuple[TemplateList, dict[str, TemplateList]]:
    """Probes, and galleries by name (`g1`); no galleries if `meta/` has no lists of them.

    InputError for lists that can't be read, unknown templates, and templates of two subjects.
    """
    meta = root.path / "meta"
    start = f"{ijb.name}{_GALLERIES}"
    paths = sorted(meta.glob(f"{start}*.csv"))
    galleries = {path.stem.removeprefix(start).lower(): _read(path, ijb.ids) for path in paths}
    empty = np.zeros(0, dtype=np.int64)
    return _read(meta / f"{ijb.name}{_PROBES}", ijb.ids) if paths else TemplateList(empty, empty), galleries


def _read(path: Path, ids: NDArray[np.int64]) -> TemplateList:
    try:
        with open_file(path) as file:
            table = pyarrow.csv.read_csv(
                file,
                pyarrow.csv.ReadOptions(autogenerate_column_names=True, skip_rows=1),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={"f0": pa.int64(), "f1": pa.int64()}, include_columns=["f0", "f1"], null_values=[]
                ),
            )
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except (pa.ArrowException, KeyError) as error:
        problem = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: lines don't begin with template and subject, two numbers: {problem}") from error
    listed, subjects = (table[name].combine_chunks().to_numpy() for name in ("f0", "f1"))
    if not len(listed):
        raise InputError(f"{path}: no templates")
    pairs = np.unique(np.stack([listed, subjects]), axis=1)
    twice = np.flatnonzero(np.diff(pairs[0]) == 0)
    refuse_rows(twice, lambda i: f"{path}: template {pairs[0, i]} is of subjects {pairs[1, i]} and {pairs[1, i + 1]}")
    rows = np.minimum(np.searchsorted(ids, pairs[0]), len(ids) - 1)
    unknown = np.flatnonzero(ids[rows] != pairs[0])
    refuse_rows(unknown, lambda i: f"{path}: template {pairs[0, i]} has no images")
    return TemplateList(rows.astype(np.int64), pairs[1])
