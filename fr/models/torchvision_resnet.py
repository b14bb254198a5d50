"""torchvision's ResNets with the output of facenet-pytorch-centerloss-vggface2: embeddings of norm 10.

B batch, H × W input, E embedding size. Deep Residual Learning, arXiv:1512.03385; fixed norm: arXiv:1703.09507.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet, WeightsEnum, get_model_weights, resnet34, resnet50, resnet101

from fr.models.family import HALF, Family

_LENGTH = 10.0  # α of arXiv:1703.09507
_SHORTEST = 1e-5


class FixedLengthResNet(nn.Module):
    """[B, 3, H, W] → [B, E], each of norm 10. `model` is torchvision's, with E outputs."""

    def __init__(self, build: Callable[..., ResNet], embed_size: int) -> None:
        super().__init__()
        self.model = build(num_classes=embed_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _LENGTH * F.normalize(self.model(images), eps=_SHORTEST)


def imagenet_weights(name: str) -> WeightsEnum:
    """torchvision's newest ImageNet weights for a model of FAMILIES."""
    return get_model_weights(name).DEFAULT


def _family(build: Callable[..., ResNet]) -> Family:
    return Family(
        lambda embed_size, _input_size: FixedLengthResNet(build, embed_size),
        (160, 160),
        mean=HALF,
        std=HALF,
        last_linear="model.fc",
    )


FAMILIES = {"resnet34": _family(resnet34), "resnet50": _family(resnet50), "resnet101": _family(resnet101)}
