"""Backbones against published figures, an independent table, torch.nn's layers, and a GPU that isn't there."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.losses.sampling import drawn_count
from fr.models import MODELS, build_model
from fr.models.mobilenet import InvertedResidual, MobileFaceNet
from fr.options.losses import MARGINS, LossSettings
from fr.options.names import MODEL_NAMES
from fr.train.optimizer import build_sgd


def test_the_options_offer_exactly_the_models_there_are() -> None:
    assert tuple(MODELS) == MODEL_NAMES


# The backbone of face_recognition.pytorch's mobilenet, counted on that code.
@pytest.mark.parametrize(("embed_size", "parameters"), [(128, 1_050_942), (256, 1_116_478)])
def test_mobilenet_has_the_published_number_of_parameters(embed_size: int, parameters: int) -> None:
    model = build_model("mobilenet", embed_size, (128, 128))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_mobilenet_has_the_published_cost() -> None:
    model = build_model("mobilenet", 256, (128, 128)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 128, 128))
    macs = counter.get_total_flops() / 2  # two operations a multiply-accumulate
    assert round(macs / 1e6, 1) == 288.7  # as published: to 0.1 M


# Backbone and E-dim linear of facenet-pytorch-centerloss-vggface2 at 128, in millions.
@pytest.mark.parametrize(("name", "millions"), [("resnet34", 21.35), ("resnet50", 23.77), ("resnet101", 42.76)])
def test_resnets_are_torchvisions_with_embeddings_of_length_10(name: str, millions: float) -> None:
    model = build_model(name, 128, (160, 160)).eval()
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions
    theirs = getattr(torchvision.models, name)(num_classes=128).eval()
    theirs.load_state_dict({key.removeprefix("model."): value for key, value in model.state_dict().items()})
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = theirs(images)
        torch.testing.assert_close(model(images), 10 * plain / plain.norm(dim=1, keepdim=True))


def expected_convolutions(embed_size: int, last_map: int) -> list[tuple[int, ...]]:
    """(inputs, outputs, kernel, stride, groups) in order, written out from the description of the reference."""
    rows = [(3, 64, 3, 2, 1), (64, 64, 3, 1, 64)]
    inputs = 64
    for t, c, n, s in [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)]:
        for stride in [s] + [1] * (n - 1):
            wide = t * inputs
            rows += [(inputs, wide, 1, 1, 1), (wide, wide, 3, stride, wide), (wide, c, 1, 1, 1)]
            rows += [(c, c // 8, 1, 1, 1), (c // 8, c, 1, 1, 1)]  # squeeze-excitation
            inputs = c
    return [*rows, (128, 512, 1, 1, 1), (512, 512, last_map, 1, 512), (512, embed_size, 1, 1, 1)]


@pytest.mark.parametrize("side", [128, 64])
def test_mobilenet_is_made_of_the_reference_layers_in_order(side: int) -> None:
    model = build_model("mobilenet", 96, (side, side))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    shapes = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.groups) for c in convolutions]
    assert shapes == expected_convolutions(96, side // 16)
    # Only squeeze-excitation has biases; every activation is a PReLU of one slope that starts at 0.25.
    blocks = [m for m in model.modules() if isinstance(m, InvertedResidual)]
    assert len(blocks) == 15
    assert sum(c.bias is not None for c in convolutions) == 2 * len(blocks)
    activations = [m for m in model.modules() if isinstance(m, nn.PReLU)]
    assert len(activations) == 3 + 3 * len(blocks)
    assert all(activation.weight.tolist() == [0.25] for activation in activations)
    # Skips: all but the blocks that change the size of the map or the number of channels.
    assert [block.keeps_shape for block in blocks] == [False, *[True] * 4, False, *[True] * 6, False, *[True] * 2]


@pytest.mark.parametrize("size", [(128, 128), (64, 64), (128, 96)])
def test_mobilenet_gives_one_embedding_an_image(size: tuple[int, int]) -> None:
    model = build_model("mobilenet", 32, size).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, *size)).shape == (2, 32)


def test_mobilenet_starts_with_the_reference_spread_of_weights() -> None:
    torch.manual_seed(1)
    model = build_model("mobilenet", 256, (128, 128))
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        wanted = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
        count = conv.weight.numel()
        # The standard error of a deviation over n draws is σ / √(2n), of a mean σ / √n: five of them is a chance of
        # 6e-7 a layer, and the seed is fixed.
        assert abs(conv.weight.std().item() / wanted - 1) < 5 / (2 * count) ** 0.5
        assert abs(conv.weight.mean().item() / wanted) < 5 / count**0.5
        assert conv.bias is None or not conv.bias.any()


def test_the_weights_are_a_function_of_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build_model("mobilenet", 32, (64, 64)).parameters())

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_channels_last_changes_nothing_but_the_rounding() -> None:
    torch.manual_seed(0)
    model = build_model("mobilenet", 64, (64, 64))
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        plain = model(images)
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.reset_running_stats()
        other = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    # Sums in another order, through 50 layers with batch norms: 1e-4 of the embedding's size is about 1000 roundings
    # of float32; a wrong layout gives differences of the size itself.
    assert F.mse_loss(other, plain).sqrt() < 1e-4 * plain.square().mean().sqrt()


# (4, 3): the last of ranks that all have classes; (64, 63): a rank without any. The others are like (4, 3).
RANKS = [(4, 3), (64, 63), *(pytest.param(ranks, marks=pytest.mark.thorough) for ranks in ((1, 0), (64, 5)))]


@pytest.fixture(params=RANKS, ids=lambda ranks: f"rank {ranks[1]} of {ranks[0]}")
def fake_ranks(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A process group whose collectives do nothing: one rank of many, in one process."""
    world, rank = request.param
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    yield world, rank
    dist.destroy_process_group()


