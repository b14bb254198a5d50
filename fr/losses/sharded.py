"""Autograd functions of a class-sharded softmax: cosines and cross-entropy.

N samples of the global batch, E embedding size, C classes, C_r of them on this rank, K centres a class.

Memory: one [N, C_r] tensor, the cosines, from forward to the end of backward, where their gradient replaces them.
Everything computed from them is processed in pieces of at most PIECE numbers, by rows in forward and by classes in
backward: one piece at a time in forward, two in backward (three and a mask if `negatives` reweights). After the pieces
of backward, the centres' gradient [C_r, E] is allocated. So the peak is N · C_r + max(C_r · E, 2 · min(PIECE, N · C_r))
numbers; `--accumulate` adds a second C_r · E, and losses that need whole tensors add more: the global push loss
5.5 · N · C_r, distillation of logits 8 · N · C_r and the teacher's head. With K > 1 centres a class, C_r · E becomes
K · C_r · E, and the index of the nearest centre takes a byte for each cosine; the cosines to one centre of each class
are a second [N, C_r] in forward, and their gradient in backward.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from fr.losses.negatives import Negatives

# Lower bound of a norm in normalisation: shorter vectors stay shorter than 1, so their gradient is finite.
SHORTEST = 1e-5

PIECE = 1 << 24  # elements of a temporary tensor: 64 MB in float32


def _pieces(length: int, width: int) -> Iterator[slice]:
    """Slices of `length` rows of `width` elements, of at most PIECE elements each; none for an empty tensor."""
    step = max(1, PIECE // max(1, width))
    step -= step % 64 if step > 64 else 0  # whole SIMD vectors, so that sums round as in the whole tensor
    return (slice(first, min(first + step, length)) for first in range(0, length if width else 0, step))


@dataclass
class _Softmax:
    """Values of a batch's softmax for its gradient by the cosines c, factor · (e^(s c - log_total) - floor)."""

    phi: torch.Tensor  # [N]
    log_total: torch.Tensor  # [N]
    factor: torch.Tensor  # [N]
    s: float
    floor: float
    negatives: Negatives

    def gradient(self, cosines: torch.Tensor) -> torch.Tensor:
        """Gradient of some non-target cosines [N, k], a new tensor."""
        shares = (self.negatives.values(cosines, self.phi) * self.s).sub_(self.log_total[:, None]).exp_()
        if self.floor:
            shares.sub_(self.floor)
        shares.mul_(self.factor[:, None])
        self.negatives.chain_(shares, cosines, self.phi)
        return shares


@dataclass
class Shard:
    """Position of each sample's class among this rank's C_r: column [N], meaningless where not `owned` [N] bool.

    softmax: passed from the backward of `cross_entropy` to that of `cosines_to`, which computes the gradient of the
    cosines from it in pieces. Passed through autograd, that gradient would be a second [N, C_r].
    """

    column: torch.Tensor
    owned: torch.Tensor
    softmax: _Softmax | None = None

    def targets_of(self, matrix: torch.Tensor) -> torch.Tensor:
        """Select each sample's target from [N, C_r]: [N], 0 where its class is on another rank."""
        if not matrix.shape[1]:
            return matrix.new_zeros(len(matrix))
        return torch.where(self.owned, matrix.gather(1, self.column[:, None])[:, 0], 0)

    def put_targets(self, piece: torch.Tensor, values: torch.Tensor, rows: slice, first: int = 0) -> None:
        """Replace the targets in a piece [n, k] of an [N, C_r], from class `first` on, by their values [n]."""
        column = self.column[rows] - first
        inside = self.owned[rows] & (column >= 0) & (column < piece.shape[1])
        column = torch.where(inside, column, 0)[:, None]
        piece.scatter_(1, column, torch.where(inside, values, piece.gather(1, column)[:, 0])[:, None])


