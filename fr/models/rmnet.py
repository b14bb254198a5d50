"""RMNet, the `rmnet` of face_recognition.pytorch.

RMNet (arXiv:1812.02465): the bottlenecks of ResNet (arXiv:1512.03385) around a depthwise 3×3, with ELU
(arXiv:1511.07289). The first layer is a batch norm of the input, so the input is RGB in 0–1 without mean or std. Module
names are those of the reference's snapshots.

The reference's dropout of 0.1 on each block's residual, active in its first 7 of 30 epochs only, is left out: a
backbone here doesn't know the epoch.

B batch, E embedding size, H × W input (multiples of 16; 128 × 128 by default).
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from fr.models.family import Family
from fr.models.layers import conv_norm, init_by_fan_out

# (channels, bottleneck channels, blocks at constant shape); 128 → 64 in the stem, → 32 → 16 → 8 in one additional block
# at the start of each stage but the first.
STAGES = ((32, 8, 4), (64, 16, 8), (128, 32, 10), (256, 64, 11))
STEM_CHANNELS = 32
DOWNSCALE = 16


class RMBlock(nn.Module):
    """1×1 down, 3×3 depthwise, 1×1 up, skip; where it downsamples, the skip is a max pool and a 1×1."""

    def __init__(self, inputs: int, bottleneck: int, outputs: int, downsample: bool) -> None:
        super().__init__()
        self.downsample = downsample
        self.squeeze_conv, self.squeeze_bn = conv_norm(inputs, bottleneck, 1)
        self.dw_conv, self.dw_bn = conv_norm(bottleneck, bottleneck, 3, 2 if downsample else 1, groups=bottleneck)
        self.expand_conv, self.expand_bn = conv_norm(bottleneck, outputs, 1)
        if downsample:
            self.skip_conv, self.skip_conv_bn = conv_norm(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.elu(self.squeeze_bn(self.squeeze_conv(x)))
        y = F.elu(self.dw_bn(self.dw_conv(y)))
        y = self.expand_bn(self.expand_conv(y))
        if self.downsample:
            x = self.skip_conv_bn(self.skip_conv(F.max_pool2d(x, 2)))
        return F.elu(x + y)


class RMNet(nn.Module):
    """[B, 3, H, W] float in 0–1 → [B, E] embedding, not normalised."""

    def __init__(self, embed_size: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(OrderedDict(stages=_stages()))
        self.global_pooling = nn.MaxPool2d((input_size[0] // DOWNSCALE, input_size[1] // DOWNSCALE))
        self.conv1_extra = nn.Conv2d(STAGES[-1][0], embed_size, 1, bias=False)
        self.backbone.apply(init_by_fan_out)  # conv1_extra keeps PyTorch's initialisation, as in the reference

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.global_pooling(self.backbone(images))
        return torch.flatten(self.conv1_extra(x), 1)


def _stages() -> nn.Sequential:
    conv, norm = conv_norm(3, STEM_CHANNELS, 3, stride=2)
    stem = nn.Sequential(OrderedDict(data_bn=nn.BatchNorm2d(3), conv1=conv, bn1=norm, relu1=nn.ReLU()))
    stages: OrderedDict[str, nn.Module] = OrderedDict(stage_0=stem)
    inputs = STEM_CHANNELS
    for number, (channels, bottleneck, count) in enumerate(STAGES, 1):
        blocks = [RMBlock(inputs, bottleneck, channels, downsample=True)] if number > 1 else []
        blocks += [RMBlock(channels, bottleneck, channels, downsample=False) for _ in range(count)]
        stages[f"stage_{number}"] = nn.Sequential(*blocks)
        inputs = channels
    return nn.Sequential(stages)


FAMILIES = {"rmnet": Family(RMNet, (128, 128), DOWNSCALE, last_linear="conv1_extra")}
