"""Records of a run's logs, `log.jsonl` and `validation.jsonl` (docs/training.md), by iteration."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.errors import InputError
from fr.files.untrusted import read_text

LOG, VALIDATION = "log.jsonl", "validation.jsonl"
TIMINGS = {"images_per_s", "data_wait"}
_LARGEST = 2**63  # of whole numbers: larger ones may be too large for a float
_METRICS = ("accuracy", "auc", "top1", "top5")  # ends of the keys of validation.jsonl that are shown; higher is better
_PARTS = ("same_accuracy", "diff_accuracy")  # that aren't
Record = dict[str, float | None]  # None: the value wasn't finite
Curve = tuple[NDArray[np.int64], NDArray[np.float64]]  # iterations in ascending order, values


@dataclass(frozen=True)
class RunLog:
    """Records of a log by iteration, the last of repeated ones, and messages about wrong order."""

    name: str
    records: dict[int, Record]
    disorder: list[str]


def read_log(path: Path, growing: bool = False) -> RunLog:
    """Read a JSONL file, or the `log.jsonl` of a folder; InputError names an invalid line.

    growing: a training may be writing it: an incomplete last line is left out, and the file may have no record.
    """
    path = path / LOG if path.is_dir() else path
    text = read_text(path)
    if growing:
        text = text.rpartition("\n")[0]
    records: dict[int, Record] = {}
    disorder: list[str] = []
    newest = -1
    for number, line in enumerate(text.splitlines(), start=1):
        record = _record(line, f"{path}:{number}")
        iteration = int(record.pop("iteration") or 0)
        if iteration <= newest:
            again = "twice" if iteration in records else f"after {newest:,}"
            disorder.append(f"{path}:{number}: iteration {iteration:,} {again}")
        newest = max(newest, iteration)
        records[iteration] = record
    if not records and not growing:
        raise InputError(f"{path}: no records")
    return RunLog(str(path), records, disorder)


def validation_keys(logs: Sequence[Mapping[int, Record]]) -> list[str]:
    """Keys of `validation.jsonl` to draw: accuracy and AUC of each set, top-1 and top-5 of held-out images."""
    keys = dict.fromkeys(key for log in logs for record in log.values() for key in record)
    return [key for key in keys if key.split("_")[-1] in _METRICS and not key.endswith(_PARTS)]


def curve(records: Mapping[int, Record], key: str) -> Curve:
    """Values of a key over the iterations that have it; NaN where the value wasn't finite."""
    iterations = sorted(iteration for iteration, record in records.items() if key in record)
    values = [records[iteration][key] for iteration in iterations]
    return np.array(iterations, dtype=np.int64), np.array(values, dtype=np.float64)


def _record(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not all(value is None or _is_number(value) for value in record.values()):
        raise InputError(f"{where}: not a record of numbers")
    if not isinstance(record.get("iteration"), int):
        raise InputError(f"{where}: a record without its iteration")
    return record


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < _LARGEST
