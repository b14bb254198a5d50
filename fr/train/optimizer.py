"""Optimisers over backbone and head: parameter groups, SGD and Adam, gradient norm over shards, the step."""

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fr.errors import InputError
from fr.options.fields import OptionFields


@dataclass(frozen=True)
class OptimizerSettings(OptionFields):
    """optimizer: one of `fr.options.names.OPTIMIZERS`. momentum: of sgd. betas, eps: of Adam (arXiv:1412.6980, alg. 1).

    weight_decay: times the weight is added to the gradient; decoupled for adamw (arXiv:1711.05101, alg. 2).
    """

    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    betas: Sequence[float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-4


def parameter_groups(
    named: dict[str, nn.Parameter],
    freeze: Sequence[str],
    lr_scale: Sequence[str],
    decay_all: bool = True,
    undecayed: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Parameter groups by learning rate and decay, for an optimiser; parameters that match `freeze` are frozen.

    freeze: shell patterns of names. lr_scale: items `pattern=factor` of the learning rate; the last match counts.
    decay_all: False = no weight decay of vectors (biases, norms and slopes) and of the names `undecayed`. InputError
    for a pattern that matches no name, and if nothing is left to train.
    """
    factors = dict.fromkeys(named, 1.0)
    for entry in lr_scale:
        pattern, _, factor = entry.rpartition("=")
        factors |= dict.fromkeys(_matching(named, pattern, "--lr_scale"), float(factor))
    for pattern in freeze:
        for name in _matching(named, pattern, "--freeze"):
            named[name].requires_grad_(False)
    if not any(one.requires_grad for one in named.values()):
        raise InputError("nothing is left to train: --freeze matches all weights that the losses train")
    decayed = {name for name, one in named.items() if decay_all or (one.ndim > 1 and name not in undecayed)}
    kinds = {name: (factors[name], name in decayed) for name in named}
    return [
        {
            "params": [named[name] for name in named if kinds[name] == (factor, decays)],
            "lr_scale": factor,
            **({} if decays else {"weight_decay": 0.0}),
        }
        for factor, decays in dict.fromkeys(kinds.values())
    ]


def _matching(names: Iterable[str], pattern: str, option: str) -> list[str]:
    matching = fnmatch.filter(names, pattern)
    if not matching:
        known = list(names)
        close = difflib.get_close_matches(pattern, known, n=3)
        example = f"similar: {', '.join(close)}" if close else f"the names are from {known[0]} to {known[-1]}"
        raise InputError(f"{option} {pattern}: no parameter matches; {example}")
    return matching


def build_optimizer(
    parameters: Iterable[nn.Parameter | dict[str, Any]], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Build a fused optimiser of torch. parameters: plain, or in groups.

    Its state is created as zeros at once: the first step is the same, a skipped first step leaves nothing undefined,
    and a snapshot always has the same tensors.
    """
    groups: Any = list(parameters)
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        names: tuple[str, ...] = ("momentum_buffer",)
        optimizer = torch.optim.SGD(
            groups, settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=True
        )
    else:
        names, kind = ("exp_avg", "exp_avg_sq"), {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        first, second = settings.betas
        optimizer = kind[settings.optimizer](
            groups, settings.lr, (first, second), settings.eps, settings.weight_decay, fused=True
        )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            state.update({name: torch.zeros_like(parameter) for name in names})
            if settings.optimizer != "sgd":
                state["step"] = torch.zeros((), device=parameter.device)
    return optimizer


def build_sgd(
    parameters: Iterable[nn.Parameter | dict[str, Any]], lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """`build_optimizer` for SGD."""
    return build_optimizer(parameters, OptimizerSettings("sgd", lr, momentum, weight_decay=weight_decay))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group to `lr` times its `lr_scale`."""
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
    optimizer: torch.optim.Optimizer,
    norm: torch.Tensor,
    loss: torch.Tensor,
    clip_norm: float,
    loss_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Clip to `clip_norm` (0 = off) and step, unless norm or loss isn't finite: 1 if the step was skipped, else 0.

    It is decided on the device, without synchronisation, from numbers that are equal on all ranks, so all ranks skip.
    loss_scale: factor in the gradients, but not in norm and loss; None = 1.
    """
    skipped = (~(norm.isfinite() & loss.isfinite())).float()
    if clip_norm:
        scale = (clip_norm / (norm + 1e-6)).clamp_max(1.0)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_mul_(gradients, scale)
    # The attributes by which torch's GradScaler controls a fused optimiser.
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.grad_scale = loss_scale  # type: ignore[attr-defined]
    optimizer.step()
    return skipped
