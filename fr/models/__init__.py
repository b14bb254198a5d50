"""Backbones by name: photographs in, embeddings out."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision.models import ResNet, resnet34, resnet50, resnet101

from fr.models.mobilenet import DOWNSCALE, MobileFaceNet
from fr.models.torchvision_resnet import FixedLengthResNet

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Family:
    """How to build a backbone from (embed_size, (height, width)), and the input it was designed for.

    input_size: (height, width) in pixels. divisor: what both must divide by. mean, std: per channel in `color_order`
    on the 0–1 scale, as in `fr.preprocessing`; 0 and 1 where the network normalises its input by itself.
    """

    build: Callable[[int, tuple[int, int]], nn.Module]
    input_size: tuple[int, int]
    divisor: int = 1
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    color_order: str = "rgb"


HALF: Channels = (0.5, 0.5, 0.5)  # mean and std that bring 0–1 to -1–1


def _resnet(build: Callable[..., ResNet]) -> Family:
    return Family(
        lambda embed_size, _input_size: FixedLengthResNet(build, embed_size), (160, 160), mean=HALF, std=HALF
    )


MODELS: dict[str, Family] = {
    "mobilenet": Family(MobileFaceNet, (128, 128), DOWNSCALE),
    "resnet34": _resnet(resnet34),
    "resnet50": _resnet(resnet50),
    "resnet101": _resnet(resnet101),
}


def family(name: str) -> Family:
    """The family of a `--model`; KeyError for a name that is none."""
    return MODELS[name]


def build_model(name: str, embed_size: int, input_size: tuple[int, int]) -> nn.Module:
    """A backbone with fresh weights: [B, 3, H, W] → [B, embed_size]. Draws from torch's generator."""
    return family(name).build(embed_size, input_size)
