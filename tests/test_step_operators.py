"""Operators of a step beside the network's own forward and backward passes: few, and no more for a deeper network.

On a GPU each is a kernel or a few: one by one for each buffer and parameter they were half of all launches.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fr.losses.classifier import MarginSoftmax
from fr.models import build_model
from fr.options.losses import LossSettings
from fr.train.ema import WeightAverage
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import build_sgd

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
