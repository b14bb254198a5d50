"""Margins against the papers' formulas, and the sharded head against a plain float64 reference on one process (C5)."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fr.distributed import rank
from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.losses.margins import MARGINS, arcface, cosface
from fr.options import train_options

EMBED_SIZE = 6
MARGIN = {"cos": 0.35, "arc": 0.5}


def test_the_options_offer_exactly_the_margins_there_are() -> None:
    required = ["--train_data_root", "r", "--train_list", "l", "--train_landmarks", "m"]
    for margin in MARGINS:
        assert train_options([*required, "--margin_type", margin]).values.margin_type == margin


def angles(start: float, stop: float) -> torch.Tensor:
    return torch.linspace(start, stop, 2001, dtype=torch.float64)


def test_cosface_is_cos_theta_minus_m() -> None:
    theta = angles(0, math.pi)
    torch.testing.assert_close(cosface(theta.cos(), 0.35), theta.cos() - 0.35, rtol=0, atol=0)


@pytest.mark.parametrize("m", [0.1, 0.3, 0.5, 1.0])
def test_arcface_is_cos_of_theta_plus_m_up_to_pi(m: float) -> None:
    theta = angles(0.00101, math.pi - m - 1e-6)  # at angles below 0.001, sin θ is held at 0.001
    cos = theta.cos()
    # At θ = 0.001, √(1 - cos²) of a rounded cosine is off by 1e-16 / 0.001.
    torch.testing.assert_close(arcface(cos, m), (cos.arccos() + m).cos(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_arcface_falls_over_the_whole_range_of_angles(m: float, dtype: torch.dtype) -> None:
    logits = arcface(angles(0, math.pi).cos().to(dtype), m)
    # In float32 neighbours near θ = 0 and π are equal to rounding, half an ulp of 1 each way: they may not rise more.
    assert (logits.diff() <= (0.0 if dtype == torch.float64 else 1.2e-7)).all()
    assert logits[0] - logits[-1] > 1.9
    assert (logits <= angles(0, math.pi).cos().to(dtype)).all()  # a margin never helps


def test_arcface_beyond_pi_is_the_authors_linear_fall() -> None:
    theta = angles(math.pi - 0.5 + 1e-6, math.pi)
    torch.testing.assert_close(arcface(theta.cos(), 0.5), theta.cos() - 0.5 * math.sin(0.5), rtol=0, atol=1e-15)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_finite_at_and_next_to_the_ends(margin: str, dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).eps
    cos = torch.tensor([1.0, 1 - tiny, 1 + tiny, 0.0, -1.0, tiny - 1, -1 - tiny], dtype=dtype, requires_grad=True)
    y = MARGINS[margin](cos, MARGIN[margin])
    (gradient,) = torch.autograd.grad(y.sum(), cos)
    assert y.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient > 0).all()  # a larger cosine never gives a smaller logit


def test_arcface_has_the_true_gradient_where_that_is_finite() -> None:
    m = 0.5
    theta = angles(0.002, math.pi - m - 1e-3)
    cos = theta.cos().requires_grad_()
    (gradient,) = torch.autograd.grad(arcface(cos, m).sum(), cos)
    # θ from its cosine carries 1 ulp / sin²θ of relative error into sin θ: 1e-16 / 4e-6.
    torch.testing.assert_close(gradient, (theta + m).sin() / theta.sin(), rtol=1e-9, atol=0)


def reference_loss(
    embeddings: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, margin: str, s: float, m: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The papers' loss in one process: all embeddings [N, E], all centres [C, E] → mean loss, share of hits."""
    x = embeddings / embeddings.norm(dim=1, keepdim=True)
    w = weight / weight.norm(dim=1, keepdim=True)
    cos = x @ w.T
    theta = cos.arccos()
    on_and_on = torch.where(theta + m < math.pi, torch.cos(theta + m), cos - m * math.sin(m))
    held = {"cos": cos - m, "arc": on_and_on}[margin]
    one_hot = F.one_hot(labels, len(weight)).bool()
    logits = s * torch.where(one_hot, held, cos)
    hits = (logits.argmax(dim=1) == labels).double().mean()
    return F.cross_entropy(logits, labels), hits


