"""Collectives with gradients, between ranks that each have a part of the classes.

N samples of the global batch, B = N / W of this rank, W ranks, E embedding size. Each rank backpropagates its part of
the gradient; `gather`'s backward sums the parts of all ranks.
"""

from typing import Any

import torch
import torch.distributed as dist

from fr.distributed import all_gather_single, reduce_scatter_single, world_size


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

    parts_follow: each rank computes only its part of the loss from the sum, so the sum's gradient is all-reduced, too;
    otherwise every rank has the whole gradient already.
    """
    if parts_follow and not part.requires_grad:
        # A rank without classes has no graph here, but must join the collective in backward.
        part = part.detach().requires_grad_(torch.is_grad_enabled())
    result: torch.Tensor = _SumOverRanks.apply(part, parts_follow)
    return result
