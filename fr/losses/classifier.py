"""The class-sharded margin softmax: every rank keeps the centres of its share of the identities (C5).

N samples of the global batch, B = N / W of this rank, W ranks, E embedding size, C classes, C_r of them on this rank.

A step gathers the embeddings once and scatters their gradients once; of the logits only two sums and a maximum a
sample cross the ranks. Cosines, margin and log-softmax are in the precision of the centres (float32), whatever the
backbone ran in.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from fr.distributed import rank, world_size
from fr.losses.margins import MARGINS
from fr.randomness import Purpose, uniforms

# Shortest vector that is normalised to length 1; a zero vector stays zero, and its gradient finite.
_SHORTEST = 1e-5


def shard_rows(classes: int, ranks: int, which: int) -> tuple[int, int]:
    """First class and number of classes of a rank: ⌈C / W⌉ each, the last ranks fewer or none, as DTensor's Shard."""
    rows = -(-classes // ranks)
    first = min(which * rows, classes)
    return first, min(rows, classes - first)


class _Gather(torch.autograd.Function):
    """[B, E] of every rank → [N, E] in rank order, with its gradient.

    Backward adds up what the class shards ask of each embedding, hands every rank its rows, and multiplies by W:
    the loss is already the mean over the global batch, and DDP will divide the backbone's gradients by W.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.ranks = world_size()
        gathered = rows.new_empty((ctx.ranks * rows.shape[0], rows.shape[1]))
        dist.all_gather_single(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (asked,) = gradients
        own = asked.new_empty((asked.shape[0] // ctx.ranks, asked.shape[1]))
        dist.reduce_scatter_single(own, asked.contiguous())
        return torch.mul(own, ctx.ranks)


class _ShardedCrossEntropy(torch.autograd.Function):
    """-log softmax at the target, over classes that lie on all ranks: logits [N, C_r] → losses [N], hits [N].

    target [N]: column of the sample's class, where `owned` [N] says that it is on this rank; anything elsewhere.
    hits: 1 where no class has a larger logit than the target.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, owned: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        largest = logits.amax(dim=1)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        shares = (logits - largest[:, None]).exp_()
        at_target = logits.gather(1, target[:, None])[:, 0]
        sums = torch.stack([shares.sum(dim=1), torch.where(owned, at_target, 0.0)])
        dist.all_reduce(sums)
        total, at_target = sums
        ctx.save_for_backward(shares.div_(total[:, None]), target, owned)
        hits = (at_target >= largest).to(logits.dtype)
        ctx.mark_non_differentiable(hits)
        return total.log() + largest - at_target, hits

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        shares, target, owned = ctx.saved_tensors
        gradient = gradients[0][:, None]
        result = (shares * gradient).scatter_add(1, target[:, None], -gradient * owned[:, None])
        return result, None, None


class MarginSoftmax(nn.Module):
    """Margin softmax over C identities: the mean loss of the global batch, the same on every rank.

    margin_type: key of MARGINS; s: scale of the logits; m: margin, in the margin's own units. `weight` [C_r, E] are
    this rank's centres; they begin as uniform directions that depend on the seed and the class alone.
    """

    def __init__(self, classes: int, embed_size: int, margin_type: str, s: float, m: float, seed: int) -> None:
        super().__init__()
        self.classes = classes
        self.margin, self.s, self.m = MARGINS[margin_type], s, m
        self.first, rows = shard_rows(classes, world_size(), rank())
        start = 2 * torch.from_numpy(uniforms(seed, Purpose.HEAD, self.first, rows, embed_size)) - 1
        self.weight = nn.Parameter(F.normalize(start).float())

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """embeddings [B, E], labels [B] int64 of this rank → loss and share of hits, scalars over all N samples.

        A hit is a sample whose own class wins although the margin is held against it.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            every = _Gather.apply(embeddings.to(self.weight.dtype))
            everyone = labels.new_empty(len(every))
            dist.all_gather_single(everyone, labels.contiguous())
            cosines = F.linear(F.normalize(every, eps=_SHORTEST), F.normalize(self.weight, eps=_SHORTEST))
            target = everyone - self.first
            owned = (target >= 0) & (target < len(self.weight))
            losses, hits = _ShardedCrossEntropy.apply(*self._logits(cosines, target, owned))
        return losses.mean(), hits.mean()

    def _logits(
        self, cosines: torch.Tensor, target: torch.Tensor, owned: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if not len(self.weight):  # a rank without classes takes part with one that nothing can belong to
            cosines = F.pad(cosines, (0, 1), value=-torch.inf)
        column = torch.where(owned, target, 0)
        at_target = cosines.gather(1, column[:, None])[:, 0]
        # Only owned targets go through the margin: its gradient elsewhere would be 0 · ∞ at the ends.
        with_margin = self.margin(torch.where(owned, at_target, 0.0), self.m)
        cosines = cosines.scatter(1, column[:, None], torch.where(owned, with_margin, at_target)[:, None])
        return self.s * cosines, column, owned
