"""Operators of a step beside the network's own forward and backward passes: few, and no more for a deeper network.

On a GPU each is a kernel or a few: one by one for each buffer and parameter they were half of all launches. And none
for whose result the host would wait.
"""

import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from fr.losses.classifier import MarginSoftmax
from fr.models import build_model
from fr.options.losses import MARGINS, LossSettings
from fr.train.ema import WeightAverage
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import OptimizerSettings, build_optimizer, build_sgd, parameter_groups

CLASSES, EMBED_SIZE = 10, 16


class Operators(TorchDispatchMode):
    """Counts operators that compute or copy; not views, nor new memory."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not (func.is_view or "empty" in func.name() or "detach" in func.name())
        return func(*args, **(kwargs or {}))


def operators_beside_the_passes(model: str) -> int:
    torch.manual_seed(0)
    backbone = build_model(model, EMBED_SIZE, (32, 32))
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(), seed=0)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.01, 0.9, 1e-4)
    learner = Learner(backbone, head, optimizer, StepSettings(clip_norm=5.0))
    learner.training_mode()
    batch = torch.randn(4, 3, 32, 32), torch.arange(4)
    learner.step([batch], 0, 0.01)  # what only a first step does
    with Operators() as step:
        learner.step([batch], 1, 0.01)
    with Operators() as passes:
        loss, _ = head(backbone(batch[0]), batch[1])
        torch.autograd.backward(loss)
    return step.count - passes.count


@pytest.mark.parametrize("model", ["mobilenet", "iresnet18", "iresnet34"])
def test_a_step_has_as_many_operators_for_any_network(model: str, one_rank: None) -> None:
    assert operators_beside_the_passes(model) <= 60


def test_a_moving_average_takes_a_few_operators(one_rank: None) -> None:
    average = WeightAverage(build_model("mobilenet", EMBED_SIZE, (32, 32)), 0.9)
    with Operators() as update:
        average.update(3, torch.zeros(()))
    assert update.count <= 20


# --- waiting for the device -------------------------------------------------------------------------------------------

aten = torch.ops.aten
# The host needs their result, or its shape.
WAITING = {
    *(aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.nonzero.default),
    *(aten.masked_select.default, aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
    *(aten.bincount.default, aten.repeat_interleave.Tensor),
}


class Waits(TorchDispatchMode):
    """Places in the code of operators for which the host would wait, if the tensors were on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if "index" in func.name() and len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        masks = (index for index in indices if isinstance(index, torch.Tensor) and index.dtype == torch.bool)
        if func in WAITING or any(True for _ in masks):
            self.places.append(f"{func.name()}: {traceback.format_stack(limit=6)}")
        return func(*args, **(kwargs or {}))


NAMES = ("center", "push", "push_plus", "global_push", "min_margin", "triplet")
AUXILIARY = {f"{name}_loss_weight": 0.1 for name in NAMES}
CASES: dict[str, tuple[dict[str, Any], StepSettings, int]] = {
    **{kind: ({"margin_type": kind}, StepSettings(clip_norm=5.0), 1) for kind in MARGINS},
    "easy margin": ({"margin_type": "arc", "easy_margin": True}, StepSettings(), 1),
    "straight-through": ({"margin_type": "arc", "margin_gradient": "straight"}, StepSettings(), 1),
    "support vectors, smoothed": ({"mining_type": "sv", "label_smoothing": 0.1}, StepSettings(), 1),
    "focal": ({"mining_type": "focal"}, StepSettings(), 1),
    "centres of a class": ({"sub_centers": 3}, StepSettings(), 1),
    "auxiliary losses": (AUXILIARY, StepSettings(), 1),
    "semi-hard triplets, two micro-batches": (AUXILIARY | {"triplet_mining": "semihard"}, StepSettings(), 2),
    "sampled classes": ({"sample_rate": 0.5}, StepSettings(precision="bf16"), 2),
    "fp16": ({"margin_type": "ada"}, StepSettings(clip_norm=5.0, precision="fp16"), 2),
    "frozen batch norms": ({"margin_type": "mag"}, StepSettings(freeze_bn=True), 1),
}


@pytest.mark.parametrize(("case", "optimizer"), [*((case, "sgd") for case in CASES), ("fp16", "adamw")])
def test_in_a_step_the_host_waits_for_nothing(case: str, optimizer: str, one_rank: None) -> None:
    loss, settings, micro_batches = CASES[case]
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU()
    backbone = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(144, EMBED_SIZE))
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(**loss), seed=0)
    named = {f"backbone.{name}": parameter for name, parameter in backbone.named_parameters()}
    groups = parameter_groups(named | {f"head.{name}": one for name, one in head.named_parameters()}, [], [])
    optimizer_of = build_optimizer(groups, OptimizerSettings(optimizer))
    learner = Learner(backbone, head, optimizer_of, settings, WeightAverage(backbone, 0.9))
    learner.training_mode()
    batches = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 0, 1, 2])) for _ in range(micro_batches)]
    learner.step(batches, 0, 0.01)  # a first step may wait
    with Waits() as waits:
        learner.step(batches, 1, 0.01)
    assert waits.places == []


def test_what_a_host_waits_for_is_seen() -> None:
    with Waits() as waits:
        values = torch.arange(4.0)
        float(values[1])
        values[values > 1]
    assert len(waits.places) == 2


# --- compiling --------------------------------------------------------------------------------------------------------


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile traces networks into graphs, and runs these without compiling them; counts begin at 0."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("model", "side", "settings"),
    [
        ("iresnet18", 32, {}),
        pytest.param("mobilenet", 32, {}, marks=pytest.mark.thorough),
        pytest.param("vit_t", 32, {"drop_path_rate": 0.1}, marks=pytest.mark.thorough),
        pytest.param("mobilefacenet", 32, {}, marks=pytest.mark.thorough),
        pytest.param("mbf", 112, {}, marks=pytest.mark.thorough),
        pytest.param("ir18", 32, {}, marks=pytest.mark.thorough),
        pytest.param("resnet34", 32, {}, marks=pytest.mark.thorough),
        pytest.param("resnet50_caffe", 64, {}, marks=pytest.mark.thorough),
        pytest.param("inception_resnet_v1", 96, {}, marks=pytest.mark.thorough),
    ],
)
def test_a_compiled_network_is_one_graph_that_no_later_step_compiles_again(
    model: str, side: int, settings: dict[str, Any], one_rank: None, traced_only: None
) -> None:
    torch.manual_seed(0)
    backbone = build_model(model, EMBED_SIZE, (side, side), settings)
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(), seed=0)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.01, 0.9, 1e-4)
    learner = Learner(backbone, head, optimizer, StepSettings(precision="bf16"), compiled=True)
    for iteration in range(4):
        learner.training_mode()
        learner.step([(torch.randn(2, 3, side, side), torch.arange(2))], iteration, 0.01 * iteration)
        backbone.eval()(torch.randn(3, 3, side, side))  # a validation
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
