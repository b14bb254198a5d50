#!/usr/bin/env python3
"""Train a recipe again, and compare its metrics with those of its receipt.

    python tools/reproduce.py configs/quickstart.yml                               # trains into reproduced/quickstart
    python tools/reproduce.py configs/faces_mini.yml --snap snapshots/faces_mini_1260.pt
    python tools/reproduce.py configs/faces_mini.yml --record a_1260.pt b_1260.pt c_1260.pt

A receipt, configs/receipts/NAME.json, has the metrics of a recipe's earlier runs with different seeds. A new run
reproduces them if each metric lies in their 95 % prediction interval for one more run, or above it. Options that change
a result, the data and the number of iterations must be those of the receipt. An interrupted training continues when the
command is repeated. Exit status: 0 = reproduced, 1 = not reproduced, 2 = can't be compared.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/reproduce.py", "tools.options.reproduce:options")

import argparse
import subprocess
import sys
from pathlib import Path

from fr.checkpoint import snapshot
from fr.errors import InputError, run_plainly
from fr.options.commands import SCRIPTS, next_command, recipe
from fr.options.definitions import train_options
from tools.options.reproduce import options as read_options
from tools.reproducing.receipt import (
    FIGURES,
    Receipt,
    deciding,
    differences,
    differing,
    predicted,
    read_receipt,
    receipt_of,
)


def main(argv: list[str]) -> int:
    arguments, words = read_options(argv)
    path = Path(recipe(str(arguments.recipe)))
    place = path.parent / "receipts" / f"{path.stem}.json"
    if arguments.record:
        receipt_of(arguments.record, arguments.recipe.name, arguments.note).write(place)
        print(f"wrote {place}")
        return 0
    receipt = read_receipt(place)
    if not (last := arguments.snap):
        status, last = _train(arguments, words, receipt)
        if status > 128:  # a signal
            print("ended early: run this command again to continue", file=sys.stderr)
            return status
        if status:
            return 2
    contents = snapshot.read(last)
    if unlike := differences(receipt, contents):
        raise InputError(*(f"{last}: {one}" for one in unlike))
    return _compare(receipt, contents, last)


def _train(arguments: argparse.Namespace, words: list[str], receipt: Receipt) -> tuple[int, Path]:
    """Run train.py; returns its exit status and last snapshot. InputError for other options than the receipt's."""
    out = arguments.out or Path("reproduced") / arguments.recipe.stem
    options = [f"@{arguments.recipe}", "--snap_folder", str(out), "--log_folder", str(out / "logs"), *words]
    options += ["--snap_to_resume", "auto"]
    resolved = train_options(options)
    values = resolved.values
    if unlike := differing(receipt, deciding(resolved.as_dict())):
        raise InputError(*unlike)
    launch = [sys.executable]
    if arguments.nproc_per_node > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={arguments.nproc_per_node}"]
    status = subprocess.run([*launch, str(SCRIPTS / "train.py"), *options], check=False).returncode
    last = snapshot.newest(Path(values.snap_folder), values.snap_prefix)
    if not status and last is None:
        raise InputError(f"{values.snap_folder}: the training has left no snapshot")
    return status, last or Path()


def _compare(receipt: Receipt, contents: snapshot.SnapshotContents, last: Path) -> int:
    """Print each metric beside the receipt's; returns 0 if all are reproduced, else 1."""
    count = len(receipt.runs)
    print(f"{'':10}{'this run':>10}   receipt, {count} runs      95 % of further runs")
    missed = []
    for name in FIGURES:
        interval = predicted([run[name] for run in receipt.runs])
        found = float(contents.metrics[name])
        low = found < interval.low
        missed += [name] if low else []
        verdict = "below" if low else "above, better than they let expect" if found > interval.high else "inside"
        print(
            f"{name:10}{found:10.4f}   {interval.mean:.4f} ± {interval.std:.4f}     "
            f"[{interval.low:.4f}, {interval.high:.4f}]: {verdict}"
        )
    print(f"not reproduced: {', '.join(missed)}" if missed else "reproduced")
    print(next_command("evaluate_lfw.py", snap=str(last), report=f"{last.stem}_report"))
    return 1 if missed else 0


if __name__ == "__main__":
    run_plainly("tools/reproduce.py", main)
