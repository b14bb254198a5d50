#!/usr/bin/env python3
"""Compare losses: train the same network with each, on the same data with the same schedule.

    python tools/compare_losses.py runs/losses @configs/faces_mini.yml
    python tools/compare_losses.py runs/losses @configs/faces_mini.yml --only softmax arc --seeds 0

Arguments after OUT go to train.py, before the options of the loss. One process per run, as many at a time as cores.
Complete runs in OUT aren't repeated, so an interrupted comparison continues.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/compare_losses.py")

import json
import os
import queue
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fr.errors import os_error_as, run_plainly
from fr.options.definitions import train_parser
from fr.options.losses import MARGINS
from fr.options.parsing import own_arguments, tool_parser
from fr.progress import tracked

ROOT = Path(__file__).resolve().parent.parent
LOSSES = {
    **{kind: ["--margin_type", kind] for kind in MARGINS},
    "arc, easy margin": ["--margin_type", "arc", "--easy_margin", "true"],
    "arc, straight": ["--margin_type", "arc", "--margin_gradient", "straight"],
    "cos + sv": ["--margin_type", "cos", "--mining_type", "sv"],
    "cos + focal": ["--margin_type", "cos", "--mining_type", "focal"],
    "cos + smoothing": ["--margin_type", "cos", "--label_smoothing", "0.1"],
    "cos, sampled 0.3": ["--margin_type", "cos", "--sample_rate", "0.3"],
    "softmax + center": ["--margin_type", "softmax", "--center_loss_weight", "0.003"],
    "softmax + push": ["--margin_type", "softmax", "--push_loss_weight", "1"],
    "softmax + push plus": ["--margin_type", "softmax", "--push_plus_loss_weight", "1"],
    "softmax + global push": ["--margin_type", "softmax", "--global_push_loss_weight", "1"],
    "softmax + min margin": ["--margin_type", "softmax", "--min_margin_loss_weight", "1"],
    "softmax + triplet": ["--margin_type", "softmax", "--triplet_loss_weight", "1"],
    "softmax + semi-hard": ["--margin_type", "softmax", "--triplet_loss_weight", "1", "--triplet_mining", "semihard"],
}


def main(argv: list[str]) -> int:
    parser = tool_parser("tools/compare_losses.py", allow_abbrev=False)
    parser.add_argument("out", type=Path, help="folder for snapshots and logs of the runs")
    names = list(LOSSES)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="LOSS", help=", ".join(names))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    arguments, options = own_arguments(parser, argv, train_parser())
    runs = [(loss, seed) for seed in arguments.seeds for loss in arguments.only]
    cores: queue.Queue[int] = queue.Queue()
    for core in os.sched_getaffinity(0):
        cores.put(core)
    with os_error_as(f"{arguments.out}: can't be written"):
        arguments.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(cores.qsize()) as pool:
        jobs = [pool.submit(run, arguments.out, loss, seed, options, cores) for loss, seed in runs]
        try:
            for job in tracked(jobs, "run", "training"):
                job.result()
        except (KeyboardInterrupt, OSError, subprocess.CalledProcessError) as error:
            pool.shutdown(cancel_futures=True)
            print(f"tools/compare_losses.py: ended early: {error!r}", file=sys.stderr)
            return 1
    print_table(arguments.out, arguments.only, arguments.seeds)
    return 0


def run(out: Path, loss: str, seed: int, options: list[str], cores: "queue.Queue[int]") -> None:
    """Train and validate once on one core, unless already done."""
    folder = run_folder(out, loss, seed)
    if (folder / "done").exists():
        return
    core = cores.get()
    command = ["taskset", "-c", str(core), sys.executable, str(ROOT / "train.py")]
    command += [*options, *LOSSES[loss], "--seed", str(seed)]
    command += ["--snap_folder", str(folder / "snapshots"), "--log_folder", str(folder), "--snap_to_resume", "auto"]
    try:
        folder.mkdir(exist_ok=True)
        with (folder / "output.txt").open("w") as output:
            subprocess.run(command, check=True, stdout=output, stderr=subprocess.STDOUT)
    finally:
        cores.put(core)
    (folder / "done").touch()


def run_folder(out: Path, loss: str, seed: int) -> Path:
    return out / f"{loss.replace(' ', '_').replace(',', '')}_{seed}"


def print_table(out: Path, losses: list[str], seeds: list[int]) -> None:
    """Print mean and standard deviation of AUC and accuracy over the seeds, best AUC first."""
    rows = []
    for loss in losses:
        last = [(run_folder(out, loss, seed) / "validation.jsonl").read_text().splitlines()[-1] for seed in seeds]
        rows.append((loss, *(summary([json.loads(line)[key] for line in last]) for key in ("auc", "accuracy"))))
    print(f"| loss | AUC, mean ± std of {len(seeds)} | accuracy |\n|---|---|---|")
    for loss, auc, accuracy in sorted(rows, key=lambda row: row[1], reverse=True):
        print(f"| {loss} | {auc} | {accuracy} |")


def summary(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


if __name__ == "__main__":
    run_plainly("tools/compare_losses.py", main)
