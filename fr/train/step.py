"""One optimiser step: forward and backward of the micro-batches, clipping, and what a skipped step undoes."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from fr.losses.classifier import MarginSoftmax
from fr.train.optimizer import apply_step, gradient_norm
from fr.train.replicas import unshared

Batch = tuple[torch.Tensor, torch.Tensor]  # images [b, 3, H, W], labels [b]


@dataclass(frozen=True)
class StepSettings:
    """What a step needs beside the objects it works on. clip_norm: 0 = off. precision: `fp32` or `bf16`."""

    accumulate: int
    clip_norm: float
    precision: str
    freeze_bn: bool
    memory_format: torch.memory_format


def training_mode(replicas: nn.Module, freeze_bn: bool) -> None:
    """Training mode; with `freeze_bn` the batch norms go on using, and stop changing, their running statistics."""
    replicas.train()
    if freeze_bn:
        for module in replicas.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def training_step(
    replicas: nn.Module,
    head: MarginSoftmax,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    iteration: int,
    settings: StepSettings,
) -> dict[str, torch.Tensor]:
    """Forward and backward of the micro-batches, then one step: scalars on the device, equal on all ranks.

    Nothing here waits for the device.
    """
    means: defaultdict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=head.weight.device))
    statistics = [(buffer, buffer.clone()) for buffer in _statistics(replicas, head)]
    with head.step(iteration, torch.cat([labels for _, labels in batches]), optimizer):
        for number, (images, labels) in enumerate(batches, start=1):
            with unshared(replicas) if number < len(batches) else nullcontext():
                with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                    embeddings = replicas(images)
                loss, figures = head(embeddings, labels)
                (loss / len(batches)).backward()
            for name, figure in {"loss": loss.detach(), **figures}.items():
                means[name] = means[name] + figure / len(batches)
        norm = gradient_norm(replicas.parameters(), head.parameters())
        skipped = apply_step(optimizer, norm, means["loss"], settings.clip_norm)
        optimizer.zero_grad()
    undo = skipped.bool()
    for buffer, before in statistics:  # one image that isn't finite would stay in them for ever
        torch.where(undo, before, buffer, out=buffer)
    head.companions.move_centers(skipped)
    return {**means, "gradient_norm": norm, "skipped_steps": skipped}


def _statistics(replicas: nn.Module, head: MarginSoftmax) -> Iterator[torch.Tensor]:
    """What a forward pass moves: batch statistics, and the head's figures (its centres move after the step)."""
    yield from replicas.buffers()
    yield from (buffer for buffer in head.buffers() if not buffer.ndim)
