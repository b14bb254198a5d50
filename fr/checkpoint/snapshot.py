"""Snapshots: `{prefix}_{iteration}.pt`, which people pass around, and `….state/` beside it (C6, C10).

A `.pt` holds tensors and builtins. The folder is the training state (`fr/checkpoint/training_state.py`), which only
resuming needs. `fr/checkpoint/snapshot_writer.py` writes both; the `.pt` comes last and is the commit mark.
"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fr.errors import InputError
from fr.files.durable import sync_folder, write_durably

FORMAT = 1
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


def by_iteration(folder: Path, prefix: str) -> dict[int, Path]:
    """The snapshots that a run can go on from, oldest first; what an interrupted write left doesn't count."""
    pattern = re.compile(re.escape(prefix) + r"_(\d+)\.pt")
    found = {int(m[1]): path for path in folder.glob("*.pt") if (m := pattern.fullmatch(path.name))}
    return {iteration: found[iteration] for iteration in sorted(found) if state_path(found[iteration]).is_dir()}


def newest(folder: Path, prefix: str) -> Path | None:
    """The one of the highest iteration, if there is any."""
    return next(reversed(by_iteration(folder, prefix).values()), None)


def read(path: Path) -> dict[str, Any]:
    """The contents of a `.pt`, every part there, whole and of its type; InputError otherwise. Executes nothing."""
    try:
        _check_sums(path)
        contents: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except Exception as error:  # whatever damaged bytes make of an unpickler
        raise InputError(f"{path}: not a snapshot, or damaged") from error
    return check(path, contents)


def _check_sums(path: Path) -> None:
    """torch.save puts a CRC-32 beside each part, as zip files have it, and torch.load doesn't look at it."""
    with zipfile.ZipFile(path) as parts:
        # torch.save compresses nothing, so that a small file can't become a huge one, and has no folders: of a part
        # that is marked as one torch.load takes whatever is in memory.
        if any(part.compress_type != zipfile.ZIP_STORED or part.external_attr for part in parts.infolist()):
            raise zipfile.BadZipFile("a part is not as torch.save writes it")
        if parts.testzip():
            raise zipfile.BadZipFile("a checksum differs")


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


def write_weights(path: Path, contents: dict[str, Any], before_naming: Callable[[], None] = lambda: None) -> None:
    """Write a `.pt`, whole or not at all; OSError when that fails.

    before_naming: is called when all of it is on the disk, but under a temporary name.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_durably(temporary, lambda file: torch.save({"format": FORMAT, **contents}, file))
        before_naming()
        sync_folder(path.parent)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
