"""`benchmark.py snapshot`: pause of the training for a snapshot, written synchronously or asynchronously.

The head's weights and momentum make up nearly all of the training state. The two forms alternate. A pause is the
duration of a call of the writer.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from fr.checkpoint.snapshot import SnapshotContents
from fr.checkpoint.snapshot_writer import Kept, SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.distributed import use_huge_pages
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.progress import tracked
from fr.train.learner import Learner
from fr.train.optimizer import build_sgd
from tools.benchmarks.case_ranks import measure_in_own_processes, write_measured

_CONTENTS = SnapshotContents("linear", 0, {})


@dataclass(frozen=True)
class Case:
    background: bool
    classes: int
    embed_size: int
    ranks: int
    snapshots: int
    folder: str


def run(arguments: argparse.Namespace) -> None:
    """Measure both forms alternately, then print the table and the share."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        cases = [
            Case(background, arguments.classes, arguments.embed_size, arguments.ranks, arguments.snapshots, folder)
            for background in (False, True)
        ]
        pauses: dict[Case, list[float]] = {case: [] for case in cases}
        for case in tracked(cases * arguments.turns, "turn", "measuring"):
            measured = measure_in_own_processes("tools.benchmarks.snapshot", case, case.ranks)
            pauses[case] += map(max, zip(*measured, strict=True))
    waited, background = (statistics.median(pauses[case]) for case in cases)
    print(f"{'form':>12} {'pause [s]':>10} {'spread':>15}")
    for case in cases:
        spread = f"{min(pauses[case]):.2f} … {max(pauses[case]):.2f}"
        form, pause = "background" if case.background else "waited", statistics.median(pauses[case])
        print(f"{form:>12} {pause:10.2f} {spread:>15}")
    results = [{**asdict(case), "pause_s": statistics.median(seconds)} for case, seconds in pauses.items()]
    print(json.dumps({"background_vs_waited": background / waited, "results": results}))


def _measure_rank(case: Case, _rank: int) -> list[float]:
    """Write the snapshots as one of the case's ranks; seconds of each pause."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // case.ranks))
    use_huge_pages()  # as open_ranks does
    backbone = nn.Linear(512, case.embed_size)
    head = MarginSoftmax(case.classes, case.embed_size, LossSettings(), seed=0)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.01, 0.9, 1e-4)
    state = TrainingState(Learner(backbone, head, optimizer))
    writer = SnapshotWriter(Path(case.folder), "s", state, (), lambda _: None, Kept(newest=1), case.background)
    seconds = []
    for iteration in range(case.snapshots):
        dist.barrier()
        start = time.perf_counter()
        writer.write(iteration, _CONTENTS)
        seconds.append(time.perf_counter() - start)
        writer.wait()
    writer.close()
    return seconds


if __name__ == "__main__":
    write_measured(Case, _measure_rank)
