"""The head's products in TF32: on with every precision but fp32, and less wrong than embeddings in bf16.

A CPU has no TF32. What it does to a product is emulated: operands of 10 bits of mantissa, a sum in float32. Whether a
GPU rounds the operands or cuts them off is nowhere documented, so both are held.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fr.distributed import PRECISIONS
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import build_sgd

CLASSES, SAMPLES, EMBED_SIZE = 5_000, 64, 512
Outcome = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def to_nearest(values: torch.Tensor) -> torch.Tensor:
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def cut_off(values: torch.Tensor) -> torch.Tensor:
    return (values.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


class Products(TorchDispatchMode):
    """Matrix products of operands that `change` has changed. count: of the products."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.change, self.count = change, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.mm:
            self.count += 1
            args = tuple(map(self.change, args))
        return func(*args, **(kwargs or {}))


def outcome(embeddings: torch.Tensor, labels: torch.Tensor, head: MarginSoftmax) -> Outcome:
    """Loss, gradient of the embeddings and gradient of the centres."""
    asked = embeddings.clone().requires_grad_()
    head.weight.grad = None
    loss, _ = head(asked, labels)
    loss.backward()
    assert asked.grad is not None and head.weight.grad is not None
    return loss.detach(), asked.grad, head.weight.grad


def errors(one: Outcome, exact: Outcome) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(one, exact, strict=True)]


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("change", [to_nearest, cut_off])
def test_tf32_errs_less_than_embeddings_in_bf16(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(s=64, m=0.5), seed=0)
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=source)
    noise = torch.nn.functional.normalize(torch.randn(SAMPLES, EMBED_SIZE, generator=source))
    embeddings = 20 * (head.weight.detach()[labels] + 1.5 * noise)
    exact = outcome(embeddings, labels, head)
    assert 4 < exact[0] < 12  # amid a training
    products = Products(change)
    with products:
        in_tf32 = errors(outcome(embeddings, labels, head), exact)
    assert products.count == 3
    of_bf16 = errors(outcome(embeddings.bfloat16().float(), labels, head), exact)
    assert in_tf32[0] < 5e-3 and max(in_tf32[1:]) < 1.5e-3
    assert in_tf32[1] < of_bf16[1] and in_tf32[2] < of_bf16[2]


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_fp32_has_ieee_products(precision: str) -> None:
    allowed: list[bool] = []

    class Noting(MarginSoftmax):
        def forward(self, *arguments: Any) -> Any:
            def note(*_: Any) -> None:
                allowed.append(torch.backends.cuda.matmul.allow_tf32)

            note()
            loss, metrics = super().forward(*arguments)
            loss.register_hook(note)
            return loss, metrics

    backbone, head = nn.Linear(3, 8), Noting(10, 8, LossSettings(), seed=0)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.1, 0.9, 0.0)
    learner = Learner(backbone, head, optimizer, StepSettings(precision=precision))
    learner.step([(torch.randn(4, 3), torch.arange(4))], 0, 0.1)
    assert allowed == [precision != "fp32"] * 2
    assert not torch.backends.cuda.matmul.allow_tf32
