"""MobileFaceNet as in the paper, arXiv:1804.07573, Table 1.

Keys and initialisation as in https://github.com/Xiaoccer/MobileFaceNet_Pytorch, whose input is (pixel - 127.5) / 128.
`fr.models.mobilenet` is face_recognition.pytorch's, with squeeze-excitation and one slope per PReLU.

B batch, E embedding size, H × W input (multiples of 16; 112 × 112 by default, 112 × 96 in Xiaoccer's).
"""

import torch
from torch import nn

from fr.models.family import Family
from fr.models.layers import PReLU, conv_norm

# (expansion, channels, blocks, stride of the first block); 112 → 56 in the stem, → 28 → 14 → 7 here.
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
STEM_CHANNELS = 64
LAST_CHANNELS = 512
DOWNSCALE = 16
MEAN = (0.5, 0.5, 0.5)
STD = (128 / 255, 128 / 255, 128 / 255)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and, unless `linear`, PReLU with one slope per channel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else PReLU(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.prelu(self.bn(self.conv(x)))
        return y


class Bottleneck(nn.Module):
    """1×1 up, 3×3 depthwise, 1×1 down without activation; skip where the shape stays (arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.keeps_shape = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *conv_norm(inputs, wide, 1),
            PReLU(wide),
            *conv_norm(wide, wide, 3, stride, groups=wide),
            PReLU(wide),
            *conv_norm(wide, outputs, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return x + y if self.keeps_shape else y


class PaperMobileFaceNet(nn.Module):
    """[B, 3, H, W] → [B, E] embedding, not normalised."""

    def __init__(self, embed_size: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, STEM_CHANNELS, 3, stride=2, padding=1)
        self.dw_conv1 = ConvNorm(STEM_CHANNELS, STEM_CHANNELS, 3, padding=1, groups=STEM_CHANNELS)
        blocks = []
        channels = STEM_CHANNELS
        for expansion, outputs, count, first_stride in STAGES:
            for index in range(count):
                blocks.append(Bottleneck(channels, outputs, first_stride if index == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = ConvNorm(channels, LAST_CHANNELS, 1)
        # The paper's global depthwise convolution (7 × 7 there), as large as the last feature map.
        map_size = (input_size[0] // DOWNSCALE, input_size[1] // DOWNSCALE)
        self.linear7 = ConvNorm(LAST_CHANNELS, LAST_CHANNELS, map_size, groups=LAST_CHANNELS, linear=True)
        self.linear1 = ConvNorm(LAST_CHANNELS, embed_size, 1, linear=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.dw_conv1(self.conv1(images)))
        x = self.linear1(self.linear7(self.conv2(x)))
        return torch.flatten(x, 1)


FAMILIES = {"mobilefacenet": Family(PaperMobileFaceNet, (112, 112), DOWNSCALE, MEAN, STD, last_linear="linear1.conv")}
