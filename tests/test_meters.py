"""Meters of the loop: counts that survive a resume, spikes, and what a skipped step leaves as it was."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train
from fr.checkpoint.snapshot import by_iteration
from fr.distributed import rank
from fr.errors import InputError
from fr.train.ema import WeightAverage
from fr.train.learner import Batch, Learner, Metrics, StepSettings
from fr.train.meters import Meters
from fr.train.optimizer import OptimizerSettings, build_optimizer
from tests.builders.snapshots import CLASSES, make_run
from tests.conftest import Losses, records, same_weights, skip_two_of_three, weights

CPU = torch.device("cpu")


def test_meters_go_on_where_they_were_stored() -> None:
    whole = Meters(CPU)
    parts = Meters(CPU)
    for step, skipped in enumerate([0, 1, 1, 0, 1, 1, 1]):
        for meters in (whole, parts):
            meters.count(torch.tensor(float(skipped)))
            if step % 3 == 2:
                meters.logged(float(step))
        stored, parts = parts.as_dict(), Meters(CPU)
        parts.load(stored)
    assert parts.as_dict() == whole.as_dict() == {"skipped": 1, "in_a_row": 3, "losses": [2.0, 5.0], "returns": 0}


def test_the_median_is_of_the_last_twenty_finite_losses_and_of_five_at_least() -> None:
    meters = Meters(CPU)
    for number in range(4):
        meters.logged(float(number))
    assert meters.median() == math.inf
    meters.logged(math.nan)
    assert meters.median() == math.inf
    meters.logged(4.0)
    assert meters.median() == 2
    for number in range(5, 100):
        meters.logged(float(number))
    assert meters.median() == 89.5


def test_skipped_steps_are_counted_across_a_resume(
    run_small: Callable[..., Losses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_two_of_three(monkeypatch)
    options = ("--log_step", "5", "--max_bad_steps", "0")
    run_small(*options, "--max_iterations", "15", out=tmp_path / "whole")
    skip_two_of_three(monkeypatch)
    for last in (6, 9, 15):
        run_small(*options, "--max_iterations", str(last), "--snap_to_resume", "auto", out=tmp_path / "parts")
    counts = [[record["skipped_steps"] for record in records(tmp_path / part / "logs")] for part in ("whole", "parts")]
    assert counts == [[4, 3, 3]] * 2


class Spiking:
    """Training steps of which some spoil the weights, and tell a loss that shows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spiking: set[int]) -> None:
        self._spiking, step = spiking, Learner.step
        self.centres: dict[int, torch.Tensor] = {}  # as each step found them

        def spiking_step(learner: Learner, batches: list[Batch], iteration: int, lr: float) -> Metrics:
            self.centres[iteration] = learner.head.weight.detach().clone()
            metrics = step(learner, batches, iteration, lr)
            if iteration in self._spiking:
                with torch.no_grad():
                    learner.head.weight.add_(100)
                return metrics | {"loss": 10 * metrics["loss"]}
            return metrics

        monkeypatch.setattr(Learner, "step", spiking_step)


