"""IResNet, the residual networks of insightface: pre-block batch norm, PReLU, a linear layer on the last feature map.

Improved Residual Networks as in ArcFace (arXiv:1801.07698, section 3.1) and
https://github.com/deepinsight/insightface, recognition/arcface_torch; FaceTechnologyTool trains the same. Layers, keys
and initialisation are insightface's, without its dropout, whose probability there is 0.

B batch, E embedding size, H × W input (multiples of 16; 112 × 112 by default).
"""

from functools import partial

import torch
from torch import nn

from fr.models.family import HALF, Family
from fr.models.layers import PReLU, conv_norm

# Blocks of the four stages; each stage halves the map in its first block.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
DOWNSCALE = 16


class Block(nn.Module):
    """BN, 3×3, BN, PReLU, 3×3 with the stride, BN; nothing after the sum. A stage's first block has a 1×1 skip."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1, self.bn2 = conv_norm(inputs, outputs, 3)
        self.prelu = PReLU(outputs)
        self.conv2, self.bn3 = conv_norm(outputs, outputs, 3, stride)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return torch.add(y, self.downsample(x))


def stage(inputs: int, outputs: int, count: int) -> nn.Sequential:
    """Stage of `count` blocks; the first halves the feature map."""
    return nn.Sequential(Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(count - 1)))


class IResNet(nn.Module):
    """[B, 3, H, W] → [B, E] embedding, not normalised. `depth` is a key of DEPTHS."""

    def __init__(self, depth: int, embed_size: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, 64, 3)
        self.prelu = PReLU(64)
        counts = DEPTHS[depth]
        self.layer1 = stage(64, 64, counts[0])
        self.layer2 = stage(64, 128, counts[1])
        self.layer3 = stage(128, 256, counts[2])
        self.layer4 = stage(256, 512, counts[3])
        self.bn2 = nn.BatchNorm2d(512)
        places = (input_size[0] // DOWNSCALE) * (input_size[1] // DOWNSCALE)
        self.fc = nn.Linear(512 * places, embed_size)
        self.features = nn.BatchNorm1d(embed_size)
        # A scale per dimension would only reweight the dimensions of the cosine, which `fc` can do itself.
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.fc(torch.flatten(self.bn2(x), 1))
        y: torch.Tensor = self.features(x)
        return y


FAMILIES = {f"iresnet{depth}": Family(partial(IResNet, depth), (112, 112), DOWNSCALE, HALF, HALF) for depth in DEPTHS}
