"""Events around the loop: show the first batch, validate, save, dump a failed batch, go back to a snapshot."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fr.checkpoint.resuming import resume
from fr.checkpoint.snapshot import SnapshotContents
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.distributed import rank
from fr.errors import InputError
from fr.evaluation.score_check import Spread
from fr.train.learner import Batch
from fr.train.meters import Meters
from fr.train.monitor import Silent
from fr.train.validation import Validation


@dataclass(frozen=True)
class Milestones:
    """Rare events of a run, called by `fr.train.loop.train`; all but `show` and `dump` by all ranks together.

    contents: the part of the run's snapshots that is the same at every iteration.
    """

    contents: SnapshotContents
    state: TrainingState
    writer: SnapshotWriter
    meters: Meters
    validation: Validation
    monitor: Silent

    def show(self, images: torch.Tensor) -> None:
        """Log the images of the first batch, as they enter the network."""
        self.monitor.shows(images, self.validation.preprocessing)

    def validate_and_save(self, iteration: int) -> None:
        """Validate, and write a snapshot with the metrics. iteration: number of finished ones, here and below."""
        metrics: dict[str, float] = {}
        spreads: list[Spread] = []
        try:
            metrics, lines, spreads = self.validation.measure(iteration)
            if metrics:
                self.monitor.validated(iteration, metrics, lines)
        except InputError as error:  # reported, but it doesn't end the training
            self.monitor.say(f"iteration {iteration}: no validation: {error}")
            traceback.clear_frames(error.__traceback__)  # which hold the error: a cycle that keeps DALI's graph
        self.save(iteration, metrics, spreads)

    def save(self, iteration: int, metrics: dict[str, float] | None = None, spreads: Sequence[Spread] = ()) -> None:
        """Write a snapshot."""
        scores = [spread.as_dict() for spread in spreads]
        contents = replace(self.contents, metrics=metrics or {}, scores=scores, meters=self.meters.as_dict())
        self.writer.write(iteration, contents)

    def write_failure(self) -> InputError | None:
        """Failure of a background write of a snapshot, once this rank knows of it; else None."""
        return self.writer.failure()

    def go_back(self) -> str:
        """Restore the state of the newest complete snapshot; returns a text that names it, or says there is none."""
        self.writer.wait()
        written = [path for path in reversed(self.writer.written) if path.exists()]
        return "; ".join(resume(written, self.state, self.contents).notes) or "there is no snapshot to go back to"

    def dump(self, iteration: int, batches: list[Batch]) -> str:
        """Write this rank's micro-batches of an iteration for analysis; returns a text with the path or the error."""
        path = self.writer.folder / f"{self.writer.prefix}_{iteration}.bad_batch_{rank()}.pt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            on_cpu = [tuple(tensor.cpu() for tensor in batch) for batch in batches]
            torch.save({"iteration": iteration, "batches": on_cpu}, path)
        except (OSError, RuntimeError) as error:  # torch.save raises either if the disk is full
            return f"this step's batch couldn't be kept in {path}: {error}"
        return f"this step's batch is in {path}"
