#!/usr/bin/env python3
"""Cost of a backbone: parameters, multiply-adds, activations, and images per second on this machine.

    python tools/count_flops.py --model iresnet50
    python tools/count_flops.py --all --no_speed        # the table of docs/models.md

Multiply-adds: convolutions and matrix products for one image, by torch's counter. Activations: output elements of its
convolutions and linear layers, which training keeps. Speed: medians with --precision auto and --channels_last, of the
forward pass and of a training step (forward, backward, SGD).
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/count_flops.py", "tools.options.count_flops:options")

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from fr.distributed import resolved_precision, use_huge_pages
from fr.errors import run_plainly
from fr.models import MODELS, build_model, family
from fr.options.types import keyword_arguments
from fr.progress import tracked
from tools.options.count_flops import options as read_options

_TURNS = 3
_HEAD = f"| {'model':15} | {'input':9} | {'parameters':>11} | {'M MACs':>8} | {'M activations':>13} |"


@dataclass(frozen=True)
class Count:
    """Cost of one image; activations are counted in elements, not bytes."""

    parameters: int
    macs: int
    activations: int


def count(model: nn.Module, size: tuple[int, int]) -> Count:
    """Count a forward pass of one image of (height, width); the model may be on the meta device."""
    activations = 0

    def note(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, *size, device=device))
    for hook in hooks:
        hook.remove()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Count(parameters, counter.get_total_flops() // 2, activations)  # two operations per multiply-add


def speeds(model: nn.Module, size: tuple[int, int], batch: int) -> tuple[float, float]:
    """Images per second on this machine's CPU: forward without gradients, and a training step."""
    use_bf16 = resolved_precision("auto", torch.device("cpu")) == "bf16"
    model.to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, *size).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, fused=True)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            embeddings: torch.Tensor = model(images)
        return embeddings

    def train() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(forward().float().square().mean())
        optimizer.step()

    with torch.no_grad():
        model.eval()
        inference = _images_per_s(forward, batch)
    model.train()
    return inference, _images_per_s(train, batch)


def _images_per_s(act: Callable[[], object], batch: int) -> float:
    act()
    seconds = []
    for _ in range(_TURNS):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds)


def main(argv: list[str]) -> int:
    arguments = read_options(argv)
    use_huge_pages()
    print(_HEAD + ("" if arguments.no_speed else " forward/s | training/s |"))
    print("|" + "---|" * (5 if arguments.no_speed else 7))
    names = list(MODELS) if arguments.all else [arguments.model]
    for name in tracked(names, "model", "counting", shown=len(names) > 1):
        size = tuple(arguments.input_size or family(name).input_size)
        with torch.device("meta" if arguments.no_speed and not name.startswith("timm/") else "cpu"):
            model = build_model(name, arguments.embed_size, size, keyword_arguments(arguments.model_kwargs))
        cost = count(model, size)
        row = f"| {name:15} | {f'{size[0]}×{size[1]}':9} | {cost.parameters:11,} | {cost.macs / 1e6:8.1f} | "
        row += f"{cost.activations / 1e6:13.2f} |"
        if not arguments.no_speed:
            inference, training = speeds(model, size, arguments.batch)
            row += f" {inference:9.1f} | {training:10.1f} |"
        tqdm.write(row)
    return 0


if __name__ == "__main__":
    run_plainly("tools/count_flops.py", main)
