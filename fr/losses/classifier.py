"""The class-sharded margin softmax: every rank keeps the centres of its share of the identities (C5).

N samples of the global batch, B = N / W of this rank, W ranks, E embedding size, C classes, C_r of them on this rank.

A step gathers the embeddings once and scatters their gradients once; of the logits only a few numbers a sample cross
the ranks. Cosines, margin and log-softmax are in the precision of the centres (float32), whatever the backbone ran in.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from fr.distributed import rank, world_size
from fr.losses import margins
from fr.losses.auxiliary import Companions, Gathered
from fr.losses.negatives import Curriculum, Negatives, SupportVectors
from fr.losses.sampling import Exchange, drawn_count, drawn_rows
from fr.losses.settings import LossSettings
from fr.losses.sharded import SHORTEST, at_target, cosines_to, cross_entropy, gather, gather_constant, sum_over_ranks
from fr.randomness import Purpose, uniforms

# How fast AdaFace's statistics and CurricularFace's t follow the batches (both authors' code).
_RATE = 0.01
_ROWS_AT_A_TIME = 65_536


def shard_rows(classes: int, ranks: int, which: int) -> tuple[int, int]:
    """First class and number of classes of a rank: ⌈C / W⌉ each, the last ranks fewer or none, as DTensor's Shard."""
    rows = -(-classes // ranks)
    first = min(which * rows, classes)
    return first, min(rows, classes - first)


class MarginSoftmax(nn.Module):
    """Margin softmax over C identities, with its companions: the loss of the global batch, the same on every rank.

    `weight` [C_r, E] are this rank's centres; they begin as the directions of points even in a cube, which depend on
    the seed and the class alone. Buffers are what a margin type remembers of earlier batches, equal on all ranks.
    """

    norm_mean: torch.Tensor
    norm_std: torch.Tensor
    t: torch.Tensor

    def __init__(self, classes: int, embed_size: int, settings: LossSettings, seed: int) -> None:
        super().__init__()
        self.classes, self.settings, self.seed = classes, settings, seed
        self.first, self._rows = shard_rows(classes, world_size(), rank())
        self.weight = nn.Parameter(_initial_centres(seed, self.first, self._rows, embed_size))
        self.companions = Companions(settings, self._rows, embed_size)
        if settings.margin_type == "ada":
            self.register_buffer("norm_mean", torch.tensor(20.0))
            self.register_buffer("norm_std", torch.tensor(100.0))
        if settings.margin_type == "curricular":
            self.register_buffer("t", torch.tensor(0.0))
        self._iteration = 0
        self._drawn: torch.Tensor | None = None  # rows of the whole shard that `weight` holds during a sampled step
        self._classes_in_sum = classes
        self._exchange = Exchange()

    @contextmanager
    def step(self, iteration: int, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Around the forwards, backwards and optimiser step of an iteration, all ranks together.

        labels [b]: of all micro-batches of this rank. With sampling, `weight` and its optimiser state are those of the
        drawn classes in here; nothing can change the others. A graph from before must be gone by then.
        """
        self._iteration = iteration
        rate = self.settings.sample_rate
        if rate == 1:
            yield
            return
        of_batch = gather_constant(labels) - self.first
        self._drawn = drawn_rows(self._rows, of_batch, rate, self.seed, iteration)
        shards = (shard_rows(self.classes, world_size(), which)[1] for which in range(world_size()))
        self._classes_in_sum = sum(drawn_count(rows, len(of_batch), rate) for rows in shards)
        try:
            with self._exchange.swapped_in(self.weight, optimizer.state[self.weight], self._drawn):
                yield
        finally:
            self._drawn, self._classes_in_sum = None, self.classes

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """embeddings [B, E], labels [B] int64 of this rank → the loss to train on, and figures of all N samples.

        Figures: `softmax_loss`, `classification_accuracy`, and the value of each companion that is on.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            batch = self._gathered(embeddings, labels)
            phi = sum_over_ranks(torch.where(batch.owned, self._with_margin(batch), 0))
            losses, hits = cross_entropy(
                batch.cosines,
                phi,
                batch.column,
                batch.owned,
                self.settings.s,
                self.settings.label_smoothing,
                self._classes_in_sum,
                self._negatives(batch),
            )
            if self.settings.mining_type == "focal":  # arXiv:1708.02002 eq. 4 with p = e^-loss
                losses = (-torch.expm1(-losses)).clamp_min(0).pow(self.settings.gamma) * losses
            softmax_loss = losses.mean()
            beside, figures = self.companions(batch, self.weight, self._iteration)
        return softmax_loss + beside, {
            "softmax_loss": softmax_loss.detach(),
            "classification_accuracy": hits.mean(),
            **figures,
        }

    def _gathered(self, embeddings: torch.Tensor, labels: torch.Tensor) -> Gathered:
        every = gather(embeddings.to(self.weight.dtype))
        everyone = gather_constant(labels)
        unit = F.normalize(every, eps=SHORTEST)
        row = everyone - self.first
        owned = (row >= 0) & (row < self._rows)
        row = torch.where(owned, row, 0)
        column = row if self._drawn is None else torch.searchsorted(self._drawn, row)  # row 0 stays 0
        cosines = cosines_to(unit, self.weight)
        first = rank() * len(labels)
        return Gathered(
            embeddings=every,
            norms=torch.linalg.vector_norm(every, dim=1),
            unit=unit,
            labels=everyone,
            own=slice(first, first + len(labels)),
            cosines=cosines,
            row=row,
            column=column,
            owned=owned,
            target_cosines=at_target(cosines, column, owned),
        )

    def _with_margin(self, batch: Gathered) -> torch.Tensor:
        """phi [N]: the target cosines with the margin held against them."""
        o, cos = self.settings, batch.target_cosines
        match o.margin_type:
            case "softmax":
                phi = cos
            case "cos":
                phi = margins.cosface(cos, o.margin)
            case "arc":
                phi = (margins.arcface_easy if o.easy_margin else margins.arcface)(cos, o.margin)
            case "sphere":
                phi = margins.sphereface(cos, o.margin, self._iteration)
            case "sphere_r":
                phi = margins.sphereface_r(cos, o.margin)
            case "combined":
                phi = margins.combined(cos, o.m1, o.m2, o.m3)
            case "ada":
                phi = margins.adaface(cos, self._quality(batch.norms.detach()), o.margin)
            case "curricular":
                phi = margins.arcface(cos, o.margin)
            case "mag":
                m = margins.magface_margin(batch.norms, (o.l_m, o.u_m), (o.l_a, o.u_a))
                phi = margins.arcface(cos, m)
        return cos + (phi - cos).detach() if o.margin_gradient == "straight" else phi

    def _quality(self, norms: torch.Tensor) -> torch.Tensor:
        unknown = 0 * norms.sum()  # NaN if a length isn't finite
        norms = norms.clamp(1e-3, 100)  # as the authors' code
        mean = _follow(self.norm_mean, norms.mean() + unknown)
        std = _follow(self.norm_std, norms.std() + unknown) if len(norms) > 1 else self.norm_std
        return margins.adaface_quality(norms, mean, std, self.settings.h)

    def _negatives(self, batch: Gathered) -> Negatives:
        if self.settings.mining_type == "sv":
            return SupportVectors(self.settings.t)
        if self.settings.margin_type == "curricular":
            return Curriculum(_follow(self.t, sum_over_ranks(batch.target_cosines.detach()).mean()))
        return Negatives()


def _initial_centres(seed: int, first: int, rows: int, embed_size: int) -> torch.Tensor:
    """[rows, E], drawn in blocks: the float64 numbers of ten million classes at once would take 40 GB."""
    centres = torch.empty(rows, embed_size)
    for start in range(0, rows, _ROWS_AT_A_TIME):
        block = centres[start : start + _ROWS_AT_A_TIME]
        drawn = torch.from_numpy(uniforms(seed, Purpose.HEAD, first + start, len(block), embed_size))
        block.copy_(F.normalize(2 * drawn - 1))
    return centres


@torch.no_grad()
def _follow(running: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Update a running mean in place by one batch, unless the result isn't finite; return a copy of the new value.

    In place, so that a skipped step can be undone; a copy, so that the next batch doesn't change what a graph holds.
    """
    moved = running + _RATE * (seen - running)
    moved = torch.where(moved.isfinite(), moved, running)
    running.copy_(moved)
    return moved
