"""Validation during training: every set, with the weights and with their moving average."""

from dataclasses import dataclass

from torch import nn

from fr.data.pipeline import DaliSettings
from fr.data.verification_set import VerificationSet
from fr.distributed import Heartbeat, Ranks, broadcast_buffers
from fr.evaluation.embedding import evaluate
from fr.evaluation.score_check import Spread
from fr.preprocessing import Preprocessing


@dataclass(frozen=True)
class Validation:
    """Verification of the current models on every set.

    models: by the prefix of their metrics' names; the name of the set follows, except for the first set.
    """

    sets: list[VerificationSet]
    models: dict[str, nn.Module]
    preprocessing: Preprocessing
    dali: DaliSettings
    ranks: Ranks
    batch_size: int
    flipped: bool
    heartbeat: Heartbeat

    def measure(self) -> tuple[dict[str, float], list[str], list[Spread]]:
        """Metrics by name, lines to print, and score distributions, the same on every rank; empty without a set.

        InputError if a set can't be read.
        """
        metrics: dict[str, float] = {}
        lines: list[str] = []
        spreads: list[Spread] = []
        for prefix, model in self.models.items() if self.sets else ():
            broadcast_buffers(model)
            lines += ["averaged weights:"] * bool(prefix)
            for one in self.sets:
                verification, scores = evaluate(
                    model.eval(),
                    one.faces,
                    self.preprocessing,
                    self.dali,
                    self.ranks,
                    self.batch_size,
                    self.flipped,
                    self.heartbeat,
                )
                name = "" if one is self.sets[0] else f"{one.name}_"
                metrics |= {f"{prefix}{name}{metric}": value for metric, value in verification.metrics().items()}
                lines += [f"{one.name}:"] * (len(self.sets) > 1) + verification.lines()
                spreads.append(Spread.measure(one, scores, averaged=bool(prefix), flip="sum" if self.flipped else ""))
        return metrics, lines, spreads
