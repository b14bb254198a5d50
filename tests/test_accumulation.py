"""`--accumulate 2` beside one batch, loss by loss: the same step, or one of the differences in docs/losses.md."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fr.distributed import rank, world_size
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import MARGINS, LossSettings
from fr.train.learner import Learner
from fr.train.optimizer import build_sgd

CLASSES, EMBED_SIZE, FEATURES, SAMPLES = 9, 6, 8, 24

# Terms between samples of different micro-batches, or means over a number of terms that later micro-batches change, or
# margins of micro-batches that come before the statistics are complete.
DIFFERENT: dict[str, dict[str, Any]] = {
    "ada": {"margin_type": "ada", "h": 3.0},
    "curricular": {"margin_type": "curricular"},
    "--push_loss_weight": {"push_loss_weight": 1.0},
    "--push_plus_loss_weight": {"push_plus_loss_weight": 1.0},
    "--global_push_loss_weight": {"global_push_loss_weight": 1.0},
    "--triplet_loss_weight": {"triplet_loss_weight": 1.0},
    "--triplet_mining semihard": {"triplet_loss_weight": 1.0, "triplet_mining": "semihard"},
    "--distill_relation_weight": {"distill_relation_weight": 1.0},
}
EQUAL: dict[str, dict[str, Any]] = {
    **{kind: {"margin_type": kind} for kind in MARGINS if kind not in DIFFERENT},
    "sv": {"mining_type": "sv", "t": 1.2},
    "focal": {"mining_type": "focal"},
    "smoothing": {"label_smoothing": 0.1},
    "straight": {"margin_type": "arc", "margin_gradient": "straight"},
    "sampling": {"sample_rate": 0.3},
    "centre": {"center_loss_weight": 0.05},
    "minimum margin": {"min_margin_loss_weight": 1.0, "min_margin": 1.2},
    "minimum margin, sampling": {"min_margin_loss_weight": 1.0, "min_margin": 1.2, "sample_rate": 0.3},
    "magnitude": {"margin_type": "mag", "lambda_g": 5.0},
    "distillation": {"distill_cosine_weight": 1.0, "distill_mse_weight": 1.0, "softmax_weight": 0.5},
}


def after_steps(changes: dict[str, Any], parts: int, iterations: int) -> dict[str, torch.Tensor]:
    """State after steps with `parts` micro-batches a rank, in float64; a network without batch norms."""
    torch.manual_seed(0)
    backbone = nn.Linear(FEATURES, EMBED_SIZE).double()
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(**changes), seed=1).double()
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.1, 0.9, 1e-4)
    learner = Learner(backbone, head, optimizer, teacher=lambda images: images[:, :EMBED_SIZE])
    learner.training_mode()
    share = SAMPLES // world_size()
    for iteration in range(iterations):
        source = torch.Generator().manual_seed(iteration)
        inputs = 20 * torch.randn(SAMPLES, FEATURES, dtype=torch.float64, generator=source)
        labels = torch.randint(CLASSES, (SAMPLES,), generator=source)
        own = slice(rank() * share, (rank() + 1) * share)
        batches = list(zip(*(every[own].chunk(parts) for every in (inputs, labels, inputs)), strict=True))
        learner.step(batches, iteration, 0.1)
    state = learner.state()
    return {name: tensor.clone() for name, tensor in {**state.whole, **state.rows}.items()}


def both(cases: dict[str, dict[str, Any]], iterations: int) -> dict[str, list[dict[str, torch.Tensor]]]:
    return {name: [after_steps(changes, parts, iterations) for parts in (1, 2)] for name, changes in cases.items()}


def differing(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> list[str]:
    # float64 with sums in another order; weights and centres are up to 100.
    assert one.keys() == two.keys()
    return [name for name in one if not torch.allclose(one[name], two[name], rtol=1e-9, atol=1e-10)]


@pytest.mark.parametrize("world", [1, 2])
def test_two_micro_batches_are_one_batch_for_every_loss_but_the_documented(
    world: int, run_distributed: Callable[..., list[Any]], one_rank: None
) -> None:
    """Weights, momentum, centres and statistics after three steps. Others would pass by: they must really differ."""
    cases = EQUAL | DIFFERENT
    of_one_rank = {name: after_steps(cases[name], 1, 3) for name in cases if "sampling" not in name}
    for results in run_distributed(world, both, cases, 3):
        different = {name for name, (one, two) in results.items() if differing(one, two)}
        assert different == DIFFERENT.keys()
        for name, wanted in of_one_rank.items():  # of the head each rank has its part
            shared = [key for key in wanted if key.startswith("backbone.")]
            assert not differing(*({key: state[key] for key in shared} for state in (results[name][0], wanted))), name


@pytest.mark.parametrize("world", [1, 2])
def test_running_statistics_move_once_a_step_as_those_of_one_batch(
    world: int, run_distributed: Callable[..., list[Any]]
) -> None:
    """AdaFace's mean and deviation and CurricularFace's t: equal after a step, though its margins weren't."""
    cases = {name: DIFFERENT[name] for name in ("ada", "curricular")}
    for results in run_distributed(world, both, cases, 1):
        for one, two in results.values():
            assert not {"head.norm_mean", "head.norm_std", "head.t"} & {*differing(one, two)}


def test_the_losses_that_differ_are_named_in_the_docs() -> None:
    text = Path(__file__).parents[1].joinpath("docs/losses.md").read_text(encoding="utf-8")
    section = text.partition("## Gradient accumulation\n")[2].partition("\n## ")[0]
    assert section
    for name in DIFFERENT:
        assert f"`{name.partition(' ')[0]}`" in section, name


def test_centres_under_accumulation_walk_to_the_means_and_stay(one_rank: None) -> None:
    """One move a step, of Wen et al. eq. 4 with n over all micro-batches, written out a class at a time.

    Each micro-batch's own move, from the same start, made 8 of them overshoot: 14.5 from the means became 3,990.
    """
    head = MarginSoftmax(3, EMBED_SIZE, LossSettings(center_loss_weight=0.1, center_loss_lr=0.9), seed=0).double()
    x = 5 * torch.randn(48, EMBED_SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(48) % 3
    wanted = torch.zeros(3, EMBED_SIZE, dtype=torch.float64)
    for _ in range(12):
        for part, of_part in zip(x.chunk(8), labels.chunk(8), strict=True):
            head(part, of_part)
        head.auxiliary.move_centers(torch.tensor(0.0))
        for j in range(3):
            of_class = x[labels == j]
            wanted[j] -= 0.9 * (wanted[j] - of_class).sum(dim=0) / (1 + len(of_class))
        torch.testing.assert_close(head.auxiliary.centers, wanted, rtol=1e-12, atol=1e-12)
    means = torch.stack([x[labels == j].mean(dim=0) for j in range(3)])
    assert (wanted - means).norm() < 1e-6
