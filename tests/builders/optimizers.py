"""Builders of optimisers that several test files use."""

import torch

from fr.train.optimizer import apply_step


def create_state(optimizer: torch.optim.Optimizer) -> None:
    """Create the state that a fused optimiser of torch, such as AdamW, else makes in its first step.

    It is made by a step that is skipped. Snapshots, and sampling, need the tensors before that.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    infinite = torch.full((), torch.inf, device=optimizer.param_groups[0]["params"][0].device)
    apply_step(optimizer, infinite, infinite, 0.0)
    optimizer.zero_grad()
