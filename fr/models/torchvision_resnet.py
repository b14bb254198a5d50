"""torchvision's ResNets with the head of facenet-pytorch-centerloss-vggface2: E numbers of length 10.

B batch, H × W input, E embedding size. Deep Residual Learning, arXiv:1512.03385; the fixed length: arXiv:1703.09507.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet

_LENGTH = 10.0  # its α
_SHORTEST = 1e-5


class FixedLengthResNet(nn.Module):
    """[B, 3, H, W] → [B, E], each of length 10. `model` is torchvision's, its last layer replaced by E outputs."""

    def __init__(self, build: Callable[..., ResNet], embed_size: int) -> None:
        super().__init__()
        self.model = build(num_classes=embed_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _LENGTH * F.normalize(self.model(images), eps=_SHORTEST)
