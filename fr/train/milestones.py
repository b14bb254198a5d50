"""What a training does outside its loop: shows its pictures, validates, saves, keeps a failed batch, goes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fr.checkpoint.resuming import resume
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.data.pipeline import DaliSettings
from fr.data.verification_set import VerificationSet
from fr.distributed import Ranks, broadcast_buffers
from fr.errors import InputError
from fr.evaluation.embedding import evaluate
from fr.evaluation.score_check import Spread
from fr.preprocessing import Preprocessing
from fr.train.meters import Meters
from fr.train.monitor import Silent

Batch = tuple[torch.Tensor, torch.Tensor]  # images [b, 3, H, W], labels [b]


@dataclass(frozen=True)
class Validation:
    """What is measured, on what, and how. models: by what their figures begin with; the name of a set follows, but for
    the first set."""

    sets: list[VerificationSet]
    models: dict[str, nn.Module]
    preprocessing: Preprocessing
    dali: DaliSettings
    ranks: Ranks
    batch_size: int
    flipped: bool

    def measure(self) -> tuple[dict[str, float], list[str], list[Spread]]:
        """Figures by name, lines for people, and where the scores lie, on every rank; none without a set. InputError if
        it can't be read."""
        figures: dict[str, float] = {}
        lines: list[str] = []
        spreads: list[Spread] = []
        for prefix, model in self.models.items() if self.sets else ():
            broadcast_buffers(model)
            lines += ["averaged weights:"] * bool(prefix)
            for of in self.sets:
                found, scores = evaluate(
                    model.eval(), of.faces, self.preprocessing, self.dali, self.ranks, self.batch_size, self.flipped
                )
                name = "" if of is self.sets[0] else f"{of.name}_"
                figures |= {f"{prefix}{name}{figure}": value for figure, value in found.figures().items()}
                lines += [f"{of.name}:"] * (len(self.sets) > 1) + found.lines()
                spreads.append(Spread.of(of, scores, averaged=bool(prefix), flip="sum" if self.flipped else ""))
        return figures, lines, spreads


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
