"""The sharded head against a plain float64 reference on one process, and its numbers where floats end."""

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from fr.losses import auxiliary, sharded
from fr.losses.classifier import MarginSoftmax, _initial_centres
from fr.losses.negatives import Curriculum, Negatives, SupportVectors
from fr.losses.sharded import SHORTEST, Shard, cosines_to, cross_entropy
from fr.options.losses import MARGINS, LossSettings
from fr.train.optimizer import build_sgd
from tests.loss_reference import (
    EMBED_SIZE,
    arc,
    assert_equal,
    beside,
    head_with,
    make_case,
    own_part,
    reference_softmax,
)

COSINES = [kind for kind in MARGINS if kind != "linear"]  # tests/test_linear_head.py has that
SV = {"mining_type": "sv", "t": 1.25}
FOCAL = {"mining_type": "focal"}
STRAIGHT = {"margin_gradient": "straight"}
SMOOTH = {"label_smoothing": 0.1}

# (classes, iteration, what differs from the defaults)
CASES: list[tuple[int, int, dict[str, Any]]] = [
    *((7, 0, {"margin_type": kind}) for kind in COSINES),
    *((7, 0, {"margin_type": kind, **STRAIGHT}) for kind in COSINES[1:]),
    *((5, 0, {"margin_type": kind, **SV}) for kind in ("cos", "arc", "softmax", "mag", "ada")),
    *((7, 0, {"margin_type": kind, **FOCAL, "s": 4.0}) for kind in ("cos", "arc", "curricular")),
    *((12, 0, {"margin_type": kind, **SMOOTH}) for kind in ("cos", "softmax", "arc", "curricular", "mag")),
    (7, 0, {**SMOOTH, **SV}),
    (7, 0, {"margin_type": "arc", **SMOOTH, **SV, **STRAIGHT}),
    (7, 0, {**FOCAL, "gamma": 1.0}),
    (7, 0, {"margin_type": "arc", "easy_margin": True}),
    (7, 300, {"margin_type": "sphere"}),
    (7, 10**6, {"margin_type": "sphere", "m": 2.0}),
    (7, 0, {"margin_type": "ada", "h": 30.0}),  # clear and unclear faces on both sides of the middle
    (12, 0, {"margin_type": "arc", "s": 256.0}),
    (7, 0, {"margin_type": "arc", "s": 64.0, **SV}),
    (7, 0, {"margin_type": "combined", "m1": 1.3, "s": 1.0}),
    *((2, 0, changes) for changes in ({}, SV, SMOOTH, {"margin_type": "curricular"}, {"margin_type": "ada"})),
    *((1, 0, changes) for changes in ({}, {"margin_type": "arc", **SMOOTH}, {"margin_type": "mag"}, {**FOCAL})),
    *((7, 0, {"margin_type": kind, "sub_centers": 3}) for kind in COSINES),
    *((12, 0, {"margin_type": "arc", "sub_centers": 2, **changes}) for changes in (SV, FOCAL, SMOOTH, STRAIGHT)),
    *((2, 0, {"margin_type": kind, "sub_centers": 10}) for kind in ("arc", "curricular")),
]


def on_a_rank(piece: int) -> dict[str, Any]:
    """Results of this rank of the group: a result per case, of two batches one after the other, and initial centres."""
    sharded.PIECE = piece
    results: dict[str, Any] = {}
    for number, (classes, iteration, changes) in enumerate(CASES):
        case, own = make_case(classes, number, changes.get("sub_centers", 1)), own_part()
        head = head_with(case["weight"], LossSettings(**changes))
        optimizer = build_sgd(head.parameters(), 0.1, 0.9, 1e-4)
        embeddings = case["inputs"][own].clone().requires_grad_()
        labels = case["labels"][own]
        with head.step(iteration, labels, optimizer):
            loss, figures = head(embeddings, labels)
            loss.backward()
        result = {"loss": loss, **figures, **{name: buffer.clone() for name, buffer in head.named_buffers()}}
        result |= {"embeddings": embeddings.grad, "weight": head.weight.grad}
        head.weight.grad = None
        backbone = nn.Linear(EMBED_SIZE, EMBED_SIZE, bias=False).double()
        with torch.no_grad():
            backbone.weight.copy_(case["mixing"])
        replicas = DistributedDataParallel(backbone)
        with head.step(iteration, labels, optimizer):
            loss, _ = head(replicas(case["inputs"][own]), labels)
            loss.backward()
        result |= {"second": loss, "backbone": backbone.weight.grad}
        results[str(number)] = {name: value.detach().clone() for name, value in result.items() if value is not None}
    results["initial"] = MarginSoftmax(7, EMBED_SIZE, LossSettings(), seed=5).weight.detach()
    return results


