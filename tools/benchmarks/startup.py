"""`benchmark.py startup`: time from reading train.py's data to the first batch, and the memory of a rank.

Creates files like VGGFace2's: a list, a table of landmarks, and one (empty) image. Each measurement runs in new
processes and starts after their imports, which take seconds for PyTorch, and a barrier. The files were just written, so
they are in the page cache. `cold` starts with an empty data cache, `warm` with the one `cold` wrote. Memory is what the
kernel counts as private to a process after every row was used; a single rank's includes the cache's pages, which other
ranks would share.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from fr.data.distributed_reading import read_on_all_ranks
from fr.data.landmark_csv import LANDMARK_COLUMNS
from fr.data.order import Order
from fr.distributed import Ranks
from fr.progress import tracked
from tools.benchmarks.case_ranks import measure_in_own_processes, write_measured
from tools.options.benchmark import VGGFACE2_ROWS

_IDENTITIES = 8_631  # of VGGFace2's training part
_FEWEST, _MOST = 80, 843  # images of one of its identities
_TYPICAL = [75.0, 110.0, 140.0, 110.0, 108.0, 145.0, 82.0, 180.0, 136.0, 180.0]  # a loose crop's landmarks [pixels]
_BATCH = 256
_START = ("cold", "warm")
_COLUMNS = "ranks start  read s         spread to first batch s private MB anonymous MB process MB"


@dataclass(frozen=True)
class Case:
    data: str  # folder of the files
    start: str  # a word of _START
    ranks: int


def run(arguments: argparse.Namespace) -> None:
    """Create the files, measure the cases alternately, then print the table and the main metrics."""
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), arguments.rows)
        cases = [Case(folder, start, ranks) for ranks in arguments.ranks for start in _START]
        measured: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
        for case in tracked(cases * arguments.turns, "start", "measuring"):
            measured[case].append(_in_own_processes(case))
    print(_COLUMNS)
    results = []
    for case, turns in measured.items():
        middle = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        results.append({"ranks": case.ranks, "start": case.start, **middle})
        spread = f"{min(turn['read_s'] for turn in turns):.2f} … {max(turn['read_s'] for turn in turns):.2f}"
        print(
            f"{case.ranks:5} {case.start:5} {middle['read_s']:7.2f} {spread:>14} {middle['first_batch_s']:16.2f} "
            f"{middle['private_mb']:10.0f} {middle['anonymous_mb']:12.0f} {middle['process_mb']:10.0f}"
        )
    print("private, anonymous: growth on the rank with the most; process: all of its memory, including PyTorch's")
    print(json.dumps({**_figures(results), "rows": arguments.rows, "results": results}))


def _figures(results: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds with the slowest number of ranks; private_mb with most ranks, the worse of cold and warm."""
    most = max(result["ranks"] for result in results)
    return {
        **{f"{start}_s": max(r["read_s"] for r in results if r["start"] == start) for start in _START},
        "private_mb": max(result["private_mb"] for result in results if result["ranks"] == most),
    }


def make_files(folder: Path, rows: int) -> None:
    """Create list.txt, points.csv and images/ like VGGFace2's in names, counts and sizes; modified an hour ago."""
    random = np.random.default_rng(0)
    identities = max(1, round(rows * _IDENTITIES / VGGFACE2_ROWS))
    weights = random.uniform(_FEWEST, _MOST, identities)
    own = np.searchsorted(np.cumsum(weights) / weights.sum(), (np.arange(rows) + 0.5) / rows)
    first = np.searchsorted(own, np.arange(identities))
    names = pc.binary_join_element_wise("n", _digits(own + 2, 6), "/", _digits(np.arange(rows) - first[own] + 1, 4), "")
    names = pc.binary_join_element_wise(names, "01", "_")
    scale, noise = random.uniform(0.4, 3, (rows, 1)), random.normal(0, 5, (rows, 10))
    columns = [pa.array(column) for column in np.round(scale * _TYPICAL + noise, 6).T]
    with (folder / "points.csv").open("wb") as file:
        file.write(",".join(["NAME_ID", *LANDMARK_COLUMNS]).encode() + b"\n")
        options = pyarrow.csv.WriteOptions(include_header=False)
        pyarrow.csv.write_csv(pa.table([names, *columns], ["NAME_ID", *LANDMARK_COLUMNS]), file, options)
    listed = pc.binary_join_element_wise(names, ".jpg", "")
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    pyarrow.csv.write_csv(pa.table([listed], ["name"]), folder / "list.txt", options)
    photograph = folder / "images" / listed[0].as_py()
    photograph.parent.mkdir(parents=True)
    photograph.touch()
    for name in ("list.txt", "points.csv"):  # just modified files aren't cached
        os.utime(folder / name, (time.time() - 3600,) * 2)


def _digits(numbers: NDArray[np.int64], width: int) -> pa.StringArray:
    return pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")


def _in_own_processes(case: Case) -> dict[str, float]:
    """Maximum of each metric over the ranks."""
    if case.start == "cold":
        shutil.rmtree(Path(case.data, "cache"), ignore_errors=True)
    measured = measure_in_own_processes("tools.benchmarks.startup", case, case.ranks)
    return {name: max(one[name] for one in measured) for name in measured[0]}


def _measure_rank(case: Case, rank: int) -> dict[str, float]:
    """Start as one of the case's ranks; returns the metrics of the start."""
    torch.set_num_threads(1)
    data = Path(case.data)
    options = {
        "train_data_root": str(data / "images"),
        "train_list": str(data / "list.txt"),
        "train_landmarks": str(data / "points.csv"),
        "data_cache": str(data / "cache"),
    }
    dist.barrier()
    before, start = _memory(), time.perf_counter()
    faces = read_on_all_ranks(options, Ranks(rank, case.ranks, rank, case.ranks, torch.device("cpu")))
    read = time.perf_counter()
    share = Order(len(faces), min(_BATCH, len(faces)), seed=0).share(0, 0, 1)
    np.asarray(faces.landmarks[share.indices])
    ready = time.perf_counter()
    np.max(faces.landmarks), np.max(faces.labels), faces.names.validate(full=True)  # uses every page, as an epoch does
    dist.barrier()
    after = _memory()
    dist.barrier()
    return {
        "read_s": read - start,
        "first_batch_s": ready - start,
        "private_mb": after["private"] - before["private"],
        "anonymous_mb": after["Anonymous"] - before["Anonymous"],
        "process_mb": after["private"],
    }


def _memory() -> dict[str, float]:
    """Memory of this process in MB by the kernel's categories, and their private sum (`private`)."""
    rows = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    sizes = {name.rstrip(":"): int(kilobytes) * 1024 / 1e6 for name, kilobytes, _ in rows}
    return sizes | {"private": sizes["Private_Clean"] + sizes["Private_Dirty"]}


if __name__ == "__main__":
    write_measured(Case, _measure_rank)
