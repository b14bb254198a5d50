"""Snapshots: written whole or not at all, found, checked and read back (C6, C10).

`{prefix}_{iteration}.pt` is what people pass around: tensors and builtins. `{prefix}_{iteration}.state/` beside it is
the training state, written by torch.distributed.checkpoint: head and its momentum as sharded tensors, so that any
number of ranks can read it. Both come into being under a temporary name; the `.pt` is renamed last and is the commit
mark.
"""

import os
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from fr.checkpoint_files import PathlessWriter, SafeReader, causes, shapes_in
from fr.data.annotations import read_text
from fr.distributed import broadcast_buffers, raise_together, rank, world_size
from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax

FORMAT = 1
IDENTITIES = "identities.txt"
_NEEDED = {
    "format": int,
    "model": str,
    "embed_size": int,
    "preprocessing": dict,
    "iteration": int,
    "state_dict": dict,
    "config": dict,
    "metrics": dict,
    "run": dict,
}


def snapshot_path(folder: Path, prefix: str, iteration: int) -> Path:
    return folder / f"{prefix}_{iteration}.pt"


def state_path(snapshot: Path) -> Path:
    """The training state that belongs to a `.pt`."""
    return snapshot.with_suffix(".state")


def newest(folder: Path, prefix: str) -> Path | None:
    """The whole snapshot of the highest iteration, if there is any; what an interrupted write left doesn't count."""
    pattern = re.compile(re.escape(prefix) + r"_(\d+)\.pt")
    found = {int(m[1]): path for path in folder.glob("*.pt") if (m := pattern.fullmatch(path.name))}
    whole = [iteration for iteration, path in found.items() if state_path(path).is_dir()]
    return found[max(whole)] if whole else None


def read(path: Path) -> dict[str, Any]:
    """The contents of a `.pt`, every part there and of its type; InputError otherwise. Executes nothing."""
    try:
        contents: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except Exception as error:  # whatever damaged bytes make of an unpickler
        raise InputError(f"{path}: not a snapshot, or damaged") from error
    return check(path, contents)


def check(path: Path, contents: Any) -> dict[str, Any]:
    """What `torch.load` made of a `.pt`, if every part is there and of its type; InputError otherwise."""
    if not isinstance(contents, dict):
        raise InputError(f"{path}: not a snapshot of this trainer")
    if wrong := [name for name, kind in _NEEDED.items() if not isinstance(contents.get(name), kind)]:
        raise InputError(f"{path}: not a snapshot of this trainer: missing or wrong: {', '.join(wrong)}")
    if contents["format"] != FORMAT:
        raise InputError(f"{path}: written in format {contents['format']}, this version reads {FORMAT}")
    return contents


def load_weights(model: nn.Module, contents: dict[str, Any], path: Path, averaged: bool = False) -> None:
    """Put the backbone's weights of a snapshot, or their average, into a model; InputError lists what doesn't fit."""
    weights = contents.get("average" if averaged else "state_dict")
    if not isinstance(weights, dict):
        raise InputError(f"{path}: holds no averaged weights: it was trained without --ema_decay")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from error


