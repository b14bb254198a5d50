"""`benchmark.py evaluate`: overhead of evaluation over the network alone.

`whole`: embedding a set as evaluate_lfw.py does: reading, decoding, aligning, both passes with mirror images,
gathering. `bare`: only the network's passes, on a prepared batch, with the same batch sizes. The forms alternate; a
ratio compares one turn. CPU time is reliable on a busy machine, too.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fr.console import counted
from fr.data.verification_set import sets_to_score
from fr.distributed import open_ranks
from fr.evaluation.embedding import Network, embed
from fr.evaluation.scoring import Embedder
from fr.options.definitions import evaluation_options
from fr.progress import tracked


@dataclass(frozen=True)
class Cost:
    seconds: float
    cpu_seconds: float  # of all threads


def run(arguments: argparse.Namespace) -> None:
    """Measure both forms alternately, then print the table and the ratios."""
    resolved = evaluation_options(arguments.eval)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        embedder = Embedder.open(resolved, ranks)
        model, dali, batch = embedder.model, embedder.dali, embedder.batch
        faces = sets_to_score(vars(options), model.config, options.snap)[0].faces
        passes = 2 if embedder.flip_mode else 1
        full = torch.rand(batch, 3, *model.preprocessing.input_size, device=ranks.device)
        forms: dict[str, Callable[[], object]] = {
            "whole": lambda: embed(embedder.network, faces, model.preprocessing, dali, ranks, batch),
            "bare": lambda: _bare(model.network, len(faces), passes, full),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in forms}
        for turn in tracked(range(arguments.turns + 1), "turn", "measuring"):
            for name, form in forms.items():
                cost = _cost(form)
                costs[name] += [cost] if turn else []
    images, threads = counted(len(faces), "image"), counted(dali.threads, "DALI thread")
    print(f"{images}, {counted(passes, 'pass')} each, {batch} a batch, {threads}")
    print(f"{'form':6} {'images/s':>9} {'spread':>17} {'CPU ms an image':>16}")
    for name, turns in costs.items():
        rates = [len(faces) / cost.seconds for cost in turns]
        cpu = statistics.median(cost.cpu_seconds for cost in turns) / len(faces) * 1e3
        spread = f"{min(rates):.1f} … {max(rates):.1f}"
        print(f"{name:6} {statistics.median(rates):9.1f} {spread:>17} {cpu:16.2f}")
    print(json.dumps(ratios(costs["whole"], costs["bare"])))


def ratios(whole: list[Cost], bare: list[Cost]) -> dict[str, float]:
    """Median, minimum and maximum ratio over the turns."""
    times = [one.seconds / other.seconds for one, other in zip(whole, bare, strict=True)]
    cpu = [one.cpu_seconds / other.cpu_seconds for one, other in zip(whole, bare, strict=True)]
    return {
        "ratio": statistics.median(times),
        "ratio_low": min(times),
        "ratio_high": max(times),
        "cpu_ratio": statistics.median(cpu),
    }


@torch.inference_mode()
def _bare(network: Network, count: int, passes: int, full: torch.Tensor) -> None:
    """full: images of a batch [batch, 3, H, W]."""
    for first in range(0, count, len(full)):
        for _ in range(passes):
            embeddings = network(full[: count - first])
    embeddings.cpu()  # waits for the device


def _cost(form: Callable[[], object]) -> Cost:
    start, began = time.perf_counter(), time.process_time()
    form()
    return Cost(time.perf_counter() - start, time.process_time() - began)