def make_case(classes: int, seed: int) -> dict[str, torch.Tensor]:
    """A global batch of 12 (divides by 1, 2 and 3): a few samples near their centre, the rest anywhere."""
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, EMBED_SIZE, generator=source, dtype=torch.float64)
    labels = torch.randint(classes, (12,), generator=source)
    inputs = torch.randn(12, EMBED_SIZE, generator=source, dtype=torch.float64)
    inputs[:5] = inputs[:5] * 0.2 + weight[labels[:5]] * 3
    inputs[5] = -weight[labels[5]] + 0.1 * inputs[5]  # θ near π: the far side of ArcFace
    mixing = torch.eye(EMBED_SIZE, dtype=torch.float64) + 0.1 * torch.randn(
        EMBED_SIZE, EMBED_SIZE, generator=source, dtype=torch.float64
    )
    return {"weight": weight, "labels": labels, "inputs": inputs, "mixing": mixing}


CASES = [
    (classes, margin, s) for classes in (7, 2, 1, 12) for margin, s in (("cos", 30.0), ("arc", 64.0), ("arc", 256.0))
]


def on_a_rank() -> dict[str, Any]:
    """What this rank of the group gets: a result per case, and facts about the initial weights."""
    results: dict[str, Any] = {}
    for number, (classes, margin, s) in enumerate(CASES):
        case = make_case(classes, number)
        head = MarginSoftmax(classes, EMBED_SIZE, margin, s, MARGIN[margin], seed=5).double()
        first, rows = shard_rows(classes, dist.get_world_size(), rank())
        with torch.no_grad():
            head.weight.copy_(case["weight"][first : first + rows])
        own = slice(rank() * 12 // dist.get_world_size(), (rank() + 1) * 12 // dist.get_world_size())
        embeddings = case["inputs"][own].clone().requires_grad_()
        loss, hits = head(embeddings, case["labels"][own])
        loss.backward()
        result = {
            "loss": loss.detach(),
            "hits": hits,
            "embeddings": embeddings.grad,
            "weight": head.weight.grad,
        }
        head.weight.grad = None
        backbone = nn.Linear(EMBED_SIZE, EMBED_SIZE, bias=False).double()
        with torch.no_grad():
            backbone.weight.copy_(case["mixing"])
        replicas = DistributedDataParallel(backbone)
        loss, _ = head(replicas(case["inputs"][own]), case["labels"][own])
        loss.backward()
        result["backbone"] = backbone.weight.grad
        results[str(number)] = {name: tensor.clone() for name, tensor in result.items() if tensor is not None}
    results["initial"] = MarginSoftmax(7, EMBED_SIZE, "cos", 30.0, 0.35, seed=5).weight.detach()
    return results


def assert_equal(got: torch.Tensor, wanted: torch.Tensor | None) -> None:
    """float64 with sums in another order, cosines by arccos in the reference (1e-16 / sin θ); losses are up to 500,
    gradients up to s."""
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_sharded_head_equals_the_reference_on_any_number_of_ranks(
    run_distributed: Callable[..., list[dict[str, Any]]], world: int
) -> None:
    ranks = run_distributed(world, on_a_rank)
    for number, (classes, margin, s) in enumerate(CASES):
        case = make_case(classes, number)
        weight = case["weight"].requires_grad_()
        embeddings = case["inputs"].clone().requires_grad_()
        loss, hits = reference_loss(embeddings, case["labels"], weight, margin, s, MARGIN[margin])
        loss.backward()
        assert embeddings.grad is not None
        mixing = case["mixing"].requires_grad_()
        through, _ = reference_loss(
            case["inputs"] @ mixing.T, case["labels"], case["weight"].detach(), margin, s, MARGIN[margin]
        )
        through.backward()

        results = [one[str(number)] for one in ranks]
        for result in results:
            assert_equal(result["loss"], loss.detach())
            assert result["hits"] == pytest.approx(hits.item(), abs=1e-12)
            assert_equal(result["backbone"], mixing.grad)
        # W times the reference: the head's loss is of all ranks, and DDP divides by W.
        per_rank = torch.cat([result["embeddings"] for result in results])
        assert_equal(per_rank, world * embeddings.grad)
        shards = torch.cat([result["weight"] for result in results])
        assert_equal(shards, weight.grad)
        expected_rows = [len(result["weight"]) for result in results]
        assert expected_rows == [len(part) for part in chunks(classes, world)]

    start = torch.cat([one["initial"] for one in ranks])
    assert torch.equal(start, initial_of_one_process())


def chunks(classes: int, world: int) -> list[list[int]]:
    """⌈C / W⌉ classes a rank until there are none left."""
    share = math.ceil(classes / world)
    return [list(range(classes))[index * share : (index + 1) * share] for index in range(world)]


def initial_of_one_process(classes: int = 7, seed: int = 5) -> torch.Tensor:
    assert not dist.is_initialized()
    return MarginSoftmax(classes, EMBED_SIZE, "cos", 30.0, 0.35, seed).weight.detach()


def test_initial_centres_are_distinct_unit_vectors_of_seed_and_class() -> None:
    weight = initial_of_one_process()
    # One float32 rounding of each coordinate.
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(7), rtol=0, atol=3e-7)
    assert (weight @ weight.T - torch.eye(7)).abs().max() < 0.999
    assert torch.equal(initial_of_one_process(classes=9)[:7], weight)
    assert not torch.isclose(initial_of_one_process(seed=6), weight).all(dim=1).any()
    many = initial_of_one_process(classes=20_000)
    # The mean of 20,000 directions in 6 dimensions: √(1/6/20,000) = 0.003 a coordinate, five of them.
    assert many.mean(dim=0).abs().max() < 0.015
    assert (many < 0).any(dim=0).all()