class TrainingState:
    """What `.state/` holds, as tensors that live in the running objects: saved from them, loaded into them."""

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
        self._mesh = init_device_mesh(head.weight.device.type, (world_size(),))

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """For the `.pt`: `state_dict`, and `average` where one is kept."""
        models = {"state_dict": self._backbone} | ({"average": self._average} if self._average else {})
        return {
            name: {key: tensor.cpu() for key, tensor in model.state_dict().items()} for name, model in models.items()
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name; the head and its momentum as DTensors over the classes, random states by rank."""
        shape = torch.Size((self._head.classes, self._head.weight.shape[1]))

        def sharded(local: torch.Tensor) -> torch.Tensor:
            return DTensor.from_local(
                local.detach(), self._mesh, [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1)
            )

        tensors = {f"backbone.{name}": tensor for name, tensor in self._backbone.state_dict().items()}
        if self._average:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        momentum = {p: state["momentum_buffer"] for p, state in self._optimizer.state.items()}
        tensors |= {f"momentum.{name}": momentum[p] for name, p in self._backbone.named_parameters()}
        tensors["head"] = sharded(self._head.weight)
        tensors["momentum_head"] = sharded(momentum[self._head.weight])
        for name, buffer in self._head.named_buffers():  # a row a class, or a figure that all ranks share
            tensors[f"head.{name}"] = sharded(buffer) if buffer.ndim else buffer
        return tensors

    def save(self, folder: Path) -> None:
        """All ranks together; `folder` must not exist."""
        # Any rank may be the one that writes a replicated tensor, and the batch statistics differ until DDP's next
        # forward pass, which does the same.
        for module in filter(None, (self._backbone, self._average)):
            broadcast_buffers(module)
        tensors = self.tensors() | {f"random.{rank()}": torch.get_rng_state()}
        try:
            dcp.save(tensors, storage_writer=PathlessWriter(folder))
        except CheckpointException as error:
            raise InputError(f"{folder}: can't be written: {causes(error)}") from error

    def load(self, folder: Path) -> None:
        """All ranks together, on any number of them; InputError when the state doesn't fit."""
        tensors = self.tensors()
        reader = SafeReader(folder)
        stored = shapes_in(reader.read_metadata(), folder)
        random_name = f"random.{rank()}"
        if random_name in stored:
            tensors[random_name] = torch.get_rng_state()
        problems = [f"{folder}: {name} is missing" for name in tensors if name not in stored]
        problems += [
            f"{folder}: {name} is {stored[name]}, this run needs {tuple(tensor.shape)}"
            for name, tensor in tensors.items()
            if name in stored and stored[name] != tuple(tensor.shape)
        ]
        if problems:
            raise InputError(*problems)
        try:
            dcp.load(tensors, storage_reader=reader)
        except CheckpointException as error:
            raise InputError(f"{folder}: damaged: {causes(error)}") from error
        self._backbone.load_state_dict({
            name.removeprefix("backbone."): tensor
            for name, tensor in tensors.items()
            if name.startswith("backbone.")
        })
        if random_name in tensors:
            torch.set_rng_state(tensors[random_name])


def read_head(path: Path) -> tuple[torch.Tensor, list[str] | None]:
    """The head beside a `.pt`, [C, E], and the identities of its rows where they were written; InputError if damaged.

    Every caller reads all of it, without the other ranks.
    """
    folder = state_path(path)
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
    names = folder / IDENTITIES
    return head, read_text(names).removesuffix("\n").split("\n") if names.is_file() else None


def write(path: Path, contents: dict[str, Any], state: TrainingState, identities: Sequence[str] = ()) -> None:
    """Write `.state/` and then the `.pt`, all ranks together; on return both are on the disk.

    identities: the names of the head's rows, kept as `.state/identities.txt`, one a line.
    InputError on every rank when one of them can't write; what was whole before stays so.
    """
    final_state = state_path(path)
    temporary_state = path.with_name(f".{path.stem}.state.tmp")

    def prepare() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary_state, ignore_errors=True)

    def commit() -> None:
        if identities:
            names = "".join(f"{name}\n" for name in identities).encode()
            _write_durably(temporary_state / IDENTITIES, lambda file: file.write(names))
        path.unlink(missing_ok=True)  # an older snapshot of this name stops being one before its state goes
        shutil.rmtree(final_state, ignore_errors=True)
        _sync_folder(temporary_state)
        temporary_state.rename(final_state)
        write_weights(path, contents)

    _by_first_rank(prepare, path)
    state.save(temporary_state)
    _by_first_rank(commit, path)


def write_weights(path: Path, contents: dict[str, Any]) -> None:
    """Write a `.pt`, whole or not at all; OSError or RuntimeError when that fails."""
    temporary = path.with_name(f".{path.name}.tmp")
    _write_durably(temporary, lambda file: torch.save({"format": FORMAT, **contents}, file))
    _sync_folder(path.parent)
    temporary.replace(path)
    _sync_folder(path.parent)


def _write_durably(path: Path, write_into: Callable[[BinaryIO], object]) -> None:
    with path.open("wb") as file:
        write_into(file)
        file.flush()
        os.fsync(file.fileno())


def _by_first_rank(act: Callable[[], None], path: Path) -> None:
    """Rank 0 acts, the others wait; if it fails, all of them raise InputError."""
    failure = None
    if rank() == 0:
        try:
            act()
        except (OSError, RuntimeError) as error:  # torch.save tells of a full disk by either
            failure = InputError(f"{path}: can't be written: {error}")
    raise_together(failure, f"{path}: can't be written by rank 0")


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries (new names) durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def resume(path: Path, state: TrainingState, facts: dict[str, Any]) -> int:
    """Load the training state of a snapshot, all ranks together; returns its iteration.

    facts: entries of the `.pt` that must be the same there. InputError spells out each difference.
    """
    contents = read(path)
    if not state_path(path).is_dir():
        raise InputError(f"{state_path(path)}: no such folder: {path} holds the weights alone and can't be resumed")
    problems = [
        f"{path}: {name} is {stored} there and {wanted} in this run"
        for name, stored, wanted in _differences(contents, facts, "")
    ]
    if problems:
        raise InputError(*problems)
    state.load(state_path(path))
    return int(contents["iteration"])


def _differences(stored: dict[str, Any], wanted: dict[str, Any], prefix: str) -> list[tuple[str, Any, Any]]:
    differences = []
    for key, value in wanted.items():
        if isinstance(value, dict):
            there = stored.get(key, {})
            differences += _differences(there, dict.fromkeys(there) | value, f"{prefix}{key}.")
        elif stored.get(key) != value:
            differences.append((f"{prefix}{key}", stored.get(key), value))
    return differences
