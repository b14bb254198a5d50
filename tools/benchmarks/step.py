"""`benchmark.py step`: images per second of a whole training step, in each precision and memory format.

A step is forward, backward, clipping and SGD of backbone and head, as in train.py, on prepared images. The forms
alternate, so that other load on the machine affects them equally; a ratio is the median over the turns. `plain` is fp32
with torch's own PReLU and 4 KB pages: torch's layers without this project's optimisations.
`deterministic` is fp32 with --deterministic.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from fr.distributed import use_huge_pages
from fr.losses.classifier import MarginSoftmax
from fr.models import build_model, family
from fr.models.layers import PReLU
from fr.options.losses import LossSettings
from fr.options.types import keyword_arguments
from fr.progress import tracked
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import build_sgd
from fr.train.replicas import deterministic
from fr.weights.layouts import shapes_of
from tools.benchmarks.case_ranks import measure_in_own_processes, write_measured
from tools.options.benchmark import STEP_FORMS

_CLASSES, _EMBED_SIZE = 8_631, 512


@dataclass(frozen=True)
class Case:
    model: str
    form: str
    ranks: int
    batch: int
    steps: int
    model_kwargs: tuple[str, ...] = ()


def run(arguments: argparse.Namespace) -> None:
    """Measure the cases alternately, then print the table and the ratios."""
    cases = [
        Case(model, form, ranks, arguments.batch, arguments.steps, (*arguments.model_kwargs,))
        for model in arguments.model
        for ranks in arguments.ranks
        for form in arguments.forms
    ]
    for model in arguments.model:  # InputError here, and not amid the measurements
        shapes_of(model, _EMBED_SIZE, family(model).input_size, (*arguments.model_kwargs,))
    speeds: dict[Case, list[float]] = {case: [] for case in cases}  # the median of each turn
    for case in tracked(cases * arguments.turns, "turn", "measuring"):
        speeds[case].append(statistics.median(_in_own_processes(case)))
    print(f"{'model':>16} {'ranks':>5} {'form':14} {'images/s':>9} {'spread':>15}")
    for case, rates in speeds.items():
        spread = f"{min(rates):.1f} … {max(rates):.1f}"
        print(f"{case.model:>16} {case.ranks:5} {case.form:14} {statistics.median(rates):9.1f} {spread:>15}")
    results = [{**asdict(case), "images_per_s": statistics.median(rates)} for case, rates in speeds.items()]
    print(json.dumps({**ratios(speeds), "results": results}))


def ratios(speeds: dict[Case, list[float]]) -> dict[str, float]:
    """Speed ratios of each model on the fewest ranks, medians over the turns.

    The recipes' form (`both`) to fp32 and to the plain one, and deterministic to fp32.
    """
    least = min(case.ranks for case in speeds)
    by_form = {(case.model, case.form): turns for case, turns in speeds.items() if case.ranks == least}
    pairs = {"vs_fp32": ("both", "fp32"), "vs_plain": ("both", "plain"), "deterministic": ("deterministic", "fp32")}
    return {
        f"{model}_{name}": statistics.median(
            one / base for one, base in zip(by_form[model, form], by_form[model, other], strict=True)
        )
        for model in dict.fromkeys(model for model, _ in by_form)
        for name, (form, other) in pairs.items()
        if {(model, form), (model, other)} <= by_form.keys()
    }


def _in_own_processes(case: Case) -> list[float]:
    """Images per second of all ranks, one value per step."""
    measured = measure_in_own_processes("tools.benchmarks.step", case, case.ranks)
    return [case.batch / max(seconds) for seconds in zip(*measured, strict=True)]


def _measure_rank(case: Case, _rank: int) -> list[float]:
    """Run the steps as one of the case's ranks; seconds of each."""
    form = STEP_FORMS[case.form]
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // case.ranks))
    if not form.plain:
        use_huge_pages()  # as open_ranks does
    torch.manual_seed(0)
    size = family(case.model).input_size
    order = torch.channels_last if form.channels_last else torch.contiguous_format
    kwargs = keyword_arguments(case.model_kwargs)
    backbone = build_model(case.model, _EMBED_SIZE, size, kwargs).to(memory_format=order)
    if form.plain:
        for module in backbone.modules():
            if isinstance(module, PReLU):
                module.forward = partial(nn.PReLU.forward, module)  # type: ignore[method-assign]
    head = MarginSoftmax(_CLASSES, _EMBED_SIZE, LossSettings(), seed=0)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.01, 0.9, 1e-4)
    settings = StepSettings(5.0, form.precision, False, order)
    learner = Learner(backbone, head, optimizer, settings, compiled=form.compiled)
    learner.training_mode()
    own = case.batch // case.ranks
    batch = (torch.rand(own, 3, *size).to(memory_format=order), torch.randint(_CLASSES, (own,)))
    seconds = []
    with deterministic(form.deterministic):
        for number in range(case.steps + 1):
            dist.barrier()
            start = time.perf_counter()
            learner.step([batch], number, 0.01)
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


if __name__ == "__main__":
    write_measured(Case, _measure_rank)
