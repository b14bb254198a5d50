"""Backbones by name: photographs in, embeddings out."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision.models import ResNet, resnet34, resnet50, resnet101

from fr.models.mobilenet import DOWNSCALE, MobileFaceNet
from fr.models.torchvision_resnet import FixedLengthResNet


@dataclass(frozen=True)
class Family:
    """How to build a backbone, the input (height, width) it was designed for, and what its sides must divide by."""

    build: Callable[[int, tuple[int, int]], nn.Module]
    input_size: tuple[int, int]
    divisor: int


def _resnet(build: Callable[..., ResNet]) -> Family:
    return Family(lambda embed_size, _input_size: FixedLengthResNet(build, embed_size), (160, 160), 1)


MODELS: dict[str, Family] = {
    "mobilenet": Family(MobileFaceNet, (128, 128), DOWNSCALE),
    "resnet34": _resnet(resnet34),
    "resnet50": _resnet(resnet50),
    "resnet101": _resnet(resnet101),
}


def build_model(name: str, embed_size: int, input_size: tuple[int, int]) -> nn.Module:
    """A backbone with fresh weights: [B, 3, H, W] → [B, embed_size]. Draws from torch's generator."""
    return MODELS[name].build(embed_size, input_size)
