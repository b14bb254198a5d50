"""Optimisers over backbone and head: parameter groups, SGD, gradient norm over shards, the step."""

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fr.errors import InputError


def parameter_groups(
    named: dict[str, nn.Parameter], freeze: Sequence[str], lr_scale: Sequence[str]
) -> list[dict[str, Any]]:
    """Parameter groups by learning rate, for `build_sgd`; parameters that match `freeze` stop learning.

    freeze: shell patterns of names. lr_scale: `pattern=factor` each, of the learning rate; the last that matches
    counts. InputError for a pattern that matches no name.
    """
    factors = dict.fromkeys(named, 1.0)
    for entry in lr_scale:
        pattern, _, factor = entry.rpartition("=")
        factors |= dict.fromkeys(_matching(named, pattern, "--lr_scale"), float(factor))
    for pattern in freeze:
        for name in _matching(named, pattern, "--freeze"):
            named[name].requires_grad_(False)
    return [
        {"params": [named[name] for name in named if factors[name] == factor], "lr_scale": factor}
        for factor in dict.fromkeys(factors.values())
    ]


def _matching(names: Iterable[str], pattern: str, option: str) -> list[str]:
    matching = fnmatch.filter(names, pattern)
    if not matching:
        close = difflib.get_close_matches(pattern, list(names), n=3, cutoff=0.3)
        raise InputError(f"{option} {pattern}: no parameter is called so; similar: {', '.join(close) or 'none'}")
    return matching


def build_sgd(
    parameters: Iterable[nn.Parameter | dict[str, Any]], lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """Fused SGD, weight decay on everything as in face_recognition.pytorch. parameters: plain, or in groups.

    Momentum starts as zeros, not as nothing: the first step is the same, a skipped first step leaves nothing
    undefined, and a snapshot always has the same tensors.
    """
    groups: Any = list(parameters)
    optimizer = torch.optim.SGD(groups, lr, momentum, weight_decay=weight_decay, fused=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group, times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def gradient_norm(replicated: Iterable[nn.Parameter], sharded: Iterable[nn.Parameter]) -> torch.Tensor:
    """L2 norm of the whole gradient, equal on all ranks: replicated parameters count once, shards are added up."""

    def squared(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) ** 2

    shards = squared(sharded)
    dist.all_reduce(shards)
    return (squared(replicated) + shards).sqrt()


def apply_step(
    optimizer: torch.optim.Optimizer, norm: torch.Tensor, loss: torch.Tensor, clip_norm: float
) -> torch.Tensor:
    """Clip to `clip_norm` (0 = off) and step, unless norm or loss isn't finite: 1 if the step was skipped, else 0.

    Decided on the device, from numbers that all ranks share, so that they all skip and none waits for the host.
    """
    skipped = (~(norm.isfinite() & loss.isfinite())).float()
    if clip_norm:
        scale = (clip_norm / (norm + 1e-6)).clamp_max(1.0)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_mul_(gradients, scale)
    optimizer.found_inf = skipped  # type: ignore[attr-defined]  # what torch's GradScaler tells a fused optimiser
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()
    return skipped
