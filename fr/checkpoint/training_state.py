"""The training state beside a snapshot, in torch.distributed.checkpoint's form, for any number of ranks.

The head and its optimiser state are sharded over the classes, random states belong to a rank, and everything else is
the same on all ranks. `fr.train.learner.Learner.state` has the names of the tensors.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from fr.checkpoint.dcp_files import PathlessWriter, SafeReader, causes, shapes_in
from fr.distributed import rank, world_size
from fr.errors import InputError
from fr.files.untrusted import read_text

IDENTITIES = "identities.txt"
Tensors = dict[str, torch.Tensor]


class Unfit(InputError):
    """The training state is of a run with other losses or options: tensors are missing or have another shape."""


@dataclass(frozen=True)
class StateTensors:
    """Live tensors of a training state, by name.

    whole: the same on all ranks. rows: this rank's rows of two-dimensional tensors [classes, …]. by_rank_0: names in
    `whole` in which the ranks may differ at present; rank 0's values are stored. optional: names that a stored state
    may lack; such a tensor is left unchanged.
    """

    whole: Tensors
    rows: Tensors
    classes: int
    by_rank_0: Sequence[torch.Tensor] = ()
    optional: Sequence[str] = ()


class Stateful(Protocol):
    """Owner of the tensors, such as `fr.train.learner.Learner`."""

    def state(self) -> StateTensors: ...


class TrainingState:
    """Everything that the next iteration depends on: the tensors of a learner, and the random states."""

    def __init__(self, learner: Stateful) -> None:
        self._learner = learner
        self._device = learner.state().rows["head"].device
        self._meshes = {kind: init_device_mesh(kind, (world_size(),)) for kind in {"cpu", self._device.type}}
        self._copies: Tensors = {}

    def now(self, copied: bool = False) -> Tensors:
        """Tensors by name, for `save` and `weights`; all ranks together.

        copied: copy into CPU memory, which the next such call reuses; otherwise they change as the training goes on.
        """
        state = self._learner.state()
        # Any rank may write a tensor of `whole`, and the batch statistics differ between ranks until DDP broadcasts
        # them in its next forward pass.
        for tensor in state.by_rank_0:
            dist.broadcast(tensor, 0)
        whole, rows = state.whole | self._random_states(), state.rows
        if copied:
            whole, rows = self._copy(whole), self._copy(rows)
        return whole | self._sharded(rows, state.classes)

    def load(self, folder: Path) -> None:
        """Read the state into the live tensors, on any number of ranks; Unfit, or InputError if it is damaged."""
        state = self._learner.state()
        tensors = state.whole | self._sharded(state.rows, state.classes)
        reader = SafeReader(folder)
        stored = shapes_in(reader.read_metadata(), folder)
        random_states = {name: value for name, value in self._random_states().items() if name in stored}
        tensors = {name: one for name, one in tensors.items() if name in stored or name not in state.optional}
        problems = [f"{folder}: {name} is missing" for name in tensors if name not in stored]
        problems += [
            f"{folder}: {name} is {stored[name]}, this run needs {tuple(tensor.shape)}"
            for name, tensor in (tensors | random_states).items()
            if name in stored and stored[name] != tuple(tensor.shape)
        ]
        if problems:
            raise Unfit(*problems)
        try:
            dcp.load(tensors | random_states, storage_reader=reader)
        except CheckpointException as error:
            raise InputError(f"{folder}: damaged: {causes(error)}") from error
        for name, value in random_states.items():
            if name.startswith("random_cuda"):
                torch.cuda.set_rng_state(value, self._device)
            else:
                torch.set_rng_state(value)

    def _random_states(self) -> Tensors:
        states = {f"random.{rank()}": torch.get_rng_state()}
        if self._device.type == "cuda":
            states[f"random_cuda.{rank()}"] = torch.cuda.get_rng_state(self._device)
        return states

    def _sharded(self, rows: Tensors, classes: int) -> Tensors:
        def whole(local: torch.Tensor) -> torch.Tensor:
            shape, stride = torch.Size((classes, local.shape[1])), (local.shape[1], 1)
            mesh = self._meshes[local.device.type]
            return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)

        return {name: whole(local) for name, local in rows.items()}

    def _copy(self, tensors: Tensors) -> Tensors:
        for name, tensor in tensors.items():
            if name not in self._copies:
                self._copies[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._copies[name].copy_(tensor, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return {name: self._copies[name] for name in tensors}


def weights(tensors: Tensors, model: str) -> Tensors:
    """Weights of `backbone` or `average` for the `.pt`, on the CPU, from the tensors of `TrainingState.now`."""
    prefix = f"{model}."
    return {name.removeprefix(prefix): tensor.cpu() for name, tensor in tensors.items() if name.startswith(prefix)}


def save(tensors: Tensors, folder: Path, group: dist.ProcessGroup | None = None) -> None:
    """Write the tensors of `TrainingState.now` durably, all ranks together; InputError on every rank if one can't."""
    try:
        dcp.save(tensors, storage_writer=PathlessWriter(folder), process_group=group)
    except CheckpointException as error:
        raise InputError(f"{folder}: can't be written: {causes(error)}") from error


def read_head(folder: Path) -> tuple[torch.Tensor, list[str] | None]:
    """Head [C, E] of a stored state, and the identities of its rows if stored; InputError if it is damaged.

    With K centres a class the head is [C, K · E]. Each caller reads all of it, without the other ranks.
    """
    reader = SafeReader(folder)
    shape = shapes_in(reader.read_metadata(), folder).get("head", ())
    try:
        head = torch.empty(shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # intended: this rank reads alone
            dcp.load({"head": head}, storage_reader=reader, no_dist=True)
    except (CheckpointException, RuntimeError, TypeError) as error:
        reason = causes(error) if isinstance(error, CheckpointException) else error
        raise InputError(f"{folder}: the head is missing or damaged: {reason}") from error
    return head, read_names(folder)


def read_names(folder: Path) -> list[str] | None:
    """Names of the identities of the head's rows, None if not stored; InputError if the file isn't text."""
    names = folder / IDENTITIES
    return read_text(names).removesuffix("\n").split("\n") if names.is_file() else None
