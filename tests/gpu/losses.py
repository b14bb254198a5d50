"""Every loss on the device against float64 on the CPU, the sampled head, and steps that never wait for the device.

N samples, C classes, E numbers of an embedding.
"""

import dataclasses
import traceback
from typing import Any

import torch
import torch.nn.functional as F

from fr.distributed import open_ranks
from fr.losses.classifier import MarginSoftmax
from fr.losses.sampling import drawn_rows
from fr.options.losses import LossSettings
from fr.train.optimizer import apply_step, build_sgd, gradient_norm
from tests.gpu.job import Job, note
from tests.gpu.steps import DECAY, LR, MOMENTUM, free_memory, our_step

_N, _C, _E = 96, 2_000, 64
# Relative, of gradients by norm. A float32 cosine has an error near 1e-7 and a logit 30 times that; the slope of a
# margin, sin(θ + m) / sin θ, makes it larger where θ is near 0 or π.
_LOSS_ERROR, _GRADIENT_ERROR = 1e-5, 1e-4

CASES: dict[str, dict[str, Any]] = {
    **{kind: {"margin_type": kind} for kind in ("softmax", "cos", "arc", "sphere", "sphere_r", "ada", "curricular")},
    "mag": {"margin_type": "mag", "lambda_g": 20.0},
    "combined": {"margin_type": "combined", "m1": 1.3, "m2": 0.2, "m3": 0.1},
    "arc, easy": {"margin_type": "arc", "easy_margin": True},
    "arc, straight": {"margin_type": "arc", "margin_gradient": "straight"},
    "cos, support vectors": {"mining_type": "sv", "t": 1.25},
    "arc, focal": {"margin_type": "arc", "mining_type": "focal", "s": 4.0},
    "arc, label smoothing": {"margin_type": "arc", "label_smoothing": 0.1},
    "centre loss": {"center_loss_weight": 0.01},
    "push": {"push_loss_weight": 3.0, "push_margin": 1.2},
    "push+": {"push_plus_loss_weight": 3.0, "push_margin": 1.2},
    "global push+": {"global_push_loss_weight": 3.0, "push_margin": 1.2},
    "minimum margin": {"min_margin_loss_weight": 3.0, "min_margin": 1.2},
    "hard triplets": {"triplet_loss_weight": 3.0, "triplet_mining": "hard"},
    "semi-hard triplets": {"triplet_loss_weight": 3.0, "triplet_mining": "semihard"},
}
WITHOUT_WAIT: dict[str, dict[str, Any]] = {
    "arc": {"margin_type": "arc"},
    "ada": {"margin_type": "ada"},
    "mag": {"margin_type": "mag"},
    "cos with a tenth of the classes": {"sample_rate": 0.1},
    "all auxiliary losses": {
        f"{name}_loss_weight": 0.1 for name in ("center", "push", "push_plus", "global_push", "min_margin", "triplet")
    },
}


def check(job: Job) -> None:
    """All losses one by one, then the sampled head, then whole steps."""
    with open_ranks(job.device.type):
        for name, changes in CASES.items():
            settings, iteration = LossSettings(**changes), 20_000 if name == "global push+" else 300
            weight = MarginSoftmax(_C, _E, settings, seed=0).weight.detach()
            embeddings, labels = batch(weight)
            wanted = outcome(settings, weight.double(), embeddings.double(), labels, iteration)
            there = weight.to(job.device), embeddings.to(job.device), labels.to(job.device)
            seen = outcome(settings, *there, iteration)
            _compare(job, name, seen, wanted)
        _check_sampled(job)
        for name, changes in list(WITHOUT_WAIT.items())[job.pick(0, -1) :]:  # on a CPU one, to see that it runs
            _check_waits_for_nothing(job, name, LossSettings(**changes))


