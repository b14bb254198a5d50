"""Layers of ours against torch's own, whose numbers they give in less time."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fr.models.layers import DepthwiseConv2d, PReLU, conv

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "expanded": lambda x: x[:1].expand_as(x),
}


def gradients(layer: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output, gradient of the input, gradient of the layer's weight."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(gradient)
    weight = next(layer.parameters())
    assert x.grad is not None and weight.grad is not None
    return y.detach(), x.grad, weight.grad.clone()


def slopes_set(layer: nn.PReLU, first: float) -> nn.PReLU:
    with torch.no_grad():
        layer.weight.copy_(first + torch.arange(layer.num_parameters) / 4)
    return layer


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (7, 9), (3, 2, 5)])
@pytest.mark.parametrize("first", [0.25, 0.0, -0.5, 1.5])
@pytest.mark.parametrize("each", [False, True], ids=["one slope", "a slope a channel"])
def test_prelu_equals_torchs_in_every_layout(shape: tuple[int, ...], first: float, each: bool) -> None:
    torch.manual_seed(0)
    count = shape[1] if each else 1
    ours, theirs = (slopes_set(kind(count), first) for kind in (PReLU, nn.PReLU))
    exact = slopes_set(nn.PReLU(count), first).double()
    for x_layout in LAYOUTS:
        for gradient_layout in LAYOUTS:
            x = LAYOUTS[x_layout](torch.randn(shape))
            if x_layout == "contiguous":
                x.view(-1)[:4] = torch.tensor([0.0, -0.0, 1e-30, -1e-30])  # the kink and its neighbours
            gradient = LAYOUTS[gradient_layout](torch.randn(shape))
            y, x_gradient, slope_gradient = gradients(ours, x, gradient)
            y_torch, x_gradient_torch, _ = gradients(theirs, x, gradient)
            assert torch.equal(y, y_torch)
            assert torch.equal(x_gradient, x_gradient_torch)
            _, _, slope_exact = gradients(exact, x.double(), gradient.double())
            # A float32 sum of at most 360 products of size 1, against the same sum in float64.
            torch.testing.assert_close(slope_gradient.double(), slope_exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("each", [False, True], ids=["one slope", "a slope a channel"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_prelu_in_bfloat16_is_exact_to_its_rounding(each: bool, layout: str) -> None:
    torch.manual_seed(0)
    shape, count = (4, 8, 16, 16), 8 if each else 1
    x, gradient = (LAYOUTS[layout](torch.randn(shape)).bfloat16() for _ in range(2))
    layer, exact = slopes_set(PReLU(count), 0.25), slopes_set(nn.PReLU(count), 0.25).double()
    y, x_gradient, slope_gradient = gradients(layer, x, gradient)
    wanted = gradients(exact, x.double(), gradient.double())
    assert y.dtype == x_gradient.dtype == torch.bfloat16 and slope_gradient.dtype == torch.float32
    # A product of two bfloat16, rounded once: half of 2^-7 of its size.
    torch.testing.assert_close(y.double(), wanted[0], rtol=2**-8, atol=0)
    torch.testing.assert_close(x_gradient.double(), wanted[1], rtol=2**-7, atol=1e-6)
    # The products are rounded to 8 bits, then added up exactly; the errors of some 1,000 partly cancel.
    scale = (x * gradient).double().abs().sum() / count
    assert (slope_gradient.double() - wanted[2]).abs().max() < 2**-8 * scale


def test_prelu_without_gradients_is_torchs() -> None:
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(PReLU()(x), nn.PReLU()(x))


@pytest.mark.parametrize("shape", [(2, 8, 12, 12), (2, 8, 11, 7), (3, 16, 5, 6)])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_strided_depthwise_convolution_has_the_right_gradients_in_bfloat16(
    shape: tuple[int, ...], size: int, layout: str
) -> None:
    torch.manual_seed(0)
    layer = conv(shape[1], shape[1], size, stride=2, groups=shape[1])
    assert isinstance(layer, DepthwiseConv2d)
    x = LAYOUTS[layout](torch.randn(shape)).bfloat16().float().requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    gradient = torch.randn(y.shape).bfloat16()
    y.backward(gradient)
    x64, weight = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    y64 = F.conv2d(x64, weight, stride=2, padding=size // 2, groups=shape[1])
    y64.backward(gradient.double())
    assert x.grad is not None and layer.weight.grad is not None and x64.grad is not None and weight.grad is not None
    for found, wanted in ((y, y64), (x.grad, x64.grad), (layer.weight.grad, weight.grad)):
        # One rounding to bfloat16 of sums that are exact to float32; sums near 0 keep the rounding of their parts.
        torch.testing.assert_close(found.detach().double(), wanted.detach(), rtol=2**-7, atol=2e-2)
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32


def test_only_depthwise_convolutions_are_ours() -> None:
    assert type(conv(4, 8, 3)) is type(conv(1, 1, 3)) is type(conv(4, 8, 3, groups=4)) is nn.Conv2d
