"""Two models on one verification set, pair by pair: differences of metrics, and pairs that only one gets right.

A difference is significant if its interval, from the same bootstrap draws of identities for both models, excludes 0.
McNemar's exact test (1947, https://doi.org/10.1007/BF02295996) assumes independent pairs: if people are in several
pairs, its p is too small.

Letters: P pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from fr.console import counted
from fr.errors import InputError
from fr.evaluation.bootstrap import Replicates, replicates
from fr.evaluation.embedding import people_of_pairs
from fr.evaluation.intervals import Interval, paired_difference, percentile, wider
from fr.evaluation.roc import area, roc_curve
from fr.evaluation.scoring import Scored
from fr.evaluation.verification import Verification, shares_of_pairs


@dataclass(frozen=True)
class Difference:
    """A metric of A and of B, and the 95 % interval of B − A; None without replicates."""

    name: str
    a: float
    b: float
    interval: Interval | None

    @property
    def verdict(self) -> str:
        """Text that says if the interval excludes 0; "" without an interval."""
        if self.interval is None:
            return ""
        return "isn't chance" if self.interval[0] > 0 or self.interval[1] < 0 else "may be chance"


@dataclass(frozen=True)
class Comparison:
    """Accuracy and AUC of both models, numbers of pairs that only one classifies correctly, and McNemar's p."""

    differences: list[Difference]
    only_a: int
    only_b: int
    p: float
    pairs: int

    def disagreement(self, a: str = "A", b: str = "B") -> str:
        """A line about the pairs that only one gets right. a, b: names of the models."""
        counts = f"correct only by {a}: {self.only_a:,}, only by {b}: {self.only_b:,} of {counted(self.pairs, 'pair')}"
        return f"{counts}; McNemar's p, if pairs were independent: {self.p:.3g}"


def compare(a: Scored, b: Scored, drawn: tuple[Replicates, Replicates] | None) -> Comparison:
    """Compare two models scored on one set. drawn: replicates of A and B by `drawn_from`; None = no intervals."""
    between: dict[str, Interval | None] = {}
    if drawn:
        between["accuracy"] = accuracy_interval(a.verification, b.verification, drawn)
        between["auc"] = percentile(drawn[1]["auc"] - drawn[0]["auc"])
    differences = [
        Difference("accuracy", a.verification.accuracy, b.verification.accuracy, between.get("accuracy")),
        Difference("auc", _auc(a), _auc(b), between.get("auc")),
    ]
    right = b.verification.right
    return Comparison(differences, *mcnemar(a.verification.right, right), right.size)


def check_one_set(a: Scored, b: Scored, names: tuple[str, str] = ("A", "B")) -> None:
    """Raise InputError unless both were scored on the same pairs. names: of the models."""
    if not a.faces.names.equals(b.faces.names) or not np.array_equal(a.faces.pairs, b.faces.pairs):
        sources = f"{names[0]} was scored on {a.pair_set.source}, {names[1]} on {b.pair_set.source}"
        raise InputError(f"{sources}: name one set with --val_data_root")


def embeddings_warning(models: Mapping[str, Scored]) -> str:
    """Warning if the embeddings of the named models were computed differently, by default as in each training."""
    how = {name: scored.embedding for name, scored in models.items()}
    if len({*how.values()}) == 1:
        return ""
    each = "; ".join(f"{name}: {text}" for name, text in how.items())
    return f"the embeddings are computed differently ({each}): give --flipped_emb, or --flipped_emb false, for all"


def drawn_from(scored: Scored, count: int) -> Replicates:
    """Bootstrap replicates of a model's metrics; models scored on one set get equal draws of its people."""
    people = people_of_pairs(scored.faces)
    return replicates(scored.scores, scored.faces.same, scored.verification, people, count)


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Pairs that only A, and that only B classifies correctly, and McNemar's exact two-sided p. right_a, right_b: [P].

    p: probability of a split at least as uneven if each of these pairs is a fair coin toss.
    """
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    return only_a, only_b, min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def accuracy_interval(a: Verification, b: Verification, drawn: tuple[Replicates, Replicates]) -> Interval | None:
    """95 % interval of B's accuracy minus A's; None without replicates. drawn: of A and B, with equal draws."""
    # A pair's weight is the same for both models: folds and kinds belong to the set.
    gains = shares_of_pairs(a.cell) * (b.right.astype(np.float64) - a.right)
    return wider(percentile(drawn[1]["accuracy"] - drawn[0]["accuracy"]), paired_difference(gains))


def _auc(scored: Scored) -> float:
    """AUC of the exact curve, as in the bootstrap replicates."""
    roc = roc_curve(scored.scores, scored.faces.same)
    return float(area(roc.far, roc.tar))
