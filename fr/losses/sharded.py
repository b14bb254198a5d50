"""The arithmetic of a softmax over classes that lie on all ranks, each step with its own backward (C5).

N samples of the global batch, B = N / W of this rank, W ranks, E embedding size, C classes, C_r of them on this rank.

What runs backwards on a rank is that rank's part of the gradient; the parts of all ranks add up in `gather`'s backward.
Between forward and backward one [N, C_r] tensor is kept, the cosines; everything else of that size is made again.
"""

from typing import Any

import torch
import torch.distributed as dist

from fr.distributed import all_gather_single, reduce_scatter_single, world_size
from fr.losses.negatives import Negatives

# Shortest vector that is normalised to length 1; a zero vector stays zero, and its gradient finite.
SHORTEST = 1e-5


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.ranks = world_size()
        return gather_constant(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (asked,) = gradients
        own = asked.new_empty((asked.shape[0] // ctx.ranks, asked.shape[1]))
        reduce_scatter_single(own, asked.contiguous())
        return torch.mul(own, ctx.ranks)


def gather(rows: torch.Tensor) -> torch.Tensor:
    """[B, E] of every rank → [N, E] in rank order, with its gradient.

    Backward adds up what the ranks ask of each embedding, hands every rank its rows, and multiplies by W: the loss is
    already the mean over the global batch, and DDP will divide the backbone's gradients by W.
    """
    result: torch.Tensor = _Gather.apply(rows)
    return result


def gather_constant(rows: torch.Tensor) -> torch.Tensor:
    """[B, …] of every rank → [N, …] in rank order; nothing runs back."""
    gathered = rows.new_empty((world_size() * rows.shape[0], *rows.shape[1:]))
    all_gather_single(gathered, rows.contiguous())
    return gathered


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, parts_follow: bool) -> torch.Tensor:
        ctx.parts_follow = parts_follow
        return _all_reduced(part)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        return _all_reduced(gradient) if ctx.parts_follow else gradient, None


def _all_reduced(part: torch.Tensor) -> torch.Tensor:
    total = part.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def sum_over_ranks(part: torch.Tensor, parts_follow: bool = False) -> torch.Tensor:
    """The ranks' parts added up, the same on all, with its gradient.

    parts_follow: what a rank makes of the sum is again only its part of the loss, so that the sum's gradient has to be
    added up over the ranks too; without it every rank knows the whole gradient of the sum.
    """
    if parts_follow and not part.requires_grad:
        # A rank without classes has no graph here, but its backward is a collective that the others are waiting for.
        part = part.detach().requires_grad_(torch.is_grad_enabled())
    result: torch.Tensor = _SumOverRanks.apply(part, parts_follow)
    return result


class _Cosines(torch.autograd.Function):
    """The centres are never written out normalised: at C_r = 10⁶ and E = 512 each such copy is 2 GB."""

    @staticmethod
    def forward(ctx: Any, unit: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        lengths = torch.linalg.vector_norm(weight, dim=1)
        cosines = (unit @ weight.T).div_(lengths.clamp_min(SHORTEST))
        ctx.save_for_backward(unit, weight, lengths, cosines)
        return cosines

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (asked,) = gradients
        unit, weight, lengths, cosines = ctx.saved_tensors
        shrink = lengths.clamp_min(SHORTEST).reciprocal_()
        scaled = asked * cosines
        # With u = w / |w| and g = Σ_n asked x_n, the gradient of w is (g - (g · u) u) / |w|, and g · u = Σ_n asked cos.
        along = torch.where(lengths > SHORTEST, scaled.sum(dim=0) * shrink * shrink, 0)
        torch.mul(asked, shrink, out=scaled)
        of_weight = (scaled.T @ unit).addcmul_(weight, along[:, None], value=-1)
        return scaled @ weight, of_weight


def cosines_to(unit: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cosines [N, C_r] between unit embeddings [N, E] and centres [C_r, E] of any length."""
    result: torch.Tensor = _Cosines.apply(unit, weight)
    return result


def at_target(values: torch.Tensor, column: torch.Tensor, owned: torch.Tensor) -> torch.Tensor:
    """values [N, C_r] in the column of each sample's class, 0 where that class is on another rank: [N]."""
    if not values.shape[1]:
        return values.new_zeros(len(values))
    return torch.where(owned, values.gather(1, column[:, None])[:, 0], 0)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cosines: torch.Tensor,
        phi: torch.Tensor,
        column: torch.Tensor,
        owned: torch.Tensor,
        s: float,
        smoothing: float,
        classes: int,
        negatives: Negatives,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = _logits(cosines, phi, column, owned, s, negatives)
        largest = logits.amax(dim=1) if logits.shape[1] else logits.new_full((len(logits),), -torch.inf)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        everything = logits.sum(dim=1) if smoothing else torch.zeros_like(largest)
        sums = torch.stack([everything, logits.sub_(largest[:, None]).exp_().sum(dim=1)])
        dist.all_reduce(sums)
        log_total = sums[1].log() + largest
        target = s * phi
        losses = log_total - (1 - smoothing) * target - smoothing / classes * sums[0]
        hits = (target >= largest).to(losses.dtype)
        ctx.save_for_backward(cosines, phi, column, owned, log_total)
        ctx.constants = s, smoothing, classes, negatives
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cosines, phi, column, owned, log_total = ctx.saved_tensors
        s, smoothing, classes, negatives = ctx.constants
        factor = s * gradients[0]
        shares = _logits(cosines, phi, column, owned, s, negatives).sub_(log_total[:, None]).exp_()
        if smoothing:
            shares.sub_(smoothing / classes)
        shares.mul_(factor[:, None])
        negatives.chain_(shares, cosines, phi)
        if shares.shape[1]:
            others = torch.where(owned, 0, shares.gather(1, column[:, None])[:, 0])
            shares.scatter_(1, column[:, None], others[:, None])
        of_phi = factor * ((s * phi - log_total).exp() - (1 - smoothing) - smoothing / classes)
        return shares, of_phi, *[None] * 6


def cross_entropy(
    cosines: torch.Tensor,
    phi: torch.Tensor,
    column: torch.Tensor,
    owned: torch.Tensor,
    s: float,
    smoothing: float,
    classes: int,
    negatives: Negatives,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-log softmax at the target over the classes of all ranks: losses [N] and hits [N], the same on every rank.

    cosines [N, C_r]; phi [N]: target cosines with their margin, known to all ranks; column, owned [N]: where the
    sample's class is, if `owned`, among this rank's. Logits are s times phi, and s times `negatives` of the other
    cosines. smoothing: share of the target that goes to all `classes` evenly (label smoothing, arXiv:1512.00567).
    A hit is a sample whose own class wins although the margin is held against it.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _CrossEntropy.apply(
        cosines, phi, column, owned, s, smoothing, classes, negatives
    )
    return result


def _logits(
    cosines: torch.Tensor, phi: torch.Tensor, column: torch.Tensor, owned: torch.Tensor, s: float, negatives: Negatives
) -> torch.Tensor:
    """A new tensor [N, C_r]."""
    logits = negatives.values(cosines, phi) * s
    if logits.shape[1]:
        at_column = torch.where(owned, s * phi, logits.gather(1, column[:, None])[:, 0])
        logits.scatter_(1, column[:, None], at_column[:, None])
    return logits
