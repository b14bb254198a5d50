"""The learner with another optimiser than SGD: what torch.optim keeps is sampled, stored and resumed as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fr.checkpoint import resuming
from fr.checkpoint.snapshot import SnapshotContents
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.distributed import broadcast_buffers, rank
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.train.ema import WeightAverage
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import OptimizerSettings, build_optimizer

CLASSES = 21
CONTENTS = SnapshotContents("small", 3, {})


def adam_learner(seed: int) -> Learner:
    """A small network and its moving average, a head of which a step sees a part, and AdamW."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    head = MarginSoftmax(CLASSES, 3, LossSettings(sample_rate=0.3), seed=1)
    optimizer = build_optimizer([*backbone.parameters(), *head.parameters()], OptimizerSettings("adamw", 0.01))
    learner = Learner(backbone, head, optimizer, StepSettings(clip_norm=5.0), WeightAverage(backbone, 0.9))
    learner.training_mode()
    return learner


def steps(learner: Learner, iterations: range) -> list[torch.Tensor]:
    losses = []
    for iteration in iterations:
        source = torch.Generator().manual_seed(10 * iteration + rank())
        batch = torch.randn(2, 5, generator=source), torch.randint(CLASSES, (2,), generator=source)
        losses.append(learner.step([batch], iteration, 0.01)["loss"])
    return losses


def whole_and_resumed(folder: str) -> list[dict[str, torch.Tensor]]:
    """The state after six steps, and after three, a snapshot, and three more of another learner."""
    whole, part, resumed = adam_learner(1), adam_learner(1), adam_learner(2)
    losses = steps(whole, range(6))
    parts = steps(part, range(3))
    torch.manual_seed(rank())
    random_state = torch.get_rng_state()
    SnapshotWriter(Path(folder), "net", TrainingState(part), (), print).write(3, CONTENTS)
    torch.manual_seed(9)
    assert resuming.resume([Path(folder) / "net_3.pt"], TrainingState(resumed), CONTENTS).iteration == 3
    assert torch.equal(torch.get_rng_state(), random_state)  # this rank's own
    parts += steps(resumed, range(3, 6))
    found = []
    for learner, losses_of in ((whole, losses), (resumed, parts)):
        assert learner.average
        for model in (learner.backbone, learner.average.model):
            broadcast_buffers(model)  # as before a snapshot
        state = learner.state()
        found.append(state.whole | state.rows | {"losses": torch.stack(losses_of)})
    return [{name: tensor.clone() for name, tensor in one.items()} for one in found]


@pytest.mark.parametrize("ranks", [1, 2])
def test_adam_with_a_sampled_head_resumes_with_every_bit(
    ranks: int, run_distributed: Callable[..., list[Any]], tmp_path: Path
) -> None:
    for whole, resumed in run_distributed(ranks, whole_and_resumed, str(tmp_path)):
        assert whole.keys() == resumed.keys()
        names = {"exp_avg.0.weight", "step.0.weight", "step_head", "exp_avg_sq_head", "average.1.running_mean"}
        assert names <= whole.keys()
        assert whole["step_head"] == 6 and whole["exp_avg_head"].shape == whole["head"].shape
        assert whole["exp_avg_head"].any()
        for name, tensor in whole.items():
            assert torch.equal(tensor, resumed[name]), name
