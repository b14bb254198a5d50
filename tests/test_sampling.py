"""Sampled classes: which are drawn, the softmax over exactly those against the reference, and the rest untouched."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.losses.sampling import drawn_count, drawn_rows
from fr.options.losses import LossSettings
from fr.train.optimizer import OptimizerSettings, build_optimizer, build_sgd
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

ROWS = 100
OF_BATCH = torch.tensor([3, 99, 3, 0, -1, 100, 57, 250, -40])  # two of one class, four of other ranks
POSITIVES = [0, 3, 57, 99]


@pytest.mark.parametrize(
    ("rows", "batch", "rate", "wanted"),
    [
        (100, 9, 0.3, 30),
        (100, 9, 0.301, 31),  # rounded up
        (100, 64, 0.3, 64),  # room for a batch of 64 identities
        (40, 64, 0.1, 40),  # of which there are 40 here
        (0, 64, 0.5, 0),
        (1, 1, 0.01, 1),
        (100, 9, 1.0, 100),
        (100, 1, 1e-9, 1),
    ],
)
def test_as_many_classes_are_drawn_as_asked_with_room_for_the_batch(
    rows: int, batch: int, rate: float, wanted: int
) -> None:
    assert drawn_count(rows, batch, rate) == wanted
    of_batch = torch.arange(batch) * 7 % max(rows, 1) if rows else torch.full((batch,), -3)
    drawn = drawn_rows(rows, of_batch, rate, 0, 0)
    assert len(drawn) == wanted
    assert {*of_batch.tolist()} & {*range(rows)} <= {*drawn.tolist()}


def test_the_batchs_own_classes_are_always_drawn_in_ascending_order_and_once() -> None:
    for iteration in range(200):
        drawn = drawn_rows(ROWS, OF_BATCH, 0.2, 7, iteration)
        assert len(drawn) == 20 and drawn.dtype == torch.int64
        assert (drawn.diff() > 0).all() and drawn[0] >= 0 and drawn[-1] < ROWS
        assert {*POSITIVES} <= {*drawn.tolist()}


def test_a_draw_depends_on_seed_and_iteration_and_on_nothing_else() -> None:
    first = drawn_rows(ROWS, OF_BATCH, 0.2, 7, 11)
    torch.manual_seed(123)
    assert torch.equal(drawn_rows(ROWS, OF_BATCH, 0.2, 7, 11), first)
    assert torch.equal(drawn_rows(ROWS, OF_BATCH.flip(0), 0.2, 7, 11), first)
    assert not torch.equal(drawn_rows(ROWS, OF_BATCH, 0.2, 7, 12), first)
    assert not torch.equal(drawn_rows(ROWS, OF_BATCH, 0.2, 8, 11), first)
    state = torch.get_rng_state()
    drawn_rows(ROWS, OF_BATCH, 0.2, 7, 11)
    assert torch.equal(torch.get_rng_state(), state)  # takes no number from anyone else


DRAWS = 4000


@pytest.fixture(scope="module")
def many_draws() -> torch.Tensor:
    """Classes that were drawn [draws, classes], at 4,000 iterations with the same batch."""
    drawn = torch.zeros(DRAWS, ROWS, dtype=torch.bool)
    for iteration in range(DRAWS):
        drawn[iteration, drawn_rows(ROWS, OF_BATCH, 0.2, 7, iteration)] = True
    return drawn


def test_every_other_class_is_equally_likely(many_draws: torch.Tensor) -> None:
    negatives = [row for row in range(ROWS) if row not in POSITIVES]
    counts, share = many_draws[:, negatives].double().sum(dim=0), 16 / 96
    assert (many_draws[:, POSITIVES]).all()
    # A class's count is binomial: 4,000 · 1/6, deviation 23.6. The largest of 96 beyond 4.5 deviations: 1 in 1,500.
    deviation = math.sqrt(DRAWS * share * (1 - share))
    assert (counts - DRAWS * share).abs().max() < 4.5 * deviation
    # Squared and added up they are chi-square with 95 degrees of freedom: 95 ± 13.8; four of them each way.
    chi_square = ((counts - DRAWS * share) ** 2).sum().item() / deviation**2 * 95 / 96
    assert 95 - 4 * 13.8 < chi_square < 95 + 4 * 13.8
    # Draws follow one another without memory: of two, 1/36 have a class both times (one deviation: 0.0003).
    both = (many_draws[:-1] & many_draws[1:])[:, negatives].double().mean()
    assert both.item() == pytest.approx(1 / 36, abs=4 * 0.0003)


def test_the_sum_over_drawn_others_is_on_average_their_share_of_the_whole(many_draws: torch.Tensor) -> None:
    """(k - P) / (C - P) of Σ exp(logit) over all others: what the sampled softmax stands on."""
    logits = 2 * torch.randn(ROWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = torch.ones(ROWS, dtype=torch.bool)
    others[POSITIVES] = False
    terms = torch.where(others, logits.exp(), 0)
    sums = many_draws.double() @ terms
    wanted = 16 / 96 * terms.sum()
    # A mean of 4,000 independent sums: four of its deviations, which is that of a sum / √4,000.
    error = sums.std() / math.sqrt(DRAWS)
    assert error < 0.02 * wanted
    assert (sums.mean() - wanted).abs() < 4 * error


CASES: list[tuple[int, int, float, dict[str, Any]]] = [
    (40, 0, 0.3, {}),
    (41, 1, 0.4, {"margin_type": "arc", "label_smoothing": 0.1}),
    (40, 2, 0.5, {"margin_type": "mag", "margin_gradient": "straight"}),
    (40, 3, 0.3, {"margin_type": "ada"}),
    (40, 4, 0.3, {"margin_type": "curricular", "label_smoothing": 0.1}),
    (40, 5, 0.6, {"mining_type": "sv", "t": 1.25, "label_smoothing": 0.2}),
    (40, 2000, 0.3, {"margin_type": "sphere", "mining_type": "focal", "s": 4.0}),
    (40, 7, 0.4, {name: 0.5 for name in WEIGHTS.values() if name not in ("center_loss_weight", "lambda_g")}),
    (7, 8, 0.1, {"label_smoothing": 0.1}),  # all are drawn: a batch of 12
    (3, 9, 0.1, {}),
    (1, 10, 0.1, {}),  # one of two ranks without a class
    (40, 11, 0.3, {"margin_type": "arc", "sub_centers": 3}),
]
STEPS, LR, MOMENTUM, DECAY = 3, 0.1, 0.9, 1e-2


def on_a_rank() -> dict[str, Any]:
    """Three steps of each case: what the step saw, what weight and momentum were before and after."""
    results: dict[str, Any] = {}
    for number, (classes, iteration, rate, changes) in enumerate(CASES):
        case, own = make_case(classes, number, changes.get("sub_centers", 1)), own_part()
        head = head_with(case["weight"], LossSettings(sample_rate=rate, **changes))
        optimizer = build_sgd(head.parameters(), LR, MOMENTUM, DECAY)
        labels, steps, whole = case["labels"][own], [], head.weight.data_ptr()
        for step in range(STEPS):
            before = [head.weight.detach().clone(), momentum_of(head, optimizer).clone()]
            x = case["inputs"][own].clone().requires_grad_()
            with head.step(iteration + step, labels, optimizer):
                drawn = head._drawn
                assert drawn is not None and torch.equal(head.weight.detach(), before[0][drawn])
                loss, figures = head(x, labels)
                loss.backward()
                asked = head.weight.grad
                assert asked is not None and asked.shape == (len(drawn), case["weight"].shape[1])
                optimizer.step()
            assert head._drawn is None and head.weight.grad is None and head.weight.data_ptr() == whole
            steps.append(
                {
                    "drawn": drawn,
                    **{"loss": loss.detach(), "hits": figures["classification_accuracy"]},
                    **{"embeddings": x.grad, "asked": asked, "before": before},
                    "after": [head.weight.detach().clone(), momentum_of(head, optimizer).clone()],
                }
            )
            del loss  # the graph knows the weight's drawn shape
        results[str(number)] = steps
    results["draw"] = drawn_rows(ROWS, OF_BATCH, 0.2, 7, 11)
    return results


def momentum_of(head: MarginSoftmax, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    return optimizer.state[head.weight]["momentum_buffer"]


@pytest.mark.parametrize("world", [1, 2])
def test_a_step_is_the_softmax_and_sgd_over_exactly_the_drawn_classes(
    run_distributed: Callable[..., list[dict[str, Any]]], world: int
) -> None:
    ranks = run_distributed(world, on_a_rank)
    draws = [one["draw"] for one in ranks]
    assert torch.equal(draws[0], drawn_rows(ROWS, OF_BATCH, 0.2, 7, 11))
    assert world == 1 or not torch.equal(draws[0], draws[1])  # each rank has its own
    for number, (classes, iteration, rate, changes) in enumerate(CASES):
        case, memory = make_case(classes, number, changes.get("sub_centers", 1)), None
        o = LossSettings(**changes)
        firsts = [shard_rows(classes, world, which)[0] for which in range(world)]
        for step in range(STEPS):
            results = [one[str(number)][step] for one in ranks]
            drawn = torch.cat([result["drawn"] + first for result, first in zip(results, firsts, strict=True)])
            rows = [len(result["before"][0]) for result in results]
            assert [len(result["drawn"]) for result in results] == [
                min(count, max(math.ceil(rate * count), BATCH)) for count in rows
            ]
            weight = torch.cat([result["before"][0] for result in results])[drawn].requires_grad_()
            x = case["inputs"].clone().requires_grad_()
            labels = torch.searchsorted(drawn, case["labels"])
            assert torch.equal(drawn[labels], case["labels"])
            loss, hits, memory = reference_softmax(o, x, labels, weight, memory, iteration + step)
            loss = loss + beside(o, x, labels, weight, iteration + step)[0]
            loss.backward()
            assert x.grad is not None
            for result in results:
                assert_equal(result["loss"], loss.detach(), CASES[number])
                assert_equal(result["hits"], hits, CASES[number])
                assert_stepped_alone(**{key: result[key] for key in ("drawn", "asked", "before", "after")})
            assert_equal(torch.cat([result["asked"] for result in results]), weight.grad, CASES[number])
            assert_equal(torch.cat([result["embeddings"] for result in results]), world * x.grad, CASES[number])


def assert_stepped_alone(
    drawn: torch.Tensor, asked: torch.Tensor, before: list[torch.Tensor], after: list[torch.Tensor]
) -> None:
    """Rows not drawn keep their bits and those of their momentum; the drawn ones are SGD's."""
    kept = torch.ones(len(before[0]), dtype=torch.bool)
    kept[drawn] = False
    for was, now in zip(before, after, strict=True):
        assert torch.equal(was[kept], now[kept])
    momentum = MOMENTUM * before[1][drawn] + asked + DECAY * before[0][drawn]
    # float64, where a fused kernel may round a product and a sum once.
    torch.testing.assert_close(after[1][drawn], momentum, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(after[0][drawn], before[0][drawn] - LR * momentum, rtol=1e-13, atol=1e-14)


def build(rate: float, seed: int = 0, classes: int = 50, momentum: float = 0.9) -> tuple[MarginSoftmax, Any]:
    head = MarginSoftmax(classes, EMBED_SIZE, LossSettings(sample_rate=rate), seed)
    return head, build_sgd(head.parameters(), LR, momentum, DECAY)


def batch(classes: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, EMBED_SIZE, generator=source), torch.randint(classes, (BATCH,), generator=source)


def steps_of(head: MarginSoftmax, optimizer: Any, steps: int = 5) -> list[torch.Tensor]:
    """The losses of some steps, and weight and momentum after them."""
    embeddings, labels = batch()
    losses = []
    for iteration in range(steps):
        with head.step(iteration, labels, optimizer):
            loss, _ = head(embeddings, labels)
            loss.backward()
            losses.append(loss.detach())
            del loss
            optimizer.step()
            optimizer.zero_grad()
    return [*losses, head.weight.detach().clone(), momentum_of(head, optimizer).clone()]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_drawn_rows_get_the_bits_of_the_same_sgd_on_them_alone(one_rank: None, momentum: float) -> None:
    head, optimizer = build(0.3, momentum=momentum)
    embeddings, labels = batch()
    for iteration in range(3):
        before = [head.weight.detach().clone(), momentum_of(head, optimizer).clone()]
        with head.step(iteration, labels, optimizer):
            drawn = head._drawn
            loss, _ = head(embeddings, labels)
            loss.backward()
            alone = torch.nn.Parameter(before[0][drawn])
            other = build_sgd([alone], LR, momentum, DECAY)
            other.state[alone]["momentum_buffer"].copy_(before[1][drawn])
            assert head.weight.grad is not None
            alone.grad = head.weight.grad.clone()
            del loss
            optimizer.step()
        other.step()
        assert torch.equal(head.weight.detach()[drawn], alone.detach())
        assert torch.equal(momentum_of(head, optimizer)[drawn], other.state[alone]["momentum_buffer"])


def test_adam_on_drawn_rows_is_torchs_sparse_adam(one_rank: None) -> None:
    """Moments of undrawn rows are untouched, and one count of steps corrects the bias of all rows (SparseAdam)."""
    tiny = 1e-16  # SparseAdam adds it before the bias is corrected, Adam afterwards
    head = MarginSoftmax(50, EMBED_SIZE, LossSettings(sample_rate=0.3), 0)
    optimizer = build_optimizer(head.parameters(), OptimizerSettings("adam", 0.01, eps=tiny, weight_decay=0.0))
    reference = torch.nn.Parameter(head.weight.detach().clone())
    sparse = torch.optim.SparseAdam([reference], 0.01, eps=tiny)
    embeddings, labels = batch()
    for iteration in range(4):
        with head.step(iteration, labels, optimizer):
            drawn = head._drawn
            loss, _ = head(embeddings, labels)
            loss.backward()
            assert head.weight.grad is not None and drawn is not None and len(drawn) < 50
            gradient = head.weight.grad, (50, EMBED_SIZE)
            reference.grad = torch.sparse_coo_tensor(drawn[None], *gradient, check_invariants=True)
            del loss
            optimizer.step()
        sparse.step()
        # Another order of a division and a square root in float32, times a few steps.
        torch.testing.assert_close(head.weight.detach(), reference.detach(), rtol=1e-5, atol=1e-7)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(
                optimizer.state[head.weight][name], sparse.state[reference][name], rtol=1e-5, atol=1e-9
            )


def test_a_rate_of_1_gives_the_bits_of_a_head_that_knows_no_steps(one_rank: None) -> None:
    stepped = steps_of(*build(1.0))
    head, optimizer = build(1.0)
    embeddings, labels = batch()
    for wanted in stepped[:-2]:
        loss, _ = head(embeddings, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(loss.detach(), wanted)
    assert torch.equal(head.weight.detach(), stepped[-2])
    assert torch.equal(momentum_of(head, optimizer), stepped[-1])


def test_two_runs_are_the_same_bits_and_another_seed_is_not(one_rank: None) -> None:
    first, again, other = (steps_of(*build(0.3, seed)) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_centres_of_the_centre_loss_are_not_sampled(one_rank: None) -> None:
    (embeddings, labels), centres = batch(), []
    for rate in (0.3, 1.0):
        head = MarginSoftmax(50, EMBED_SIZE, LossSettings(sample_rate=rate, center_loss_weight=1.0), 0)
        for iteration in range(2):  # from 0, then from elsewhere
            with head.step(iteration, labels, build_sgd(head.parameters(), LR, MOMENTUM, DECAY)):
                head(embeddings, labels)
            head.auxiliary.move_centers(torch.tensor(0.0))
        centres.append(head.auxiliary.centers)
    assert torch.equal(*centres)
    assert centres[0].any(dim=1).nonzero()[:, 0].tolist() == sorted({*labels.tolist()})


def test_the_classes_of_all_micro_batches_are_there_in_each(one_rank: None) -> None:
    head, optimizer = build(0.1)  # 5 of 50, and room for the two batches of 12
    embeddings, _ = batch()
    parts = [torch.arange(12), torch.arange(38, 50)]
    with head.step(0, torch.cat(parts), optimizer):
        assert head._drawn is not None
        assert torch.equal(head._drawn, torch.cat(parts))
        for labels in parts:
            loss, _ = head(embeddings, labels)
            wanted, _, _ = reference_softmax(
                *(LossSettings(), embeddings.double(), torch.searchsorted(torch.cat(parts), labels)),
                head.weight.detach().double(),
            )
            assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)  # float32, s = 30
            (loss / 2).backward()
    del loss


def test_an_exception_in_a_step_puts_the_whole_back_as_it_was(one_rank: None) -> None:
    head, optimizer = build(0.3)
    steps_of(head, optimizer)
    weight, momentum = head.weight.detach().clone(), momentum_of(head, optimizer).clone()
    embeddings, labels = batch()
    with pytest.raises(KeyError), head.step(9, labels, optimizer):
        loss, _ = head(embeddings, labels)
        loss.backward()
        optimizer.step()
        raise KeyError
    del loss
    assert torch.equal(head.weight.detach(), weight)
    assert torch.equal(momentum_of(head, optimizer), momentum)
    assert head.weight.grad is None


def test_after_an_exception_the_head_is_whole_again(one_rank: None) -> None:
    head, optimizer = build(0.3)
    embeddings, labels = batch()
    before, _ = head(embeddings, labels)
    with pytest.raises(KeyError), head.step(9, labels, optimizer):
        raise KeyError
    after, _ = head(embeddings, labels)
    assert torch.equal(before, after)