def chunks(classes: int, world: int) -> list[int]:
    """⌈C / W⌉ classes a rank until there are none left."""
    share = math.ceil(classes / world)
    return [len(range(classes)[index * share : (index + 1) * share]) for index in range(world)]


@functools.cache
def wanted_of(number: int) -> dict[str, Any]:
    """Results that `on_a_rank` would get if it were alone and wrote out the papers."""
    classes, iteration, changes = CASES[number]
    o, case = LossSettings(**changes), make_case(classes, number, changes.get("sub_centers", 1))
    weight, embeddings = case["weight"].clone().requires_grad_(), case["inputs"].clone().requires_grad_()
    softmax, hits, memory = reference_softmax(o, embeddings, case["labels"], weight, iteration=iteration)
    mixing = case["mixing"].requires_grad_()
    moved = case["inputs"] @ mixing.T
    second, _, _ = reference_softmax(o, moved, case["labels"], case["weight"], memory, iteration)
    (total, figures), (total_of_second, _) = (
        beside(o, x, case["labels"], case["weight"], iteration) for x in (embeddings, moved)
    )
    loss, second = softmax + total, second + total_of_second
    loss.backward()
    second.backward()
    figures |= {"softmax_loss": softmax.detach(), "classification_accuracy": hits}
    remembers = {"ada": {"norm_mean": "mean", "norm_std": "std"}, "curricular": {"t": "t"}}.get(o.margin_type, {})
    return {
        "of all": {
            **{"loss": loss.detach(), "second": second.detach(), "backbone": mixing.grad, **figures},
            **{name: memory[ours] for name, ours in remembers.items()},
        },
        "embeddings": embeddings.grad,
        "weight": weight.grad,
    }


@pytest.mark.parametrize(
    ("world", "piece"),
    [
        *((1, 10**6), (2, 10**6), (1, 24), (3, 1)),
        *(pytest.param(world, 10**6, marks=pytest.mark.thorough) for world in (3, 4)),
    ],
)
def test_the_sharded_head_equals_the_reference_on_any_number_of_ranks(
    run_distributed: Callable[..., list[dict[str, Any]]], world: int, piece: int
) -> None:
    ranks = run_distributed(world, on_a_rank, piece)
    for number, what in enumerate(CASES):
        wanted, results = wanted_of(number), [one[str(number)] for one in ranks]
        for result in results:
            assert result.keys() == {*wanted["of all"], "embeddings", "weight"}, what
            for name, value in wanted["of all"].items():
                assert_equal(result[name], value, (name, what))
                if name != "backbone":  # of which DDP takes care
                    assert torch.equal(result[name], results[0][name]), (name, what)
        # W times the reference: the head's loss is of all ranks, and DDP divides by W.
        assert_equal(torch.cat([result["embeddings"] for result in results]), world * wanted["embeddings"], what)
        assert_equal(torch.cat([result["weight"] for result in results]), wanted["weight"], what)
        assert [len(result["weight"]) for result in results] == chunks(what[0], world)

    assert torch.equal(torch.cat([one["initial"] for one in ranks]), initial_of_one_process())


def initial_of_one_process(classes: int = 7, seed: int = 5, embed_size: int = EMBED_SIZE) -> torch.Tensor:
    assert not dist.is_initialized()
    return MarginSoftmax(classes, embed_size, LossSettings(), seed).weight.detach()


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


def test_initial_sub_centres_are_distinct_unit_vectors_of_seed_and_class() -> None:
    settings = LossSettings(sub_centers=3)
    whole = MarginSoftmax(7, EMBED_SIZE, settings, 5).weight.detach()
    assert torch.equal(_initial_centres(5, 4, 2, EMBED_SIZE, settings), whole[4:6])
    centres = whole.view(21, EMBED_SIZE)
    assert centres.norm(dim=1).allclose(torch.ones(21)) and (centres @ centres.T - torch.eye(21)).max() < 0.999


def test_initial_centres_are_the_same_however_they_are_cut_into_blocks() -> None:
    whole = initial_of_one_process(classes=140_000, embed_size=2)
    assert torch.equal(whole[:7], initial_of_one_process(embed_size=2))
    for first, rows in ((65_000, 1000), (65_536, 10), (131_000, 200), (139_999, 1)):
        assert torch.equal(_initial_centres(5, first, rows, 2, LossSettings()), whole[first : first + rows])
    assert len(whole.unique(dim=0)) > 139_000  # float32 has few enough directions in a plane for some to meet
    assert whole.norm(dim=1).sub(1).abs().max() < 3e-7


def cosines_again(unit: torch.Tensor, weight: torch.Tensor, shard: Shard) -> tuple[torch.Tensor, ...]:
    """`cosines_to`, computed anew in each backward pass, which overwrites them: gradcheck makes several."""
    result: tuple[torch.Tensor, ...] = checkpoint(cosines_to, unit, weight, shard, use_reentrant=False)
    return result


