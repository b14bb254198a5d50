"""`inception_resnet_v1`, the network of FaceNet's TensorFlow port and of facenet-pytorch.

Inception-ResNet-v1, arXiv:1602.07261, figures 10 to 15; residuals scaled as in section 3.3. Layers and keys of
https://github.com/timesler/facenet-pytorch, models/inception_resnet_v1.py, without its dropout. Unlike that network's
embeddings, which have norm 1, those here aren't normalised: they are the input of its classification layer `logits`.

B batch, E embedding size, H × W input (160 × 160 by default, at least 75 × 75).
"""

import torch
from torch import nn

from fr.errors import InputError
from fr.models.family import HALF, Family

FEATURES = 1792
SMALLEST = 75  # pixels; below that the feature map is too small for the last reduction
EPSILON = 1e-3  # of the batch norms, as in TensorFlow
_128 = 128 / 255
_Size = int | tuple[int, int]


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU; padded to keep the size at stride 1 if `same`."""

    def __init__(self, inputs: int, outputs: int, size: _Size, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        padding = (height // 2, width // 2) if same and stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.bn(self.conv(x)))
        return y


def chain(channels: tuple[int, ...], sizes: tuple[_Size, ...], last_stride: int = 1) -> nn.Module:
    """Convolutions from each of `channels` to the next; one alone has no number in its keys."""
    strides = [*[1] * (len(sizes) - 1), last_stride]
    layers = [
        BasicConv2d(inputs, outputs, size, stride)
        for inputs, outputs, size, stride in zip(channels[:-1], channels[1:], sizes, strides, strict=True)
    ]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class Branches(nn.Module):
    """Modules side by side, `branch0`, `branch1`, …; their outputs are concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self.count = len(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.get_submodule(f"branch{number}")(x) for number in range(self.count)], 1)


class Residual(Branches):
    """x + scale × 1×1(branches), then ReLU unless `last`."""

    def __init__(self, channels: int, wide: int, scale: float, *branches: nn.Module, last: bool = False) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(wide, channels, 1)
        self.scale = scale
        self.relu = nn.Identity() if last else nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.conv2d(super().forward(x)) * self.scale + x)
        return y


def block35() -> Residual:
    branches = (chain((256, *[32] * count), (1, *[3] * (count - 1))) for count in (1, 2, 3))
    return Residual(256, 96, 0.17, *branches)


def block17() -> Residual:
    branches = (chain((896, 128), (1,)), chain((896, 128, 128, 128), (1, (1, 7), (7, 1))))
    return Residual(896, 256, 0.1, *branches)


def block8(scale: float, last: bool = False) -> Residual:
    branches = (chain((1792, 192), (1,)), chain((1792, 192, 192, 192), (1, (1, 3), (3, 1))))
    return Residual(1792, 384, scale, *branches, last=last)


class InceptionResnetV1(nn.Module):
    """[B, 3, H, W] → [B, E] embedding, not normalised; InputError for sides below SMALLEST."""

    def __init__(self, embed_size: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        if min(input_size) < SMALLEST:
            height, width = input_size
            raise InputError(f"inception_resnet_v1 needs sides of at least {SMALLEST} pixels, got {height}×{width}")
        self.conv2d_1a = BasicConv2d(3, 32, 3, 2)
        self.conv2d_2a = BasicConv2d(32, 32, 3, same=False)
        self.conv2d_2b = BasicConv2d(32, 64, 3)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = BasicConv2d(64, 80, 1)
        self.conv2d_4a = BasicConv2d(80, 192, 3, same=False)
        self.conv2d_4b = BasicConv2d(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*(block35() for _ in range(5)))
        self.mixed_6a = Branches(
            chain((256, 384), (3,), 2), chain((256, 192, 192, 256), (1, 3, 3), 2), nn.MaxPool2d(3, 2)
        )
        self.repeat_2 = nn.Sequential(*(block17() for _ in range(10)))
        self.mixed_7a = Branches(
            chain((896, 256, 384), (1, 3), 2),
            chain((896, 256, 256), (1, 3), 2),
            chain((896, 256, 256, 256), (1, 3, 3), 2),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_3 = nn.Sequential(*(block8(0.2) for _ in range(5)))
        self.block8 = block8(1.0, last=True)
        self.last_linear = nn.Linear(FEATURES, embed_size, bias=False)
        self.last_bn = nn.BatchNorm1d(embed_size, eps=EPSILON)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        y: torch.Tensor = self.last_bn(self.last_linear(x.mean((2, 3))))
        return y


FAMILIES = {
    "inception_resnet_v1": Family(
        InceptionResnetV1, (160, 160), mean=HALF, std=(_128, _128, _128), last_linear="last_linear"
    )
}
