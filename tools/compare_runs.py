#!/usr/bin/env python3
"""Say whether the logs of two runs agree, and where they first part.

    python tools/compare_runs.py logs/before logs/after              # to the last bit
    python tools/compare_runs.py a/log.jsonl b/log.jsonl --rtol 1e-5 # to rounding, as between numbers of ranks

A and B are folders of logs or JSONL files. What measures time is left out (--timings takes it in). Iterations that only
one of them has, twice, or out of order, are differences, too; --common looks only at those that both have.
Exit status: 0 = they agree, 1 = they differ, 2 = one can't be read.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fr.errors import InputError, run_plainly
from fr.files.untrusted import read_text
from fr.options.parsing import tool_parser

LOG = "log.jsonl"
TIMINGS = {"images_per_s", "data_wait"}
Record = dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """The records of a log by iteration, and lines on what is wrong with their order."""

    name: str
    records: dict[int, Record]
    disorder: list[str]


def main(argv: list[str]) -> int:
    given = _arguments(argv)
    a, b = (read_run(path) for path in (given.a, given.b))
    ignored = set() if given.timings else TIMINGS
    differences = compare(a, b, given.rtol, ignored, given.common)
    if not differences:
        shared = a.records.keys() & b.records.keys()
        print(f"the same in {len(shared):,} records, iterations {min(shared):,} to {max(shared):,}")
        return 0
    print("\n".join(differences))
    return 1


def read_run(path: Path) -> Run:
    """InputError names the line that is no record."""
    path = path / LOG if path.is_dir() else path
    records: dict[int, Record] = {}
    disorder: list[str] = []
    newest = -1
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        record = _record(line, f"{path}:{number}")
        iteration = int(record.pop("iteration") or 0)
        if iteration <= newest:
            again = "twice" if iteration in records else f"after {newest:,}"
            disorder.append(f"{path}:{number}: iteration {iteration:,} {again}")
        newest = max(newest, iteration)
        records[iteration] = record
    if not records:
        raise InputError(f"{path}: no records")
    return Run(str(path), records, disorder)


def _record(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not all(value is None or _is_number(value) for value in record.values()):
        raise InputError(f"{where}: no record of numbers")
    if not isinstance(record.get("iteration"), int):
        raise InputError(f"{where}: a record without its iteration")
    return record


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(a: Run, b: Run, rtol: float, ignored: set[str], common: bool) -> list[str]:
    """Lines on what differs; none = nothing. rtol: how far two values may be apart, as a share of the larger one.
    ignored: keys. common: iterations that only one has don't matter."""
    differences = a.disorder + b.disorder
    for one, other in ((a, b), (b, a)):
        alone = sorted(one.records.keys() - other.records.keys())
        if alone and not common:
            differences.append(f"{one.name} alone has {len(alone):,} iterations, the first of them {alone[0]:,}")
    shared = sorted(a.records.keys() & b.records.keys())
    if not shared:
        return [*differences, "no iteration is in both"]
    parted = [(iteration, key) for iteration in shared for key in _unlike(a, b, iteration, rtol, ignored)]
    if parted:
        iteration, _ = parted[0]
        differences.append(f"they part at iteration {iteration:,}:")
        for key in (key for place, key in parted if place == iteration):
            first, second = (run.records[iteration].get(key, "absent") for run in (a, b))
            differences.append(f"  {key}: {first} and {second}")
        count = len({place for place, _ in parted})
        differences.append(f"of {len(shared):,} iterations that both have {count:,} differ")
    return differences


def _unlike(a: Run, b: Run, iteration: int, rtol: float, ignored: set[str]) -> list[str]:
    """The keys whose values differ at an iteration, as A has them, then those of B alone."""
    first, second = a.records[iteration], b.records[iteration]
    return [key for key in {**first, **second} if key not in ignored and not _alike(first, second, key, rtol)]


def _alike(first: Record, second: Record, key: str, rtol: float) -> bool:
    if key not in first or key not in second:
        return False
    x, y = first[key], second[key]
    if x is None or y is None:  # what wasn't finite
        return x is y
    return x == y or math.isclose(x, y, rel_tol=rtol)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/compare_runs.py", __doc__)
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="folder of logs, or JSONL file")
    add("b", type=Path, metavar="B", help="another")
    add("--rtol", type=float, default=0.0, help="difference that counts as none [share of the value] (default: 0)")
    add("--timings", action="store_true", help=f"compare {', '.join(sorted(TIMINGS))}, too")
    add("--common", action="store_true", help="only iterations that both have")
    given = parser.parse_args(argv)
    if not 0 <= given.rtol < 1:
        parser.error(f"--rtol: expected a share in [0, 1), got {given.rtol}")
    return given


if __name__ == "__main__":
    run_plainly("tools/compare_runs.py", main)
