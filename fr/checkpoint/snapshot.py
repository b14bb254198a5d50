"""Contents and files of a snapshot: `{prefix}_{iteration}.pt`, and `….state/` beside it.

A `.pt` holds `SnapshotContents`: tensors and builtins. The folder is the training state
(`fr/checkpoint/training_state.py`), which only resuming needs. `fr/checkpoint/snapshot_writer.py` writes both;
the `.pt` comes last and is the commit mark.
"""

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fr.errors import InputError
from fr.files import safetensors
from fr.files.durable import write_whole
from fr.files.kinds import Kind, kind_of, wrong_kind
from fr.files.model_metadata import CONTRACT_KEY, read_contract, read_facts

FORMAT = 1
# Fields that exported files hold in addition to the preprocessing.
OF_THE_NETWORK = ("model", "embed_size", "model_kwargs", "iteration")
_A_SNAPSHOT = "a snapshot of this trainer"


@dataclass(frozen=True, eq=False)
class SnapshotContents:
    """Contents of a `.pt`: one entry a field, and `format`. A field that is None has no entry, except `best`.

    run: batch size, seed, counts and fingerprint of the training data. config: the resolved options. metrics: of the
    last validation. scores: `fr.evaluation.score_check.Spread.as_dict` of each set. meters: counters of the loop.
    best: iteration and accuracy of the best snapshot of the run. average: the moving average of the weights
    (--ema_decay). run_id: a random name of the run that wrote it, kept over resumes; "" = unknown. head [C, E],
    head_bias [C] and identities: of weights that were imported with their head. model_kwargs: of --model_kwargs.
    """

    model: str
    embed_size: int
    preprocessing: dict[str, Any]  # Preprocessing.as_dict
    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    iteration: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    state_dict: dict[str, torch.Tensor] = field(default_factory=dict)
    meters: dict[str, Any] | None = None
    scores: list[dict[str, Any]] | None = None
    best: tuple[int, float] | None = None
    run_id: str = ""
    average: dict[str, torch.Tensor] | None = None
    head: torch.Tensor | None = None
    head_bias: torch.Tensor | None = None
    identities: list[str] | None = None
    model_kwargs: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Entries of the `.pt`: tensors and builtins."""
        entries = {one.name: getattr(self, one.name) for one in fields(self)}
        given = {name: value for name, value in entries.items() if value is not None or name == "best"}
        return {"format": FORMAT, **given}

    @classmethod
    def from_dict(cls, path: Path, stored: Any) -> "SnapshotContents":
        """Contents from the entries of a `.pt`; InputError unless every part is there and of its type."""
        if not isinstance(stored, dict) or "format" not in stored:
            raise InputError(wrong_kind(_A_SNAPSHOT, path) or f"{path}: not {_A_SNAPSHOT}")
        given = {name: stored[name] for name in _FITS if stored.get(name) is not None}
        missing = [name for name in _NEEDED if name not in given]
        wrong = missing + [name for name, value in given.items() if not _FITS[name](value)]
        if wrong:
            raise InputError(f"{path}: not a snapshot of this trainer: missing or wrong: {', '.join(wrong)}")
        if given["format"] != FORMAT:
            raise InputError(f"{path}: written in format {given['format']}, this version of the trainer reads {FORMAT}")
        del given["format"]
        return cls(**given)

    def required(self) -> dict[str, Any]:
        """Entries that must be the same in a snapshot that a run resumes from."""
        entries = {name: getattr(self, name) for name in ("model", "embed_size", "preprocessing", "run")}
        return entries | {"model_kwargs": self.model_kwargs or {}}


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _is_best(value: Any) -> bool:
    return isinstance(value, tuple) and [type(one) for one in value] in ([int, float], [int, int])


def _is_kwargs(value: Any) -> bool:
    """Return True if keyword arguments are builtins, lists of them, or lists of such lists."""

    def is_builtin(part: Any, depth: int = 2) -> bool:
        if isinstance(part, list):
            return depth > 0 and all(is_builtin(one, depth - 1) for one in part)
        return isinstance(part, bool | int | float | str | None)

    return isinstance(value, dict) and all(isinstance(key, str) and is_builtin(one) for key, one in value.items())


_FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("format", "embed_size", "iteration"), _is(int)),
    **dict.fromkeys(("preprocessing", "state_dict", "config", "metrics", "run", "meters", "average"), _is(dict)),
    **dict.fromkeys(("head", "head_bias"), _is(torch.Tensor)),
    **dict.fromkeys(("scores", "identities"), _is(list)),
    **dict.fromkeys(("model", "run_id"), _is(str)),
    "best": _is_best,
    "model_kwargs": _is_kwargs,
}
_NEEDED = ("format", "model", "embed_size", "preprocessing", "iteration", "state_dict", "config", "metrics", "run")


def snapshot_path(folder: Path, prefix: str, iteration: int) -> Path:
    """Path of the `.pt` of an iteration."""
    return folder / f"{prefix}_{iteration}.pt"


def state_path(snapshot: Path) -> Path:
    """Folder of the training state that belongs to a `.pt`."""
    return snapshot.with_suffix(".state")


def by_iteration(folder: Path, prefix: str) -> dict[int, Path]:
    """Snapshots that can be resumed from, by iteration, oldest first; remains of interrupted writes are left out."""
    pattern = re.compile(re.escape(prefix) + r"_(\d+)\.pt")
    paths = {int(m[1]): path for path in folder.glob("*.pt") if (m := pattern.fullmatch(path.name))}
    return {iteration: paths[iteration] for iteration in sorted(paths) if state_path(paths[iteration]).is_dir()}


def all_paths(folder: Path, prefix: str) -> list[Path]:
    """All `.pt` of a prefix, newest first, with or without a training state."""
    pattern = re.compile(re.escape(prefix) + r"_0*([1-9]\d*)\.pt")
    paths = {int(m[1]): path for path in folder.glob("*.pt") if (m := pattern.fullmatch(path.name))}
    return [paths[iteration] for iteration in sorted(paths, reverse=True)]


def newest(folder: Path, prefix: str) -> Path | None:
    """Snapshot of the highest iteration; None if there is no snapshot."""
    return next(reversed(by_iteration(folder, prefix).values()), None)


def read(path: Path) -> SnapshotContents:
    """Read a `.pt`, or a safetensors file that describes its model, executing nothing; InputError if it is damaged."""
    if kind_of(path) is Kind.SAFETENSORS:
        return described(path, *safetensors.read(path))
    try:
        _check_parts(path)
        with path.open("rb") as file:  # given a path, torch.load may choose another format by the file's name
            stored: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except Exception as error:  # an unpickler can raise anything on damaged bytes
        raise InputError(wrong_kind(_A_SNAPSHOT, path, Kind.TORCH) or f"{path}: not a snapshot, or damaged") from error
    return SnapshotContents.from_dict(path, stored)


def described(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> SnapshotContents:
    """Contents of a safetensors file of tools/export_weights.py; InputError if it lacks that tool's metadata."""
    if CONTRACT_KEY not in metadata:
        raise InputError(wrong_kind(_A_SNAPSHOT, path))
    facts = read_facts(path, metadata)
    known = {name: facts.get(name) for name in (*OF_THE_NETWORK, "scores")}
    return SnapshotContents.from_dict(
        path,
        {
            **{"format": FORMAT, "preprocessing": read_contract(path, metadata), "run": {}, "state_dict": tensors},
            **known,
            "config": {"flipped_emb": facts.get("flipped_emb", False)},
            "metrics": {name: facts[name] for name in ("threshold",) if name in facts},
        },
    )


