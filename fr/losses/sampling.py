"""PartialFC (arXiv:2203.15565): a step sees the batch's own classes and a random share of the others.

Truly sparse: the drawn centres and their momentum are swapped in for the whole, the optimiser steps on those alone,
and they are put back. No gradient, decay or momentum reaches a class that wasn't drawn.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fr.distributed import rank
from fr.randomness import Purpose, generator


def drawn_count(rows: int, batch: int, rate: float) -> int:
    """How many of a rank's `rows` classes take part in a step of `batch` samples: room for all of theirs, always."""
    return min(rows, max(math.ceil(rate * rows), batch))


def drawn_rows(rows: int, of_batch: torch.Tensor, rate: float, seed: int, iteration: int) -> torch.Tensor:
    """The rows [k], ascending, that take part in a step: those of the batch, the rest each as likely as any other.

    of_batch [N]: the samples' classes as rows of this rank; outside 0 … rows - 1 = on another rank. The draw depends on
    the seed, the iteration and the rank.
    """
    device = of_batch.device
    source = torch.Generator(device).manual_seed(_seed(seed, iteration))
    scores = torch.rand(rows + 1, generator=source, device=device)  # the last stands for all classes elsewhere
    elsewhere = (of_batch < 0) | (of_batch >= rows)
    scores[torch.where(elsewhere, rows, of_batch)] = 2
    kept = scores[:rows].topk(drawn_count(rows, len(of_batch), rate), sorted=False).indices
    return kept.sort().values


def _seed(seed: int, iteration: int) -> int:
    return int(generator(seed, Purpose.SAMPLING, iteration, rank()).integers(2**63))


class Exchange:
    """Puts rows of a parameter and of its momentum in the place of the whole, and back.

    The memory for them is kept from step to step: on a CPU, taking it anew costs more than filling it.
    """

    def __init__(self) -> None:
        self._spare = torch.empty(2, 0, 0)

    @contextmanager
    def swapped_in(self, parameter: nn.Parameter, state: dict[str, Any], rows: torch.Tensor) -> Iterator[None]:
        """In here `parameter` and its momentum are `rows` of themselves; at the end these go back to their places."""
        whole, whole_momentum = parameter.data, state["momentum_buffer"]
        shape = (2, len(rows), whole.shape[1])
        if self._spare.shape != shape:
            self._spare = whole.new_empty(shape)
        for source, target in zip((whole, whole_momentum), self._spare, strict=True):
            torch.index_select(source, 0, rows, out=target)
        parameter.data, state["momentum_buffer"] = self._spare
        try:
            yield
            whole.index_copy_(0, rows, parameter.data)
            whole_momentum.index_copy_(0, rows, state["momentum_buffer"])
        finally:
            parameter.data, state["momentum_buffer"] = whole, whole_momentum
            parameter.grad = None
