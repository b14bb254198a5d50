#!/usr/bin/env python3
"""Compare the logs of two runs and report the first difference.

    python tools/compare_runs.py logs/before logs/after              # to the last bit
    python tools/compare_runs.py a/log.jsonl b/log.jsonl --rtol 1e-5 # to rounding, as between numbers of ranks

A and B are log folders or JSONL files. Timings are ignored unless --timings. Iterations that are missing in one,
repeated or out of order are differences too; --common compares only iterations in both. Exit status: 0 = equal, 1 =
different, 2 = unreadable.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.console import begin

    begin()

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
    """Records of a log by iteration, and messages about wrong order."""

    name: str
    records: dict[int, Record]
    disorder: list[str]


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    a, b = (read_run(path) for path in (arguments.a, arguments.b))
    ignored = set() if arguments.timings else TIMINGS
    differences = compare(a, b, arguments.rtol, ignored, arguments.common)
    if not differences:
        shared = a.records.keys() & b.records.keys()
        print(f"the same in {len(shared):,} records, iterations {min(shared):,} to {max(shared):,}")
        return 0
    print("\n".join(differences))
    return 1


def read_run(path: Path) -> Run:
    """Read a log; InputError names an invalid line."""
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
    """Messages about differences; empty = none.

    rtol: relative tolerance, of the larger value. ignored: keys. common: ignore iterations that only one has.
    """
    differences = a.disorder + b.disorder
    for one, other in ((a, b), (b, a)):
        alone = sorted(one.records.keys() - other.records.keys())
        if alone and not common:
            differences.append(f"{one.name} alone has {len(alone):,} iterations, the first of them {alone[0]:,}")
    shared = sorted(a.records.keys() & b.records.keys())
    if not shared:
        return [*differences, "no iteration is in both"]
    different = [(iteration, key) for iteration in shared for key in _unlike(a, b, iteration, rtol, ignored)]
    if different:
        iteration, _ = different[0]
        differences.append(f"they part at iteration {iteration:,}:")
        for key in (key for place, key in different if place == iteration):
            first, second = (run.records[iteration].get(key, "absent") for run in (a, b))
            differences.append(f"  {key}: {first} and {second}")
        count = len({place for place, _ in different})
        differences.append(f"of {len(shared):,} iterations that both have {count:,} differ")
    return differences


def _unlike(a: Run, b: Run, iteration: int, rtol: float, ignored: set[str]) -> list[str]:
    """Keys whose values differ at an iteration: in A's order, then those only in B."""
    first, second = a.records[iteration], b.records[iteration]
    return [key for key in {**first, **second} if key not in ignored and not _alike(first, second, key, rtol)]


def _alike(first: Record, second: Record, key: str, rtol: float) -> bool:
    if key not in first or key not in second:
        return False
    x, y = first[key], second[key]
    if x is None or y is None:  # null: the value wasn't finite
        return x is y
    return x == y or math.isclose(x, y, rel_tol=rtol)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/compare_runs.py")
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="folder of logs, or JSONL file")
    add("b", type=Path, metavar="B", help="another")
    add("--rtol", type=float, default=0.0, help="difference that counts as none [share of the value] (default: 0)")
    add("--timings", action="store_true", help=f"compare {', '.join(sorted(TIMINGS))}, too")
    add("--common", action="store_true", help="only iterations that both have")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.rtol < 1:
        parser.error(f"--rtol: expected a share in [0, 1), got {arguments.rtol}")
    return arguments


if __name__ == "__main__":
    run_plainly("tools/compare_runs.py", main)
