"""Stochastic depth, dropout and token masking with counter-based random numbers (`fr.randomness`).

The draws depend only on seed, iteration, position of the sample in the global batch, layer and element: they are the
same for any number of ranks and micro-batches, after a resume, and in the second forward pass of activation
checkpointing. `drawn` sets the keys of a micro-batch in the layers. Without it, and in evaluation, nothing is dropped.

B samples of a micro-batch, T tokens of a sample.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from fr.errors import InputError
from fr.randomness import Purpose, uniforms

_RANGE = 2**32  # number of values of a draw


class Drop(nn.Module):
    """Base of the layers that drop at random. rate: probability of each drop, in [0, 1), else InputError.

    keys: [B] whole numbers in [0, 2³²), one for each sample of a micro-batch in this layer; None = outside a step.
    """

    keys: torch.Tensor | None = None

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise InputError(f"a drop rate of {rate}: must be at least 0 and below 1")
        self.rate = rate

    @property
    def idle(self) -> bool:
        """True in evaluation mode or with rate 0: nothing is dropped."""
        return not self.training or self.rate == 0

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


class DropPath(Drop):
    """Stochastic depth (arXiv:1603.09382): [n · B, …], n rows a sample; whole samples are 0, others over 1 - rate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.keys is None or self.idle:
            return x
        kept = self.keys.repeat_interleave(len(x) // len(self.keys)) >= round(self.rate * _RANGE)
        return x * (kept.to(x.dtype) / (1 - self.rate)).view(-1, *[1] * (x.ndim - 1))


class Dropout(Drop):
    """Dropout of elements (arXiv:1207.0580): [n · B, …], n rows a sample; kept ones are divided by 1 - rate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.keys is None or self.idle:
            return x
        kept = words(self.keys, x.numel() // len(self.keys)) >= round(self.rate * _RANGE)
        return x * (kept.view(x.shape).to(x.dtype) / (1 - self.rate))


class MaskedTokens(Drop):
    """Random choice of the tokens that the blocks of a transformer process in training."""

    def seen(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """Indices of the tokens to keep of [B, T, …]: [B, ⌊T · (1 - rate)⌋], at least one; None = all."""
        if self.keys is None or self.idle:
            return None
        count = tokens.shape[1]
        order = words(self.keys, count).argsort(dim=1, stable=True)
        return order[:, : max(1, int(count * (1 - self.rate)))]


def words(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Random whole numbers in [0, 2³²) as a function of key and column: [B] int64 → [B, count] int64."""
    return _mixed(_mixed(torch.arange(count, device=keys.device)) ^ keys[:, None])


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """Permutation of the numbers below 2³² in which each bit of the input affects each bit of the output.

    The 32-bit hash with the lowest bias of https://github.com/skeeto/hash-prospector. Its products stay below 2⁶³.
    """
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x = (x ^ x >> shift) * factor & _RANGE - 1
    return x ^ x >> 15


def drops_of(network: nn.Module) -> list[Drop]:
    """The layers of a network that drop at random, in the order in which they draw."""
    return [module for module in network.modules() if isinstance(module, Drop)]


@contextmanager
def drawn(drops: Sequence[Drop], seed: int, iteration: int, first: int, images: torch.Tensor) -> Iterator[None]:
    """Context of the forward and backward pass of a micro-batch; `first`: of its images in the global batch."""
    if not drops:
        yield
        return
    table = uniforms(seed, Purpose.DROPS, first, len(images), len(drops), iteration)
    keys = torch.from_numpy((table * _RANGE).astype("int64")).to(images.device, non_blocking=True)
    for drop, of_drop in zip(drops, keys.unbind(dim=1), strict=True):
        drop.keys = of_drop
    try:
        yield
    finally:
        for drop in drops:
            drop.keys = None
