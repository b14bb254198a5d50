"""Layers shared by the backbones."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, padded to keep the size at stride 1, and batch norm."""
    return [conv(inputs, outputs, size, stride, groups), nn.BatchNorm2d(outputs)]


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution without bias, padded to keep the size at stride 1."""
    kind = DepthwiseConv2d if inputs == outputs == groups > 1 else nn.Conv2d
    return kind(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)


def init_by_fan_out(module: nn.Module) -> None:
    """Initialise convolutions with N(0, √(2 / (k² · outputs))), biases with 0, as face_recognition.pytorch does.

    arXiv:1502.01852, eq. 14.
    """
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        nn.init.normal_(module.weight, 0.0, (2.0 / (height * width * module.out_channels)) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` with a faster backward on CPU; equal to it up to rounding.

    ATen's backward with the slopes' gradient isn't vectorised: a third of a MobileFaceNet step on two cores, more in
    bfloat16 (LOG.md).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            y: torch.Tensor = _VectorisedPReLU.apply(x, self.weight)
            return y
        return super().forward(x)


class _VectorisedPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, slopes)
        return F.prelu(x, slopes.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, slopes = ctx.saved_tensors
        (gradient,) = gradients
        if slopes.numel() == 1:
            slope_gradient = _product_sum(gradient, x.clamp_max(0)).reshape(1)
            # No GPU synchronisation: this runs on a CPU only.
            input_gradient = torch.ops.aten.leaky_relu_backward(gradient, x, slopes.item(), False)
            return input_gradient, slope_gradient.to(slopes.dtype)
        above = torch.ops.aten.threshold_backward(gradient, x, 0)  # where x > 0, else 0
        below = gradient - above
        input_gradient = torch.addcmul(above, below, slopes.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2)))
        return input_gradient, _sums(below.mul_(x)).to(slopes.dtype)


def _product_sum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sum of the elementwise product of two tensors of one shape."""
    if a.dtype == torch.bfloat16 or a.stride() != b.stride():  # bfloat16's dot isn't vectorised
        return _sums(a * b).sum()
    return torch.dot(_in_memory_order(a), _in_memory_order(b))


def _in_memory_order(x: torch.Tensor) -> torch.Tensor:
    """Flatten to one dimension, without a copy if the tensor is contiguous or channels-last."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


def _sums(x: torch.Tensor) -> torch.Tensor:
    """Sum [B, C, …] over all but the channels → [C], in float32 or a wider dtype."""
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return x.sum([0, *range(2, x.dim())], dtype=torch.promote_types(x.dtype, torch.float32))
    rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    # A matrix product is four times as fast as sum(0), and accumulates bfloat16 in float32 too.
    return torch.mm(rows.new_ones(1, len(rows)), rows)[0]


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise `torch.nn.Conv2d` with a faster bfloat16 backward on CPU; equal to it up to rounding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slow = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and self.stride == (2, 2)
        if slow and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            dtype = torch.get_autocast_dtype("cpu")
            y: torch.Tensor = _StridedDepthwise.apply(x.to(dtype), self.weight.to(dtype), self.padding)
            return y
        return super().forward(x)


class _StridedDepthwise(torch.autograd.Function):
    """Depthwise convolution at stride 2 whose input gradient is computed at stride 1, with zeros interleaved.

    oneDNN's bfloat16 input gradient takes nine times as long at stride 2 as at stride 1 (LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, padding: Any) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, stride=2, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, weight = ctx.saved_tensors
        (sparse,) = gradients
        sides = (x.shape[2 + i] + 2 * ctx.padding[i] - weight.shape[2 + i] + 1 for i in (0, 1))
        dense = sparse.new_zeros(*sparse.shape[:2], *sides).contiguous(memory_format=torch.channels_last)
        dense[:, :, ::2, ::2] = sparse

        def gradient(output_gradient: torch.Tensor, stride: int, index: int) -> torch.Tensor:
            mask = [index == 0, index == 1, False]
            results: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
                output_gradient, x, weight, None, [stride] * 2, ctx.padding, [1, 1], False, [0, 0], len(weight), mask
            )
            return results[index]

        return gradient(dense, 1, 0), gradient(sparse, 2, 1), None
