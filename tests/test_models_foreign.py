"""The networks of VGGFace2-pytorch, insightface, AdaFace, facenet-pytorch and the MobileFaceNet paper: held against
published figures, a layout written out apart, and a forward pass by hand over the state dict."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fr.errors import InputError
from fr.models import build_model, family
from fr.models.iresnet import IResNet
from tests.layouts_foreign import LAYOUTS, layout

State = dict[str, torch.Tensor]


@cache
def shapes_alone(name: str, embed_size: int) -> nn.Module:
    """The network at its own input size, without memory for its weights."""
    with torch.device("meta"):
        return build_model(name, embed_size, family(name).input_size).eval()


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(key, tuple(value.shape)) for key, value in model.state_dict().items()]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_state_dict_has_the_keys_and_shapes_of_the_reference(name: str) -> None:
    assert shapes(shapes_alone(name, 512)) == list(layout(name, 512).items())


@pytest.mark.parametrize("name", ["resnet50_caffe", "senet50_caffe"])
def test_a_caffe_resnet_of_2048_numbers_has_no_layer_above_the_pooled_features(name: str) -> None:
    assert shapes(shapes_alone(name, 2048)) == list(layout(name, 2048).items())
    assert not any(key.startswith("embedding") for key in layout(name, 2048))


@pytest.mark.parametrize(("name", "millions"), [("resnet50_caffe", 41.19), ("senet50_caffe", 43.72)])
def test_caffe_resnets_and_their_fc_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    fc = 2048 * 8631 + 8631
    assert round((parameter_count(shapes_alone(name, 2048)) + fc) / 1e6, 2) == millions


@pytest.mark.parametrize(("name", "millions"), [("iresnet50", 43.6), ("iresnet100", 65.2)])
def test_iresnets_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    assert round(parameter_count(shapes_alone(name, 512)) / 1e6, 1) == millions


def test_mobilefacenet_has_the_papers_number_of_parameters() -> None:
    """0.99 M and 4.0 MB: a batch norm counts one number a channel, what is left of it once folded into its layer."""
    model = shapes_alone("mobilefacenet", 128)
    scales = sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    folded = parameter_count(model) - scales
    assert round(folded / 1e6, 2) == 0.99
    assert round(4 * folded / 1e6, 1) == 4.0


def gigamacs(name: str, embed_size: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes_alone(name, embed_size)(torch.zeros(1, 3, *family(name).input_size, device="meta"))
    return counter.get_total_flops() / 2e9  # two operations a multiply-accumulate


def test_the_caffe_resnet_and_its_fc_have_the_published_cost() -> None:
    assert round(gigamacs("resnet50_caffe", 2048) + 2048 * 8631 / 1e9, 2) == 3.87


# insightface's tables: https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch
@pytest.mark.parametrize(
    ("name", "published"),
    [
        *(("iresnet18", 2.6), ("iresnet50", 6.3), ("iresnet100", 12.1), ("mbf", 0.45)),
        *(("vit_t", 1.5), ("vit_s", 5.7), ("vit_b", 11.4)),
    ],
)
def test_insightfaces_networks_have_the_published_cost(name: str, published: float) -> None:
    # Their counter adds batch norms and PReLUs to the convolutions: 3 % in the narrow `mbf`, less in the others.
    assert gigamacs(name, 512) == pytest.approx(published, rel=0.03)


# Table 1 of arXiv:1804.07573: the first module of each row, the side of its input map, and that map's channels.
TABLE_1 = [
    ("conv1", 112, 3),
    ("dw_conv1", 56, 64),
    ("blocks.0", 56, 64),
    ("blocks.5", 28, 64),
    ("blocks.6", 14, 128),
    ("blocks.12", 14, 128),
    ("blocks.13", 7, 128),
    ("conv2", 7, 128),
    ("linear7", 7, 512),
    ("linear1", 1, 512),
]


def test_mobilefacenet_is_the_table_of_its_paper() -> None:
    model = shapes_alone("mobilefacenet", 128)
    names = {model.get_submodule(name): name for name, _, _ in TABLE_1}
    seen: dict[str, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen[names[module]] = tuple(inputs[0].shape)

    hooks = [module.register_forward_pre_hook(note) for module in names]
    embedding = model(torch.zeros(1, 3, 112, 112, device="meta"))
    for hook in hooks:
        hook.remove()
    assert seen == {name: (1, channels, side, side) for name, side, channels in TABLE_1}
    assert embedding.shape == (1, 128)


def norm(state: State, key: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    mean, variance = state[f"{key}.running_mean"], state[f"{key}.running_var"]
    return F.batch_norm(x, mean, variance, state.get(f"{key}.weight"), state.get(f"{key}.bias"), eps=eps)


def blocks(state: State) -> list[tuple[str, int]]:
    """Keys of the residual blocks in order, each with its place in the stage."""
    keys = [key.removesuffix(".conv1.weight") for key in state if key.startswith("layer") and ".conv1." in key]
    return [(key, int(key.split(".")[1])) for key in keys]


def iresnet_by_hand(state: State, x: torch.Tensor) -> torch.Tensor:
    x = F.prelu(norm(state, "bn1", F.conv2d(x, state["conv1.weight"], padding=1)), state["prelu.weight"])
    for key, place in blocks(state):
        stride = 2 if place == 0 else 1
        y = F.conv2d(norm(state, f"{key}.bn1", x), state[f"{key}.conv1.weight"], padding=1)
        y = F.prelu(norm(state, f"{key}.bn2", y), state[f"{key}.prelu.weight"])
        y = norm(state, f"{key}.bn3", F.conv2d(y, state[f"{key}.conv2.weight"], stride=stride, padding=1))
        if place == 0:
            x = norm(state, f"{key}.downsample.1", F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=2))
        x = x + y
    x = F.linear(norm(state, "bn2", x).flatten(1), state["fc.weight"], state["fc.bias"])
    return norm(state, "features", x)


def caffe_resnet_by_hand(state: State, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for key, place in blocks(state):
        stride = 2 if place == 0 and not key.startswith("layer1") else 1
        y = F.relu(norm(state, f"{key}.bn1", F.conv2d(x, state[f"{key}.conv1.weight"], stride=stride)))
        y = F.relu(norm(state, f"{key}.bn2", F.conv2d(y, state[f"{key}.conv2.weight"], padding=1)))
        y = norm(state, f"{key}.bn3", F.conv2d(y, state[f"{key}.conv3.weight"]))
        if f"{key}.conv4.weight" in state:
            gate = F.avg_pool2d(y, tuple(y.shape[2:]))
            gate = F.relu(F.conv2d(gate, state[f"{key}.conv4.weight"], state[f"{key}.conv4.bias"]))
            y = y * torch.sigmoid(F.conv2d(gate, state[f"{key}.conv5.weight"], state[f"{key}.conv5.bias"]))
        if place == 0:
            x = norm(state, f"{key}.downsample.1", F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=stride))
        x = F.relu(x + y)
    x = F.avg_pool2d(x, tuple(x.shape[2:])).flatten(1)
    return F.linear(x, state["embedding.weight"], state["embedding.bias"]) if "embedding.weight" in state else x


def convolution(state: State, keys: tuple[str, str, str], x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Convolution, batch norm and, where its key exists, PReLU; a 3×3 has a border of one, other sizes have none."""
    weight = state[f"{keys[0]}.weight"]
    padding = 1 if weight.shape[2:] == (3, 3) else 0
    x = F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1] // weight.shape[1])
    slopes = state.get(f"{keys[2]}.weight")
    x = norm(state, keys[1], x)
    return x if slopes is None else F.prelu(x, slopes)


