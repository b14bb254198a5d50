#!/usr/bin/env python3
"""Compare the logs of two runs and report the first difference.

    python tools/compare_runs.py logs/before logs/after              # to the last bit
    python tools/compare_runs.py a/log.jsonl b/log.jsonl --rtol 1e-5 # to rounding, as between numbers of ranks

A and B are log folders or JSONL files. Timings are ignored unless --timings. Iterations that are missing in one,
repeated or out of order are differences too; --common compares only iterations in both. Exit status: 0 = equal, 1 =
different, 2 = unreadable.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/compare_runs.py")

import argparse
import math
from pathlib import Path

from fr.console import counted
from fr.errors import run_plainly
from fr.options.parsing import tool_parser
from fr.report.run_logs import TIMINGS, Record, RunLog, read_log


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    a, b = (read_log(path) for path in (arguments.a, arguments.b))
    ignored = set() if arguments.timings else TIMINGS
    differences = compare(a, b, arguments.rtol, ignored, arguments.common)
    if not differences:
        shared = a.records.keys() & b.records.keys()
        print(f"the same in {counted(len(shared), 'record')}, iterations {min(shared):,} to {max(shared):,}")
        return 0
    print("\n".join(differences))
    return 1


def compare(a: RunLog, b: RunLog, rtol: float, ignored: set[str], common: bool) -> list[str]:
    """Messages about differences; empty = none.

    rtol: relative tolerance, of the larger value. ignored: keys. common: ignore iterations that only one has.
    """
    differences = a.disorder + b.disorder
    for one, other in ((a, b), (b, a)):
        alone = sorted(one.records.keys() - other.records.keys())
        if alone and not common:
            differences.append(f"{one.name} alone has {counted(len(alone), 'iteration')}, the first {alone[0]:,}")
    shared = sorted(a.records.keys() & b.records.keys())
    if not shared:
        return [*differences, "no iteration is in both"]
    different = [(iteration, key) for iteration in shared for key in _differing_keys(a, b, iteration, rtol, ignored)]
    if different:
        iteration, _ = different[0]
        differences.append(f"they part at iteration {iteration:,}:")
        for key in (key for place, key in different if place == iteration):
            first, second = (run.records[iteration].get(key, "absent") for run in (a, b))
            differences.append(f"  {key}: {first} and {second}")
        count = len({place for place, _ in different})
        differences.append(f"of {counted(len(shared), 'iteration')} that both have {count:,} differ")
    return differences


def _differing_keys(a: RunLog, b: RunLog, iteration: int, rtol: float, ignored: set[str]) -> list[str]:
    """Keys whose values differ at an iteration: in A's order, then those only in B."""
    first, second = a.records[iteration], b.records[iteration]
    return [key for key in {**first, **second} if key not in ignored and not _is_equal(first, second, key, rtol)]


def _is_equal(first: Record, second: Record, key: str, rtol: float) -> bool:
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
