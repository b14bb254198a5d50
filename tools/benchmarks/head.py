"""`benchmark.py head`: time and memory of a step of the softmax head, compared with the plain form and the formulas.

C classes, W ranks, E embedding size, N samples of the global batch. A step is forward, backward and SGD with momentum
and weight decay, float32, on CPU ranks. Every measurement runs in processes of its own.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from fr.distributed import use_huge_pages
from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.losses.sampling import drawn_count
from fr.losses.sharded import PIECE
from fr.options.losses import LossSettings
from fr.progress import tracked
from fr.train.optimizer import apply_step, build_sgd, gradient_norm
from tools.benchmarks.case_ranks import measure_in_own_processes, write_measured

_FLOAT, _GIGA = 4, 1e9
_LR, _MOMENTUM, _DECAY, _S, _M = 0.1, 0.9, 1e-4, 30.0, 0.35
Step = Callable[[int], None]


@dataclass(frozen=True)
class Case:
    """Measurement case. form: of HEAD_FORMS; `plain` = F.linear and F.cross_entropy on a one-hot margin."""

    form: str
    classes: int
    ranks: int
    embed_size: int
    batch: int
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class Cost:
    """Bytes of a rank. kept: centres and momentum; drawn: copies of the sampled ones; step: temporary; sent: per step.

    active: number of classes of a rank that a step uses.
    """

    kept: int
    drawn: int
    step: int
    sent: int
    active: int

    @property
    def memory(self) -> int:
        return self.kept + self.drawn + self.step


def head_cost(classes: int, embed_size: int, batch: int, ranks: int, sample_rate: float = 1.0, states: int = 1) -> Cost:
    """Cost of the sharded head on the rank with most classes, by formula; float32, no auxiliary losses.

    states: numbers that the optimiser keeps for each weight, 1 with momentum.
    """
    rows = shard_rows(classes, ranks, 0)[1]
    active = rows if sample_rate == 1 else drawn_count(rows, batch, sample_rate)
    drawn = 0 if sample_rate == 1 else (1 + states) * active * embed_size
    # In backward, see fr/losses/sharded.py: the cosines and two pieces of them, then the centres' gradient.
    step = batch * active + max(active * embed_size, 2 * min(PIECE, batch * active))
    sent = sum(one.sent(ranks) for one in head_collectives(embed_size, batch))
    kept = (1 + states) * rows * embed_size
    return Cost(kept * _FLOAT, drawn * _FLOAT, step * _FLOAT, round(sent), active)


@dataclass(frozen=True)
class Collective:
    """A collective of a step. kind: all_reduce, all_gather or reduce_scatter; size: bytes of the whole tensor."""

    kind: str
    size: int

    def sent(self, ranks: int) -> float:
        """Bytes that a rank sends in a ring algorithm."""
        return self.hops(ranks) / ranks * self.size

    def hops(self, ranks: int) -> int:
        """Consecutive messages in a ring algorithm."""
        return (2 if self.kind == "all_reduce" else 1) * (ranks - 1)


def head_collectives(embed_size: int, batch: int) -> list[Collective]:
    """Collectives of the head in a micro-batch of N samples over all ranks, in order; no auxiliary losses.

    Embeddings and labels; target cosines, largest logit, two sums; gradient of the embeddings.
    """
    embeddings = batch * embed_size * _FLOAT
    return [
        Collective("all_gather", embeddings),
        Collective("all_gather", batch * 8),
        Collective("all_reduce", batch * _FLOAT),
        Collective("all_reduce", batch * _FLOAT),
        Collective("all_reduce", 2 * batch * _FLOAT),
        Collective("reduce_scatter", embeddings),
    ]


def run(arguments: argparse.Namespace) -> None:
    """Measure all cases, then print the tables and the ratios."""
    options = vars(arguments)
    shared = {name: options[name] for name in ("embed_size", "batch", "sample_rate", "steps")}
    cases = [
        Case(form, classes, ranks, **shared)
        for classes in sorted(arguments.classes)
        for ranks in arguments.ranks
        for form in arguments.forms
        if form != "plain" or ranks == 1
    ]
    results = []
    print(f"{'classes':>10} {'ranks':>5} {'form':8} {'s a step':>9} {'spread':>15} {'step GB':>8} {'by formula':>10}")
    for case in tracked(cases, "case", "measuring"):
        result = _in_own_processes(case)
        results.append({**asdict(case), **result})
        spread = f"{result['fastest']:.3f} … {result['slowest']:.3f}"
        formula = "" if case.form == "plain" else f"{_added(case) / _GIGA:10.2f}"
        tqdm.write(
            f"{case.classes:10,} {case.ranks:5} {case.form:8} {result['seconds']:9.3f} {spread:>15} "
            f"{result['step_bytes'] / _GIGA:8.2f} {formula}"
        )
    print(json.dumps({**_ratios(results), "results": results}))


def _added(case: Case) -> int:
    """Bytes in addition to centres and momentum, by formula."""
    rate = case.sample_rate if case.form == "sampled" else 1.0
    cost = head_cost(case.classes, case.embed_size, case.batch, case.ranks, rate)
    return cost.memory - cost.kept


def _ratios(results: list[dict[str, Any]]) -> dict[str, float]:
    """Ratios at the largest class count measured in both forms, on one rank."""

    def ratio(first: str, second: str, figure: str) -> float | None:
        by_case = {(r["classes"], r["form"]): r[figure] for r in results if r["ranks"] == 1}
        both = [classes for classes, form in by_case if form == first and (classes, second) in by_case]
        return by_case[max(both), first] / by_case[max(both), second] if both else None

    figures = {
        "full_vs_plain_time": ratio("full", "plain", "seconds"),
        "full_vs_plain_memory": ratio("full", "plain", "step_bytes"),
        "sampled_vs_full_time": ratio("sampled", "full", "seconds"),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _in_own_processes(case: Case) -> dict[str, float]:
    """Seconds per step (slowest rank: median, min, max), and the maximum over ranks of the bytes that steps added."""
    measured = measure_in_own_processes("tools.benchmarks.head", case, case.ranks)
    slowest = [max(seconds) for seconds in zip(*(one["seconds"] for one in measured), strict=True)]
    return {
        "seconds": statistics.median(slowest),
        "fastest": min(slowest),
        "slowest": max(slowest),
        "step_bytes": max(one["step_bytes"] for one in measured),
    }


def _measure_rank(case: Case, rank: int) -> dict[str, Any]:
    """Run the steps as one of the case's ranks."""
    torch.set_num_threads(max(1, torch.get_num_threads() // case.ranks))
    if case.form != "plain":
        use_huge_pages()  # as open_ranks does
    torch.manual_seed(rank)
    step = _plain_step(case) if case.form == "plain" else _our_step(case)
    before, seconds = _resident("VmRSS"), []
    for number in range(case.steps + 1):
        dist.barrier()
        start = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "step_bytes": _resident("VmHWM") - before}


def _resident(name: str) -> int:
    """Resident bytes of this process now (VmRSS) or at its peak (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _batch(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    own = case.batch // case.ranks
    return torch.randn(own, case.embed_size, requires_grad=True), torch.randint(case.classes, (own,))


def _our_step(case: Case) -> Step:
    rate = case.sample_rate if case.form == "sampled" else 1.0
    head = MarginSoftmax(case.classes, case.embed_size, LossSettings(sample_rate=rate), seed=0)
    optimizer = build_sgd(head.parameters(), _LR, _MOMENTUM, _DECAY)
    optimizer.state[head.weight]["momentum_buffer"].fill_(0)  # allocates its pages

    def step(number: int) -> None:
        embeddings, labels = _batch(case)
        with head.step(number, labels, optimizer):
            loss, _ = head(embeddings, labels)
            torch.autograd.backward(loss)
            apply_step(optimizer, gradient_norm([], head.parameters()), loss.detach(), clip_norm=0.0)
            optimizer.zero_grad()

    return step


def _plain_step(case: Case) -> Step:
    weight = nn.Parameter(torch.rand(case.classes, case.embed_size).sub_(0.5))
    optimizer = torch.optim.SGD([weight], _LR, _MOMENTUM, weight_decay=_DECAY)
    optimizer.state[weight]["momentum_buffer"] = torch.rand_like(weight).fill_(0)

    def step(number: int) -> None:
        embeddings, labels = _batch(case)
        cosines = F.linear(F.normalize(embeddings), F.normalize(weight))
        one_hot = F.one_hot(labels, case.classes)
        torch.autograd.backward(F.cross_entropy(_S * (cosines - _M * one_hot), labels))
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    write_measured(Case, _measure_rank)
