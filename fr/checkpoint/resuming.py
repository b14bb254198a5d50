"""Resuming from the newest undamaged snapshot, if it is of the same run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fr.checkpoint.snapshot import SnapshotContents, read, state_path
from fr.checkpoint.training_state import TrainingState, Unfit, read_names
from fr.data.faces import shown
from fr.distributed import gather_objects
from fr.errors import InputError
from fr.files.checksums import damages
from fr.options.config_files import yaml_text
from fr.options.losses import LossSettings


@dataclass(frozen=True)
class Resumed:
    """Snapshot that a run resumed from, if any, and lines to print about it."""

    path: Path | None = None
    contents: SnapshotContents | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def iteration(self) -> int:
        return self.contents.iteration if self.contents else 0


NOTHING = Resumed()
_BEGIN = (
    "a run resumes with the data, model and losses that it began with; to begin another with its weights, give "
    "--init_from {} and another --snap_prefix, without --snap_to_resume"
)
_SHOWN = 5
_OF_THE_START = ("snap_to_resume", "overwrite")  # options with an effect at the start only


def resume(
    paths: Sequence[Path], state: TrainingState, ours: SnapshotContents, identities: Sequence[str] = ()
) -> Resumed:
    """Load the first undamaged snapshot of `paths`, all ranks together; without paths, do nothing.

    ours: contents of this run, whose `SnapshotContents.required` must be those stored. identities: names of its
    classes; empty = unknown. InputError if all snapshots are damaged, and for each difference.
    """
    damaged: list[str] = []
    for path in paths:
        contents, problems = _read_checked(path)
        if contents and not problems:
            problems = _differences(contents.required(), ours.required(), f"{path}: ") + _other_people(path, identities)
            if problems:
                raise InputError(*problems, _BEGIN.format(path))
            try:
                state.load(state_path(path))
            except Unfit as error:
                options = _other_options(contents.config, ours.config)
                raise InputError(*options, *shown([*error.problems]), _BEGIN.format(path)) from error
            return Resumed(path, contents, [*damaged, f"going on from {path}"])
        damaged += problems
    if damaged:
        raise InputError(*damaged)
    return NOTHING


def changed_options(resumed: Resumed, ours: dict[str, Any]) -> list[str]:
    """A line with the options of a run that differ from those of the snapshot it resumed from; [] if none do."""
    stored = resumed.contents.config if resumed.contents else {}
    changed = [
        f"--{name} {yaml_text(stored[name])} → {yaml_text(value)}"
        for name, value in ours.items()
        if name in stored and stored[name] != value and name not in _OF_THE_START
    ]
    return [f"changed since: {', '.join(changed)}"] if changed else []


def _read_checked(path: Path) -> tuple[SnapshotContents | None, list[str]]:
    """Contents of a snapshot, and the problems of it and its training state that any rank found."""
    contents = None
    problems: tuple[str, ...] = ()
    try:
        contents = read(path)
        if not state_path(path).is_dir():
            raise InputError(f"{state_path(path)}: no such folder: {path} holds only weights, for --init_from")
    except InputError as error:
        problems = error.problems
    problems = next(filter(None, gather_objects(problems)), ())
    return contents, [*problems] or damages(state_path(path))


def _differences(stored: dict[str, Any], wanted: dict[str, Any], prefix: str) -> list[str]:
    problems = []
    for key, value in wanted.items():
        if isinstance(value, dict):
            there = stored.get(key, {})
            problems += _differences(there, dict.fromkeys(there) | value, f"{prefix}{key}.")
        elif stored.get(key) != value:
            problems.append(f"{prefix}{key} is {stored.get(key)} there and {value} in this run")
    return problems


def _other_options(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Options that determine the contents of a training state and differ, one line each."""
    return [
        f"--{name} is {yaml_text(stored[name])} there and {yaml_text(wanted[name])} in this run"
        for name in [*(one.name for one in fields(LossSettings)), "ema_decay", "optimizer", "momentum"]
        if name in stored and name in wanted and stored[name] != wanted[name]
    ]


def _other_people(path: Path, ours: Sequence[str]) -> list[str]:
    theirs = read_names(state_path(path))
    if theirs is None or not ours or theirs == [*ours]:
        return []
    parts = [
        f"{len(names):,} {where} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
        for names, where in (
            (sorted({*theirs} - {*ours}), "there alone"),
            (sorted({*ours} - {*theirs}), "in this run alone"),
        )
        if names
    ]
    return [f"{path}: other identities: {', '.join(parts) or 'the same ones in another order'}"]
