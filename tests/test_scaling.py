"""Formulas of docs/scaling.md against the collectives of real steps, counted on two to eight gloo ranks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fr.console import Received
from fr.data.bad_images import BadImages
from fr.distributed import rank
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.train.learner import Learner, StepSettings
from fr.train.loop import _asked, _reason_to_end
from fr.train.monitor import Silent
from fr.train.optimizer import build_sgd
from tests.conftest import ROOT
from tools.benchmarks.scaling import step_collectives, tables

CLASSES, EMBED_SIZE, SHARE = 40, 16, 3
# Name in torch's dispatcher → kind and which argument is the whole tensor.
KINDS = {
    "c10d::allreduce_": ("all_reduce", 0),
    "c10d::_allgather_base_": ("all_gather", 0),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
}


class Counter(TorchDispatchMode):
    """Kind and bytes of each collective, also of those that DDP starts in C++."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            kind, whole = KINDS[func.name().split(".")[0]]
            tensors = args[whole] if isinstance(args[whole], list) else [args[whole]]
            self.seen.append((kind, sum(tensor.nbytes for tensor in tensors)))
        return func(*args, **(kwargs or {}))


def counted_on_a_rank(width: int) -> tuple[list[tuple[str, int]], int]:
    """Collectives of the third iteration, and the number of the backbone's weights."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(5, width), nn.Linear(width, EMBED_SIZE))
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(), seed=0)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.01, 0.9, 1e-4)
    learner = Learner(backbone, head, optimizer, StepSettings(clip_norm=5.0))
    batch, bad = (torch.randn(SHARE, 5), torch.arange(SHARE) + rank()), BadImages(0)
    for iteration in range(2):  # after the first DDP's ranks agree on their buckets
        learner.step([batch], iteration, 0.01)
    with Counter() as counter:
        assert _reason_to_end(_asked([], None, Received(), bad), bad, Silent()) == (0, None)
        metrics = learner.step([batch], 2, 0.01)
        torch.stack(list(metrics.values())).tolist()  # a log record
    return counter.seen, sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize(("ranks", "width"), [(2, 20), (3, 60_000), pytest.param(8, 20, marks=pytest.mark.thorough)])
def test_a_step_has_the_collectives_of_the_formulas(
    run_distributed: Callable[..., list[Any]], ranks: int, width: int
) -> None:
    for seen, weights in run_distributed(ranks, counted_on_a_rank, width):
        parts = step_collectives(weights, EMBED_SIZE, SHARE * ranks)
        expected = {part: [(one.kind, one.size) for one in collectives] for part, collectives in parts.items()}
        before = expected["agreement"] + expected["head"]
        assert seen[: len(before)] == before
        assert seen[-1:] == expected["norm"]
        gradients = seen[len(before) : -1]  # DDP's buckets hold whole tensors, hence are of different sizes
        assert [kind for kind, _ in gradients] == [kind for kind, _ in expected["gradients"]]
        assert sum(size for _, size in gradients) == 4 * weights


def test_the_page_has_the_tables_of_the_command() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    for line in tables(65_150_912, 512, 64, 0.1):
        assert line in page
