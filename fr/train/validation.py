"""Validation during training: every set, with the weights and with their moving average."""

import traceback
from dataclasses import dataclass

from torch import nn

from fr.data.pipeline import DaliSettings
from fr.data.verification_set import VerificationSet
from fr.distributed import Heartbeat, Ranks, broadcast_buffers, raise_reason
from fr.errors import InputError, in_short
from fr.evaluation.embedding import evaluate
from fr.evaluation.score_check import Spread
from fr.evaluation.verification import Verification
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

        InputError on all ranks, for whatever failed on one of them.
        """
        metrics: dict[str, float] = {}
        lines: list[str] = []
        spreads: list[Spread] = []
        for prefix, model in self.models.items() if self.sets else ():
            broadcast_buffers(model)
            lines += ["averaged weights:"] * bool(prefix)
            for one in self.sets:
                verification, spread = self._measure(model.eval(), one, averaged=bool(prefix))
                name = "" if one is self.sets[0] else f"{one.name}_"
                metrics |= {f"{prefix}{name}{metric}": value for metric, value in verification.metrics().items()}
                lines += [f"{one.name}:"] * (len(self.sets) > 1) + verification.lines()
                spreads.append(spread)
        return metrics, lines, spreads

    def _measure(self, model: nn.Module, one: VerificationSet, averaged: bool) -> tuple[Verification, Spread]:
        failure = None
        try:
            verification, scores = evaluate(
                model,
                one.faces,
                self.preprocessing,
                self.dali,
                self.ranks,
                self.batch_size,
                self.flipped,
                self.heartbeat,
            )
            spread = Spread.measure(one, scores, averaged, flip="sum" if self.flipped else "")
        except InputError as error:
            failure = error
        except Exception as error:  # such as a GPU without memory
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{at.filename}:{at.lineno}"
            failure = InputError(f"{one.name}: {type(error).__name__}: {in_short(error)} ({where})")
        raise_reason(failure)
        return verification, spread
