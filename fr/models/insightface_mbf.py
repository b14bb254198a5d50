"""`mbf`, insightface's MobileFaceNet: channels twice the paper's, fewer blocks, no squeeze-excitation.

MobileFaceNets, arXiv:1804.07573; layers, keys and initialisation of `get_mbf` in
https://github.com/deepinsight/insightface, recognition/arcface_torch: scale 2, blocks (1, 4, 6, 2).

B batch, E embedding size, H × W input (multiples of 16; 112 × 112 by default).
"""

import torch
from torch import nn

from fr.models.family import HALF, Family
from fr.models.layers import PReLU, conv

STEM_CHANNELS = 128
STEM_GROUPS = 64  # so at scale 2 the second convolution isn't depthwise but mixes pairs of channels
# (channels, inner channels of the downsampling block, blocks at constant shape, their inner channels)
STAGES = ((128, 128, 4, 128), (256, 256, 6, 256), (256, 512, 2, 256))
LAST_CHANNELS = 512
DOWNSCALE = 16


class Layers(nn.Module):
    """Sequence of modules with their keys under `layers`; `skip` adds the input to the output."""

    def __init__(self, *modules: nn.Module, skip: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*modules)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.skip else y


def linear_block(inputs: int, outputs: int, size: int | tuple[int, int], groups: int = 1) -> Layers:
    """Unpadded convolution and batch norm, no activation."""
    return Layers(nn.Conv2d(inputs, outputs, size, groups=groups, bias=False), nn.BatchNorm2d(outputs))


def conv_block(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> Layers:
    """Convolution padded to keep the size at stride 1, batch norm, PReLU with one slope per channel."""
    return Layers(conv(inputs, outputs, size, stride, groups), nn.BatchNorm2d(outputs), PReLU(outputs))


def bottleneck(inputs: int, outputs: int, wide: int, stride: int) -> Layers:
    """1×1 to `wide` channels, 3×3 depthwise, 1×1 down without activation; skip at stride 1."""
    return Layers(
        conv_block(inputs, wide, 1),
        conv_block(wide, wide, 3, stride, groups=wide),
        linear_block(wide, outputs, 1),
        skip=stride == 1,
    )


class InsightFaceMobileFaceNet(nn.Module):
    """[B, 3, H, W] → [B, E] embedding, not normalised."""

    def __init__(self, embed_size: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        layers = [
            conv_block(3, STEM_CHANNELS, 3, stride=2),
            conv_block(STEM_CHANNELS, STEM_CHANNELS, 3, groups=STEM_GROUPS),
        ]
        inputs = STEM_CHANNELS
        for outputs, wide, count, inside in STAGES:
            layers.append(bottleneck(inputs, outputs, wide, stride=2))
            layers.append(Layers(*(bottleneck(outputs, outputs, inside, stride=1) for _ in range(count))))
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.conv_sep = conv_block(inputs, LAST_CHANNELS, 1)
        map_size = (input_size[0] // DOWNSCALE, input_size[1] // DOWNSCALE)
        self.features = Layers(
            linear_block(LAST_CHANNELS, LAST_CHANNELS, map_size, groups=LAST_CHANNELS),
            nn.Flatten(),
            nn.Linear(LAST_CHANNELS, embed_size, bias=False),
            nn.BatchNorm1d(embed_size),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.features(self.conv_sep(self.layers(images)))
        return embeddings


FAMILIES = {"mbf": Family(InsightFaceMobileFaceNet, (112, 112), DOWNSCALE, HALF, HALF, last_linear="features.layers.2")}
