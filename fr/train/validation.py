"""Validation during training: every set, with the weights and with their moving average."""

from dataclasses import dataclass

from torch import nn

from fr.data.pipeline import DaliSettings
from fr.data.verification_set import VerificationSet
from fr.distributed import Ranks, broadcast_buffers
from fr.evaluation.embedding import evaluate
from fr.evaluation.score_check import Spread
from fr.preprocessing import Preprocessing


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
