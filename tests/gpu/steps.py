"""Training steps on images that are already on the device: as train.py builds them, and a yardstick of torch alone."""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fr.losses.classifier import MarginSoftmax
from fr.models import build_model, family
from fr.options.losses import LossSettings
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import build_sgd

CLASSES, EMBED_SIZE = 8_631, 512
LR, MOMENTUM, DECAY = 0.01, 0.9, 1e-4

Step = Callable[[int], torch.Tensor]  # iteration → loss, a scalar on the device


@dataclass(frozen=True)
class Form:
    """precision: as train.py has it."""

    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False


BEST = Form("bf16", channels_last=True)


def our_step(
    device: torch.device, model: str, batch: int, form: Form = BEST, settings: LossSettings | None = None
) -> Step:
    """fr's step: backbone under DDP, MarginSoftmax, clipping and fused SGD. Needs a process group."""
    torch.manual_seed(0)
    order = torch.channels_last if form.channels_last else torch.contiguous_format
    backbone = build_model(model, EMBED_SIZE, family(model).input_size).to(device).to(memory_format=order)
    head = MarginSoftmax(CLASSES, EMBED_SIZE, settings or LossSettings(), seed=0).to(device)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], LR, MOMENTUM, DECAY)
    of_step = StepSettings(5.0, form.precision, False, order)
    learner = Learner(backbone, head, optimizer, of_step, compiled=form.compiled)
    learner.training_mode()
    images, labels = _batch(device, model, batch)
    images = images.to(memory_format=order)

    def step(iteration: int) -> torch.Tensor:
        return learner.step([(images, labels)], iteration, LR)["loss"]

    return step


def yardstick_step(device: torch.device, model: str, batch: int) -> Step:
    """The usual step: float16 autocast with GradScaler, the margin as a one-hot matrix, torch's SGD, no DDP.

    The same backbone: on a GPU, fr's layers are torch's own.
    """
    torch.manual_seed(0)
    backbone = build_model(model, EMBED_SIZE, family(model).input_size).to(device).train()
    weight = nn.Parameter(torch.empty(CLASSES, EMBED_SIZE, device=device).normal_(0, 0.01))
    optimizer = torch.optim.SGD([*backbone.parameters(), weight], LR, MOMENTUM, weight_decay=DECAY)
    scaler = torch.amp.GradScaler(device.type)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16  # oneDNN's float16 takes ten times as long
    images, labels = _batch(device, model, batch)

    def step(_iteration: int) -> torch.Tensor:
        with torch.autocast(device.type, half):
            cosines = F.linear(F.normalize(backbone(images)), F.normalize(weight))
            one_hot = F.one_hot(labels, CLASSES)
            loss = F.cross_entropy(30.0 * (cosines - 0.35 * one_hot), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def _batch(device: torch.device, model: str, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(batch, 3, *family(model).input_size, device=device)
    return images, torch.randint(CLASSES, (batch,), device=device)


def free_memory() -> None:
    """Give the device memory of dropped tensors back; DDP is part of reference cycles."""
    gc.collect()
    torch.cuda.empty_cache()
