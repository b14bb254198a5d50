"""Builders of snapshots that several test files use."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fr.checkpoint import resuming
from fr.checkpoint.snapshot import SnapshotContents
from fr.checkpoint.training_state import TrainingState
from fr.distributed import rank, world_size
from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.options.losses import LossSettings
from fr.preprocessing import Preprocessing
from fr.train.learner import Learner
from fr.train.optimizer import build_sgd

CLASSES = 7  # over 2 ranks 4 + 3, over 3 ranks 3 + 3 + 1
FACTS: dict[str, Any] = {
    "model": "mobilenet",
    "embed_size": 3,
    "preprocessing": Preprocessing((64, 64)).as_dict(),
    "run": {"train_batch_size": 12, "seed": 1, "images": 100, "identities": CLASSES, "data": "abc"},
}
CONFIG = {"lr": 0.4, "model": "mobilenet", "lr_drops": [1, 2], "freeze_bn": False, "snap_prefix": "net"}
CONTENTS = SnapshotContents(**FACTS, metrics={"accuracy": 0.5}, config=CONFIG)


def make_run(seed: int, **loss: Any) -> tuple[nn.Module, MarginSoftmax, torch.optim.Optimizer]:
    """A small run with something of its own in each weight, buffer and momentum; the same on any number of ranks."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    head = MarginSoftmax(CLASSES, 3, LossSettings(**loss), seed)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.1, 0.9, 0.0)
    with torch.no_grad():
        for buffer in backbone.buffers():
            buffer.copy_(100 * torch.rand(buffer.shape))
        for parameter in backbone.parameters():
            optimizer.state[parameter]["momentum_buffer"].normal_()
        first, rows = shard_rows(CLASSES, world_size(), rank())
        momentum = torch.randn(CLASSES, head.weight.shape[1])
        optimizer.state[head.weight]["momentum_buffer"].copy_(momentum[first : first + rows])
        for buffer in head.buffers():
            buffer.copy_(torch.randn(CLASSES, 3)[first : first + rows] if buffer.ndim else torch.randn(()))
    return backbone, head, optimizer


def content(backbone: nn.Module, head: MarginSoftmax, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Copies of everything that a run goes on from; head and its momentum are this rank's."""
    tensors = dict(backbone.state_dict())
    tensors |= {f"m.{n}": optimizer.state[p]["momentum_buffer"] for n, p in backbone.named_parameters()}
    tensors |= {"head": head.weight.detach(), "m.head": optimizer.state[head.weight]["momentum_buffer"]}
    tensors |= dict(head.named_buffers())
    return {name: tensor.clone() for name, tensor in tensors.items()}


def resume(path: Path, facts: dict[str, Any] | None = None, seed: int = 2, **loss: Any) -> dict[str, torch.Tensor]:
    run = make_run(seed, **loss)
    resumed = resuming.resume([path], TrainingState(Learner(*run)), SnapshotContents(**(facts or FACTS)))
    return content(*run) | {"iteration": torch.tensor(resumed.iteration)}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor), name
