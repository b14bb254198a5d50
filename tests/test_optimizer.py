"""The schedule by hand-computed rates; step and norm against torch.optim.SGD and clip_grad_norm_ on one process."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from fr.distributed import rank
from fr.options.names import SCHEDULES
from fr.train.learning_rate import Schedule
from fr.train.optimizer import OptimizerSettings, apply_step, build_optimizer, build_sgd, gradient_norm, set_lr


def test_warm_up_goes_from_a_share_to_the_whole_learning_rate() -> None:
    rates = [Schedule(0.4, 4)(iteration) for iteration in range(6)]
    # One rounding of a division and one of a product.
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rel=1e-15)
    assert rates[3] == 0.4
    assert Schedule(0.4, 1)(0) == Schedule(0.4, 0)(0) == 0.4


def test_the_rate_drops_tenfold_at_each_iteration_of_the_list() -> None:
    schedule = Schedule(0.4, 0, [10, 20])
    wanted = {0: 0.4, 9: 0.4, 10: 0.04, 19: 0.04, 20: 0.004, 10**6: 0.004}
    assert {iteration: schedule(iteration) for iteration in wanted} == pytest.approx(wanted, rel=1e-14)
    assert Schedule(0.4, 10, [3])(5) == pytest.approx(0.4 * 0.6 * 0.1, rel=1e-14)  # drops during the warm-up count


@pytest.mark.parametrize("shape", SCHEDULES)
def test_the_rate_depends_on_the_iteration_alone(shape: str) -> None:
    schedule = Schedule(0.1, 7, [20, 30], 40, shape)
    forwards = [schedule(iteration) for iteration in range(40)]
    assert [schedule(iteration) for iteration in reversed(range(40))] == forwards[::-1]
    assert all(later <= earlier for earlier, later in pairwise(forwards[6:]))


@pytest.mark.parametrize("warmup", [0, 5])
def test_poly_and_cosine_are_torchs_after_the_warm_up(warmup: int) -> None:
    """torch's own multiply the rate step by step, and so round some 1e-16 a step."""
    last, end = 50, 0.02
    ours = [
        Schedule(0.4, warmup, (), last, "poly", power=2.0),
        Schedule(0.4, warmup, (), last, "poly", power=1.0),
        Schedule(0.4, warmup, (), last, "cosine", end),
    ]
    optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.4) for _ in ours]
    schedulers = torch.optim.lr_scheduler
    theirs: list[Any] = [
        schedulers.PolynomialLR(optimizers[0], last - warmup, power=2.0),
        schedulers.PolynomialLR(optimizers[1], last - warmup, power=1.0),
        schedulers.CosineAnnealingLR(optimizers[2], last - warmup, end),
    ]
    for schedule, optimizer, scheduler in zip(ours, optimizers, theirs, strict=True):
        assert [schedule(i) for i in range(warmup)] == pytest.approx([0.4 * (i + 1) / 5 for i in range(warmup)])
        for iteration in range(warmup, last + 1):
            assert schedule(iteration) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-15)
            optimizer.step()
            scheduler.step()
        assert schedule(last + 100) == schedule(last) == pytest.approx(schedule.end, abs=1e-15)


def test_a_constant_rate_stays() -> None:
    assert {Schedule(0.4, 2, [3], 9, "constant")(iteration) for iteration in range(1, 12)} == {0.4}


@pytest.mark.parametrize(
    ("warmup", "drops", "last", "lines"),
    [
        (0, [6, 12, 18], 60, ["the learning rate is down to 0.0004 by iteration 18, before much is learned"]),
        (100, [80], 300, ["the learning rate is down to 0.04 by iteration 80, within the warm-up"]),
        (0, [200, 300], 300, ["1 of 2 drops of the learning rate are after the end, iteration 300"]),
        (60, [], 60, ["the warm-up of 60 iterations is no shorter than the run of 60"]),
        (20, [50, 80], 90, []),
    ],
)
def test_a_schedule_that_cannot_work_is_told(warmup: int, drops: list[int], last: int, lines: list[str]) -> None:
    told = Schedule(0.4, warmup, drops, last).warnings()
    assert Schedule(0.4, warmup, drops, 10**6).warnings(last) == told  # ended early by --max_iterations
    assert drops == [] or Schedule(0.4, 0, drops, last, "cosine").warnings() == []
    assert len(told) == len(lines)
    assert all(line.startswith(begin) for line, begin in zip(told, lines, strict=True))


def parameters() -> list[nn.Parameter]:
    source = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=source)) for shape in ((4, 3), (5,), (2, 3, 3, 3), (0, 4))]


