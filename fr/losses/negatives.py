"""What is done to the cosines of the other classes: nothing, or more weight to those that are hard to tell apart.

A class is hard for a sample when its cosine is above φ, the sample's target cosine with its margin. Each kind gives
the new values and, for the hand-written backward of the softmax, multiplies a gradient by their slope in place.
"""

from dataclasses import dataclass

import torch


class Negatives:
    """All other classes as they are."""

    def values(self, cosines: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """[N, C_r] from cosines [N, C_r], which stay as they are, and phi [N]."""
        return cosines

    def chain_(self, gradient: torch.Tensor, cosines: torch.Tensor, phi: torch.Tensor) -> None:
        """Turn the gradient of `values` [N, C_r] into that of the cosines, in place."""


@dataclass(frozen=True)
class SupportVectors(Negatives):
    """t cos θ + t - 1 for the hard classes: SV-Softmax, arXiv:1812.11317 (its h(t, θ) as a cosine). t = 1: nothing."""

    t: float

    def values(self, cosines: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return torch.where(cosines > phi[:, None], self.t * cosines + (self.t - 1), cosines)

    def chain_(self, gradient: torch.Tensor, cosines: torch.Tensor, phi: torch.Tensor) -> None:
        gradient.copy_(torch.where(cosines > phi[:, None], self.t * gradient, gradient))


@dataclass(frozen=True)
class Curriculum(Negatives):
    """cos θ (t + cos θ) for the hard classes: CurricularFace, arXiv:2004.00288 sec. 3.2.

    t: the running mean of the target cosines, a scalar tensor: hard classes weigh little at first and more as the
    network learns. No gradient runs back through it.
    """

    t: torch.Tensor

    def values(self, cosines: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return torch.where(cosines > phi[:, None], cosines * (self.t + cosines), cosines)

    def chain_(self, gradient: torch.Tensor, cosines: torch.Tensor, phi: torch.Tensor) -> None:
        gradient.mul_(torch.where(cosines > phi[:, None], self.t + 2 * cosines, 1.0))