def read_run_id(path: Path) -> str:
    """The `run_id` of a `.pt`, without reading its tensors; InputError unless it is a snapshot."""
    try:
        _check_parts(path, sums=False)
        stored: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        run_id = stored.get("run_id", "")
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except Exception:  # damaged, or on a file system without memory mapping
        return read(path).run_id
    return run_id if isinstance(run_id, str) else ""


def _check_parts(path: Path, sums: bool = True) -> None:
    """Check the CRC-32 that the zip format stores for each part: torch.load doesn't.

    sums: False = check only that the parts are as torch.save writes them.
    """
    with zipfile.ZipFile(path) as parts:
        # torch.save compresses nothing, so a small file can't unpack to a huge one. It writes no folders: for a part
        # that is marked as a folder torch.load returns uninitialised memory.
        if any(part.compress_type != zipfile.ZIP_STORED or part.external_attr for part in parts.infolist()):
            raise zipfile.BadZipFile("a part is not as torch.save writes it")
        if sums and parts.testzip():
            raise zipfile.BadZipFile("a checksum differs")


def load_weights(model: nn.Module, contents: SnapshotContents, path: Path, averaged: bool = False) -> None:
    """Load the backbone's weights of a snapshot, or their average, into a model; InputError lists what doesn't fit."""
    weights = contents.average if averaged else contents.state_dict
    if weights is None:
        raise InputError(f"{path}: holds no averaged weights: it was trained without --ema_decay, or is an export")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from error


def write_weights(path: Path, contents: SnapshotContents, before_naming: Callable[[], None] = lambda: None) -> None:
    """Write a `.pt`; before_naming as in `write_whole`."""
    write_whole(path, lambda file: torch.save(contents.as_dict(), file), before_naming)