@pytest.mark.parametrize("clip_norm", [0.0, 2.0, 1000.0])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_steps_equal_torchs_sgd_with_clipping(one_rank: None, clip_norm: float, momentum: float) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = build_sgd(ours, 0.1, momentum, 1e-2)
    reference = torch.optim.SGD(theirs, 0.1, momentum, weight_decay=1e-2, fused=False)
    source = torch.Generator().manual_seed(1)
    for step in range(5):
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = 0.0
        set_lr(optimizer, 0.1 / (step + 1))
        set_lr(reference, 0.1 / (step + 1))
        for own, their in zip(ours, theirs, strict=True):
            own.grad = torch.randn(own.shape, generator=source)
            their.grad = own.grad.clone()
        norm = gradient_norm(ours[:2], ours[2:])
        total = torch.nn.utils.clip_grad_norm_(theirs, clip_norm or float("inf"))
        torch.testing.assert_close(norm, total, rtol=1e-6, atol=0)  # a float32 sum of 71 squares in another order
        assert apply_step(optimizer, norm, torch.tensor(1.0), clip_norm) == 0
        reference.step()
        for own, their in zip(ours, theirs, strict=True):
            # A fused kernel may fuse a product and a sum; float32 rounds at 6e-8, a few times a step.
            torch.testing.assert_close(own, their, rtol=2e-6, atol=1e-6)
            state = reference.state[their]
            if momentum:
                torch.testing.assert_close(
                    optimizer.state[own]["momentum_buffer"], state["momentum_buffer"], rtol=2e-6, atol=1e-6
                )
    assert not torch.equal(ours[0], parameters()[0])


@pytest.mark.parametrize(("name", "reference"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_steps_equal_torchs_adam(one_rank: None, name: str, reference: type[torch.optim.Adam]) -> None:
    ours, theirs = parameters(), parameters()
    settings = OptimizerSettings(name, 0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    optimizer, other = build_optimizer(ours, settings), reference(theirs, 0.01, (0.8, 0.95), 1e-6, 0.1, foreach=False)
    source = torch.Generator().manual_seed(1)
    for _ in range(5):
        for own, their in zip(ours, theirs, strict=True):
            own.grad = torch.randn(own.shape, generator=source)
            their.grad = own.grad.clone()
        assert apply_step(optimizer, gradient_norm(ours[:2], ours[2:]), torch.tensor(1.0), 0.0) == 0
        other.step()
        for own, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(own, their, rtol=2e-6, atol=1e-6)  # as above
    assert not torch.equal(ours[0], parameters()[0])


def on_two_ranks() -> dict[str, Any]:
    """Norms and steps where the first half of the parameters is replicated and the rest sharded by rank."""
    results: dict[str, Any] = {}
    replicated, head = parameters()[:2], parameters()[2:]
    for number, parameter in enumerate(replicated):
        parameter.grad = torch.full_like(parameter, 0.5 + number)
    for parameter in head:
        parameter.grad = torch.full_like(parameter, 2.0 + rank())
    results["norm"] = gradient_norm(replicated, head)

    for first_bad in (0, 2):
        for bad in (float("nan"), float("inf"), -float("inf")):
            replicated, head = parameters()[:2], parameters()[2:]
            optimizer = build_sgd([*replicated, *head], 0.1, 0.9, 1e-4)
            kept, skips = [], []
            for step in range(first_bad + 2):
                before = snapshot_of(optimizer)
                for parameter in (*replicated, *head):
                    parameter.grad = torch.ones_like(parameter)
                if step == first_bad and rank() == 1:
                    assert head[0].grad is not None
                    head[0].grad[1, 1, 1, 1] = bad
                skips.append(apply_step(optimizer, gradient_norm(replicated, head), torch.tensor(1.0), 1.0))
                kept.append(all(torch.equal(a, b) for a, b in zip(before, snapshot_of(optimizer), strict=True)))
                optimizer.zero_grad()
            finite = all(bool(tensor.isfinite().all()) for tensor in snapshot_of(optimizer))
            results[f"{bad} at {first_bad}"] = {"skips": torch.stack(skips), "kept": kept, "finite": finite}
    return results


def snapshot_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Copies of weights and momentum."""
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    momentum = [optimizer.state[parameter]["momentum_buffer"] for parameter in weights]
    return [tensor.detach().clone() for tensor in (*weights, *momentum)]


def test_two_ranks_share_the_norm_and_skip_together(run_distributed: Callable[..., list[dict[str, Any]]]) -> None:
    first, second = run_distributed(2, on_two_ranks)
    # 12 × 0.5², 5 × 1.5², and 54 each of 2² and 3²: by hand.
    whole = (12 * 0.25 + 5 * 2.25 + 54 * 4 + 54 * 9) ** 0.5
    for result in (first, second):
        assert result["norm"].item() == pytest.approx(whole, rel=1e-6)  # float32
    assert torch.equal(first["norm"], second["norm"])
    cases = [name for name in first if name != "norm"]
    assert len(cases) == 6
    for name in cases:
        bad_step = int(name[-1])
        wanted = [step == bad_step for step in range(bad_step + 2)]
        for result in (first[name], second[name]):
            assert result["skips"].tolist() == [float(skip) for skip in wanted], name
            assert result["kept"] == wanted, name  # only the skipped step leaves weights and momentum untouched
            assert result["finite"], name


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_skips_the_step_although_the_norm_is(one_rank: None, loss: float) -> None:
    weights = parameters()
    optimizer = build_sgd(weights, 0.1, 0.9, 1e-4)
    for parameter in weights:
        parameter.grad = torch.ones_like(parameter)
    norm, before = gradient_norm(weights, []), snapshot_of(optimizer)
    assert norm.isfinite()
    assert apply_step(optimizer, norm, torch.tensor(loss), 1.0) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot_of(optimizer), strict=True))
    assert apply_step(optimizer, norm, torch.tensor(1.0), 1.0) == 0  # the next one counts again
    assert not torch.equal(snapshot_of(optimizer)[0], before[0])