def batch(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [N, E] of 32 identities, of lengths 2 … 120 and at angles of 0.3 … 2.8 to their centres."""
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(32, (_N,), generator=source) * (_C // 32)
    noise = F.normalize(torch.randn(_N, _E, generator=source))
    toward = torch.linspace(-3, 3, _N)[torch.randperm(_N, generator=source)]
    directions = F.normalize(noise + toward[:, None] * weight[labels])
    return directions * torch.linspace(2, 120, _N)[:, None], labels


def outcome(
    settings: LossSettings, weight: torch.Tensor, embeddings: torch.Tensor, labels: torch.Tensor, iteration: int
) -> dict[str, torch.Tensor]:
    """Loss, figures, gradients and buffers after one batch, where and in the precision that the tensors have."""
    head = MarginSoftmax(len(weight), weight.shape[1], settings, seed=0).to(weight)
    head.weight.data.copy_(weight)
    asked = embeddings.clone().requires_grad_()
    optimizer = build_sgd(head.parameters(), LR, MOMENTUM, DECAY)
    with head.step(iteration, labels, optimizer):
        loss, figures = head(asked, labels)
        torch.autograd.backward(loss)
    head.auxiliary.move_centers(torch.zeros((), device=weight.device))
    gradients = {"gradient of embeddings": asked.grad, "gradient of weight": head.weight.grad}
    return {
        "loss": loss.detach(),
        **figures,
        **{name: gradient for name, gradient in gradients.items() if gradient is not None},
        **dict(head.named_buffers()),
    }


def _compare(job: Job, name: str, seen: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """One claim a loss: the part with the largest error for what it may have."""
    errors = {part: relative(seen[part], value) for part, value in wanted.items()}
    shares = {
        part: error / (_LOSS_ERROR if seen[part].ndim == 0 else _GRADIENT_ERROR) for part, error in errors.items()
    }
    worst = max(shares, key=lambda part: shares[part])
    same = seen.keys() == wanted.keys() and "gradient of weight" in seen and all(share < 1 for share in shares.values())
    job.findings.claim(f"{name}: as in float64", same, f"{worst} {errors[worst]:.1e}")


def relative(seen: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over that of what is wanted; infinite, so that it fails, if there is a NaN."""
    difference = (seen.detach().cpu().double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-12)
    return float(difference.nan_to_num(nan=torch.inf))


def _check_sampled(job: Job) -> None:
    """PartialFC: the device draws other classes than a CPU would, so the reference is a head of those drawn alone."""
    settings = LossSettings(margin_type="arc", sample_rate=0.1)
    head = MarginSoftmax(_C, _E, settings, seed=0).to(job.device)
    embeddings, labels = (one.to(job.device) for one in batch(head.weight.detach().cpu()))
    optimizer = build_sgd(head.parameters(), LR, MOMENTUM, DECAY)
    momentum = optimizer.state[head.weight]["momentum_buffer"].normal_()
    before = head.weight.detach().clone(), momentum.clone()
    asked = embeddings.clone().requires_grad_()
    with head.step(300, labels, optimizer):
        drawn = head._drawn
        loss, _ = head(asked, labels)
        torch.autograd.backward(loss)
        assert drawn is not None and asked.grad is not None and head.weight.grad is not None
        seen = {
            "loss": loss.detach(),
            "gradient of embeddings": asked.grad,
            "gradient of weight": head.weight.grad.clone(),
        }
        apply_step(optimizer, gradient_norm([], head.parameters()), seen["loss"], clip_norm=0.0)
        optimizer.zero_grad()
        del loss
    alone = dataclasses.replace(settings, sample_rate=1.0)
    column = torch.searchsorted(drawn, labels).cpu()
    wanted = outcome(alone, before[0][drawn].cpu().double(), embeddings.cpu().double(), column, 300)
    _compare(job, "a tenth of the classes", seen, {part: wanted[part] for part in seen})
    after = head.weight.detach(), optimizer.state[head.weight]["momentum_buffer"]
    kept = torch.ones(_C, dtype=torch.bool, device=job.device)
    kept[drawn] = False
    pairs = list(zip(before, after, strict=True))
    unchanged = all(torch.equal(was[kept], now[kept]) for was, now in pairs)
    job.findings.claim(
        "classes that weren't drawn, and their momentum, keep their bits", unchanged, f"{len(drawn)} drawn"
    )
    moved = all(bool((was[drawn] != now[drawn]).any(dim=1).all()) for was, now in pairs)
    job.findings.claim("each drawn class has moved", moved)
    again, other = (drawn_rows(_C, labels, 0.1, seed=0, iteration=iteration) for iteration in (300, 301))
    job.findings.claim(
        "the draw depends on the iteration alone", torch.equal(again, drawn) and not torch.equal(other, drawn)
    )
    job.findings.claim("the batch's classes are drawn", bool(torch.isin(labels, drawn).all()))


def _check_waits_for_nothing(job: Job, name: str, settings: LossSettings) -> None:
    """A whole step with CUDA's synchronisations turned into errors; a first step, which may wait, comes before."""
    step = our_step(job.device, "mobilenet", job.pick(32, 2), settings=settings)
    step(0)
    text, error = f"no synchronisation in a step of {name}", ""
    job.synchronize()
    try:
        if job.on_gpu:
            torch.cuda.set_sync_debug_mode("error")
        loss = step(1)
    except RuntimeError as synchronisation:
        note(traceback.format_exc())
        error = str(synchronisation).splitlines()[0]
    finally:
        if job.on_gpu:
            torch.cuda.set_sync_debug_mode("default")
    if error:
        job.findings.claim(text, False, error)
    elif job.on_gpu:
        job.findings.claim(text, bool(loss.isfinite()), f"loss {float(loss):.4f}")
    else:
        job.findings.skip(text, f"a CPU never waits; loss {float(loss):.4f}")
    free_memory()
