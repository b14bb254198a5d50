"""Each loss beside the softmax against loops over samples, pairs and triplets in float64, on one to three ranks."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fr.losses import auxiliary
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.train.optimizer import build_sgd
from tests.bounds import peak_of_tensors
from tests.loss_reference import (
    BATCH,
    EMBED_SIZE,
    WEIGHTS,
    assert_equal,
    beside,
    head_with,
    make_case,
    own_part,
    reference_softmax,
)

ONES: list[tuple[int, dict[str, Any]]] = [
    (0, {"center_loss_weight": 0.01}),
    *((0, {"push_loss_weight": 3.0, "push_margin": margin}) for margin in (0.3, 0.7, 1.5)),
    *((0, {"push_plus_loss_weight": 3.0, "push_margin": margin}) for margin in (0.3, 0.7)),
    *((iteration, {"global_push_loss_weight": 3.0}) for iteration in (0, 20_000, 40_000, 100_000)),
    *((0, {"min_margin_loss_weight": 3.0, "min_margin": margin}) for margin in (0.7, 1.5, 1e-6)),
    *((0, {"triplet_loss_weight": 3.0, "triplet_mining": "hard", "triplet_margin": m}) for m in (0.2, 3.0)),
    *((0, {"triplet_loss_weight": 3.0, "triplet_mining": "semihard", "triplet_margin": m}) for m in (0.2, 3.0)),
    (0, {"margin_type": "mag", "lambda_g": 20.0}),
    (  # several at once, with a softmax that uses the same cosines
        20_000,
        {name: 0.5 for key, name in WEIGHTS.items() if key != "magnitude_loss"} | {"margin_type": "mag", "s": 8.0},
    ),
]
# (classes, iteration, what differs from the defaults); a case's number is its seed. 7 and 5 make uneven shards; with 4
# classes the last of three ranks has none, with 1 class the last two.
CASES = [(classes, *one) for classes in (7, 5, 4, 1) for one in ONES] + [
    (40, *ONES[-1]),
    (7, 20_000, {WEIGHTS[name]: 0.5 for name in WEIGHTS if name[:3] not in ("mag", "min")} | {"sub_centers": 2}),
]
MANY = [number for number, case in enumerate(CASES) if case[0] > 4]
FEW = [number for number, case in enumerate(CASES) if case[0] <= 4]


TAKEN, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def on_a_rank(numbers: list[int]) -> dict[str, Any]:
    """This rank's loss, figures and gradients of each case, and its centres of the centre loss afterwards."""
    results = {}
    for number in numbers:
        classes, iteration, changes = CASES[number]
        case, own = make_case(classes, number, changes.get("sub_centers", 1)), own_part()
        head = head_with(case["weight"], LossSettings(**changes))
        embeddings, labels = case["inputs"][own].clone().requires_grad_(), case["labels"][own]
        with head.step(iteration, labels, build_sgd(head.parameters(), 0.1, 0.9, 1e-4)):
            loss, figures = head(embeddings, labels)
            loss.backward()
        result = {"loss": loss.detach(), **figures, "embeddings": embeddings.grad, "weight": head.weight.grad}
        if "center_loss" in figures:
            head.auxiliary.move_centers(TAKEN)
            result["centers"] = head.auxiliary.centers.clone()
            _, figures = head(embeddings.detach(), labels)
            result["second"] = figures["center_loss"]
        results[str(number)] = result
    return results


