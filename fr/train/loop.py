"""The training loop, with ends that all ranks agree on."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fr.data.bad_images import BadImages
from fr.distributed import Heartbeat, Ranks, Received, caught_signals, gather_objects, highest
from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax
from fr.train.ema import WeightAverage
from fr.train.meters import MOST_RETURNS
from fr.train.milestones import Milestones
from fr.train.monitor import Silent, Stopwatch
from fr.train.optimizer import set_lr
from fr.train.step import Batch, StepSettings, training_mode, training_step

_NEWS = 1  # below the numbers of the signals that are caught: bad photographs were found, no reason to end
_FAILED = 255  # above every signal number: a failure on one rank wins over a signal on another


@dataclass(frozen=True)
class Every:
    """Iterations between log records, and between validations with their snapshots; the most steps without a finite
    gradient in a row (0 = any number); what multiple of its median makes a loss a spike (0 = none), and whether the
    run then goes back to earlier weights."""

    log_step: int
    val_step: int
    max_bad_steps: int
    spike_factor: float
    spike_return: bool


def train(
    replicas: nn.Module,
    head: MarginSoftmax,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    stream: Iterator[Batch],
    bad: BadImages,
    iterations: range,
    learning_rate: Callable[[int], float],
    settings: StepSettings,
    every: Every,
    ranks: Ranks,
    milestones: Milestones,
    heartbeat: Heartbeat,
) -> int:
    """Run the iterations and return the exit status: 0, or 128 + the signal that ended the run.

    A signal or bad input on any rank ends the run on all of them before the next step, with a snapshot (C6, C11);
    bad input then raises InputError, as do too many skipped steps in a row, which are counted on log steps. `bad` is
    what `stream` reports replaced photographs to; too many of them are bad input.
    """
    monitor, meters = milestones.monitor, milestones.meters
    watch = Stopwatch()
    saved = iterations.start
    training_mode(replicas, settings.freeze_bn)
    with caught_signals() as received:
        for iteration in iterations:
            heartbeat.count += 1
            heartbeat.iteration = iteration
            batches, failure = _fetch(stream, settings, ranks, watch)
            failure = failure or milestones.write_failure()
            reason, failure = _reason_to_end(failure, received, bad, monitor)
            if reason:
                if iteration > saved:
                    milestones.save(iteration)
                if failure:
                    raise failure
                return 128 + reason
            if iteration == iterations.start:
                milestones.show(batches[0][0])
            lr = learning_rate(iteration)
            set_lr(optimizer, lr)
            figures = training_step(replicas, head, optimizer, batches, iteration, settings)
            if average:
                average.update(iteration, figures["skipped_steps"])
            meters.count(figures["skipped_steps"])
            done = iteration + 1
            if done % every.log_step == 0:
                loss = _log(monitor, done, lr, figures | {"skipped_steps": meters.skipped}, bad, watch)
                _judge(loss, done, batches, every, milestones)
            monitor.advance()
            if done % every.val_step == 0 or done == iterations.stop:
                milestones.validate_and_save(done)
                saved = done
                training_mode(replicas, settings.freeze_bn)
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


def _reason_to_end(
    failure: InputError | None, received: Received, bad: BadImages, monitor: Silent
) -> tuple[int, InputError | None]:
    """What all ranks end on before this step: 0 = nothing, a signal's number, or _FAILED and the failure.

    Photographs found bad come to every rank's knowledge here, which costs nothing as long as there are none; and so
    does a failure, since torchrun may end the rank that had it before it has told.
    """
    reason = highest(_FAILED if failure else received.number or _NEWS * bad.has_news)
    if reason not in (_NEWS, _FAILED):
        return reason, failure
    for problem in bad.share():
        monitor.say(f"{problem}; another photograph stands in")
    problems = next(filter(None, gather_objects(failure.problems if failure else ())), None)
    failure = bad.excess() or failure or (InputError(*problems) if problems else None)
    return _FAILED if failure else 0, failure


def _judge(loss: float, done: int, batches: list[Batch], every: Every, milestones: Milestones) -> None:
    """After a log record: InputError after too many skipped steps, or returns, in a row; a spike is told."""
    monitor, meters = milestones.monitor, milestones.meters
    advice = "try a lower --lr, --warmup_iterations or --clip_norm"
    if 0 < every.max_bad_steps <= meters.in_a_row:
        where = milestones.dump(done, batches)
        highest(0)  # torchrun ends the other ranks when the first has left: not before all have written
        raise InputError(
            f"iteration {done}: the last {int(meters.in_a_row)} steps had a gradient that isn't finite and were "
            f"skipped; {advice}; {where}"
        )
    usual = meters.median()
    spike = 0 < every.spike_factor * usual < loss
    told = f"iteration {done}: the loss is {loss:.4g}; its median of late is {usual:.4g}"
    if spike and every.spike_return:
        if meters.returns == MOST_RETURNS:
            raise InputError(f"{told}; so it was after each of {MOST_RETURNS} returns to earlier weights; {advice}")
        meters.returned()
        monitor.say(f"{told}; {milestones.go_back()}")
        return
    if spike:
        monitor.say(told)
    meters.logged(loss)


def _log(
    monitor: Silent, done: int, lr: float, figures: dict[str, torch.Tensor], bad: BadImages, watch: Stopwatch
) -> float:
    """The record of an iteration; returns its loss."""
    values = torch.stack(list(figures.values())).tolist()  # the one place where host and device meet
    speed = watch.read()
    known = dict(zip(figures, values, strict=True))
    monitor.log({"iteration": done, **known, "lr": lr, "bad_images": bad.count, **speed})
    return float(known["loss"])
