"""Exponential moving average (EMA) of the backbone's weights, which often verifies better than the weights."""

import copy

import torch
from torch import nn


class WeightAverage:
    """Moving average of weights and batch statistics; `model` is a copy of the backbone, in evaluation mode.

    After iteration k (from 0): average ← average · d + weight · (1 - d), where d = min(decay, (1 + k) / (10 + k)),
    so that the initial weights are soon forgotten (TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, backbone: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(backbone).eval().requires_grad_(False)
        self._decay = decay
        weights, average = backbone.state_dict(), self.model.state_dict()
        moving = [name for name, tensor in average.items() if tensor.is_floating_point()]
        self._moving = [average[name] for name in moving], [weights[name] for name in moving]
        counts = [name for name in average if name not in moving]
        self._counts = [average[name] for name in counts], [weights[name] for name in counts]

    @torch.no_grad()
    def update(self, iteration: int, skipped: torch.Tensor) -> None:
        """Move the average after the optimiser step of an iteration, unless that was `skipped` (1, else 0)."""
        decay = min(self._decay, (1 + iteration) / (10 + iteration))
        rate = (1 - decay) * (1 - skipped)  # computed on the device, without synchronisation
        averages, weights = self._moving
        steps = torch._foreach_sub(weights, averages)  # a few kernels for all tensors; lerp would take one for each
        torch._foreach_mul_(steps, rate)
        torch._foreach_add_(averages, steps)
        if self._counts[0]:
            torch._foreach_copy_(*self._counts)
