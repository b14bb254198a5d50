"""Layers that backbones share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, padded to keep the size at stride 1, and batch norm."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def draw_by_fan_out(module: nn.Module) -> None:
    """Convolutions N(0, √(2 / (k² · outputs))), biases 0, as in face_recognition.pytorch. arXiv:1502.01852, eq. 14."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        nn.init.normal_(module.weight, 0.0, (2.0 / (height * width * module.out_channels)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class _LeakyWithSlope(torch.autograd.Function):
    """PReLU with one slope in float32 on a CPU, from vectorised kernels.

    ATen's own backward computes the slope's gradient element by element as a full tensor before summing it, which
    took a third of a MobileFaceNet step on two cores (LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope.item()  # free on a CPU, where alone this runs
        return F.leaky_relu(x, ctx.slope)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (x,) = ctx.saved_tensors
        below = torch.ops.aten.threshold_backward(gradients[0], -x, 0)  # the gradient where x < 0, else 0
        slope_gradient = torch.dot(_in_memory_order(below), _in_memory_order(x)).reshape(1)
        return torch.ops.aten.leaky_relu_backward(gradients[0], x, ctx.slope, False), slope_gradient


def _in_memory_order(x: torch.Tensor) -> torch.Tensor:
    """All elements as one row, without a copy where the tensor is dense in either of the usual orders."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` with one slope: the same numbers to rounding, faster to train in float32 on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32 and torch.is_grad_enabled():
            y: torch.Tensor = _LeakyWithSlope.apply(x, self.weight)
            return y
        return super().forward(x)
