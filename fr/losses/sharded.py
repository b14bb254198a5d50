"""Autograd functions of a class-sharded softmax (C5): gather, sum over ranks, cosines, cross-entropy.

N samples of the global batch, B = N / W of this rank, W ranks, E embedding size, C classes, C_r of them on this rank.

Each rank backpropagates its part of the gradient; `gather`'s backward sums the parts of all ranks.

Memory: between forward and backward one [N, C_r] tensor is kept, the cosines. Forward peaks at two (three where
`negatives` reweights), backward at four: the cosines, the gradient of the cross-entropy, and two in the scatter of the
target cosines' gradient. Later three are left beside the centres' gradient [C_r, E]: a scaled copy replaces those two.
"""

from typing import Any

import torch
import torch.distributed as dist

from fr.distributed import all_gather_single, reduce_scatter_single, world_size
from fr.losses.negatives import Negatives

# Lower bound of a norm in normalisation: shorter vectors stay shorter than 1, and their gradient finite.
SHORTEST = 1e-5


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.ranks = world_size()
        return gather_constant(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gradient,) = gradients
        own = gradient.new_empty((gradient.shape[0] // ctx.ranks, gradient.shape[1]))
        reduce_scatter_single(own, gradient.contiguous())
        return torch.mul(own, ctx.ranks)


def gather(rows: torch.Tensor) -> torch.Tensor:
    """All-gather [B, E] → [N, E] in rank order, with gradient.

    Backward sums the ranks' gradients (reduce-scatter) and multiplies by W: the loss is already the mean over the
    global batch, and DDP divides the backbone's gradients by W.
    """
    result: torch.Tensor = _Gather.apply(rows)
    return result


def gather_constant(rows: torch.Tensor) -> torch.Tensor:
    """All-gather [B, …] → [N, …] in rank order, without gradient."""
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
    """All-reduced sum of the ranks' parts, with gradient.

    parts_follow: each rank computes only its part of the loss from the sum, so the sum's gradient is all-reduced too.
    Otherwise every rank has the whole gradient already.
    """
    if parts_follow and not part.requires_grad:
        # A rank without classes has no graph here, but must join the collective in backward.
        part = part.detach().requires_grad_(torch.is_grad_enabled())
    result: torch.Tensor = _SumOverRanks.apply(part, parts_follow)
    return result


class _Cosines(torch.autograd.Function):
    """Cosines without a normalised copy of the centres, which takes 2 GB at C_r = 10⁶ and E = 512."""

    @staticmethod
    def forward(ctx: Any, unit: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        lengths = torch.linalg.vector_norm(weight, dim=1)
        cosines = (unit @ weight.T).div_(lengths.clamp_min(SHORTEST))
        ctx.save_for_backward(unit, weight, lengths, cosines)
        return cosines

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,) = gradients
        unit, weight, lengths, cosines = ctx.saved_tensors
        shrink = lengths.clamp_min(SHORTEST).reciprocal_()
        scaled = gradient * cosines
        # With u = w / |w|, unit embeddings x_n, gradients a_n of their cosines c_n, and g = Σ_n a_n x_n, the gradient
        # of w is (g - (g · u) u) / |w|, and g · u = Σ_n a_n c_n.
        along = torch.where(lengths > SHORTEST, scaled.sum(dim=0) * shrink * shrink, 0)
        torch.mul(gradient, shrink, out=scaled)
        weight_gradient = (scaled.T @ unit).addcmul_(weight, along[:, None], value=-1)
        return scaled @ weight, weight_gradient


def cosines_to(unit: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cosines [N, C_r] between unit embeddings [N, E] and centres [C_r, E] of any norm."""
    result: torch.Tensor = _Cosines.apply(unit, weight)
    return result


def at_target(values: torch.Tensor, column: torch.Tensor, owned: torch.Tensor) -> torch.Tensor:
    """Select each sample's target from values [N, C_r]: [N], 0 where its class is on another rank."""
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
        logit_sum = logits.sum(dim=1) if smoothing else torch.zeros_like(largest)
        sums = torch.stack([logit_sum, logits.sub_(largest[:, None]).exp_().sum(dim=1)])
        dist.all_reduce(sums)
        log_total = sums[1].log() + largest
        target = s * phi
        losses = log_total - (1 - smoothing) * target - smoothing / classes * sums[0]
        correct = (target >= largest).to(losses.dtype)
        ctx.save_for_backward(cosines, phi, column, owned, log_total)
        ctx.constants = s, smoothing, classes, negatives
        ctx.mark_non_differentiable(correct)
        return losses, correct

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
        phi_gradient = factor * ((s * phi - log_total).exp() - (1 - smoothing) - smoothing / classes)
        return shares, phi_gradient, *[None] * 6


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
    """Cross-entropy over the classes of all ranks: losses [N] and correct [N] (1 or 0), the same on every rank.

    cosines [N, C_r]; phi [N]: target cosines after the margin, equal on all ranks; column [N]: the sample's class
    among this rank's, if owned [N]. The target logit is s · phi; the others are s · `negatives` of the cosines.
    smoothing: label smoothing over all `classes`, arXiv:1512.00567. correct: whether the target logit, after the
    margin, is the largest.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _CrossEntropy.apply(
        cosines, phi, column, owned, s, smoothing, classes, negatives
    )
    return result


def _logits(
    cosines: torch.Tensor, phi: torch.Tensor, column: torch.Tensor, owned: torch.Tensor, s: float, negatives: Negatives
) -> torch.Tensor:
    """Logits [N, C_r], always a new tensor."""
    logits = negatives.values(cosines, phi) * s
    if logits.shape[1]:
        at_column = torch.where(owned, s * phi, logits.gather(1, column[:, None])[:, 0])
        logits.scatter_(1, column[:, None], at_column[:, None])
    return logits
