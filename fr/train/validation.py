"""Validation during training: every set, with the weights and with their moving average."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from fr.console import counted
from fr.data.pipeline import DaliSettings
from fr.data.verification_set import VerificationSet
from fr.distributed import Heartbeat, Ranks, broadcast_buffers, raise_reason
from fr.errors import InputError, in_short
from fr.evaluation.embedding import Matrix, embed_sets, pair_scores, with_mirror_image
from fr.evaluation.group_rates import GroupRates
from fr.evaluation.groups import Groups
from fr.evaluation.pair_statistics import ScoredPairs
from fr.evaluation.score_check import Spread
from fr.evaluation.verification import Verification, verify
from fr.losses.classifier import MarginSoftmax
from fr.preprocessing import Preprocessing
from fr.train.held_out import HeldOut


@dataclass(frozen=True)
class Validation:
    """Verification of the current models on every set, and classification of held-out images.

    models: by the prefix of their metrics' names; the name of the set follows, except for the first set. latest: of the
    last call of `measure`, for the run's card.
    """

    sets: list[VerificationSet]
    models: dict[str, nn.Module]
    preprocessing: Preprocessing
    dali: DaliSettings
    ranks: Ranks
    batch_size: int
    flipped: bool
    heartbeat: Heartbeat
    held_out: HeldOut | None = None
    head: MarginSoftmax | None = None  # which classifies them
    groups: Groups = field(default_factory=Groups)
    latest: list[ScoredPairs] = field(default_factory=list)

    def measure(self, iteration: int) -> tuple[dict[str, float], list[str], list[Spread]]:
        """Metrics by name, lines to print, and score distributions, the same on every rank; empty without a set.

        iteration: how many are done. InputError on all ranks, for whatever failed on one of them.
        """
        metrics: dict[str, float] = {}
        lines: list[str] = []
        spreads: list[Spread] = []
        self.latest.clear()
        for prefix, embedded in self._embedded().items():
            lines += ["averaged weights:"] * bool(prefix)
            for one, embeddings in zip(self.sets, embedded, strict=False):  # the held-out images follow
                verification, spread, by_group = self._measure(one, embeddings, iteration, averaged=bool(prefix))
                name = "" if one is self.sets[0] else f"{one.name}_"
                figures = verification.metrics() | (by_group.metrics() if by_group else {})
                metrics |= {f"{prefix}{name}{metric}": value for metric, value in figures.items()}
                lines += [f"{one.name}:"] * (len(self.sets) > 1) + verification.lines()
                lines += by_group.lines() if by_group else []
                spreads.append(spread)
            if self.held_out and self.head:
                with _failing_together("held-out images"):
                    rows = torch.from_numpy(embedded[-1]).to(self.ranks.device)
                    accuracies = self.held_out.accuracies(self.head, rows)
                metrics |= {f"{prefix}{name}": value for name, value in accuracies.items()}
                top1, top5 = accuracies.values()
                images = counted(len(self.held_out.faces), "held-out image")
                lines.append(f"{images}: top-1 {top1:.4f}, top-5 {top5:.4f}")
        return metrics, lines, spreads

    @property
    def _flip_mode(self) -> str:
        return "sum" if self.flipped else ""

    def _embedded(self) -> dict[str, list[Matrix]]:
        """By the prefix of a model: the embeddings of each set, and of the held-out images, if there are any."""
        images = [*(one.faces for one in self.sets), *([self.held_out.faces] if self.held_out else ())]
        if not images:
            return {}
        for model in self.models.values():
            broadcast_buffers(model)
            model.eval()
        networks = [with_mirror_image(model, self._flip_mode) for model in self.models.values()]
        how = self.preprocessing, self.dali, self.ranks, self.batch_size
        with _failing_together("validation"):
            embedded = embed_sets(networks, images, *how, heartbeat=self.heartbeat)
        return dict(zip(self.models, embedded, strict=True))

    def _measure(
        self, one: VerificationSet, embeddings: Matrix, iteration: int, averaged: bool
    ) -> tuple[Verification, Spread, GroupRates | None]:
        with _failing_together(one.name):
            scores = pair_scores(one.faces, embeddings)
            verification = verify(scores, one.faces.same, one.faces.fold)
            spread = Spread.measure(one, scores, averaged, flip=self._flip_mode)
            by_group = self.groups.measure(one.name, one.faces, embeddings, scores)
            rates = by_group.metrics() if by_group else {}
            self.latest.append(ScoredPairs(one, averaged, iteration, verification, scores, rates))
        return verification, spread, by_group


@contextmanager
def _failing_together(name: str) -> Iterator[None]:
    """In here, InputError on all ranks for whatever fails on one, such as a GPU without memory."""
    failure = None
    try:
        yield
    except InputError as error:
        failure = error
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        failure = InputError(f"{name}: {type(error).__name__}: {in_short(error)} ({at.filename}:{at.lineno})")
    raise_reason(failure)
