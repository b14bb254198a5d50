"""The moving average of the backbone's weights, which often verifies better than any one state of them."""

import copy

import torch
from torch import nn


class WeightAverage:
    """`model`: a copy of the backbone, in evaluation mode, that follows its weights and batch statistics.

    After iteration k (from 0): average ← average · d + weight · (1 - d), where d = min(decay, (1 + k) / (10 + k)),
    so that the first weights, which know nothing, are soon forgotten (TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, backbone: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(backbone).eval().requires_grad_(False)
        self._decay = decay
        theirs, ours = backbone.state_dict(), self.model.state_dict()
        floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        self._followed = [theirs[name] for name in floating], [ours[name] for name in floating]
        self._counts = [(theirs[name], ours[name]) for name in ours if name not in floating]

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """After the optimiser step of an iteration."""
        decay = min(self._decay, (1 + iteration) / (10 + iteration))
        weights, average = self._followed
        torch._foreach_lerp_(average, weights, 1 - decay)
        for theirs, ours in self._counts:
            ours.copy_(theirs)
