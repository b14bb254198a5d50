"""IR, the improved residual networks of AdaFace and CVLface: iresnet's blocks with other skips, ends and keys.

Layers, keys and initialisation of https://github.com/mk-minchul/AdaFace, net.py (arXiv:2204.00964), without dropout.
The skip of the first stage takes every second pixel, without weights; the last batch norm has no weights either.

B batch, E embedding size, H × W input (multiples of 16; 112 × 112 by default).
"""

from functools import partial

import torch
from torch import nn

from fr.models.family import HALF, Family
from fr.models.iresnet import DEPTHS, DOWNSCALE
from fr.models.layers import PReLU, conv, conv_norm

BLOCKS = {18: DEPTHS[18], 34: DEPTHS[34], 50: DEPTHS[50], 101: DEPTHS[100]}


class Block(nn.Module):
    """BN, 3×3, BN, PReLU, 3×3 with the stride, BN; nothing after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(*conv_norm(inputs, outputs, 1, stride))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            *conv_norm(inputs, outputs, 3),
            PReLU(outputs),
            *conv_norm(outputs, outputs, 3, stride),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(self.res_layer(x), self.shortcut_layer(x))


class IR(nn.Module):
    """[B, 3, H, W] → [B, E] embedding, not normalised. `depth` is a key of BLOCKS."""

    def __init__(self, depth: int, embed_size: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(conv(3, 64, 3), nn.BatchNorm2d(64), PReLU(64))
        places = (input_size[0] // DOWNSCALE) * (input_size[1] // DOWNSCALE)
        linear = nn.Linear(512 * places, embed_size)
        dropout = nn.Identity()  # in place of theirs, so that the keys are the same
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), dropout, nn.Flatten(), linear, nn.BatchNorm1d(embed_size, affine=False)
        )
        blocks = []
        inputs = 64
        for outputs, count in zip((64, 128, 256, 512), BLOCKS[depth], strict=True):
            for place in range(count):
                blocks.append(Block(inputs, outputs, stride=1 if place else 2))
                inputs = outputs
        self.body = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(linear.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.output_layer(self.body(self.input_layer(images)))
        return embeddings


FAMILIES = {f"ir{depth}": Family(partial(IR, depth), (112, 112), DOWNSCALE, HALF, HALF) for depth in BLOCKS}
