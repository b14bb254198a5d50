"""The training state beside a snapshot, in torch.distributed.checkpoint's form: read by any number of ranks (C6, C7).

The head and its momentum are sharded over the classes, random states are a rank's, all else is alike on all ranks.
"""

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from fr.checkpoint.dcp_files import PathlessWriter, SafeReader, causes, shapes_in
from fr.distributed import broadcast_buffers, rank, world_size
from fr.errors import InputError
from fr.files.untrusted import read_text
from fr.losses.classifier import MarginSoftmax

IDENTITIES = "identities.txt"
Tensors = dict[str, torch.Tensor]


class TrainingState:
    """Everything that the next iteration depends on, as tensors that live in the running objects."""

    def __init__(
        self,
        backbone: nn.Module,
        head: MarginSoftmax,
        optimizer: torch.optim.Optimizer,
        average: nn.Module | None = None,
    ) -> None:
        self._backbone = backbone
        self._average = average
        self._head = head
        self._optimizer = optimizer
        self._device = head.weight.device
        self._meshes = {kind: init_device_mesh(kind, (world_size(),)) for kind in {"cpu", self._device.type}}
        self._copies: Tensors = {}

    def now(self, copied: bool = False) -> Tensors:
        """By name, for `save` and `weights`; all ranks together.

        copied: into memory of the CPU that the next such call takes again; else they change as the training goes on.
        """
        # Any rank may be the one that writes a replicated tensor, and the batch statistics differ until DDP's next
        # forward pass, which does the same.
        for module in filter(None, (self._backbone, self._average)):
            broadcast_buffers(module)
        whole, rows = self._whole() | self._random_states(), self._rows()
        return self._copy(whole) | self._sharded(self._copy(rows)) if copied else whole | self._sharded(rows)

    def load(self, folder: Path) -> None:
        """All ranks together, on any number of them; InputError when the state doesn't fit."""
        tensors = self._whole() | self._sharded(self._rows())
        reader = SafeReader(folder)
        stored = shapes_in(reader.read_metadata(), folder)
        random_states = {name: state for name, state in self._random_states().items() if name in stored}
        problems = [f"{folder}: {name} is missing" for name in tensors if name not in stored]
        problems += [
            f"{folder}: {name} is {stored[name]}, this run needs {tuple(tensor.shape)}"
            for name, tensor in (tensors | random_states).items()
            if name in stored and stored[name] != tuple(tensor.shape)
        ]
        if problems:
            raise InputError(*problems)
        try:
            dcp.load(tensors | random_states, storage_reader=reader)
        except CheckpointException as error:
            raise InputError(f"{folder}: damaged: {causes(error)}") from error
        self._backbone.load_state_dict(_below("backbone.", tensors))
        for name, state in random_states.items():
            if name.startswith("random_cuda"):
                torch.cuda.set_rng_state(state, self._device)
            else:
                torch.set_rng_state(state)

    def _whole(self) -> Tensors:
        """What all ranks have alike."""
        tensors = {f"backbone.{name}": tensor for name, tensor in self._backbone.state_dict().items()}
        if self._average:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        momentum = self._momentum()
        tensors |= {f"momentum.{name}": momentum[p] for name, p in self._backbone.named_parameters()}
        return tensors | {f"head.{name}": buffer for name, buffer in self._head.named_buffers() if not buffer.ndim}

    def _rows(self) -> Tensors:
        """Of which each rank has the rows of its classes."""
        tensors = {"head": self._head.weight.detach(), "momentum_head": self._momentum()[self._head.weight]}
        return tensors | {f"head.{name}": buffer for name, buffer in self._head.named_buffers() if buffer.ndim}

    def _momentum(self) -> dict[torch.Tensor, torch.Tensor]:
        return {parameter: state["momentum_buffer"] for parameter, state in self._optimizer.state.items()}

    def _random_states(self) -> Tensors:
        states = {f"random.{rank()}": torch.get_rng_state()}
        if self._device.type == "cuda":
            states[f"random_cuda.{rank()}"] = torch.cuda.get_rng_state(self._device)
        return states

    def _sharded(self, rows: Tensors) -> Tensors:
        shape = torch.Size((self._head.classes, self._head.weight.shape[1]))
        return {
            name: DTensor.from_local(
                local, self._meshes[local.device.type], [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1)
            )
            for name, local in rows.items()
        }

    def _copy(self, tensors: Tensors) -> Tensors:
        for name, tensor in tensors.items():
            if name not in self._copies:
                self._copies[name] = torch.empty_like(tensor, device="cpu")
            self._copies[name].copy_(tensor)
        return {name: self._copies[name] for name in tensors}


def weights(tensors: Tensors) -> dict[str, Tensors]:
    """For the `.pt`, of what `TrainingState.now` gave: `state_dict`, and `average` where one is kept."""
    models = {"state_dict": _below("backbone.", tensors), "average": _below("average.", tensors)}
    return {name: {key: tensor.cpu() for key, tensor in model.items()} for name, model in models.items() if model}


def _below(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def save(tensors: Tensors, folder: Path, group: dist.ProcessGroup | None = None) -> None:
    """Write what `TrainingState.now` gave, all ranks together, durably; InputError on every rank if one can't."""
    try:
        dcp.save(tensors, storage_writer=PathlessWriter(folder), process_group=group)
    except CheckpointException as error:
        raise InputError(f"{folder}: can't be written: {causes(error)}") from error


def read_head(folder: Path) -> tuple[torch.Tensor, list[str] | None]:
    """The head of a state, [C, E], and the identities of its rows where they were written; InputError if damaged.

    Every caller reads all of it, without the other ranks.
    """
    reader = SafeReader(folder)
    shape = shapes_in(reader.read_metadata(), folder).get("head", ())
    try:
        head = torch.empty(shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is meant to be
            dcp.load({"head": head}, storage_reader=reader, no_dist=True)
    except (CheckpointException, RuntimeError, TypeError) as error:
        reason = causes(error) if isinstance(error, CheckpointException) else error
        raise InputError(f"{folder}: the head is missing or damaged: {reason}") from error
    return head, read_names(folder)


def read_names(folder: Path) -> list[str] | None:
    """Of the identities of the head's rows, where they were written; InputError if that is no text."""
    names = folder / IDENTITIES
    return read_text(names).removesuffix("\n").split("\n") if names.is_file() else None
