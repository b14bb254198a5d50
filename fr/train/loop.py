"""The training loop, with ends that all ranks agree on."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import torch

from fr.console import Received, caught_signals
from fr.data.bad_images import BadImages
from fr.data.training_stream import TrainingStream
from fr.distributed import Heartbeat, ask_highest, gather_objects, highest
from fr.errors import InputError
from fr.options.fields import OptionFields
from fr.train.learner import Batch, Learner, Metrics
from fr.train.meters import MOST_RETURNS
from fr.train.milestones import Milestones
from fr.train.monitor import Silent, Stopwatch

_NEWS = 1  # bad images were found, no reason to end; a signal counts as its number and this, since SIGHUP is 1
_FAILED = 255  # above every signal: a failure on one rank wins over a signal on another


@dataclass(frozen=True)
class LoopSettings(OptionFields):
    """Intervals and limits of the loop.

    log_step, val_step: iterations between log records, and between validations with their snapshots. max_bad_steps:
    skipped steps in a row that end the run; 0 = any number. spike_factor: a loss above this multiple of its median is
    a spike; 0 = none is. spike_return: restore earlier weights after a spike.
    """

    log_step: int
    val_step: int
    max_bad_steps: int
    spike_factor: float
    spike_return: bool


@dataclass(frozen=True)
class _Fetched:
    """Micro-batches of a step on the device, or why the run must end before it. reason: waits for the answer of all."""

    batches: list[Batch]
    failure: InputError | None
    reason: Callable[[], int]


def train(
    learner: Learner,
    stream: TrainingStream,
    learning_rate: Callable[[int], float],
    settings: LoopSettings,
    milestones: Milestones,
    heartbeat: Heartbeat,
) -> int:
    """Run the iterations of the stream and return the exit status: 0, or 128 + the signal that ended the run.

    A signal or bad input on any rank ends the run on all of them, with a snapshot: a signal at most two steps later,
    bad input before the step that needs it. Bad input then raises InputError, as do too many skipped steps in a row,
    which are counted on log steps. Too many replaced images are bad input.

    The images of a step are fetched before the step that precedes it, and the ranks agree on it during that one: it
    takes as long as gloo's messages around all ranks. A log record is read and judged before the next step.
    """
    monitor, iterations = milestones.monitor, stream.iterations
    watch = Stopwatch(learner.device)
    saved = iterations.start
    record: _Record | None = None
    learner.training_mode()
    with caught_signals() as received, closing(iter(stream)) as batches_ahead:

        def fetch() -> _Fetched:
            try:
                with watch.fetching():
                    batches = [learner.on_device(*next(batches_ahead)) for _ in range(stream.accumulate)]
                failure = milestones.write_failure()
            except InputError as error:
                batches, failure = [], error
            return _asked(batches, failure, received, stream.bad)

        following = fetch() if iterations else None
        for iteration in iterations:
            heartbeat.count += 1
            heartbeat.iteration = iteration
            assert following
            batches = following.batches
            reason, failure = _reason_to_end(following, stream.bad, monitor)
            following = None if reason or iteration + 1 == iterations.stop else fetch()
            if record:  # only now: the device was busy while the ranks agreed and fetched
                _settle(record, settings, milestones)
                record = None
            if reason:
                if iteration > saved:
                    milestones.save(iteration)
                if failure:
                    raise failure
                return 128 + reason
            if iteration == iterations.start:
                milestones.show(batches[0][0])
            lr = learning_rate(iteration)
            metrics = learner.step(batches, iteration, lr)
            watch.images += stream.order.batch_size
            done = iteration + 1
            if done % settings.log_step == 0:
                record = _Record(done, lr, metrics, learner.meters.in_a_row, batches, stream.bad.count, watch)
            monitor.advance()
            if done % settings.val_step == 0 or done == iterations.stop:
                if record:
                    _settle(record, settings, milestones)
                    record = None
                milestones.validate_and_save(done)
                saved = done
                learner.training_mode()
                watch.restart()
    return 0


def _asked(batches: list[Batch], failure: InputError | None, received: Received, bad: BadImages) -> _Fetched:
    """Start to tell the other ranks of a reason to end before this step, and of images found bad."""
    signalled = received.number and _NEWS + received.number
    return _Fetched(batches, failure, ask_highest(_FAILED if failure else signalled or _NEWS * bad.has_news))


def _reason_to_end(fetched: _Fetched, bad: BadImages, monitor: Silent) -> tuple[int, InputError | None]:
    """Agree on a reason to end before this step: 0 = none, a signal's number, or _FAILED and the failure.

    All ranks learn of the images found bad here, which costs nothing as long as there are none; and of a failure,
    since torchrun may end the rank that had it before it has written its message.
    """
    reason, failure = fetched.reason(), fetched.failure
    if reason not in (_NEWS, _FAILED):
        return max(0, reason - _NEWS), failure
    for problem in bad.share():
        monitor.say(f"{problem}; another image stands in")
    problems = next(filter(None, gather_objects(failure.problems if failure else ())), None)
    failure = bad.excess() or failure or (InputError(*problems) if problems else None)
    return _FAILED if failure else 0, failure


class _Record:
    """A log record whose metrics are on their way from the device."""

    def __init__(
        self,
        done: int,
        lr: float,
        metrics: Metrics,
        in_a_row: torch.Tensor,
        batches: list[Batch],
        bad_images: int,
        watch: Stopwatch,
    ) -> None:
        self.done, self.batches = done, batches
        self._others = {"lr": lr, "bad_images": bad_images}
        self._names, self._figures = list(metrics), watch.lap()
        values = torch.stack([*metrics.values(), in_a_row])
        self._values = values.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrived:
            self._arrived.record()

    def read(self) -> tuple[dict[str, float], float]:
        """The record and `in_a_row`, as soon as they are here: the one place where the host waits for the device."""
        if self._arrived:
            self._arrived.synchronize()
        *values, in_a_row = self._values.tolist()
        metrics = dict(zip(self._names, values, strict=True))
        return {"iteration": self.done, **metrics, **self._others, **self._figures()}, in_a_row


def _judge(loss: float, in_a_row: float, record: _Record, settings: LoopSettings, milestones: Milestones) -> None:
    """Look for skipped steps and spikes after a log record; a spike is logged. in_a_row: as in Meters.

    InputError after too many skipped steps, or too many returns to earlier weights, in a row.
    """
    monitor, meters, done = milestones.monitor, milestones.meters, record.done
    advice = "try a lower --lr, --warmup_iterations or --clip_norm"
    if 0 < settings.max_bad_steps <= in_a_row:
        where = milestones.dump(done, record.batches)
        highest(0)  # torchrun ends the other ranks when the first has left: not before all have written
        raise InputError(
            f"iteration {done}: the last {int(in_a_row)} steps had a gradient that isn't finite and were "
            f"skipped; {advice}; {where}"
        )
    median = meters.median()
    spike = 0 < settings.spike_factor * median < loss
    message = f"iteration {done}: the loss is {loss:.4g}; its median of late is {median:.4g}"
    if spike and settings.spike_return:
        if meters.returns == MOST_RETURNS:
            raise InputError(f"{message}; so it was after each of {MOST_RETURNS} returns to earlier weights; {advice}")
        meters.returned()
        monitor.say(f"{message}; {milestones.go_back()}")
        return
    if spike:
        monitor.say(message)
    meters.logged(loss)


def _settle(record: _Record, settings: LoopSettings, milestones: Milestones) -> None:
    """Write a log record, and judge its loss, before the next step or snapshot."""
    known, in_a_row = record.read()
    milestones.monitor.log(known)
    _judge(known["loss"], in_a_row, record, settings, milestones)
