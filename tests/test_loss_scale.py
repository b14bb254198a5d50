"""Loss scale of fp16: torch.amp.GradScaler's, step by step, on any number of ranks; and what it leaves alone."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fr.distributed import rank, world_size
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.train import loss_scale
from fr.train.learner import Learner, StepSettings
from fr.train.loss_scale import LossScale
from fr.train.optimizer import OptimizerSettings, build_optimizer, build_sgd, gradient_norm
from tests.conftest import Losses, records, same_weights

CPU = torch.device("cpu")
CLASSES, WIDTH, EMBED_SIZE, BATCH = 5, 8, 4, 6
LR, MOMENTUM, DECAY, CLIP = 0.02, 0.9, 1e-3, 5.0
# Embeddings this short have gradients that a scale of 65,536 makes larger than a float16 may be: some halvings.
SHORT = 0.05
BAD = 20


def test_the_scale_follows_thousands_of_steps_as_torchs_does() -> None:
    weight = nn.Parameter(torch.ones(()))
    theirs, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([weight], 0.0)
    ours = LossScale(CPU)
    for step in range(5000):
        bad = step in (0, 1, 7) or step == 4500
        weight.grad = None
        theirs.scale(weight * (math.inf if bad else 1.0)).backward()
        theirs.step(optimizer)
        theirs.update()
        ours.update(torch.tensor(float(bad)), torch.ones(()))
        assert ours.value.item() == theirs.get_scale()
    assert ours.value.item() == 65_536 / 8 * 2 * 2 / 2


def network() -> nn.Module:
    torch.manual_seed(3)
    first, last = nn.Linear(WIDTH, 6, bias=False), nn.Linear(6, EMBED_SIZE, bias=False)
    with torch.no_grad():
        last.weight.mul_(SHORT)
    return nn.Sequential(first, nn.PReLU(), last)


def steps(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels of the global batch of each step: the same, but in step BAD the last image is empty.

    Its embedding is 0, whose gradient is 1 / SHORTEST times that of a unit vector: too much for a float16.
    """
    images = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(4))
    batches = [(images.clone(), torch.arange(BATCH) % CLASSES) for _ in range(count)]
    for bad, _ in batches[BAD : BAD + 1]:
        bad[-1] = 0
    return batches


def trained(
    count: int, optimizer: str = "sgd", accumulate: int = 1, clip: float = CLIP, precision: str = "fp16"
) -> list[dict[str, torch.Tensor]]:
    """Metrics, and the backbone's weights, after each of `count` steps of all ranks together."""
    backbone = network()
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(margin_type="arc"), 0)
    chosen = OptimizerSettings(optimizer, LR, MOMENTUM, weight_decay=DECAY)
    built = build_optimizer([*backbone.parameters(), *head.parameters()], chosen)
    learner = Learner(backbone, head, built, StepSettings(clip, precision))
    learner.training_mode()
    seen = []
    for iteration, (images, labels) in enumerate(steps(count)):
        share = BATCH // world_size()
        own = slice(rank() * share, (rank() + 1) * share)
        parts = zip(images[own].chunk(accumulate), labels[own].chunk(accumulate), strict=True)
        metrics = learner.step([*parts], iteration, LR)
        seen.append(metrics | {name: tensor.clone() for name, tensor in backbone.state_dict().items()})
    return seen


def by_torch(count: int, optimizer: str, clip: float) -> list[dict[str, torch.Tensor]]:
    """The same in one process, with torch.amp.GradScaler: unscale, clip, step."""
    backbone = network()
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(margin_type="arc"), 0)
    parameters = [*backbone.parameters(), *head.parameters()]
    built = build_optimizer(parameters, OptimizerSettings(optimizer, LR, MOMENTUM, weight_decay=DECAY))
    scaler = torch.amp.GradScaler("cpu", growth_interval=loss_scale._GROWTH_STEPS)
    seen = []
    for images, labels in steps(count):
        with torch.autocast("cpu", torch.float16):
            embeddings = backbone(images)
        loss, _ = head(embeddings, labels)
        scaler.scale(loss).backward()
        scaler.unscale_(built)
        norm = gradient_norm(backbone.parameters(), head.parameters())
        for parameter in parameters if clip else []:
            assert parameter.grad is not None
            parameter.grad *= (clip / (norm + 1e-6)).clamp_max(1.0)
        scaler.step(built)
        scaler.update()
        built.zero_grad()
        figures = {"loss": loss.detach(), "gradient_norm": norm, "loss_scale": torch.tensor(scaler.get_scale())}
        seen.append(figures | {name: tensor.clone() for name, tensor in backbone.state_dict().items()})
    return seen


