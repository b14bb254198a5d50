"""The learner: everything that an optimiser step changes, the step itself, and its state for snapshots."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fr.checkpoint.training_state import StateTensors, Tensors
from fr.distributed import float32_products, rank, world_size
from fr.losses.classifier import MarginSoftmax
from fr.models.drops import drawn, drops_of
from fr.train.ema import WeightAverage
from fr.train.loss_scale import LossScale
from fr.train.meters import Meters
from fr.train.optimizer import apply_step, gradient_norm, set_lr
from fr.train.replicas import replicate, unshared

Batch = tuple[torch.Tensor, ...]  # images [b, 3, H, W], labels [b], and with a teacher its images [b, 3, H_t, W_t]
Metrics = dict[str, torch.Tensor]  # scalars on the device, equal on all ranks

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precision of the backbone's products
_STORED_NAMES = {"momentum_buffer": "momentum"}  # torch.optim's name of a state → its name in a training state


@dataclass(frozen=True)
class StepSettings:
    """Constants of a step. clip_norm: 0 = off. precision: one of `fr.distributed.PRECISIONS`.

    The head is in float32 with any precision, its products in TF32 unless that is `fp32`: with embeddings in half
    precision the errors are larger (LOG.md). freeze_bn: batch norms use their running statistics and don't update them.
    seed: of dropout in the backbone.
    """

    clip_norm: float = 0.0
    precision: str = "fp32"
    freeze_bn: bool = False
    memory_format: torch.memory_format = torch.contiguous_format
    seed: int = 0


class Learner:
    """Backbone, head, optimiser, weight average and meters of a run, on this rank.

    compiled: use torch.compile. teacher: network for the distillation losses, never changed or stored. Needs a process
    group.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: MarginSoftmax,
        optimizer: torch.optim.Optimizer,
        settings: StepSettings = StepSettings(),
        average: WeightAverage | None = None,
        compiled: bool = False,
        teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.backbone, self.head, self.optimizer, self.average = backbone, head, optimizer, average
        self.device = head.weight.device
        self.meters = Meters(self.device)
        self._settings, self._half = settings, _HALVES.get(settings.precision)
        self._scale = LossScale(self.device) if settings.precision == "fp16" else None
        self._teacher = teacher
        self._replicas = replicate(backbone, compiled)
        self._drops = drops_of(backbone)
        # Buffers that a forward pass changes: batch statistics, and the head's scalars. The centres change later.
        changing = [*backbone.buffers(), *(buffer for buffer in head.buffers() if not buffer.ndim)]
        dtypes = dict.fromkeys(buffer.dtype for buffer in changing)
        self._statistics = [[buffer for buffer in changing if buffer.dtype == dtype] for dtype in dtypes]

    def training_mode(self) -> None:
        """Set the backbone to training mode: before the first step, and after each use for evaluation."""
        self._replicas.train()
        if self._settings.freeze_bn:
            for module in self._replicas.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def step(self, batches: Sequence[Batch], iteration: int, lr: float) -> Metrics:
        """Forward and backward of the micro-batches, then one optimiser step, all ranks together.

        batches: of this rank, from `on_device`.
        A step whose gradient or loss isn't finite is skipped: it changes only the meters and the loss scale.
        The host doesn't wait for the device here.
        """
        scale = self._scale.value if self._scale else None
        set_lr(self.optimizer, lr)
        means: defaultdict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        statistics = [_end_to_end(buffers) for buffers in self._statistics]
        in_tf32 = float32_products(self._settings.precision != "fp32")
        with in_tf32, self.head.step(iteration, torch.cat([batch[1] for batch in batches]), self.optimizer):
            for number, (images, labels, *for_teacher) in enumerate(batches, start=1):
                first = ((number - 1) * world_size() + rank()) * len(images)  # as in `TrainingStream`
                drops = drawn(self._drops, self._settings.seed, iteration, first, images)
                with drops, unshared(self._replicas) if number < len(batches) else nullcontext():
                    with torch.autocast(self.device.type, self._half, enabled=self._half is not None):
                        teachers = self._teach(*for_teacher)
                        embeddings = self._replicas(images)
                    loss, metrics = self.head(embeddings, labels, teachers)
                    part = loss / len(batches)
                    (part if scale is None else part * scale).backward()
                for name, value in {"loss": loss.detach(), **metrics}.items():
                    means[name] = means[name] + value / len(batches)
            norm = gradient_norm(self.backbone.parameters(), self.head.parameters())
            norm = norm if scale is None else norm / scale
            skipped = apply_step(self.optimizer, norm, means["loss"], self._settings.clip_norm, scale)
            self.optimizer.zero_grad()
        for buffers, before in zip(self._statistics, statistics, strict=True):
            _keep_if(skipped.bool(), before, buffers)  # otherwise one NaN would stay in them for ever
        self.head.auxiliary.move_centers(skipped)
        if self.average:
            self.average.update(iteration, skipped)
        metrics = {**means, "gradient_norm": norm}
        if self._scale is None:
            self.meters.count(skipped)
        else:
            self.meters.count(skipped, self._scale.explains(means["loss"]))
            self._scale.update(skipped, means["loss"])
            metrics["loss_scale"] = self._scale.value.clone()
        return {**metrics, "skipped_steps": self.meters.skipped}

    def state(self) -> StateTensors:
        """The live tensors that the next step depends on, by their names in a training state.

        State of the optimiser: `<name>.<parameter>` for the backbone, `<name>_head` for the head. With fp16 also
        `loss_scale`, which starts at its initial value if the stored state has none.
        """
        whole = _named("backbone", self.backbone.state_dict())
        if self.average:
            whole |= _named("average", self.average.model.state_dict())
        for parameter_name, parameter in self.backbone.named_parameters():
            whole |= {f"{name}.{parameter_name}": tensor for name, tensor in self._optimizer_state(parameter).items()}
        of_head = {f"{name}_head": tensor for name, tensor in self._optimizer_state(self.head.weight).items()}
        of_head |= _named("head", dict(self.head.named_buffers()))
        rows = {name: tensor for name, tensor in of_head.items() if tensor.ndim == 2}  # one row per class
        whole |= {name: tensor for name, tensor in of_head.items() if name not in rows}
        return StateTensors(
            whole=whole | ({"loss_scale": self._scale.state} if self._scale else {}),
            rows={"head": self.head.weight.detach(), **rows},
            classes=self.head.classes,
            optional=("loss_scale",),
            by_rank_0=[*self.backbone.buffers(), *(self.average.model.buffers() if self.average else ())],
        )

    def on_device(self, images: torch.Tensor, labels: torch.Tensor, *for_teacher: torch.Tensor) -> Batch:
        """Move a micro-batch to the device and memory format that `step` expects."""
        images = images.to(self.device, non_blocking=True, memory_format=self._settings.memory_format)
        return images, *(tensor.to(self.device, non_blocking=True) for tensor in (labels, *for_teacher))

    @torch.no_grad()
    def _teach(self, *images: torch.Tensor) -> torch.Tensor | None:
        """The teacher's embeddings of a micro-batch; None without a teacher."""
        return self._teacher(*images) if self._teacher else None

    def _optimizer_state(self, parameter: nn.Parameter) -> Tensors:
        """Tensors that torch.optim keeps for a parameter, by their stored names."""
        state = self.optimizer.state.get(parameter, {})
        return {_STORED_NAMES.get(name, name): value for name, value in state.items() if torch.is_tensor(value)}


def _end_to_end(buffers: list[torch.Tensor]) -> torch.Tensor:
    """Copy of all elements of buffers of one type, concatenated [n]."""
    return torch.cat([buffer.flatten() for buffer in buffers])


def _keep_if(undo: torch.Tensor, before: torch.Tensor, buffers: list[torch.Tensor]) -> None:
    """Restore the buffers to `before`, from `_end_to_end`, if `undo` is True on the device.

    It takes a few kernels for all buffers of a type; one by one it would take two for each buffer.
    """
    kept = torch.split(torch.where(undo, before, _end_to_end(buffers)), [buffer.numel() for buffer in buffers])
    torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(kept, buffers, strict=True)])


def _named(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
