"""ResNets for 112 × 112 with and without squeeze-excitation, `resnet` and `se_resnet` of face_recognition.pytorch.

Deep Residual Learning (arXiv:1512.03385) with the stride in the 3×3, a 3×3 stem at stride 1, PReLU (arXiv:1502.01852)
with one slope, and a global depthwise convolution instead of the average pool; Squeeze-and-Excitation
(arXiv:1709.01507, ratio 16, without biases). The first layer is a batch norm of the input, so the input is RGB in 0–1
without mean or std. Module names are those of the reference's snapshots. The batch norms and dropout around the last
layer of the reference's later version are left out.

B batch, E embedding size, H × W input (multiples of 16; 112 × 112 by default).
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from fr.models.family import Family
from fr.models.layers import PReLU, conv_norm, init_by_fan_out

PLANES = (64, 128, 256, 512)  # 112 → 56 in the stem's max pool, → 28 → 14 → 7 at the start of the later stages
EXPANSION = 4
RATIO = 16
STEM_CHANNELS = 64
DOWNSCALE = 16
BLOCKS_50 = (3, 4, 6, 3)
BLOCKS_101 = (3, 4, 23, 3)
BLOCKS_152 = (3, 8, 36, 3)


class Bottleneck(nn.Module):
    """1×1 down, 3×3, 1×1 up, skip; one slope for each of the three activations."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inputs, planes, 1)
        self.act1 = PReLU()
        self.conv2, self.bn2 = conv_norm(planes, planes, 3, stride)
        self.act2 = PReLU()
        self.conv3, self.bn3 = conv_norm(planes, EXPANSION * planes, 1)
        self.act3 = PReLU()
        self.downsample = _downsample(inputs, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.act3(y + self.downsample(x))  # type: ignore[no-any-return]


class SEBottleneck(nn.Module):
    """Bottleneck with squeeze-excitation before the sum; one slope shared by four activations, as in the reference."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * planes
        self.conv1, self.bn1 = conv_norm(inputs, planes, 1)
        self.conv2, self.bn2 = conv_norm(planes, planes, 3, stride)
        self.conv3, self.bn3 = conv_norm(planes, outputs, 1)
        self.relu = PReLU()
        self.conv_down = nn.Conv2d(outputs, outputs // RATIO, 1, bias=False)
        self.conv_up = nn.Conv2d(outputs // RATIO, outputs, 1, bias=False)
        self.downsample = _downsample(inputs, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        gate = torch.sigmoid(self.conv_up(self.relu(self.conv_down(F.adaptive_avg_pool2d(y, 1)))))
        return self.relu(gate * y + self.downsample(x))  # type: ignore[no-any-return]


def _downsample(inputs: int, planes: int, stride: int) -> nn.Module:
    outputs = EXPANSION * planes
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(*conv_norm(inputs, outputs, 1, stride))


class FaceResNet(nn.Module):
    """[B, 3, H, W] float in 0–1 → [B, E] embedding, not normalised. counts: blocks in each of the four stages."""

    def __init__(
        self,
        embed_size: int,
        input_size: tuple[int, int],
        block: type[Bottleneck] | type[SEBottleneck],
        counts: Sequence[int],
    ) -> None:
        super().__init__()
        conv, norm = conv_norm(3, STEM_CHANNELS, 3)
        layers = OrderedDict(conv1=conv, bn1=norm, relu=nn.ReLU(), maxpool=nn.MaxPool2d(3, 2, padding=1))
        inputs = STEM_CHANNELS
        for number, (planes, count) in enumerate(zip(PLANES, counts, strict=True), 1):
            blocks = []
            for index in range(count):
                blocks.append(block(inputs, planes, stride=2 if number > 1 and index == 0 else 1))
                inputs = EXPANSION * planes
            layers[f"layer{number}"] = nn.Sequential(*blocks)
        map_size = (input_size[0] // DOWNSCALE, input_size[1] // DOWNSCALE)
        layers["avgpool"] = nn.Conv2d(inputs, inputs, map_size, groups=inputs, bias=False)
        layers["fc"] = nn.Conv2d(inputs, embed_size, 1, bias=False)
        self.bn_first = nn.BatchNorm2d(3)
        self.model = nn.Sequential(layers)
        self.apply(init_by_fan_out)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.model(self.bn_first(images)), 1)


def _family(block: type[Bottleneck] | type[SEBottleneck], counts: tuple[int, ...]) -> Family:
    return Family(partial(FaceResNet, block=block, counts=counts), (112, 112), DOWNSCALE, last_linear="model.fc")


FAMILIES = {
    "resnet": _family(Bottleneck, BLOCKS_50),
    "se_resnet": _family(SEBottleneck, BLOCKS_50),  # alias of se_resnet50, face_recognition.pytorch's name
    "se_resnet50": _family(SEBottleneck, BLOCKS_50),
    "se_resnet101": _family(SEBottleneck, BLOCKS_101),
    "se_resnet152": _family(SEBottleneck, BLOCKS_152),
}
