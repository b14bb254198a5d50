"""One optimiser step, and the loop around it with its agreed ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fr.distributed import Ranks, caught_signals, highest
from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax
from fr.monitor import Silent, Stopwatch
from fr.optimizer import apply_step, gradient_norm, set_lr

Batch = tuple[torch.Tensor, torch.Tensor]  # images [b, 3, H, W], labels [b]
_FAILED = 255  # above every signal number: a failure on one rank wins over a signal on another


@dataclass(frozen=True)
class StepSettings:
    """What a step needs beside the objects it works on. clip_norm: 0 = off. precision: `fp32` or `bf16`."""

    accumulate: int
    clip_norm: float
    precision: str
    freeze_bn: bool
    memory_format: torch.memory_format


@dataclass(frozen=True)
class Every:
    """Iterations between log records, and between validations with their snapshots."""

    log_step: int
    val_step: int


def training_mode(backbone: nn.Module, freeze_bn: bool) -> None:
    """Training mode; with `freeze_bn` the batch norms go on using, and stop changing, their running statistics."""
    backbone.train()
    if freeze_bn:
        for module in backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def training_step(
    replicas: DistributedDataParallel,
    head: MarginSoftmax,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    settings: StepSettings,
) -> dict[str, torch.Tensor]:
    """Forward and backward of the micro-batches, then one step: scalars on the device, equal on all ranks.

    Nothing here waits for the device.
    """
    device_type = head.weight.device.type
    loss, hits = torch.zeros((), device=head.weight.device), torch.zeros((), device=head.weight.device)
    for number, (images, labels) in enumerate(batches, start=1):
        with replicas.no_sync() if number < len(batches) else nullcontext():
            with torch.autocast(device_type, torch.bfloat16, enabled=settings.precision == "bf16"):
                embeddings = replicas(images)
            micro_loss, micro_hits = head(embeddings, labels)
            (micro_loss / len(batches)).backward()
        loss += micro_loss.detach() / len(batches)
        hits += micro_hits / len(batches)
    norm = gradient_norm(replicas.parameters(), head.parameters())
    skipped = apply_step(optimizer, norm, settings.clip_norm)
    optimizer.zero_grad()
    return {
        "loss": loss,
        "softmax_loss": loss,
        "classification_accuracy": hits,
        "gradient_norm": norm,
        "skipped_steps": skipped,
    }


def train(
    backbone: nn.Module,
    head: MarginSoftmax,
    optimizer: torch.optim.Optimizer,
    stream: Iterator[Batch],
    iterations: range,
    learning_rate: Callable[[int], float],
    settings: StepSettings,
    every: Every,
    ranks: Ranks,
    monitor: Silent,
    show: Callable[[torch.Tensor], None],
    validate_and_save: Callable[[int], None],
    save: Callable[[int], None],
) -> int:
    """Run the iterations and return the exit status: 0, or 128 + the signal that ended the run.

    A signal or bad input on any rank ends the run on all of them before the next step, with a snapshot (C6, C11);
    bad input then raises InputError, as does a run of nothing but skipped steps between two log records.
    """
    replicas = DistributedDataParallel(backbone, gradient_as_bucket_view=True)
    watch = Stopwatch()
    skipped = torch.zeros((), device=ranks.device)
    saved = iterations.start
    training_mode(backbone, settings.freeze_bn)
    with caught_signals() as received:
        for iteration in iterations:
            batches, failure = _fetch(stream, settings, ranks, watch)
            reason = highest(_FAILED if failure else received.number)
            if reason:
                if iteration > saved:
                    save(iteration)
                if reason == _FAILED:
                    raise failure or InputError("ended with the other ranks: one of them can't go on")
                return 128 + reason
            if iteration == iterations.start:
                show(batches[0][0])
            lr = learning_rate(iteration)
            set_lr(optimizer, lr)
            figures = training_step(replicas, head, optimizer, batches, settings)
            skipped += figures["skipped_steps"]
            done = iteration + 1
            if done % every.log_step == 0:
                figures["skipped_steps"] = skipped
                _log(monitor, done, lr, figures, watch)
                if skipped == every.log_step:
                    raise InputError(
                        f"iteration {done}: the last {every.log_step} steps had a gradient that isn't finite and "
                        "were skipped; try a lower --lr, --warmup_iterations or --clip_norm"
                    )
                skipped.zero_()
            monitor.advance()
            if done % every.val_step == 0 or done == iterations.stop:
                validate_and_save(done)
                saved = done
                training_mode(backbone, settings.freeze_bn)
                watch.restart()
    return 0


def _fetch(
    stream: Iterator[Batch], settings: StepSettings, ranks: Ranks, watch: Stopwatch
) -> tuple[list[Batch], InputError | None]:
    """The micro-batches of an iteration, on the device; or why there are none."""
    start = time.perf_counter()
    batches = []
    try:
        for _ in range(settings.accumulate):
            images, labels = next(stream)
            images = images.to(ranks.device, non_blocking=True, memory_format=settings.memory_format)
            batches.append((images, labels.to(ranks.device, non_blocking=True)))
    except InputError as error:
        return [], error
    images_of_all = ranks.world_size * sum(len(labels) for _, labels in batches)
    watch.fetched(images_of_all, time.perf_counter() - start)
    return batches, None


def _log(monitor: Silent, done: int, lr: float, figures: dict[str, torch.Tensor], watch: Stopwatch) -> None:
    values = torch.stack(list(figures.values())).tolist()  # the one place where host and device meet
    speed = watch.read()
    monitor.log({"iteration": done, **dict(zip(figures, values, strict=True)), "lr": lr, **speed})
