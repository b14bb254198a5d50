"""Auxiliary losses, added to the softmax loss with one weight each; weight 0 disables a loss.

N samples of the global batch, B of this rank, E embedding size, C_r classes of this rank. d(a, b) = 1 - cos(a, b)
unless stated otherwise. Each function returns (sum, count) over this rank's terms; the loss is the sum over all ranks
divided by the count over all ranks. The "centres" of the push losses are the class centres of the softmax.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from fr.losses.collectives import sum_over_ranks
from fr.losses.distillation import Part, cosine_loss, logit_loss, mse_loss, relation_loss
from fr.losses.margins import magface_regulariser
from fr.losses.sharded import PIECE, SHORTEST, Shard
from fr.options.losses import LossSettings

# Margin schedule of global push+: linear from this margin to `push_margin` (face_recognition.pytorch).
_START_MARGIN, _MARGIN_ITERATIONS = 0.15, 40_000


@dataclass(frozen=True)
class Targets:
    """Labels of all ranks' samples, and the positions of their classes on this rank.

    row: index of the sample's class among this rank's C_r. column: its column in `cosines`, which with sampling has
    only the sampled classes. Both are 0 and meaningless where not `owned`.
    """

    labels: torch.Tensor  # [N]
    own: slice  # this rank's samples
    row: torch.Tensor  # [N]
    column: torch.Tensor  # [N]
    owned: torch.Tensor  # [N] bool: the sample's class is on this rank


@dataclass(frozen=True)
class Gathered(Targets):
    """A micro-batch of all ranks, on one rank; without accumulation the global batch."""

    embeddings: torch.Tensor  # [N, E]
    norms: torch.Tensor  # [N]
    unit: torch.Tensor  # [N, E]
    cosines: torch.Tensor  # [N, C_r]
    target_cosines: torch.Tensor  # [N], 0 where not owned
    shard: Shard
    teachers: torch.Tensor | None = None  # [N, E_t] the teacher's embeddings of the same faces
    teacher_logits: torch.Tensor | None = None  # [N, C_r]


@dataclass(frozen=True)
class _Offsets:
    """Contribution of a micro-batch to the update of the centres: for each sample, sums over its class's samples."""

    labels: torch.Tensor  # [N]
    row: torch.Tensor  # [N]
    count: torch.Tensor  # [N] samples
    total: torch.Tensor  # [N, E] sum of x - c over them, 0 where the class is on another rank


