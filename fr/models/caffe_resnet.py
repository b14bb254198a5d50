"""ResNet-50 and SE-ResNet-50 of VGGFace2 in Caffe's form, as in VGGFace2-pytorch.

Deep Residual Learning, arXiv:1512.03385; squeeze-excitation, arXiv:1709.01507; VGGFace2, arXiv:1710.08092. Unlike
torchvision's, a block's stride is in its first 1×1, and the max pool has no padding but ceil mode. The input is BGR in
0–255 minus the data set's mean: https://github.com/cydonia999/VGGFace2-pytorch.

B batch, E embedding size, H × W input (224 × 224 by default). Keys as in its weight files, except `fc`.
"""

import torch
from torch import nn

from fr.models.family import Family
from fr.models.layers import conv_norm

EXPANSION = 4
FEATURES = 512 * EXPANSION
RATIO = 16  # squeeze-excitation
MEAN_BGR = (91.4953 / 255, 103.8827 / 255, 131.0912 / 255)
STD_BGR = (1 / 255, 1 / 255, 1 / 255)


class Bottleneck(nn.Module):
    """1×1 with the stride, 3×3, 1×1 to four times the channels; the skip has a 1×1 where the shape changes."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = channels * EXPANSION
        self.conv1, self.bn1 = conv_norm(inputs, channels, 1, stride)
        self.conv2, self.bn2 = conv_norm(channels, channels, 3)
        self.conv3, self.bn3 = conv_norm(channels, outputs, 1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs:
            self.downsample = nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.rescale(self.bn3(self.conv3(y)))
        return torch.relu(y + self.downsample(x))

    def rescale(self, y: torch.Tensor) -> torch.Tensor:
        return y


class SqueezedBottleneck(Bottleneck):
    """Bottleneck with squeeze-excitation before the sum."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__(inputs, channels, stride)
        outputs = channels * EXPANSION
        self.conv4 = nn.Conv2d(outputs, outputs // RATIO, 1)
        self.conv5 = nn.Conv2d(outputs // RATIO, outputs, 1)

    def rescale(self, y: torch.Tensor) -> torch.Tensor:
        gate = self.relu(self.conv4(y.mean((2, 3), keepdim=True)))
        return y * torch.sigmoid(self.conv5(gate))


def stage(block: type[Bottleneck], inputs: int, channels: int, count: int, stride: int) -> nn.Sequential:
    """Stage of `count` blocks with `channels` bottleneck channels; `stride` in the first."""
    rest = (block(channels * EXPANSION, channels, 1) for _ in range(count - 1))
    return nn.Sequential(block(inputs, channels, stride), *rest)


class CaffeResNet(nn.Module):
    """[B, 3, H, W] → [B, E], not normalised: the pooled features if E = 2048, else a linear layer on them."""

    def __init__(self, block: type[Bottleneck], embed_size: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, 64, 7, 2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.layer1 = stage(block, 64, 64, 3, stride=1)
        self.layer2 = stage(block, 256, 128, 4, stride=2)
        self.layer3 = stage(block, 512, 256, 6, stride=2)
        self.layer4 = stage(block, 1024, 512, 3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.embedding = nn.Identity() if embed_size == FEATURES else nn.Linear(FEATURES, embed_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        y: torch.Tensor = self.embedding(torch.flatten(self.avgpool(x), 1))
        return y


def _family(block: type[Bottleneck]) -> Family:
    return Family(
        lambda embed_size, _input_size: CaffeResNet(block, embed_size),
        (224, 224),
        mean=MEAN_BGR,
        std=STD_BGR,
        color_order="bgr",
        last_linear="embedding",
    )


FAMILIES = {"resnet50_caffe": _family(Bottleneck), "senet50_caffe": _family(SqueezedBottleneck)}