@pytest.mark.parametrize(("optimizer", "clip"), [("sgd", CLIP), ("sgd", 0.0), ("adamw", CLIP)])
def test_each_step_is_that_of_torchs_scaler(
    optimizer: str, clip: float, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "_GROWTH_STEPS", 4)
    ours, theirs = trained(24, optimizer, clip=clip), by_torch(24, optimizer, clip)
    scales = [step["loss_scale"].item() for step in ours]
    assert scales == [step["loss_scale"].item() for step in theirs]
    assert scales[0] == 32_768 and scales[BAD] < scales[BAD - 1] and any(one < other for one, other in pairwise(scales))
    for one, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            # Scaling by a power of two rounds nothing, unless a number is too small for a float32.
            torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-6, equal_nan=True)


def of_rank(accumulate: int) -> list[dict[str, torch.Tensor]]:
    return trained(24, accumulate=accumulate)


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 2), (2, 1), (3, 1), (3, 2)])
def test_ranks_and_micro_batches_share_one_scale_and_skip_together(
    ranks: int, accumulate: int, run_distributed: Callable[..., list[Any]], one_rank: None
) -> None:
    first, *others = run_distributed(ranks, of_rank, accumulate)
    for other in others:
        for one, same in zip(first, other, strict=True):  # to the bit; norms that are inf or nan, too
            assert all(torch.equal(one[name].nan_to_num(), same[name].nan_to_num()) for name in one)
    skips = [not step["gradient_norm"].isfinite() for step in first]
    assert skips[0] and skips[BAD] and not all(skips)  # of step BAD one image is why, of the last rank
    scale = 65_536.0
    for step, (before, after) in zip(first[1:], pairwise(first), strict=True):
        assert same_weights(weights_in(before), weights_in(after)) == (not step["gradient_norm"].isfinite())
    for step, skipped in zip(first, skips, strict=True):
        scale /= 2 if skipped else 1
        assert step["loss_scale"] == scale
    # The steps that weren't skipped are float32's, up to the 11 bits of a float16.
    halves = [step for step, skipped in zip(first[:BAD], skips, strict=False) if not skipped][:3]
    assert len(halves) > 1
    for half, single in zip(halves, trained(len(halves), precision="fp32"), strict=True):
        for name in ("loss", "gradient_norm"):
            torch.testing.assert_close(half[name], single[name], rtol=2e-2, atol=0)


def weights_in(step: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in step.items() if name.endswith("weight")}


def learner(scale: float = 0.0) -> Learner:
    backbone = network()
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(), 0)
    built = build_sgd([*backbone.parameters(), *head.parameters()], LR, MOMENTUM, DECAY)
    made = Learner(backbone, head, built, StepSettings(CLIP, "fp16"))
    made.training_mode()
    if scale:
        made.state().whole["loss_scale"][0] = scale
    return made


def everything(of: Learner) -> dict[str, torch.Tensor]:
    state = of.state()
    return {name: tensor.clone() for name, tensor in (state.whole | state.rows).items()}


@pytest.mark.parametrize(
    ("scale", "image", "in_a_row", "next_scale"),
    [(2.0**16, 0.5, 0, 2.0**15), (2.0**16, math.nan, 1, 2.0**16), (1.0, math.nan, 1, 1.0), (2.0, 0.5, 0, 2.0)],
)
def test_a_skipped_step_changes_the_scale_and_counts_as_bad_unless_the_scale_explains_it(
    scale: float, image: float, in_a_row: int, next_scale: float, one_rank: None
) -> None:
    one = learner(scale)
    before = everything(one)
    skipped = one.step([(torch.full((BATCH, WIDTH), image), torch.arange(BATCH) % CLASSES)], 0, LR)["skipped_steps"]
    after = everything(one)
    assert before.pop("loss_scale")[0] == scale and after.pop("loss_scale")[0] == next_scale
    assert same_weights(before, after) == bool(skipped) == (scale != 2.0)
    assert one.meters.in_a_row.item() == in_a_row


def test_bad_steps_in_a_row_are_counted_once_the_scale_is_down(one_rank: None) -> None:
    """A gradient that no scale makes finite ends a run after sixteen halvings more than with bf16."""
    one = learner()

    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * math.inf

    one.backbone.register_forward_hook(lambda _module, _inputs, output: Infinite.apply(output))
    counts = []
    for iteration in range(20):
        one.step([(torch.ones(BATCH, WIDTH), torch.arange(BATCH) % CLASSES)], iteration, LR)
        counts.append(one.meters.in_a_row.item())
    assert counts == [0] * 16 + [1, 2, 3, 4]


def test_a_run_goes_over_to_fp16_and_back(
    run_small: Callable[..., Losses], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train_to(last: int, precision: str) -> str:
        resume = ["--snap_to_resume", "auto"]
        run_small("--precision", precision, "--max_iterations", str(last), *resume, out=tmp_path)
        return capsys.readouterr().err

    train_to(2, "fp32")
    said = train_to(4, "fp16")
    assert '--precision "fp32" → "fp16"' in said and "warning: --precision fp16 is for GPUs" in said
    assert '--precision "fp16" → "fp32"' in train_to(6, "fp32")
    log = records(tmp_path / "logs")
    assert ["loss_scale" in record for record in log] == [False] * 2 + [True] * 2 + [False] * 2
    assert log[2]["loss_scale"] in (65_536, 32_768)
