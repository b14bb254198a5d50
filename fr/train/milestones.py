"""What a training does outside its loop: shows its pictures, validates, saves, keeps a failed batch, goes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fr.checkpoint.resuming import resume
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.errors import InputError
from fr.evaluation.score_check import Spread
from fr.train.meters import Meters
from fr.train.monitor import Silent
from fr.train.step import Batch
from fr.train.validation import Validation


@dataclass(frozen=True)
class Milestones:
    """All but `show` and `dump` are called by all ranks together.

    folder, prefix: of the snapshots. facts: what stands in them and must be the same to go on from them. config: the
    options. compare `fr.train.loop.train`, which calls them.
    """

    folder: Path
    prefix: str
    facts: dict[str, Any]
    config: dict[str, Any]
    state: TrainingState
    writer: SnapshotWriter
    meters: Meters
    validation: Validation
    monitor: Silent

    def show(self, images: torch.Tensor) -> None:
        """The first batch, as it enters the network."""
        self.monitor.shows(images, self.validation.preprocessing)

    def validate_and_save(self, iteration: int) -> None:
        """iteration: how many are done, here and below."""
        figures: dict[str, float] = {}
        spreads: list[Spread] = []
        try:
            figures, lines, spreads = self.validation.measure()
            if figures:
                self.monitor.validated(iteration, figures, lines)
        except InputError as error:  # a reason to look, not one to lose the training
            self.monitor.say(f"iteration {iteration}: no validation: {error}")
        self.save(iteration, figures, spreads)

    def save(
        self, iteration: int, figures: dict[str, float] | None = None, spreads: Sequence[Spread] = ()
    ) -> None:
        contents = self.facts | {"config": self.config, "metrics": figures or {}, "meters": self.meters.as_dict()}
        contents["scores"] = [spread.as_dict() for spread in spreads]
        self.writer.write(iteration, contents)

    def write_failure(self) -> InputError | None:
        """Of a snapshot in the background, as soon as this rank knows of it."""
        return self.writer.failure()

    def go_back(self) -> str:
        """Put the newest whole snapshot's state in the place of this one; says which, or that there is none."""
        self.writer.wait()
        resumed = resume([path for path in reversed(self.writer.written) if path.exists()], self.state, self.facts)
        return "; ".join(resumed.notes) or "there is no snapshot to go back to"

    def dump(self, iteration: int, batches: list[Batch]) -> str:
        """Write this rank's micro-batches of an iteration for study; says where they are, or why they aren't."""
        path = self.folder / f"{self.prefix}_{iteration}.bad_batch_{self.validation.ranks.rank}.pt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"iteration": iteration, "batches": [(x.cpu(), y.cpu()) for x, y in batches]}, path)
        except (OSError, RuntimeError) as error:  # torch.save tells of a full disk by either
            return f"this step's batch couldn't be kept in {path}: {error}"
        return f"this step's batch is in {path}"
