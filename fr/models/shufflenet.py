"""ShuffleNetV2 at width 1, the `shufflenetv2` of face_recognition.pytorch.

ShuffleNet V2 (arXiv:1807.11164) without the max pool after the stem; after the stem PReLU with one slope per layer
instead of ReLU, and a global depthwise convolution instead of the average pool. The first layer is a batch norm of the
input, so the input is RGB in 0–1 without mean or std. Module names are those of the reference's snapshots.

B batch, C channels, E embedding size, H × W input (multiples of 16; 128 × 128 by default).
"""

from collections import OrderedDict

import torch
from torch import nn

from fr.models.family import Family
from fr.models.layers import PReLU, conv_norm, init_by_fan_out

STAGES = ((116, 4), (232, 8), (464, 4))  # (channels, blocks); 128 → 64 in the stem, → 32 → 16 → 8 here
STEM_CHANNELS = 24
LAST_CHANNELS = 1024
DOWNSCALE = 16


class ShuffleBlock(nn.Module):
    """ShuffleNet V2 unit. Stride 1: half of the channels bypass it; stride 2: both branches take all channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.splits = stride == 1
        if not self.splits:
            self.branch1 = nn.Sequential(
                *conv_norm(inputs, inputs, 3, stride, groups=inputs),
                *conv_norm(inputs, half, 1),
                PReLU(),
            )
        self.branch2 = nn.Sequential(
            *conv_norm(half if self.splits else inputs, half, 1),
            PReLU(),
            *conv_norm(half, half, 3, stride, groups=half),
            *conv_norm(half, half, 1),
            PReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.splits:
            first, second = x.chunk(2, dim=1)
        else:
            first, second = self.branch1(x), x
        # Interleaved halves [B, C / 2, …], equal to concatenation and a channel shuffle in two groups.
        return torch.stack((first, self.branch2(second)), dim=2).flatten(1, 2)


class ShuffleNetV2(nn.Module):
    """[B, 3, H, W] float in 0–1 → [B, E] embedding, not normalised."""

    def __init__(self, embed_size: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        blocks = []
        channels = STEM_CHANNELS
        for outputs, count in STAGES:
            for index in range(count):
                blocks.append(ShuffleBlock(channels, outputs, stride=2 if index == 0 else 1))
                channels = outputs
        conv1 = nn.Sequential(*conv_norm(3, STEM_CHANNELS, 3, stride=2), nn.ReLU())
        conv_last = nn.Sequential(*conv_norm(channels, LAST_CHANNELS, 1), PReLU())
        # All other convolutions keep PyTorch's initialisation, as in the reference.
        conv1.apply(init_by_fan_out)
        conv_last.apply(init_by_fan_out)
        self.backbone = nn.Sequential(
            OrderedDict(bn_first=nn.BatchNorm2d(3), conv1=conv1, features=nn.Sequential(*blocks), conv_last=conv_last)
        )
        map_size = (input_size[0] // DOWNSCALE, input_size[1] // DOWNSCALE)
        self.global_pool = nn.Conv2d(LAST_CHANNELS, LAST_CHANNELS, map_size, groups=LAST_CHANNELS, bias=False)
        self.conv1_extra = nn.Conv2d(LAST_CHANNELS, embed_size, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.global_pool(self.backbone(images))
        return torch.flatten(self.conv1_extra(x), 1)


FAMILIES = {"shufflenetv2": Family(ShuffleNetV2, (128, 128), DOWNSCALE, last_linear="conv1_extra")}
