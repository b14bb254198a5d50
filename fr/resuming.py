"""Going on from a snapshot: the newest that is whole, and what must be the same there (C7)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fr.checksums import damages
from fr.distributed import gather_objects
from fr.errors import InputError
from fr.snapshot import by_iteration, read, state_path
from fr.training_state import TrainingState


def candidates(wish: str, folder: Path, prefix: str) -> list[Path]:
    """What to try to go on from, in this order. wish: a `.pt`, `auto` = those in the folder, or empty = nothing."""
    if wish == "auto":
        return [*reversed(by_iteration(folder, prefix).values())]
    return [Path(wish)] if wish else []


def resume(paths: Sequence[Path], state: TrainingState, facts: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Load the first undamaged snapshot of several, all ranks together: its contents, and what there is to say.

    facts: entries of the `.pt` that must be the same there. InputError when all are damaged, and for each difference.
    """
    damaged: list[str] = []
    for path in paths:
        contents, problems = _whole(path)
        if not problems:
            return _load(path, contents, state, facts), [*damaged, f"going on from {path}"]
        damaged += problems
    raise InputError(*damaged)


def _whole(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The contents of a snapshot, and what is wrong with it or its training state: on every rank what is on any."""
    contents: dict[str, Any] = {}
    problems: tuple[str, ...] = ()
    try:
        contents = read(path)
        if not state_path(path).is_dir():
            raise InputError(f"{state_path(path)}: no such folder: {path} holds the weights alone and can't be resumed")
    except InputError as error:
        problems = error.problems
    problems = next(filter(None, gather_objects(problems)), ())
    return contents, [*problems] or damages(state_path(path))


def _load(path: Path, contents: dict[str, Any], state: TrainingState, facts: dict[str, Any]) -> dict[str, Any]:
    problems = [
        f"{path}: {name} is {stored} there and {wanted} in this run"
        for name, stored, wanted in _differences(contents, facts, "")
    ]
    if problems:
        raise InputError(*problems)
    state.load(state_path(path))
    return contents


def _differences(stored: dict[str, Any], wanted: dict[str, Any], prefix: str) -> list[tuple[str, Any, Any]]:
    differences = []
    for key, value in wanted.items():
        if isinstance(value, dict):
            there = stored.get(key, {})
            differences += _differences(there, dict.fromkeys(there) | value, f"{prefix}{key}.")
        elif stored.get(key) != value:
            differences.append((f"{prefix}{key}", stored.get(key), value))
    return differences
