"""Reweighting of the non-target cosines: none, SV-Softmax, CurricularFace.

A class is hard for a sample when its cosine is above φ, the sample's target cosine after the margin. Each kind has its
values and, for the hand-written backward of the softmax, the in-place product of a gradient with their derivative.
"""

from dataclasses import dataclass

import torch


class Negatives:
    """Non-target cosines unchanged."""

    def values(self, cosines: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """Reweighted cosines [N, C_r] from cosines [N, C_r], which are not modified, and phi [N]."""
        return cosines

    def chain_(self, gradient: torch.Tensor, cosines: torch.Tensor, phi: torch.Tensor) -> None:
        """Turn the gradient of `values` [N, C_r] into that of the cosines, in place (chain rule)."""


@dataclass(frozen=True)
class SupportVectors(Negatives):
    """t cos θ + t - 1 for hard classes: SV-Softmax, arXiv:1812.11317 (its h(t, θ) as a cosine). t = 1: no effect."""

    t: float

    def values(self, cosines: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return torch.where(cosines > phi[:, None], self.t * cosines + (self.t - 1), cosines)

    def chain_(self, gradient: torch.Tensor, cosines: torch.Tensor, phi: torch.Tensor) -> None:
        gradient.copy_(torch.where(cosines > phi[:, None], self.t * gradient, gradient))


@dataclass(frozen=True)
class Curriculum(Negatives):
    """cos θ (t + cos θ) for hard classes: CurricularFace, arXiv:2004.00288 sec. 3.2.

    t: running mean of the target cosines, a scalar tensor without gradient: hard classes have little weight at first
    and more as the network learns.
    """

    t: torch.Tensor

    def values(self, cosines: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return torch.where(cosines > phi[:, None], cosines * (self.t + cosines), cosines)

    def chain_(self, gradient: torch.Tensor, cosines: torch.Tensor, phi: torch.Tensor) -> None:
        gradient.mul_(torch.where(cosines > phi[:, None], self.t + 2 * cosines, 1.0))
