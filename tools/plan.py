#!/usr/bin/env python3
"""Plan a training: memory of a GPU, images per second and hours, by formula; no GPU and no data are needed.

    python tools/plan.py @configs/ms1mv3_arcface.yml --gpus 8 --gpu a100 --identities 93431 --images 5179510
    python tools/plan.py @configs/webface42m_cosface.yml --gpus 128 --gpu h100 --identities 10000000 \\
        --train_batch_size 8192

It prints if the training fits, or which options make it fit; the last line is the command that starts the training.
docs/scaling.md describes the accuracy of the estimates.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/plan.py", "tools.options.plan:options")

import argparse
import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations
from typing import Any

from fr.console import counted
from fr.errors import run_plainly
from fr.options.commands import command_line
from tools.options.plan import PlanOptions
from tools.options.plan import options as read_options
from tools.planning.cards import CARDS
from tools.planning.memory import Memory, memory
from tools.planning.throughput import LOADER, speed

USABLE = 0.92  # share of a card's memory; the rest is lost to fragmentation
_SAMPLED = 0.1
_TORCHRUN = {"-m": "--margin", "--m": "--margin", "--s": "--scale"}  # names that torchrun takes for its own


def main(argv: list[str]) -> int:
    options = read_options(argv)
    own, card = options.own, CARDS[options.own.gpu]
    precision = card.precision if options.training.precision == "auto" else options.training.precision
    room = USABLE * card.memory

    def needed(training: argparse.Namespace) -> Memory:
        return memory(training, own.gpus, own.identities, precision)

    asked = needed(options.training)
    shortest: list[dict[str, object]] = []
    for changes in remedies(options) if asked.total > room else ():
        if shortest and len(changes) > len(shortest[0]):
            break
        if needed(changed(options.training, changes)).total <= room:
            shortest.append(changes)
    chosen = shortest[0] if shortest else {}
    training = changed(options.training, chosen)
    used = needed(training)
    seconds = speed(training, card, own.gpus, own.gpus_per_node, own.identities, precision)
    images_per_s = training.train_batch_size / seconds.step
    plan = {
        "precision": precision,
        "fits": asked.total <= room,
        "memory": asdict(asked) | {"total": asked.total, "usable": round(room)},
        "options_that_fit": [words(changes) for changes in shortest],
        "memory_with_the_first": used.total,
        "seconds_per_step": asdict(seconds) | {"step": seconds.step},
        "images_per_s": images_per_s,
        "hours": own.images // training.train_batch_size * training.epoch_total_num * seconds.step / 3600,
        "command": command(options, chosen),
    }
    print(json.dumps(plan) if own.json else "\n".join(lines(options, plan)))
    return 0


def remedies(options: PlanOptions) -> Iterator[dict[str, object]]:
    """Changes of options that save memory without changing data, model and batch; fewer changes come first."""
    training = options.training
    single: list[dict[str, object]] = []
    if not training.activation_checkpointing and not training.compile:
        single.append({"activation_checkpointing": True})
    images = training.train_batch_size // (options.own.gpus * training.accumulate)
    parts = [n for n in (2, 4, 8, 16) if images % n == 0 and images > n]  # of one image batch norms have no variance
    single += [{"accumulate": training.accumulate * n} for n in parts]
    if training.sample_rate > _SAMPLED:
        single.append({"sample_rate": _SAMPLED})
    for count in (1, 2, 3):
        for some in combinations(single, count):
            merged = {name: value for one in some for name, value in one.items()}
            if len(merged) == count:
                yield merged


def changed(training: argparse.Namespace, changes: dict[str, object]) -> argparse.Namespace:
    return argparse.Namespace(**vars(training) | changes)


def words(changes: dict[str, object]) -> str:
    return " ".join(f"--{name} {str(value).lower()}" for name, value in changes.items())


def command(options: PlanOptions, changes: dict[str, object]) -> str:
    """The line that starts the training; with Slurm, from the folder of the checkout."""
    own = options.own
    given = [_for_torchrun(word) if own.gpus > 1 else word for word in options.words]
    given += words(changes).split()
    if own.gpus > own.gpus_per_node:
        nodes = own.gpus // own.gpus_per_node
        return f"sbatch --nodes {nodes} --gpus-per-node {own.gpus_per_node} launch/slurm.sh {shlex.join(given)}"
    launch = f"torchrun --nproc_per_node {own.gpus}" if own.gpus > 1 else "python"
    return command_line("train.py", *given, launch=launch)


def _for_torchrun(word: str) -> str:
    name, equals, value = word.partition("=")
    return _TORCHRUN.get(name, name) + equals + value


def lines(options: PlanOptions, plan: dict[str, Any]) -> list[str]:
    """Output lines: the plan as a table, changes that make it fit, and the command."""
    own, training, needed = options.own, options.training, plan["memory"]
    seconds, images_per_s = plan["seconds_per_step"], plan["images_per_s"]
    rows = [
        ("weights, optimiser and average of the backbone", needed["backbone"]),
        ("centres and their optimiser", needed["head"]),
        ("kept for the backward pass", needed["activations"]),
        ("gradients, logits and the rest of a step", needed["step"] - needed["activations"]),
        ("DALI, assumed", needed["loader"]),
        ("CUDA, NCCL, cuDNN, assumed", needed["context"]),
        ("in all", needed["total"]),
        (f"usable on each {own.gpu}", needed["usable"]),
    ]
    result = [
        f"{own.gpus} × {own.gpu}, {plan['precision']}: {counted(training.train_batch_size // own.gpus, 'image')} and "
        f"{counted(-(-own.identities // own.gpus), 'class')} a GPU",
        *(f"{name:48} {size / 1e9:8.1f} GB" for name, size in rows),
        _verdict(plan),
        f"estimated: {images_per_s:,.0f} images/s, {seconds['step'] * 1e3:,.0f} ms a step: "
        + ", ".join(f"{name} {time * 1e3:,.0f}" for name, time in seconds.items() if name != "step"),
    ]
    if images_per_s / own.gpus > LOADER:
        result.append(f"that is more than the {LOADER:,} images/s a GPU that the loader was measured at")
    if own.images:
        epochs = counted(training.epoch_total_num, "epoch")
        result.append(f"estimated: {plan['hours']:,.1f} hours for {epochs}, if the data are read fast enough")
    return [*result, plan["command"]]


def _verdict(plan: dict[str, Any]) -> str:
    if plan["fits"]:
        return "fits"
    if not plan["options_that_fit"]:
        return "doesn't fit with any of the options that save memory; more GPUs divide centres and batch"
    first = f"{plan['memory_with_the_first'] / 1e9:.1f} GB with the first; speed and command are with it"
    return f"doesn't fit; fits with {' or '.join(plan['options_that_fit'])} ({first})"


if __name__ == "__main__":
    run_plainly("tools/plan.py", main)
