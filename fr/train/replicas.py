"""DDP wrapping, activation checkpointing, SyncBN, determinism; no key of the state dict changes.

Letters: B samples of a rank, C channels.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from fr.distributed import world_size
from fr.losses.collectives import sum_over_ranks

# Rank 0 broadcasts its batch statistics before a snapshot or validation, not at each step. Gradients are copied into
# their buckets together. torch 2.11 has another name for the first setting, and lacks the second.
_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
_OF_LATER: dict[str, Any] = {"forward_sync_buffers": False, "batched_grad_copy": True}
_DDP: dict[str, Any] = _OF_LATER if _OF_LATER.keys() <= _KNOWN.keys() else {"broadcast_buffers": False}


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Context in which torch uses only deterministic algorithms, and raises for operations that have none.

    If not enabled, cuDNN chooses the fastest convolution algorithm by measurements at the first step. On a CPU all
    operations of the networks here are deterministic anyway.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not enabled
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a search for faults, which costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def replicate(backbone: nn.Module, compiled: bool) -> nn.Module:
    """Wrap the backbone in DistributedDataParallel, for training; weights and buffers stay the backbone's.

    With one rank, or without trainable weights, the backbone is returned unwrapped: there is no gradient to reduce.
    compiled: use torch.compile, whose kernels round differently.
    """
    module = cast(nn.Module, torch.compile(backbone)) if compiled else backbone
    if world_size() == 1 or not any(parameter.requires_grad for parameter in backbone.parameters()):
        return module
    return Replicas(module, gradient_as_bucket_view=True, **_DDP)


class Replicas(DistributedDataParallel):
    """DistributedDataParallel with the same buckets from the first step of a process to its last.

    The position of a gradient in its bucket determines the order in which three or more ranks add it up. torch begins
    with one bucket and makes others after the first backward pass, so a resumed run would add in another order than an
    uninterrupted one. Here the buckets are made before the first step, from the parameters in reverse, which is about
    the order of their gradients: for all models here, a bucket is full at most a tenth of the backward pass later.
    """

    def __init__(self, module: nn.Module, **settings: Any) -> None:
        super().__init__(module, **settings)
        # As if a backward pass had produced the gradients in the order of the parameters, which is …
        self.reducer._push_all_rebuilt_params()

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        parameters, sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        return parameters[::-1], sparse[::-1]  # … the reverse one


def unshared(replicas: nn.Module) -> AbstractContextManager[None]:
    """Context for the backward passes of all micro-batches but the last: gradients are accumulated, not reduced."""
    if isinstance(replicas, DistributedDataParallel):
        return replicas.no_sync()
    return nullcontext()


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Enable activation checkpointing: store only the input of each block, and recompute the rest in the backward pass.

    The results are the same, for a third more time and a fraction of the memory (arXiv:1604.06174). A block is a member
    of an nn.Sequential that has children and isn't an nn.Sequential itself: a residual block in all deep networks here.
    """
    for block in _blocks(backbone):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=partial(_contexts, block))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from _blocks(child)
        elif isinstance(module, nn.Sequential) and any(True for _ in child.children()):
            yield child
        else:
            yield from _blocks(child)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _running_statistics_kept(block)


@contextmanager
def _running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """Context in which the second forward pass over a batch doesn't change the running statistics."""
    norms = [norm for norm in block.modules() if isinstance(norm, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    before = [count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0  # the recomputation must save the same tensors, so tracking can't be disabled
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, old in zip(counts, before, strict=True):
            count.copy_(old)


def synchronise_batch_norms(backbone: nn.Module, device: torch.device) -> nn.Module:
    """Replace the backbone's batch norms by synchronised ones, over the samples of all ranks."""
    if device.type == "cuda":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)  # type: ignore[no-untyped-call]
        return synchronised
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = GlobalBatchNorm  # same tensors and settings, another forward pass
    return backbone


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the samples of all ranks, [B, C] or [B, C, …] → the same shape; B is equal on every rank.

    Equivalent to torch.nn.SyncBatchNorm, which doesn't support CPU tensors.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        wide = x.float()
        others = [0, *range(2, x.dim())]
        samples = world_size() * x.numel() // x.shape[1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = sum_over_ranks(wide.sum(others), parts_follow=True) / samples
        centred = wide - mean.view(shape)
        variance = sum_over_ranks(centred.square().sum(others), parts_follow=True) / samples
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * samples / max(1, samples - 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance, rate)