class AuxiliaryLosses(nn.Module):
    """Weighted sum of the enabled auxiliary losses. centers [C_r, E]: of the centre loss."""

    centers: torch.Tensor

    def __init__(self, settings: LossSettings, rows: int, embed_size: int) -> None:
        super().__init__()
        self.settings = settings
        if settings.center_loss_weight:
            self.register_buffer("centers", torch.zeros(rows, embed_size))
        self._offsets: list[_Offsets] = []

    def forward(
        self, batch: Gathered, of_step: Targets, weight: torch.Tensor, iteration: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted sum (0 if all are disabled) and the value of each enabled loss, the same on all ranks.

        of_step: of all micro-batches of the step.
        """
        parts = self._parts(batch, of_step, weight, iteration)
        if not parts:
            return batch.norms.new_zeros(()), {}
        sums = torch.stack([total for _, (total, _) in parts.values()])
        counts = torch.stack([count for _, (_, count) in parts.values()])
        totals = torch.stack([sums.detach(), counts.to(sums.dtype)])
        dist.all_reduce(totals)
        values = totals[0] / totals[1].clamp_min(1)
        # The value is that of all ranks, the gradient that of this rank's part.
        losses = sums / totals[1].clamp_min(1)
        losses = values + (losses - losses.detach())
        weighted = [factor * loss for (factor, _), loss in zip(parts.values(), losses, strict=True)]
        return torch.stack(weighted).sum(), dict(zip(parts, values, strict=True))

    def move_centers(self, skipped: torch.Tensor) -> None:
        """Update the centre loss's centres with the batches since the last call, unless `skipped` is 1.

        c ← c - lr Σ (c - x) / (1 + n) over the n samples of a class in all of these batches: Wen et al., eq. 4.
        """
        if not self._offsets:
            return
        ascending = torch.cat([one.labels for one in self._offsets]).sort().values
        for one in self._offsets:
            first, last = (torch.searchsorted(ascending, one.labels, right=right) for right in (False, True))
            # Each of the n samples of a class adds 1 / n of the sum: equal summands, so the result doesn't depend on
            # the order of `index_add_`.
            move = one.total * (self.settings.center_loss_lr / (one.count * (1 + last - first)))[:, None]
            self.centers.index_add_(0, one.row, torch.where(skipped > 0, 0, move))
        self._offsets.clear()

    def _parts(
        self, batch: Gathered, of_step: Targets, weight: torch.Tensor, iteration: int
    ) -> dict[str, tuple[float, Part]]:
        """Name → (weight, part) of the enabled losses."""
        o, own, teachers = self.settings, batch.own, batch.teachers
        margin = _START_MARGIN + min(1.0, iteration / _MARGIN_ITERATIONS) * (o.push_margin - _START_MARGIN)
        triplet_loss = {"hard": batch_hard_triplet_loss, "semihard": semi_hard_triplet_loss}[o.triplet_mining]
        losses: dict[str, tuple[float, Callable[[], Part]]] = {
            "center_loss": (o.center_loss_weight, lambda: self._center_loss(batch)),
            "push_loss": (o.push_loss_weight, lambda: push_loss(batch, o.push_margin)),
            "push_plus_loss": (o.push_plus_loss_weight, lambda: push_plus_loss(batch, o.push_margin)),
            "global_push_loss": (o.global_push_loss_weight, lambda: global_push_plus_loss(batch, margin)),
            "min_margin_loss": (o.min_margin_loss_weight, lambda: minimum_margin_loss(of_step, weight, o.min_margin)),
            "triplet_loss": (o.triplet_loss_weight, lambda: triplet_loss(batch, o.triplet_margin)),
            "magnitude_loss": (o.lambda_g if o.margin_type == "mag" else 0.0, lambda: self._magnitude_loss(batch)),
        }
        if teachers is not None:
            x, t = batch.embeddings[own], teachers[own]
            losses |= {
                "distill_cosine_loss": (o.distill_cosine_weight, partial(cosine_loss, x, t)),
                "distill_mse_loss": (o.distill_mse_weight, partial(mse_loss, x, t)),
                "distill_relation_loss": (o.distill_relation_weight, partial(relation_loss, batch.unit, teachers, own)),
            }
        if batch.teacher_logits is not None and o.distill_logit_weight:
            total = partial(logit_loss, batch.cosines * o.scale, batch.teacher_logits, o.distill_temperature)
            losses["distill_logit_loss"] = o.distill_logit_weight, lambda: (total(), _count(batch.owned))
        return {name: (factor, part()) for name, (factor, part) in losses.items() if factor}

    def _magnitude_loss(self, batch: Gathered) -> Part:
        regulariser = magface_regulariser(batch.norms[batch.own], (self.settings.l_a, self.settings.u_a))
        return regulariser.sum(), _count(regulariser)

    def _center_loss(self, batch: Gathered) -> Part:
        """‖x - c_y‖² of each sample: Wen et al., ECCV 2016, eq. 2 without the ½, as in facenet-pytorch-centerloss."""
        if not len(self.centers):
            return batch.norms.sum() * 0, _count(batch.owned)
        offset = torch.where(batch.owned[:, None], batch.embeddings - self.centers[batch.row], 0)
        with torch.no_grad():
            same = (batch.labels[:, None] == batch.labels).to(offset.dtype)
            self._offsets.append(_Offsets(batch.labels, batch.row, same.sum(dim=1), same @ offset))
        return (offset**2).sum(), _count(batch.owned)


def _count(terms: torch.Tensor) -> torch.Tensor:
    """Number of terms that are true or above zero."""
    return (terms > 0).sum()


def _hinges(terms: torch.Tensor, mask: torch.Tensor) -> Part:
    """Sum and count of the terms above 0 under `mask`."""
    violated = torch.where(mask, terms, 0).clamp_min(0)
    return violated.sum(), _count(violated)


def push_loss(batch: Gathered, m: float) -> Part:
    """max(0, m - d(x_i, x_j)) over pairs of different identities: arXiv:1812.02465."""
    cosines = batch.unit[batch.own] @ batch.unit.T
    return _hinges(m - (1 - cosines), batch.labels[batch.own, None] != batch.labels)


def push_plus_loss(batch: Gathered, m: float) -> Part:
    """max(0, m + d(x_i, c_y) - d(x_i, x_j)) over pairs of different identities: arXiv:1812.02465."""
    terms = m - batch.target_cosines[:, None] + batch.unit @ batch.unit.T
    return _hinges(terms, batch.owned[:, None] & (batch.labels[:, None] != batch.labels))


def global_push_plus_loss(batch: Gathered, m: float) -> Part:
    """max(0, m + d(x_i, c_y) - d(x_i, c_j)) over all samples and all other centres: arXiv:1812.02465."""
    target = sum_over_ranks(batch.target_cosines, parts_follow=True)
    columns = torch.arange(batch.cosines.shape[1], device=target.device)
    others = (columns != batch.column[:, None]) | ~batch.owned[:, None]
    return _hinges(m - target[:, None] + batch.cosines, others)


def minimum_margin_loss(of_step: Targets, centres: torch.Tensor, m: float) -> Part:
    """max(0, m - d(c_i, c_j)) over pairs of the identities of a step, each pair twice: arXiv:1805.06741."""
    labels, own, owned = of_step.labels, of_step.own, of_step.owned
    own_centres = centres.new_zeros(len(labels), centres.shape[1])
    if len(centres):
        own_centres = torch.where(owned[:, None], F.normalize(centres[of_step.column], eps=SHORTEST), 0)
    centres_of_step = sum_over_ranks(own_centres, parts_follow=True)
    first = ~(labels[:, None] == labels).tril(-1).any(dim=1)  # each identity once
    pairs = first[own, None] & first & (labels[own, None] != labels)
    return _hinges(m - (1 - centres_of_step[own] @ centres_of_step.T), pairs)


def _triplet_distances(batch: Gathered) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Squared distances [B, N] from this rank's unit embeddings to all, mask of same identity, mask of another.

    A sample is in neither mask for itself.
    """
    distances = 2 - 2 * batch.unit[batch.own] @ batch.unit.T
    indices = torch.arange(len(batch.labels), device=distances.device)
    same = batch.labels[batch.own, None] == batch.labels
    return distances, same & (indices[batch.own, None] != indices), ~same


def batch_hard_triplet_loss(batch: Gathered, m: float) -> Part:
    """max(0, m + farthest positive - nearest negative) over the samples with both: arXiv:1703.07737 eq. 5."""
    distances, same, other = _triplet_distances(batch)
    complete = same.any(dim=1) & other.any(dim=1)
    farthest = torch.where(same, distances, -1).amax(dim=1)
    nearest = torch.where(other, distances, 5).amin(dim=1)
    terms = torch.where(complete, m + farthest - nearest, 0).clamp_min(0)
    return terms.sum(), _count(complete)


def semi_hard_triplet_loss(batch: Gathered, m: float) -> Part:
    """max(0, m + d(a, p) - d(a, n)) over the pairs (a, p): FaceNet, arXiv:1503.03832 sec. 3.2.

    n is the nearest negative that is farther than p, or the farthest negative where all are nearer.
    """
    distances, same, other = _triplet_distances(batch)
    # [a, p, n] for a few anchors at a time, and again in backward: all at once would take B · N² numbers.
    anchors = max(1, PIECE // len(batch.labels) ** 2)
    parts = zip(torch.split(distances, anchors), torch.split(other, anchors), strict=True)
    negative = torch.cat([
        checkpoint(_semi_hard_negatives, *part, use_reentrant=False, preserve_rng_state=False) for part in parts
    ])
    complete = same & other.any(dim=1, keepdim=True)
    terms = torch.where(complete, m + distances - negative, 0).clamp_min(0)
    return terms.sum(), _count(complete)


def _semi_hard_negatives(distances: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Distance of the negative for each pair of an anchor and a positive [a, p], from distances and `other` [a, n]."""
    farther = other[:, None] & (distances[:, None] > distances[:, :, None])  # [a, p, n]
    nearest = torch.where(farther, distances[:, None], torch.inf).amin(dim=2)
    farthest = torch.where(other, distances, -1).amax(dim=1)[:, None]
    return torch.where(nearest.isfinite(), nearest, farthest)
