"""The backbones of face_recognition.pytorch against published figures and the reference's description.

`Reference` says a second time what each network computes, in plain functions over the reference's own keys.
"""

import io
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fr.models import MODELS, build_model
from fr.weights.face_recognition_pytorch import KEYS_001
from tests.layouts_001 import MOBILENET, NAMES_001, RESNETS, RMNET, SHUFFLENET, WIDTHS, layout_001

# se_resnet is se_resnet50, the deeper two differ from it by the counts of blocks: on the `meta` device alone.
COMPUTED = [name for name in NAMES_001 if name not in ("se_resnet", "se_resnet101", "se_resnet152")]
# Millions of parameters at 128 and at 256 numbers and the unit of the last digit published; the same of
# multiply-accumulates at 256.
PUBLISHED = {
    "mobilenet": (1.051, 1.116, 0.001),
    "mobilenet_1_5x": (None, 2.198, 0.001),
    "mobilenet_2x": (None, 3.687, 0.001),
    "rmnet": (0.598, 0.631, 0.001),
    "shufflenetv2": (1.450, 1.581, 0.001),
    "resnet": (23.86, 24.13, 0.01),
    "se_resnet": (26.38, 26.64, 0.01),
    "se_resnet50": (26.38, 26.64, 0.01),
}
PUBLISHED_COST = {"mobilenet": (288.7, 0.1), "rmnet": (92, 1), "shufflenetv2": (180, 1), "resnet": (3990, 10)}


def on_meta(name: str, embed_size: int) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, embed_size, MODELS[name].input_size)


def parameter_count(name: str, embed_size: int) -> int:
    return sum(parameter.numel() for parameter in on_meta(name, embed_size).parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    *published, unit = PUBLISHED[name]
    for embed_size, millions in zip((128, 256), published, strict=True):
        if millions is not None:
            assert abs(parameter_count(name, embed_size) / 1e6 - millions) <= unit / 2


@pytest.mark.parametrize("name", PUBLISHED_COST)
def test_the_cost_is_the_published_one(name: str) -> None:
    published, unit = PUBLISHED_COST[name]
    model = on_meta(name, 256).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *MODELS[name].input_size, device="meta"))
    macs = counter.get_total_flops() / 2  # two operations a multiply-accumulate
    assert abs(macs / 1e6 - published) <= unit / 2


def our_key(name: str, key: str) -> str:
    for regex, replacement in KEYS_001[name]:
        renamed, count = re.subn(regex, replacement, key)
        if count:
            return renamed
    return key


@pytest.mark.parametrize("name", NAMES_001)
def test_the_references_keys_map_one_to_one_onto_ours(name: str) -> None:
    layout = layout_001(name, 96)
    renamed = {our_key(name, key): shape for key, shape in layout.items()}
    assert len(renamed) == len(layout)
    assert renamed == {key: tuple(tensor.shape) for key, tensor in on_meta(name, 96).state_dict().items()}


def test_there_are_key_rules_for_exactly_the_models_of_the_reference() -> None:
    assert list(KEYS_001) == NAMES_001


