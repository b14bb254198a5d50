"""PartialFC class sampling (arXiv:2203.15565): a step uses the batch's classes and a random share of the others.

The update is sparse: the sampled centres and their optimiser state replace the whole tensors, the optimiser updates
only those, and they are copied back. Gradient, weight decay and momentum don't affect classes that aren't sampled.
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
    """Number of a rank's `rows` classes used in a step of `batch` samples: at least `batch`, if `rows` allows it."""
    return min(rows, max(math.ceil(rate * rows), batch))


def drawn_rows(rows: int, of_batch: torch.Tensor, rate: float, seed: int, iteration: int) -> torch.Tensor:
    """Rows [k] used in a step, ascending: those of the batch, and a uniform sample of the rest.

    of_batch [N]: the samples' classes as rows of this rank; outside 0 … rows - 1 = on another rank. The draw depends on
    the seed, the iteration and the rank.
    """
    device = of_batch.device
    source = torch.Generator(device).manual_seed(_seed(seed, iteration))
    scores = torch.rand(rows + 1, generator=source, device=device)  # last: all classes of other ranks
    elsewhere = (of_batch < 0) | (of_batch >= rows)
    scores.index_fill_(0, torch.where(elsewhere, rows, of_batch), 2)  # indexing by a mask would wait for the GPU
    kept = scores[:rows].topk(drawn_count(rows, len(of_batch), rate), sorted=False).indices
    return kept.sort().values


def _seed(seed: int, iteration: int) -> int:
    return int(generator(seed, Purpose.SAMPLING, iteration, rank()).integers(2**63))


class Exchange:
    """Temporary replacement of a parameter and its optimiser state by some of their rows.

    The memory is kept between steps: on a CPU, allocating it costs more than filling it.
    """

    def __init__(self) -> None:
        self._spare: dict[str, torch.Tensor] = {}

    @contextmanager
    def swapped_in(self, parameter: nn.Parameter, state: dict[str, Any], rows: torch.Tensor) -> Iterator[None]:
        """Context in which `parameter` and its state hold only `rows`, which are copied back at its end.

        state: of torch.optim; tensors of the parameter's shape have a row per class, others (step counts) stay whole.
        """
        weight = parameter.data
        whole = {name: value for name, value in state.items() if getattr(value, "shape", None) == weight.shape}
        drawn = {name: self._rows_of(name, tensor, rows) for name, tensor in whole.items()}
        parameter.data = self._rows_of("", weight, rows)
        state.update(drawn)
        try:
            yield
            weight.index_copy_(0, rows, parameter.data)
            for name, tensor in whole.items():
                tensor.index_copy_(0, rows, state[name])
        finally:
            parameter.data = weight
            state.update(whole)
            parameter.grad = None

    def _rows_of(self, name: str, whole: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        shape = (len(rows), *whole.shape[1:])
        if name not in self._spare or self._spare[name].shape != shape:
            self._spare[name] = whole.new_empty(shape)
        return torch.index_select(whole, 0, rows, out=self._spare[name])