def test_a_spike_is_told_and_the_run_goes_on(
    run_small: Callable[..., Losses],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Spiking(monkeypatch, {7})
    assert len(run_small("--max_iterations", "10", "--spike_factor", "5", out=tmp_path / "told")) == 10
    assert "iteration 8: the loss is " in capsys.readouterr().err
    run_small("--max_iterations", "10", out=tmp_path / "silent")
    assert "the loss is" not in capsys.readouterr().err
    assert same_weights(weights(tmp_path / "told", 10), weights(tmp_path / "silent", 10))


def test_after_a_spike_the_weights_are_those_of_the_newest_snapshot_and_the_data_go_on(
    run_small: Callable[..., Losses],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = Spiking(monkeypatch, {7})
    options = ("--max_iterations", "12", "--spike_factor", "5", "--spike_return", "--val_step", "3")
    assert len(run_small(*options, out=tmp_path)) == 12
    assert torch.equal(steps.centres[8], steps.centres[6])  # what the snapshot of iteration 6 holds
    assert not torch.equal(steps.centres[8], steps.centres[7])
    said = capsys.readouterr().err
    assert "iteration 8: the loss is " in said and f"going on from {tmp_path}/snapshots/tiny_6.pt" in said
    assert [record["iteration"] for record in records(tmp_path / "logs")] == [*range(1, 13)]


def test_a_run_that_only_spikes_ends_with_advice(
    run_small: Callable[..., Losses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spiking(monkeypatch, {*range(7, 99)})
    options = ("--max_iterations", "20", "--spike_factor", "5", "--spike_return", "--val_step", "6")
    with pytest.raises(InputError, match=r"iteration 11: the loss is .* after each of 3 returns .*lower --lr"):
        run_small(*options, out=tmp_path)


def learner_of(optimizer: str, **loss: Any) -> Learner:
    backbone, head, _ = make_run(1, **loss)
    parameters = [*backbone.parameters(), *head.parameters()]
    built = build_optimizer(parameters, OptimizerSettings(optimizer, weight_decay=0.0))
    return Learner(backbone, head, built, StepSettings(5.0), WeightAverage(backbone, 0.9))


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    """Copies of all tensors that a step may change."""
    state = learner.state()
    return {name: tensor.clone() for name, tensor in (state.whole | state.rows).items()}


def before_and_after_bad_steps(optimizer: str, loss: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """All tensors after two good steps, after one whose image isn't a number, on the last rank alone, and after one
    whose loss is finite there, but not its gradient."""
    learner, moments = learner_of(optimizer, **loss), []
    learner.training_mode()
    torch.manual_seed(rank())
    bad = torch.full((4, 5), math.nan if rank() else 0.5)
    for iteration, images in enumerate([torch.randn(4, 5), torch.randn(4, 5), bad, torch.randn(4, 5)]):
        if iteration == 3 and rank():
            next(learner.backbone.parameters()).register_hook(lambda gradient: gradient * math.inf)
        skipped = learner.step([(images, torch.arange(4) % CLASSES)], iteration, 0.1)["skipped_steps"]
        moments.append(everything(learner) | {"skipped": skipped})
    return moments


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        ("sgd", {"margin_type": "arc"}),
        ("sgd", {"margin_type": "curricular"}),
        ("sgd", {"margin_type": "ada"}),
        ("sgd", {"margin_type": "mag", "center_loss_weight": 0.1, "sample_rate": 0.9}),
        ("adam", {"margin_type": "ada", "center_loss_weight": 0.1}),
        ("adamw", {"margin_type": "arc", "sample_rate": 0.9}),
    ],
)
def test_an_image_or_a_gradient_that_is_no_number_leaves_nothing_behind_on_any_rank(
    optimizer: str, loss: dict[str, Any], run_distributed: Callable[..., list[Any]]
) -> None:
    for first, good, *bad in run_distributed(2, before_and_after_bad_steps, optimizer, loss):
        assert [state.pop("skipped") for state in (good, *bad)] == [0, 1, 2]
        assert all(same_weights(good, state) for state in bad)
        moved = {name for name, tensor in good.items() if not torch.equal(tensor, first[name])}
        watched = ("average.1.", "backbone.1.", "head.t", "head.norm_")
        assert moved >= {"head", *(name for name in good if name.startswith(watched))}


class Scattering(nn.Module):
    """A network with an operation of which torch has no form that repeats to the bit."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean((2, 3))
        means.detach().clone().put_(torch.zeros(2, dtype=torch.int64), torch.ones(2))
        rows: torch.Tensor = self.linear(means)
        return rows


def test_deterministic_refuses_what_does_not_repeat(
    run_small: Callable[..., Losses], run: Callable[..., Losses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_small("--deterministic", out=tmp_path / "a") == run_small(out=tmp_path / "b")
    monkeypatch.setattr(train, "build_model", lambda *_: Scattering())
    assert len(run(out=tmp_path / "c")) == 3
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        run("--deterministic", out=tmp_path / "d")
    assert not torch.are_deterministic_algorithms_enabled()


def test_snapshots_in_the_background_are_those_that_are_waited_for(
    run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    options = ("--max_iterations", "6", "--val_step", "2", "--ema_decay", "0.5")
    run_small(*options, out=tmp_path / "waited")
    run_small(*options, "--async_snapshots", out=tmp_path / "background")
    for iteration in (2, 4, 6):
        assert same_weights(weights(tmp_path / "waited", iteration), weights(tmp_path / "background", iteration))
        states = [tmp_path / part / f"snapshots/tiny_{iteration}.state" for part in ("waited", "background")]
        sums = [
            {line for line in (state / "SHA256SUMS").read_text().splitlines() if "metadata" not in line}
            for state in states
        ]
        assert sums[0] == sums[1]


def test_only_so_many_snapshots_stay(run_small: Callable[..., Losses], tmp_path: Path) -> None:
    run_small("--max_iterations", "7", "--val_step", "1", "--keep_snapshots", "2", "--keep_every", "3", out=tmp_path)
    assert [*by_iteration(tmp_path / "snapshots", "tiny")] == [3, 6, 7]


def test_a_run_whose_background_snapshot_fails_ends_soon_and_says_so(
    run_small: Callable[..., Losses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "snapshots").mkdir()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    options = ("--async_snapshots", "--val_step", "2", "--max_iterations", "999")
    with pytest.raises(InputError, match=r"tiny_2\.pt: can't be written: .* GB left"):
        run_small(*options, out=tmp_path)
    assert 2 <= len(records(tmp_path / "logs")) < 500
    assert not list((tmp_path / "snapshots").glob("*.pt"))