def moved_centres(o: LossSettings, x: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Wen et al. eq. 4 from centres at 0, a class at a time."""
    centres = torch.zeros(classes, EMBED_SIZE, dtype=torch.float64)
    for j in range(classes):
        of_class = [row for row, label in zip(x, labels.tolist(), strict=True) if label == j]
        step = sum((centres[j] - row for row in of_class), torch.zeros(EMBED_SIZE)) / (1 + len(of_class))
        centres[j] = centres[j] - o.center_loss_lr * step
    return centres


@functools.cache
def wanted_of(number: int) -> dict[str, Any]:
    classes, iteration, changes = CASES[number]
    o, case = LossSettings(**changes), make_case(classes, number, changes.get("sub_centers", 1))
    weight, x, labels = case["weight"].clone().requires_grad_(), case["inputs"].clone().requires_grad_(), case["labels"]
    softmax, _, _ = reference_softmax(o, x, labels, weight)
    total, figures = beside(o, x, labels, weight, iteration)
    loss, figures = softmax + total, {"softmax_loss": softmax.detach(), **figures}
    loss.backward()
    extra = {}
    if "center_loss" in figures:
        centres = moved_centres(o, case["inputs"], labels, classes)
        offsets = case["inputs"] - centres[labels]
        figures["second"] = (offsets**2).sum(dim=1).mean()
        extra["centers"] = centres
    return {"of all": {"loss": loss.detach(), **figures}, "x": x.grad, "weight": weight.grad, **extra}


@pytest.mark.parametrize(
    ("world", "numbers"),
    [
        (1, MANY + FEW),
        (2, MANY),
        (3, MANY),
        (3, FEW),
    ],
    ids=["1", "2", "3", "3, some without classes"],
)
def test_each_auxiliary_loss_equals_loops_over_its_terms_on_any_number_of_ranks(
    run_distributed: Callable[..., list[dict[str, Any]]], world: int, numbers: list[int]
) -> None:
    ranks = run_distributed(world, on_a_rank, numbers)
    for number in numbers:
        wanted, results, what = wanted_of(number), [one[str(number)] for one in ranks], CASES[number]
        for result in results:
            wanted_names = {*wanted["of all"], "classification_accuracy", "embeddings", "weight"}
            assert result.keys() - {"centers"} == wanted_names, what
            for name, value in wanted["of all"].items():
                assert_equal(result[name], value, (name, what))
                assert torch.equal(result[name], results[0][name]), (name, what)
        # W times the reference: the loss is of all ranks, and DDP divides by W.
        assert_equal(torch.cat([result["embeddings"] for result in results]), world * wanted["x"], what)
        assert_equal(torch.cat([result["weight"] for result in results]), wanted["weight"], what)
        if "centers" in wanted:
            assert_equal(torch.cat([result["centers"] for result in results]), wanted["centers"], what)


def build(**changes: Any) -> MarginSoftmax:
    return MarginSoftmax(5, EMBED_SIZE, LossSettings(**changes), seed=0)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(BATCH, EMBED_SIZE, generator=torch.Generator().manual_seed(0)), torch.arange(BATCH) % 5


def test_a_weight_of_0_gives_no_figure_and_the_same_bits(one_rank: None) -> None:
    off = {name: 0.0 for key, name in WEIGHTS.items() if key != "magnitude_loss"}
    embeddings, labels = batch()
    loss, figures = build(**off)(embeddings, labels)
    assert figures.keys() == {"softmax_loss", "classification_accuracy"}
    assert torch.equal(loss.detach(), figures["softmax_loss"])
    assert not list(build(**off).buffers())


def test_a_loss_without_a_violated_term_is_0_with_gradients_of_0(one_rank: None) -> None:
    """Five identities at right angles, each sample on its own centre: nothing to push, no triplet violated."""
    names = {name: 1.0 for key, name in WEIGHTS.items() if key not in ("magnitude_loss", "center_loss")}
    for mining in ("hard", "semihard"):
        head = build(**names, triplet_mining=mining, s=1e-3)
        axes = torch.eye(EMBED_SIZE)[:5]
        with torch.no_grad():
            head.weight.copy_(axes)
        embeddings = axes.repeat(2, 1).requires_grad_()
        loss, figures = head(embeddings, torch.arange(5).repeat(2))
        assert all(figures[key] == 0 for key in WEIGHTS if key in figures)
        loss.backward()
        assert torch.equal(loss.detach(), figures["softmax_loss"])
        assert embeddings.grad is not None and embeddings.grad.abs().max() < 1e-3  # s times at most 1: the softmax's


def test_a_negative_as_near_as_the_positive_is_not_farther(one_rank: None) -> None:
    """Axes: the positive at distance 2 from both anchors, one negative too; the other at 4 from the first, 2 from the
    second, which has no farther negative."""
    first, second, third = torch.eye(EMBED_SIZE)[:3]
    head = build(triplet_loss_weight=1.0, triplet_mining="semihard", triplet_margin=0.5)
    _, figures = head(torch.stack([first, second, third, -first]), torch.tensor([0, 0, 1, 2]))
    assert figures["triplet_loss"] == (0 + 0.5) / 2


@pytest.mark.parametrize("mining", ["hard", "semihard"])
def test_identities_without_a_second_sample_and_a_batch_of_one_identity_make_no_triplets(
    one_rank: None, mining: str
) -> None:
    head = build(triplet_loss_weight=1.0, triplet_mining=mining)
    embeddings, _ = batch()
    for labels in (torch.arange(5), torch.zeros(5, dtype=torch.int64)):
        x = embeddings[:5].clone().requires_grad_()
        loss, figures = head(x, labels)
        loss.backward()
        assert figures["triplet_loss"] == 0
        assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e25])
def test_a_skipped_step_leaves_the_centres_as_they_were(one_rank: None, bad: float) -> None:
    head = build(center_loss_weight=0.1)
    embeddings, labels = batch()
    head(embeddings, labels)
    head.auxiliary.move_centers(TAKEN)
    before = head.auxiliary.centers.clone()
    assert before.abs().sum() > 0
    embeddings[3, 2] = bad
    head(embeddings, labels)
    head.auxiliary.move_centers(SKIPPED)
    assert torch.equal(head.auxiliary.centers, before)
    head.auxiliary.move_centers(TAKEN)  # nothing is left of the skipped step
    assert torch.equal(head.auxiliary.centers, before)


def test_centres_walk_to_the_mean_of_their_class_and_stay(one_rank: None) -> None:
    """A step of 0.5 × 4/5 of the way, 100 times: 0.6^100 = 1e-22 is left."""
    head = build(center_loss_weight=0.1)
    embeddings, _ = batch()
    labels = torch.arange(BATCH) % 3
    values = []
    for _ in range(100):
        _, figures = head(embeddings, labels)
        head.auxiliary.move_centers(TAKEN)
        values.append(figures["center_loss"].item())
    means = torch.stack([embeddings[labels == j].mean(dim=0) for j in range(3)])
    torch.testing.assert_close(head.auxiliary.centers[:3], means, rtol=1e-5, atol=1e-6)  # float32
    assert all(later <= earlier + 1e-5 for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("mining", ["hard", "semihard"])
def test_steps_downhill_make_every_loss_smaller(one_rank: None, mining: str) -> None:
    for key, name in WEIGHTS.items():
        changes: dict[str, Any] = {"margin_type": "mag"} if key == "magnitude_loss" else {}
        head = build(**{name: 1.0}, **changes, triplet_mining=mining, s=1e-4)  # the softmax hardly counts
        embeddings, labels = batch()
        x = (F.normalize(embeddings) * 12).requires_grad_()
        loss, before = head(x, labels)
        loss.backward()
        assert x.grad is not None and head.weight.grad is not None
        with torch.no_grad():
            head.weight.sub_(0.01 * head.weight.grad)
            _, after = head(x - 0.01 * x.grad, labels)
        assert after[key] < before[key], key


def test_semi_hard_triplets_take_the_memory_of_a_few_anchors(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All anchors at once took 7 · B · N² numbers."""
    samples, anchors = 160, 2
    monkeypatch.setattr(auxiliary, "PIECE", anchors * samples**2)
    head = build(triplet_loss_weight=1.0, triplet_mining="semihard")
    source = torch.Generator().manual_seed(0)
    x, labels = torch.randn(samples, EMBED_SIZE, generator=source).requires_grad_(), torch.arange(samples) % 5
    numbers = peak_of_tensors(lambda: torch.autograd.backward(head(x, labels)[0])) / x.itemsize
    assert numbers < (4 * anchors + 10) * samples**2