@pytest.mark.parametrize("seed", [0, 1])
def test_cosines_pass_gradcheck_for_centres_of_any_length(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    unit = F.normalize(torch.randn(6, 5, generator=source, dtype=torch.float64)).requires_grad_()
    centres = torch.randn(4, 5, generator=source, dtype=torch.float64)
    centres = (centres * torch.tensor([[0.1], [1.0], [3.0], [40.0]])).requires_grad_()
    shard = Shard(torch.tensor([0, 3, 2, 2, 0, 1]), torch.tensor([True, True, True, True, False, True]))
    assert torch.autograd.gradcheck(functools.partial(cosines_again, shard=shard), (unit, centres))
    cosines, targets = cosines_to(unit, centres, shard)
    wanted = (unit @ centres.T / centres.norm(dim=1)).detach()
    torch.testing.assert_close(cosines.detach(), wanted, rtol=1e-14, atol=1e-15)
    assert targets.tolist() == [cosines[0, 0], cosines[1, 3], cosines[2, 2], cosines[3, 2], 0, cosines[5, 1]]
    # Shorter than is normalised: a fixed divisor.
    tiny = (torch.randn(4, 5, generator=source, dtype=torch.float64) * 1e-7).requires_grad_()
    (gradient,) = torch.autograd.grad(cosines_to(unit, tiny, shard)[0].sum(), tiny)
    torch.testing.assert_close(gradient, (unit.sum(dim=0) / SHORTEST).detach().expand(4, 5), rtol=1e-12, atol=0)
    loss = cosines_to(unit, centres, shard)[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", [Negatives(), SupportVectors(1.25), Curriculum(torch.tensor(0.3).double())])
def test_the_cross_entropy_passes_gradcheck(one_rank: None, kind: Negatives, smoothing: float) -> None:
    source = torch.Generator().manual_seed(3)
    unit = F.normalize(torch.randn(6, 4, generator=source, dtype=torch.float64)).requires_grad_()
    centres = torch.randn(5, 4, generator=source, dtype=torch.float64).requires_grad_()
    phi = (2 * torch.rand(6, generator=source, dtype=torch.float64) - 1.2).requires_grad_()
    shard = Shard(torch.tensor([0, 4, 2, 2, 1, 3]), torch.ones(6, dtype=torch.bool))
    # No cosine within gradcheck's step of its threshold, and some on both sides.
    cosines = (unit @ F.normalize(centres).T).detach()
    assert (cosines - phi[:, None]).abs().min() > 1e-4 and 5 < (cosines > phi[:, None]).sum() < 25

    def losses(unit: torch.Tensor, centres: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        cosines, targets = cosines_again(unit, centres, shard)
        return cross_entropy(cosines, phi + 0.1 * targets, shard, 4.0, smoothing, 5, kind)[0]

    assert torch.autograd.gradcheck(losses, (unit, centres, phi))


PIECES = [{}, SV, SMOOTH, {"margin_type": "curricular"}, {"triplet_loss_weight": 1.0, "triplet_mining": "semihard"}]


@pytest.mark.parametrize("changes", PIECES)
def test_pieces_change_no_bit_of_loss_and_gradients(
    one_rank: None, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Rows are summed as a whole, and classes over all samples: each in the order of the whole tensor."""
    head = MarginSoftmax(1003, 16, LossSettings(**changes), seed=0)
    source = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(24, 16, generator=source), torch.arange(24) % 5 * 250
    whole = on_one_rank(head, embeddings, labels)
    head = MarginSoftmax(1003, 16, LossSettings(**changes), seed=0)
    for module in (sharded, auxiliary):
        monkeypatch.setattr(module, "PIECE", 3500)  # 3 samples of 8, 128 classes of 1003, 6 anchors of 24
    for one, other in zip(whole, on_one_rank(head, embeddings, labels), strict=True):
        assert torch.equal(one, other)


def on_one_rank(head: MarginSoftmax, embeddings: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    embeddings = embeddings.clone().requires_grad_()
    loss, _ = head(embeddings, labels)
    loss.backward()
    assert embeddings.grad is not None and head.weight.grad is not None
    return loss.detach(), embeddings.grad, head.weight.grad


MININGS: list[dict[str, Any]] = [{}, SV, FOCAL, SMOOTH, STRAIGHT]


@pytest.mark.parametrize("kind", COSINES)
@pytest.mark.parametrize("s", [1.0, 30.0, 256.0])
def test_extreme_embeddings_have_finite_loss_and_gradients(one_rank: None, kind: str, s: float) -> None:
    for mining in MININGS:
        for classes in (1, 5):
            head = MarginSoftmax(classes, 8, LossSettings(margin_type=kind, s=s, **mining), seed=0)
            centre, other = head.weight.detach()[0], head.weight.detach()[-1]
            scales = (0.0, 1.0, 1e4, -1.0, -1e4, 1e-8, 1e-30, -1e-30)
            embeddings = torch.stack([*(scale * centre for scale in scales), other, -1e4 * other])
            for value in on_one_rank(head, embeddings, torch.zeros(10, dtype=torch.int64)):
                assert value.isfinite().all(), (mining, classes)
            assert all(buffer.isfinite().all() for buffer in head.buffers())


@pytest.mark.parametrize("kind", COSINES)
def test_a_batch_of_one_sample_is_possible(one_rank: None, kind: str) -> None:
    head = MarginSoftmax(5, 8, LossSettings(margin_type=kind), seed=0)
    for value in on_one_rank(head, torch.ones(1, 8), torch.tensor([2])):
        assert value.isfinite().all()


@pytest.mark.parametrize("changes", [{}, {"margin_type": "arc"}, SV])
def test_a_loss_beyond_a_hundred_is_exact(one_rank: None, changes: dict[str, Any]) -> None:
    """Neither clamped nor taken from a rounded probability: float32 against float64, at s = 128."""
    centre = torch.eye(4)[0]
    weight = torch.stack([centre, -centre, torch.eye(4)[1]])
    embeddings, labels = torch.stack([-centre - 0.1 * torch.eye(4)[2], -centre + 0.2]), torch.tensor([0, 0])
    o = LossSettings(s=128.0, **changes)
    wanted, _, _ = reference_softmax(o, embeddings.double(), labels, weight.double())
    head = head_with(weight, o).float()
    loss, asked, _ = on_one_rank(head, embeddings, labels)
    assert wanted > 150
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)  # s times a float32 cosine near -1, by √(1 - cos²)
    assert asked.abs().max() > 1


def test_margin_gradient_straight_is_the_true_value_with_the_plain_cosines_slope(one_rank: None) -> None:
    """By hand: ∂ loss / ∂ cos_y = s (p_y - 1), the softmax's own factor, with p of the logits that have the margin."""
    case = make_case(7, 1)
    true, straight = (
        head_with(case["weight"], LossSettings(margin_type="arc", margin_gradient=kind))
        for kind in ("true", "straight")
    )
    values = [on_one_rank(head, case["inputs"], case["labels"]) for head in (true, straight)]
    assert_equal(values[0][0], values[1][0])
    x, w = case["inputs"].clone().requires_grad_(), F.normalize(case["weight"])
    cos = F.normalize(x) @ w.T
    own = F.one_hot(case["labels"], 7).bool()
    held = torch.where(own, arc(cos.detach().arccos(), 0.5), cos.detach())
    factor = 30 * ((30 * held).softmax(dim=1) - own.double()) / len(x)
    (wanted,) = torch.autograd.grad(cos, x, factor)
    assert_equal(values[1][1], wanted)
    assert not torch.allclose(values[0][1], wanted)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [("ada", math.nan), ("ada", math.inf), ("curricular", math.nan), ("curricular", math.inf)],
)
def test_a_batch_that_isnt_finite_leaves_no_trace_in_what_is_remembered(one_rank: None, kind: str, bad: float) -> None:
    head = MarginSoftmax(5, 8, LossSettings(margin_type=kind), seed=0)
    embeddings, labels = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    head(embeddings, labels)
    before = [buffer.clone() for buffer in head.buffers()]
    embeddings[2, 3] = bad
    loss, _ = head(embeddings, labels)
    assert not loss.isfinite()
    assert all(torch.equal(was, now) for was, now in zip(before, head.buffers(), strict=True))
    head(embeddings.nan_to_num(0, 0, 0), labels)
    assert not any(torch.equal(was, now) for was, now in zip(before, head.buffers(), strict=True))


def test_the_head_computes_in_float32_what_a_bf16_backbone_gives(one_rank: None) -> None:
    torch.manual_seed(0)
    head = MarginSoftmax(50, 32, LossSettings(margin_type="arc"), seed=0)
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


def test_a_margin_makes_the_loss_larger_and_hits_fewer(one_rank: None) -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(200, 8), torch.arange(200) % 4
    results = []
    for m in (0.0, 0.35):
        head = MarginSoftmax(4, 8, LossSettings(s=10.0, m=m), seed=0)
        loss, figures = head(embeddings, labels)
        assert torch.equal(loss.detach(), figures["softmax_loss"])
        results.append((loss.item(), figures["classification_accuracy"].item()))
    cosines = F.normalize(embeddings) @ F.normalize(head.weight.detach()).T
    assert results[0][1] == pytest.approx((cosines.argmax(dim=1) == labels).float().mean().item(), abs=1e-6)
    assert results[1][0] > results[0][0] and results[1][1] < results[0][1]