def to_fake_gpu(module: nn.Module) -> None:
    """Parameters and buffers become fakes on cuda:0; any other tensor that the module has stays where it was made."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                on_gpu = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda:0")
                part.register_parameter(name, nn.Parameter(on_gpu))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda:0"))


MIXED = r"(?i)different devices|same device|device mismatch|FakeTensor"
ALL_AUXILIARY = {
    f"{name}_loss_weight": 0.1 for name in ("center", "push", "push_plus", "global_push", "min_margin", "triplet")
}
LOSSES: dict[str, dict[str, Any]] = {
    **{margin: {"margin_type": margin} for margin in MARGINS},
    "arc, easy": {"margin_type": "arc", "easy_margin": True},
    "straight gradient": {"margin_gradient": "straight"},
    "sv, smoothed": {"mining_type": "sv", "label_smoothing": 0.1},
    "focal": {"mining_type": "focal"},
    "companions": ALL_AUXILIARY,
    "semihard triplets": {"triplet_loss_weight": 0.1, "triplet_mining": "semihard"},
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_forward_pass_on_a_gpu_makes_no_tensor_elsewhere(fake_ranks: tuple[int, int], loss: dict[str, Any]) -> None:
    world, rank = fake_ranks
    head = MarginSoftmax(101, 32, LossSettings(**loss), seed=0)
    columns = 33 if loss.get("margin_type") == "linear" else 32  # the bias
    assert head.weight.shape == (shard_rows(101, world, rank)[1], columns)
    companions = {name.removesuffix("_weight") for name in loss if name.endswith("_loss_weight")}
    companions |= {"magnitude_loss"} if loss.get("margin_type") == "mag" else set()
    with FakeTensorMode(allow_non_fake_inputs=False):
        to_fake_gpu(head)
        embeddings = torch.empty(2, 32, device="cuda:0", requires_grad=True)
        labels = torch.empty(2, dtype=torch.int64, device="cuda:0")
        for given in (embeddings, embeddings.bfloat16()):
            trained, figures = head(given, labels)
            assert figures.keys() == {"softmax_loss", "classification_accuracy"} | companions
            for figure in (trained, *figures.values()):
                assert figure.device == torch.device("cuda:0")
                assert figure.shape == () and figure.dtype == torch.float32
        assert all(buffer.device == torch.device("cuda:0") for buffer in head.buffers())
        for mixed in (lambda: head(embeddings.cpu(), labels), lambda: head(embeddings, labels.cpu())):
            with pytest.raises(RuntimeError, match=MIXED):
                mixed()


def test_the_backbone_on_a_gpu_makes_no_tensor_elsewhere() -> None:
    backbone = MobileFaceNet(32, (64, 64))
    with FakeTensorMode(allow_non_fake_inputs=False):
        to_fake_gpu(backbone)
        images = torch.empty(2, 3, 64, 64, device="cuda:0")
        embeddings = backbone(images)
        assert embeddings.device == torch.device("cuda:0") and embeddings.shape == (2, 32)
        with pytest.raises(RuntimeError, match=MIXED):
            backbone(images.cpu())


class NoGenerator:
    def __init__(self, device: torch.device) -> None: ...
    def manual_seed(self, seed: int) -> None: ...


@pytest.mark.parametrize("loss", [*LOSSES.values(), {"sample_rate": 0.3}], ids=[*LOSSES, "sampled"])
def test_forward_and_backward_make_no_tensor_on_another_device(
    fake_ranks: tuple[int, int], loss: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On `meta`, since backward needs a driver even on a fake GPU. It has neither autocast nor generators."""
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_settings: nullcontext())
    monkeypatch.setattr(torch, "Generator", NoGenerator)
    head = MarginSoftmax(101, 32, LossSettings(**loss), seed=0).to("meta")
    optimizer = build_sgd(head.parameters(), 0.1, 0.9, 0.0)
    classes = len(head.weight)
    embeddings = torch.empty(2, 32, device="meta", requires_grad=True)
    labels = torch.empty(2, dtype=torch.int64, device="meta")
    with head.step(0, labels, optimizer):
        trained, _ = head(embeddings, labels)
        trained.backward()
        assert head.weight.grad is not None and head.weight.grad.shape == head.weight.shape
        assert len(head.weight) == drawn_count(classes, 2 * fake_ranks[0], loss.get("sample_rate", 1.0))
        assert {tensor.device.type for tensor in (head.weight.grad, *head.buffers())} == {"meta"}
    assert embeddings.grad is not None and embeddings.grad.device.type == "meta"
    assert len(head.weight) == classes