class Reference:
    """Forward passes in training mode. tensors: by the reference's keys; x, y: [B, C, H, W]."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def conv(self, key: str, x: torch.Tensor, stride: int = 1, padded: bool = True) -> torch.Tensor:
        weight = self.tensors[f"{key}.weight"]
        groups = x.shape[1] // weight.shape[1]
        padding = weight.shape[2] // 2 if padded else 0
        return F.conv2d(x, weight, self.tensors.get(f"{key}.bias"), stride, padding, groups=groups)

    def norm(self, key: str, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        scale, shift = (self.tensors[f"{key}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def prelu(self, key: str, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0) + self.tensors[f"{key}.weight"] * x.clamp(max=0)

    def row(self, prefix: str, layers: str, x: torch.Tensor, stride: int = 1, first: int = 0) -> torch.Tensor:
        """layers in order: c convolution, s the one with the stride, n batch norm, p PReLU, r ReLU."""
        for index, layer in enumerate(layers, first):
            key = f"{prefix}.{index}"
            if layer in "cs":
                x = self.conv(key, x, stride if layer == "s" else 1)
            elif layer == "r":
                x = x.clamp(min=0)
            else:
                x = self.norm(key, x) if layer == "n" else self.prelu(key, x)
        return x

    def mobilenet(self, x: torch.Tensor) -> torch.Tensor:
        x = self.row("features", "cnp", self.row("features.0", "nsnp", x, stride=2), first=1)
        index = 4
        for (_, _, count), first_stride in zip(MOBILENET, (2, 2, 1, 2, 1), strict=True):
            for stride in [first_stride] + [1] * (count - 1):
                block = f"features.{index}.inv_block"
                y = self.row(block, "cnpsnpcn", x, stride)
                gate = self.prelu(f"{block}.8.relu", self.conv(f"{block}.8.conv1", y.mean((2, 3), keepdim=True)))
                y = y * self.conv(f"{block}.8.conv2", gate).sigmoid()
                x = x + y if x.shape == y.shape else y
                index += 1
        x = self.row("features.19", "cnp", x)
        return self.conv("conv1_extra", self.norm("dw_bn", self.conv("dw_pool", x, padded=False)))

    def rmnet(self, x: torch.Tensor) -> torch.Tensor:
        stem = "backbone.stages.stage_0"
        x = self.norm(f"{stem}.bn1", self.conv(f"{stem}.conv1", self.norm(f"{stem}.data_bn", x), 2)).clamp(min=0)
        for stage, (_, _, count) in enumerate(RMNET, 1):
            for index in range(count):
                block = f"backbone.stages.stage_{stage}.{index}"
                shrinks = stage > 1 and index == 0
                y = elu(self.norm(f"{block}.squeeze_bn", self.conv(f"{block}.squeeze_conv", x)))
                y = elu(self.norm(f"{block}.dw_bn", self.conv(f"{block}.dw_conv", y, 2 if shrinks else 1)))
                y = self.norm(f"{block}.expand_bn", self.conv(f"{block}.expand_conv", y))
                if shrinks:
                    quarters = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
                    x = torch.stack(quarters).amax(0)
                    x = self.norm(f"{block}.skip_conv_bn", self.conv(f"{block}.skip_conv", x))
                x = elu(x + y)
        return self.conv("conv1_extra", x.amax((2, 3), keepdim=True))

    def shufflenetv2(self, x: torch.Tensor) -> torch.Tensor:
        x = self.row("backbone.conv1", "snr", self.norm("backbone.bn_first", x), stride=2)
        index = 0
        for outputs, count in SHUFFLENET:
            for stride in [2] + [1] * (count - 1):
                block = f"backbone.features.{index}"
                if stride == 2:
                    first, second = self.row(f"{block}.branch1", "sncnp", x, stride), x
                else:
                    first, second = x[:, : outputs // 2], x[:, outputs // 2 :]
                joined = torch.cat((first, self.row(f"{block}.branch2", "cnpsncnp", second, stride)), 1)
                x = F.channel_shuffle(joined, 2)
                index += 1
        x = self.row("backbone.conv_last", "cnp", x)
        return self.conv("conv1_extra", self.conv("global_pool", x, padded=False))

    def resnet(self, x: torch.Tensor, counts: tuple[int, ...], squeeze: bool) -> torch.Tensor:
        x = self.norm("model.bn1", self.conv("model.conv1", self.norm("bn_first", x))).clamp(min=0)
        x = F.max_pool2d(x, 3, 2, 1)
        for layer, count in enumerate(counts, 1):
            for index in range(count):
                block = f"model.layer{layer}.{index}"
                stride = 2 if layer > 1 and index == 0 else 1
                slopes = [f"{block}.relu"] * 3 if squeeze else [f"{block}.act{n}" for n in (1, 2, 3)]
                y = self.prelu(slopes[0], self.norm(f"{block}.bn1", self.conv(f"{block}.conv1", x)))
                y = self.prelu(slopes[1], self.norm(f"{block}.bn2", self.conv(f"{block}.conv2", y, stride)))
                y = self.norm(f"{block}.bn3", self.conv(f"{block}.conv3", y))
                if squeeze:
                    gate = self.prelu(slopes[0], self.conv(f"{block}.conv_down", y.mean((2, 3), keepdim=True)))
                    y = y * self.conv(f"{block}.conv_up", gate).sigmoid()
                if index == 0:
                    x = self.norm(f"{block}.downsample.1", self.conv(f"{block}.downsample.0", x, stride))
                x = self.prelu(slopes[2], x + y)
        return self.conv("model.fc", self.conv("model.avgpool", x, padded=False))

    def forward(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if name in RESNETS:
            return self.resnet(x, RESNETS[name], squeeze=name != "resnet")
        own = {"rmnet": self.rmnet, "shufflenetv2": self.shufflenetv2}
        return own.get(name, self.mobilenet)(x)


def elu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, x.exp() - 1)


@pytest.mark.parametrize("name", COMPUTED)
def test_the_embedding_is_the_one_that_the_reference_computes(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 16, (64, 48)).double()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms, slopes and biases, which start out equal
            nn.init.uniform_(parameter, 0.1, 1.0)
    ours = model.state_dict()
    reference = Reference({key: ours[our_key(name, key)] for key in layout_001(name, 16)})
    images = torch.rand(3, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        expected = reference.forward(name, images)
        assert expected.shape == (3, 16, 1, 1)
        # float64 rounds at 1e-16; up to 60 batch norms over few numbers can make that 1e-10.
        torch.testing.assert_close(model(images), expected.flatten(1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", COMPUTED)
def test_there_is_one_embedding_an_image_at_the_designed_and_another_size(name: str) -> None:
    for size in (MODELS[name].input_size, (48, 64)):
        model = build_model(name, 32, size).eval()
        with torch.no_grad():
            assert model(torch.rand(2, 3, *size)).shape == (2, 32)


@pytest.mark.parametrize("name", COMPUTED)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 32, (48, 48))
    embeddings = model(torch.rand(4, 3, 48, 48))
    (embeddings * torch.randn(4, 32)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


@pytest.mark.parametrize("name", COMPUTED)
def test_a_loaded_state_dict_gives_the_same_embeddings_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    model, other = (build_model(name, 16, (48, 48)) for _ in range(2))
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        model(images)  # moves the running statistics
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(model.eval()(images), other.eval()(images))


@pytest.mark.parametrize("name", COMPUTED)
def test_weights_start_with_the_references_spread(name: str) -> None:
    torch.manual_seed(1)
    model = build_model(name, 256, MODELS[name].input_size)
    for key, conv in model.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        in_head = key in ("conv1_extra", "global_pool")  # of RMNet and ShuffleNet; MobileFaceNet's are named otherwise
        if in_head or key.startswith("backbone.features"):
            wanted = (1 / (3 * conv.weight[0].numel())) ** 0.5  # PyTorch's own draw: U(-b, b), b = 1 / √inputs
        else:
            wanted = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
        count = conv.weight.numel()
        # The standard error of a deviation over n normal draws is σ / √(2n) (less for uniform ones), of a mean
        # σ / √n: five of them is a chance of 6e-7 a layer, and the seed is fixed.
        assert abs(conv.weight.std().item() / wanted - 1) < 5 / (2 * count) ** 0.5, key
        assert abs(conv.weight.mean().item() / wanted) < 5 / count**0.5, key


@pytest.mark.parametrize(("name", "width"), WIDTHS.items())
def test_width_scales_the_blocks_and_neither_stem_nor_head(name: str, width: float) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in on_meta(name, 256).state_dict().items()}
    assert shapes["stem.0.weight"] == (64, 3, 3, 3) and shapes["embedding.weight"] == (256, 512, 1, 1)
    assert shapes["blocks.0.block.6.weight"] == (64 * width, 128, 1, 1)
    assert shapes["last.0.weight"] == (512, 128 * width, 1, 1)
