"""GPU memory of a rank in training [bytes], part by part, computed without a GPU and without data.

The backbone's step runs on fake tensors, which have shapes but no content, so that the tensors that autograd saves are
counted; the head's bytes are those of `head_cost`. The fake device is a CPU, since the backward pass on a fake GPU
needs a driver; both save the same tensors.

B samples of a rank in a micro-batch, N of all ranks, E embedding size, C_r classes of a rank, P weights.
"""

import argparse
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fr.models import build_model, training_preprocessing
from fr.options.types import keyword_arguments
from fr.train.optimizer import parameter_groups
from fr.train.replicas import checkpoint_blocks
from tools.benchmarks.head import head_cost

_FLOAT = 4
_OF_SAMPLES = 5  # [N, E] tensors of the head: embeddings of all ranks, as unit vectors, and gradients of both
_STATES = {"sgd": 1, "adam": 2, "adamw": 2}  # tensors that the optimiser keeps for each weight
# Assumed, not measured: CUDA context and kernels, NCCL's buffers, workspaces of cuDNN and cuBLAS.
_CONTEXT = 1_500_000_000
_DECODED = 3 * 256 * 256  # an image in DALI before it is aligned, assumed to be as large
_QUEUE = 2  # batches that DALI prepares ahead (`FaceStream`), besides that of the step


class _LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Mode that counts the bytes of live tensors made by operators, and their peak."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        """known: existing tensors, which don't count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            # Values that a fake tensor doesn't have: the slope of a PReLU, or a flag to repeat random draws.
            return False if args[0].dtype == torch.bool else 1.0
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class BackboneStep:
    """Bytes of a micro-batch's step of the backbone, besides weights, gradients and images.

    kept: between forward and backward pass. peak: maximum during the forward or the backward pass.
    """

    weights: int
    averaged: int
    trained: int
    kept: int
    peak: int


@lru_cache(maxsize=32)
def _backbone_step(
    model: str,
    embed_size: int,
    size: tuple[int, int],
    batch: int,
    half: bool,
    channels_last: bool,
    frozen: bool,
    checkpointing: bool,
    freeze: tuple[str, ...],
    model_kwargs: tuple[str, ...],
) -> BackboneStep:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    with FakeTensorMode(allow_non_fake_inputs=True):  # such as the state of the random generator
        with _LiveStorages([]):  # provides the values that some initialisations read from a tensor
            backbone = build_model(model, embed_size, size, keyword_arguments(model_kwargs)).train()
        images = torch.empty(batch, 3, *size).to(memory_format=memory_format)
        named = {f"backbone.{name}": parameter for name, parameter in backbone.named_parameters()}
        parameter_groups(named | {"head.weight": nn.Parameter(torch.empty(0))}, freeze, [])
        if frozen:
            for module in backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        if checkpointing:
            checkpoint_blocks(backbone)
        trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        for parameter in trained:  # gradients are counted separately
            parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
        with _LiveStorages([*backbone.parameters(), *backbone.buffers(), images]) as storages:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                embeddings = backbone(images)
            kept = storages.live
            if trained:
                torch.autograd.backward(embeddings, torch.empty_like(embeddings))
        weights, buffers = (sum(t.nbytes for t in ts) for ts in (backbone.parameters(), backbone.buffers()))
        return BackboneStep(weights, weights + buffers, sum(t.nbytes for t in trained), kept, storages.peak)


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def backbone_step(options: argparse.Namespace, batch: int, precision: str) -> BackboneStep:
    """Step of a micro-batch of `batch` images with train.py's options. precision: not auto."""
    size = training_preprocessing(options).input_size
    return _backbone_step(
        options.model,
        options.embed_size,
        size,
        batch,
        precision in ("bf16", "fp16"),
        options.channels_last,
        options.freeze_bn,
        options.activation_checkpointing,
        tuple(options.freeze),
        tuple(options.model_kwargs),
    )


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank. backbone, head: weights and optimiser state; backbone: also the weight average.

    step: peak that a step adds, of which `activations` are kept from the forward to the backward pass.
    """

    backbone: int
    head: int
    activations: int
    step: int
    loader: int
    context: int

    @property
    def total(self) -> int:
        return self.backbone + self.head + self.step + self.loader + self.context


def memory(options: argparse.Namespace, ranks: int, classes: int, precision: str) -> Memory:
    """Memory of a rank with train.py's options. precision: not auto."""
    micro = options.train_batch_size // options.accumulate
    batch = micro // ranks
    backbone = backbone_step(options, batch, precision)
    states = _STATES[options.optimizer]
    width = options.embed_size * options.sub_centers + (options.margin_type == "linear")  # of a class in the head
    head = head_cost(classes, width, micro, ranks, options.sample_rate, states)
    centres = head.active * width * _FLOAT
    nearest = micro * head.active if options.sub_centers > 1 else 0  # a byte each
    centers = classes // ranks * options.embed_size * _FLOAT if options.center_loss_weight else 0
    pairs = 5.5 * micro * head.active * _FLOAT if options.global_push_loss_weight else 0.0
    samples = _OF_SAMPLES * micro * options.embed_size * _FLOAT
    # DDP allocates its buckets at the start; without DDP there are no gradients before the backward pass.
    gradients = backbone.trained if ranks > 1 or options.accumulate > 1 else 0
    earlier = centres if options.accumulate > 1 else 0
    step = max(
        backbone.kept + gradients + earlier + head.step + int(pairs) + nearest + samples,
        backbone.peak + backbone.trained + earlier + centres,
    )
    height, width = training_preprocessing(options).input_size
    images = batch * 3 * height * width * _FLOAT
    return Memory(
        backbone=backbone.weights * (1 + states) + bool(options.ema_decay) * backbone.averaged,
        head=head.kept + head.drawn + centers,
        activations=backbone.kept,
        step=step + 2 * options.accumulate * images,  # also the next step's
        loader=_QUEUE * (images + batch * _DECODED),
        context=_CONTEXT,
    )