class _Cosines(torch.autograd.Function):
    """Cosines without a normalised copy of the centres, which would take 2 GB at C_r = 10⁶ and E = 512."""

    @staticmethod
    def forward(
        ctx: Any, unit: torch.Tensor, weight: torch.Tensor, shard: Shard, products: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        centres = _by_number(weight, unit)
        ones = weight.new_ones(1, len(weight))
        lengths = ones if products else torch.stack([torch.linalg.vector_norm(one, dim=1) for one in centres])
        cosines = (unit @ centres[0].T).div_(lengths[0].clamp_min(SHORTEST))
        nearest: torch.Tensor | None = None
        for k in range(1, len(centres)):
            others = (unit @ centres[k].T).div_(lengths[k].clamp_min(SHORTEST))
            nearer = others > cosines
            nearest = nearer.byte() if nearest is None else nearest.masked_fill_(nearer, k)
            torch.maximum(cosines, others, out=cosines)
        ctx.save_for_backward(unit, weight, lengths, cosines, nearest)
        ctx.shard, ctx.products = shard, products
        ctx.set_materialize_grads(False)
        return cosines, shard.targets_of(cosines)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        unit, weight, lengths, cosines, nearest = ctx.saved_tensors
        shrink = lengths.clamp_min(SHORTEST).reciprocal_()
        along = _replace_by_gradient(cosines, nearest, shrink, ctx.shard, *gradients)
        along = torch.where(lengths > SHORTEST, along * shrink * shrink, 0)
        unit_gradient, weight_gradient = torch.zeros_like(unit), torch.empty_like(weight)
        for k, centres in enumerate(_by_number(weight, unit)):
            gradient, of_centres = _of_number(cosines, nearest, k), _by_number(weight_gradient, unit)[k]
            torch.mm(gradient.T, unit, out=of_centres)
            if not ctx.products:  # inner products depend on the length
                of_centres.addcmul_(centres, along[k, :, None], value=-1)
            unit_gradient += gradient @ centres
        return unit_gradient, weight_gradient, None, None


def _by_number(weight: torch.Tensor, unit: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """First, second, … centre of each class, views [C_r, E] of a weight [C_r, K · E]."""
    return torch.split(weight, unit.shape[1], dim=1)


def _of_number(values: torch.Tensor, nearest: torch.Tensor | None, k: int) -> torch.Tensor:
    """Values [N, c], set to 0 where a class's k-th centre isn't the nearest. nearest: None = one centre a class."""
    return values if nearest is None else torch.where(nearest == k, values, 0)


def _replace_by_gradient(
    cosines: torch.Tensor,
    nearest: torch.Tensor | None,
    shrink: torch.Tensor,
    shard: Shard,
    of_cosines: torch.Tensor | None,
    of_targets: torch.Tensor | None,
) -> torch.Tensor:
    """Replace cosines [N, C_r] by their gradient times `shrink` [K, C_r] of the nearest; return Σ_n a_n c_n [K, C_r].

    With u = w / |w|, unit embeddings x_n, gradients a_n of their cosines c_n, and g = Σ_n a_n x_n, the gradient of w
    is (g - (g · u) u) / |w|, and g · u = Σ_n a_n c_n. The sums are over the samples n for which w is the nearest centre
    of its class; nearest [N, C_r]: its index, None with one centre a class. of_cosines [N, C_r], of_targets [N]:
    gradients in addition to that of the cross-entropy; None = 0.
    """
    softmax, shard.softmax = shard.softmax, None
    along = torch.empty_like(shrink)
    if of_targets is None:
        of_targets = cosines.new_zeros(len(cosines))
    for part in _pieces(cosines.shape[1], len(cosines)):
        values = cosines[:, part]
        gradient = softmax.gradient(values) if softmax else torch.zeros_like(values)
        shard.put_targets(gradient, of_targets, slice(None), part.start)
        if of_cosines is not None:
            gradient.add_(of_cosines[:, part])
        near = None if nearest is None else nearest[:, part]
        products = gradient * values
        for k in range(len(shrink)):
            along[k, part] = _of_number(products, near, k).sum(dim=0)
        factors = shrink[0, part] if near is None else shrink[:, part].gather(0, near.long())
        torch.mul(gradient, factors, out=values)
    return along


def cosines_to(
    unit: torch.Tensor, weight: torch.Tensor, shard: Shard, products: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines [N, C_r] between unit embeddings [N, E] and centres [C_r, E] of any norm, and target cosines [N].

    With K centres a class, [C_r, K · E], the cosine is that of the nearest centre: Sub-center ArcFace (Deng et al.,
    ECCV 2020), sec. 3.2. The target cosines are 0 where the class is on another rank. products: return inner products
    of vectors of any norm instead of cosines. Only one backward pass is possible, since it overwrites the cosines.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _Cosines.apply(unit, weight, shard, products)
    return result


def logits_to(
    embeddings: torch.Tensor, unit: torch.Tensor, weight: torch.Tensor, shard: Shard, linear: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`cosines_to` for embeddings [N, E] and their unit vectors; linear: logits by weight [C_r, E + 1] with a bias."""
    if linear:
        return cosines_to(F.pad(embeddings, (0, 1), value=1.0), weight, shard, products=True)
    return cosines_to(unit, weight, shard)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cosines: torch.Tensor,
        phi: torch.Tensor,
        shard: Shard,
        s: float,
        smoothing: float,
        classes: int,
        negatives: Negatives,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        def logits(rows: slice) -> torch.Tensor:
            of_rows = negatives.values(cosines[rows], phi[rows]) * s
            shard.put_targets(of_rows, s * phi[rows], rows)
            return of_rows

        largest = torch.full_like(phi, -torch.inf)
        for rows in _pieces(*cosines.shape):
            largest[rows] = logits(rows).amax(dim=1)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        sums = phi.new_zeros(2, len(phi))
        for rows in _pieces(*cosines.shape):
            of_rows = logits(rows)
            if smoothing:
                sums[0, rows] = of_rows.sum(dim=1)
            sums[1, rows] = of_rows.sub_(largest[rows, None]).exp_().sum(dim=1)
        dist.all_reduce(sums)
        log_total = sums[1].log() + largest
        target = s * phi
        losses = log_total - (1 - smoothing) * target - smoothing / classes * sums[0]
        correct = (target >= largest).to(losses.dtype)
        ctx.save_for_backward(phi, log_total)
        ctx.shard, ctx.constants = shard, (s, smoothing, classes, negatives)
        ctx.mark_non_differentiable(correct)
        return losses, correct

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        phi, log_total = ctx.saved_tensors
        s, smoothing, classes, negatives = ctx.constants
        factor, floor = s * gradients[0], smoothing / classes
        ctx.shard.softmax = _Softmax(phi, log_total, factor, s, floor, negatives)
        phi_gradient = factor * ((s * phi - log_total).exp() - (1 - smoothing) - floor)
        return None, phi_gradient, *[None] * 5


def cross_entropy(
    cosines: torch.Tensor,
    phi: torch.Tensor,
    shard: Shard,
    s: float,
    smoothing: float,
    classes: int,
    negatives: Negatives,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the classes of all ranks: losses [N] and correct [N] (1 or 0), the same on every rank.

    cosines [N, C_r]: from `cosines_to` with the same `shard`; phi [N]: target cosines after the margin, equal on all
    ranks. The target logit is s · phi; the others are s · `negatives` of the cosines. smoothing: label smoothing over
    all `classes`, arXiv:1512.00567. correct: 1 if the target logit, after the margin, is the largest.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _CrossEntropy.apply(
        cosines, phi, shard, s, smoothing, classes, negatives
    )
    return result
