"""MobileFaceNet with squeeze-excitation, the `mobilenet` of face_recognition.pytorch, and wider variants.

MobileFaceNets (arXiv:1804.07573) on the inverted residuals of MobileNetV2 (arXiv:1801.04381), PReLU with one slope per
layer, squeeze-excitation (arXiv:1709.01507, ratio 8) after each linear bottleneck. The first layer is a batch norm of
the input, so the input is RGB in 0–1 without mean or std.

B batch, E embedding size, H × W input (multiples of 16; 128 × 128 by default).
"""

from functools import partial

import torch
from torch import nn

from fr.models.family import Family
from fr.models.layers import PReLU, conv_norm, init_by_fan_out

# (expansion, channels, blocks, stride of the first block); 128 → 64 in the stem, → 32 → 16 → 8 here.
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
STEM_CHANNELS = 64
LAST_CHANNELS = 512
DOWNSCALE = 16


class SqueezeExcitation(nn.Module):
    """Channel gating by globally pooled features (arXiv:1709.01507)."""

    def __init__(self, channels: int, ratio: int = 8) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // ratio, 1),
            PReLU(),
            nn.Conv2d(channels // ratio, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mul(x, self.gate(x))


class InvertedResidual(nn.Module):
    """1×1 up, 3×3 depthwise, 1×1 down without activation, squeeze-excitation; skip where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.keeps_shape = stride == 1 and inputs == outputs
        self.block = nn.Sequential(
            *conv_norm(inputs, wide, 1),
            PReLU(),
            *conv_norm(wide, wide, 3, stride, groups=wide),
            PReLU(),
            *conv_norm(wide, outputs, 1),
            SqueezeExcitation(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x)
        return x + y if self.keeps_shape else y


class MobileFaceNet(nn.Module):
    """[B, 3, H, W] float in 0–1 → [B, E] embedding, not normalised.

    width: factor on the output channels of the inverted residuals, not of stem and head. 1.5 and 2 are
    `mobilenetv2_1_5x` and `mobilenetv2_2x` of the reference's later version.
    """

    def __init__(self, embed_size: int, input_size: tuple[int, int], width: float = 1.0) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm2d(3)
        self.stem = nn.Sequential(
            *conv_norm(3, STEM_CHANNELS, 3, stride=2),
            PReLU(),
            *conv_norm(STEM_CHANNELS, STEM_CHANNELS, 3, groups=STEM_CHANNELS),
            PReLU(),
        )
        blocks = []
        channels = STEM_CHANNELS
        for expansion, unscaled, count, first_stride in STAGES:
            outputs = int(unscaled * width)
            for index in range(count):
                blocks.append(InvertedResidual(channels, outputs, first_stride if index == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(*conv_norm(channels, LAST_CHANNELS, 1), PReLU())
        # Global depthwise convolution, as large as the last feature map.
        map_size = (input_size[0] // DOWNSCALE, input_size[1] // DOWNSCALE)
        self.pool = nn.Sequential(
            nn.Conv2d(LAST_CHANNELS, LAST_CHANNELS, map_size, groups=LAST_CHANNELS, bias=False),
            nn.BatchNorm2d(LAST_CHANNELS),
        )
        self.embedding = nn.Conv2d(LAST_CHANNELS, embed_size, 1, bias=False)
        self.apply(init_by_fan_out)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(self.input_norm(images))
        x = self.pool(self.last(self.blocks(x)))
        return torch.flatten(self.embedding(x), 1)


def _family(width: float) -> Family:
    return Family(partial(MobileFaceNet, width=width), (128, 128), DOWNSCALE, last_linear="embedding")


FAMILIES = {"mobilenet": _family(1.0), "mobilenet_1_5x": _family(1.5), "mobilenet_2x": _family(2.0)}