def mbf_by_hand(state: State, x: torch.Tensor) -> torch.Tensor:
    def block(key: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return convolution(state, (f"{key}.layers.0", f"{key}.layers.1", f"{key}.layers.2"), x, stride)

    def bottleneck(key: str, x: torch.Tensor, stride: int) -> torch.Tensor:
        return block(f"{key}.layers.2", block(f"{key}.layers.1", block(f"{key}.layers.0", x), stride))

    x = block("layers.1", block("layers.0", x, 2))
    for index, count in ((2, 4), (4, 6), (6, 2)):
        x = bottleneck(f"layers.{index}", x, 2)
        for place in range(count):
            x = x + bottleneck(f"layers.{index + 1}.layers.{place}", x, 1)
    x = block("features.layers.0", block("conv_sep", x)).flatten(1)
    return norm(state, "features.layers.3", F.linear(x, state["features.layers.2.weight"]))


def mobilefacenet_by_hand(state: State, x: torch.Tensor) -> torch.Tensor:
    def block(key: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return convolution(state, (f"{key}.conv", f"{key}.bn", f"{key}.prelu"), x, stride)

    x = block("dw_conv1", block("conv1", x, 2))
    for index in range(15):
        halves = index in (0, 5, 12)
        y = x
        for first, stride in ((0, 1), (3, 2 if halves else 1), (6, 1)):
            keys = [f"blocks.{index}.conv.{first + offset}" for offset in range(3)]
            y = convolution(state, (keys[0], keys[1], keys[2]), y, stride)
        x = y if halves else x + y
    return block("linear1", block("linear7", block("conv2", x))).flatten(1)


def ir_by_hand(state: State, x: torch.Tensor) -> torch.Tensor:
    x = norm(state, "input_layer.1", F.conv2d(x, state["input_layer.0.weight"], padding=1))
    x = F.prelu(x, state["input_layer.2.weight"])
    for index in range(8):  # of ir18: two a stage, the first at half the size
        key, stride = f"body.{index}", 2 if index % 2 == 0 else 1
        y = F.conv2d(norm(state, f"{key}.res_layer.0", x), state[f"{key}.res_layer.1.weight"], padding=1)
        y = F.prelu(norm(state, f"{key}.res_layer.2", y), state[f"{key}.res_layer.3.weight"])
        y = F.conv2d(y, state[f"{key}.res_layer.4.weight"], stride=stride, padding=1)
        x = x[:, :, ::stride, ::stride]
        if (weight := state.get(f"{key}.shortcut_layer.0.weight")) is not None:
            x = norm(state, f"{key}.shortcut_layer.1", F.conv2d(x, weight))
        x = x + norm(state, f"{key}.res_layer.5", y)
    x = norm(state, "output_layer.0", x).flatten(1)
    return norm(state, "output_layer.4", F.linear(x, state["output_layer.3.weight"], state["output_layer.3.bias"]))


def inception_resnet_by_hand(state: State, x: torch.Tensor) -> torch.Tensor:
    def layer(key: str, x: torch.Tensor, stride: int = 1, padding: int | tuple[int, int] = 0) -> torch.Tensor:
        y = F.conv2d(x, state[f"{key}.conv.weight"], stride=stride, padding=padding)
        return F.relu(norm(state, f"{key}.bn", y, eps=1e-3))

    def residual(key: str, x: torch.Tensor, scale: float, parts: list[torch.Tensor]) -> torch.Tensor:
        y = F.conv2d(torch.cat(parts, 1), state[f"{key}.conv2d.weight"], state[f"{key}.conv2d.bias"])
        return x + scale * y

    def asymmetric(key: str, x: torch.Tensor, scale: float, padding: int) -> torch.Tensor:
        y = layer(f"{key}.branch1.1", layer(f"{key}.branch1.0", x), padding=(0, padding))
        y = layer(f"{key}.branch1.2", y, padding=(padding, 0))
        return residual(key, x, scale, [layer(f"{key}.branch0", x), y])

    x = layer("conv2d_2b", layer("conv2d_2a", layer("conv2d_1a", x, 2)), padding=1)
    x = layer("conv2d_4a", layer("conv2d_3b", F.max_pool2d(x, 3, 2)))
    x = layer("conv2d_4b", x, 2)
    for index in range(5):
        key = f"repeat_1.{index}"
        one = layer(f"{key}.branch1.1", layer(f"{key}.branch1.0", x), padding=1)
        two = layer(f"{key}.branch2.1", layer(f"{key}.branch2.0", x), padding=1)
        two = layer(f"{key}.branch2.2", two, padding=1)
        x = F.relu(residual(key, x, 0.17, [layer(f"{key}.branch0", x), one, two]))
    y = layer("mixed_6a.branch1.1", layer("mixed_6a.branch1.0", x), padding=1)
    y = layer("mixed_6a.branch1.2", y, 2)
    x = torch.cat([layer("mixed_6a.branch0", x, 2), y, F.max_pool2d(x, 3, 2)], 1)
    for index in range(10):
        x = F.relu(asymmetric(f"repeat_2.{index}", x, 0.1, 3))
    parts = [layer(f"mixed_7a.branch{number}.1", layer(f"mixed_7a.branch{number}.0", x), 2) for number in (0, 1)]
    y = layer("mixed_7a.branch2.1", layer("mixed_7a.branch2.0", x), padding=1)
    x = torch.cat([*parts, layer("mixed_7a.branch2.2", y, 2), F.max_pool2d(x, 3, 2)], 1)
    for index in range(5):
        x = F.relu(asymmetric(f"repeat_3.{index}", x, 0.2, 1))
    x = asymmetric("block8", x, 1.0, 1)
    x = F.avg_pool2d(x, tuple(x.shape[2:])).flatten(1)
    return norm(state, "last_bn", F.linear(x, state["last_linear.weight"]), eps=1e-3)


def transformer_by_hand(state: State, x: torch.Tensor) -> torch.Tensor:
    def linear(key: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{key}.weight"].T + state.get(f"{key}.bias", torch.tensor(0.0))

    def layer_norm(key: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{key}.weight"] + state[f"{key}.bias"]

    def norm_of_head(key: str, x: torch.Tensor) -> torch.Tensor:
        scaled = (x - state[f"{key}.running_mean"]) / (state[f"{key}.running_var"] + 2e-5).sqrt()
        return scaled * state[f"{key}.weight"] + state[f"{key}.bias"]

    kernels, width = state["patch_embed.proj.weight"], len(state["norm.weight"])
    patches = F.unfold(x, 9, stride=9).transpose(1, 2)
    x = patches @ kernels.reshape(width, -1).T + state["patch_embed.proj.bias"] + state["pos_embed"]
    for index in range(12):
        key, heads = f"blocks.{index}", []
        q, k, v = linear(f"{key}.attn.qkv", layer_norm(f"{key}.norm1", x)).chunk(3, dim=-1)
        for head in range(8):
            of_head = slice(head * width // 8, (head + 1) * width // 8)
            scores = q[..., of_head] @ k[..., of_head].transpose(1, 2) / (width // 8) ** 0.5
            heads.append(scores.softmax(dim=-1) @ v[..., of_head])
        x = x + linear(f"{key}.attn.proj", torch.cat(heads, dim=-1))
        inner = linear(f"{key}.mlp.fc1", layer_norm(f"{key}.norm2", x))
        x = x + linear(f"{key}.mlp.fc2", inner.clamp(0, 6))
    x = linear("feature.0", layer_norm("norm", x).flatten(1))
    return norm_of_head("feature.3", linear("feature.2", norm_of_head("feature.1", x)))


BY_HAND: dict[str, Callable[[State, torch.Tensor], torch.Tensor]] = {
    "iresnet18": iresnet_by_hand,
    "resnet50_caffe": caffe_resnet_by_hand,
    "senet50_caffe": caffe_resnet_by_hand,
    "mbf": mbf_by_hand,
    "vit_t": transformer_by_hand,
    "mobilefacenet": mobilefacenet_by_hand,
    "ir18": ir_by_hand,
    "inception_resnet_v1": inception_resnet_by_hand,
}


def small_size(name: str) -> tuple[int, int]:
    """A size (height, width) that isn't square, nor the network's own."""
    return (96, 80) if name == "inception_resnet_v1" else (64, 48)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_forward_pass_equals_one_by_hand(name: str) -> None:
    """At a small size, with norms, slopes and biases that all differ."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = build_model(name, 24, small_size(name)).double().eval()
    state = {
        key: value.uniform_(0.5, 1.5, generator=generator) if value.dim() == 1 else value
        for key, value in model.state_dict().items()  # the model's own tensors
    }
    images = torch.rand(2, 3, *small_size(name), dtype=torch.float64, generator=generator)
    with torch.no_grad():
        embeddings, expected = model(images), BY_HAND[name](state, images)
    assert embeddings.shape == (2, 24)
    # Sums of float64 in another order, through at most 130 layers: a million roundings of 1e-16.
    torch.testing.assert_close(embeddings, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


def test_the_last_map_follows_the_input_size() -> None:
    with torch.device("meta"):
        for name, size, last_map in [
            ("mobilefacenet", (112, 96), (7, 6)),
            ("mbf", (128, 128), (8, 8)),
            ("iresnet18", (160, 96), (10, 6)),
        ]:
            model = build_model(name, 128, size).eval()
            assert shapes(model) == list(layout(name, 128, last_map).items())
            assert model(torch.zeros(1, 3, *size)).shape == (1, 128)


CONVOLUTIONAL = [name for name in BY_HAND if name != "vit_t"]  # of which tests/test_drops.py has a test


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_gradients_reach_every_parameter_that_is_trained(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 16, small_size(name))
    model(torch.rand(4, 3, *small_size(name))).mul(torch.rand(4, 16)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), key
        assert parameter.grad is None or (parameter.grad.isfinite().all() and parameter.grad.any()), key
    fixed = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    assert fixed == (["features.weight"] if isinstance(model, IResNet) else [])
    assert not fixed or bool((model.state_dict()["features.weight"] == 1).all())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutions_start_with_the_reference_spread_of_weights(name: str) -> None:
    torch.manual_seed(1)
    for module in build_model(name, 128, (96, 96)).modules():
        if isinstance(module, nn.Conv2d):
            places = module.kernel_size[0] * module.kernel_size[1]
            wanted = 0.1 if name == "iresnet18" else (2 / (places * module.out_channels)) ** 0.5
            # The standard error of a deviation over n draws is σ / √(2n): five of them, at a fixed seed.
            assert abs(module.weight.std().item() / wanted - 1) < 5 / (2 * module.weight.numel()) ** 0.5


def test_caffe_resnets_see_pixels_less_the_mean_of_the_data_in_blue_green_red() -> None:
    own = family("senet50_caffe")
    assert (own.color_order, own.input_size) == ("bgr", (224, 224))
    seen = [(200 / 255 - mean) / std for mean, std in zip(own.mean, own.std, strict=True)]
    assert seen == pytest.approx([200 - 91.4953, 200 - 103.8827, 200 - 131.0912])


@pytest.mark.parametrize("name", ["mobilefacenet", "inception_resnet_v1"])
def test_some_see_pixels_less_127_5_over_128(name: str) -> None:
    own = family(name)
    seen = [(200 / 255 - mean) / std for mean, std in zip(own.mean, own.std, strict=True)]
    assert seen == pytest.approx([(200 - 127.5) / 128] * 3)


def test_inception_resnet_equals_facenet_pytorchs_own() -> None:
    """Theirs are divided by their length; layers in the same order, so the same float32 numbers up to rounding."""
    theirs = pytest.importorskip("facenet_pytorch", reason="bash init_venv.sh --with detect").InceptionResnetV1().eval()
    ours = build_model("inception_resnet_v1", 512, (160, 160)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(F.normalize(ours(images)), theirs(images), rtol=1e-4, atol=1e-6)


def test_inception_resnet_refuses_images_that_its_last_reduction_has_no_place_for() -> None:
    with torch.device("meta"):
        with pytest.raises(InputError, match="sides of at least 75 pixels, got 74×75"):
            build_model("inception_resnet_v1", 8, (74, 75))
        assert build_model("inception_resnet_v1", 8, (75, 75)).eval()(torch.zeros(1, 3, 75, 75)).shape == (1, 8)