def test_the_head_computes_in_float32_what_a_bf16_backbone_gives(one_rank: None) -> None:
    torch.manual_seed(0)
    head = MarginSoftmax(50, 32, "arc", 30.0, 0.5, seed=0)
    labels = torch.arange(20)
    embeddings = torch.randn(20, 32).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = head(embeddings, labels)
    loss.backward()
    full, _ = head(embeddings.detach().float(), labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, full)
    assert embeddings.grad is not None and embeddings.grad.dtype == torch.bfloat16
    assert head.weight.grad is not None and head.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("margin", MARGINS)
def test_zero_and_perfect_and_opposite_embeddings_have_finite_loss_and_gradients(one_rank: None, margin: str) -> None:
    head = MarginSoftmax(5, 8, margin, 256.0, MARGIN[margin], seed=0)
    centre = head.weight.detach()[0]
    embeddings = torch.stack([torch.zeros(8), centre, 1e4 * centre, -centre, 1e-8 * centre, centre * 1e-30])
    embeddings.requires_grad_()
    loss, _ = head(embeddings, torch.zeros(6, dtype=torch.int64))
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()
    assert head.weight.grad is not None and head.weight.grad.isfinite().all()


def test_a_margin_makes_the_loss_larger_and_hits_fewer(one_rank: None) -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(200, 8), torch.arange(200) % 4
    results = []
    for m in (0.0, 0.35):
        head = MarginSoftmax(4, 8, "cos", 10.0, m, seed=0)
        loss, hits = head(embeddings, labels)
        results.append((loss.item(), hits.item()))
    cosines = F.normalize(embeddings) @ F.normalize(initial_small()).T
    assert results[0][1] == pytest.approx((cosines.argmax(dim=1) == labels).float().mean().item(), abs=1e-6)
    assert results[1][0] > results[0][0] and results[1][1] < results[0][1]


def initial_small() -> torch.Tensor:
    return MarginSoftmax(4, 8, "cos", 10.0, 0.0, seed=0).weight.detach()
