"""The snapshots of a run: each written whole or not at all, if wished behind the training's back, and old ones removed.

Both parts come into being under a temporary name and are on the disk before they get their own; the `.pt` gets its
name last (C6).
"""

import errno
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fr.checkpoint.resuming import NOTHING, Resumed
from fr.checkpoint.snapshot import by_iteration, snapshot_path, state_path, write_weights
from fr.checkpoint.training_state import IDENTITIES, Tensors, TrainingState, save, weights
from fr.distributed import new_patient_group, raise_together, rank
from fr.errors import InputError
from fr.files.checksums import SUMS, sums_of
from fr.files.durable import sync_folder, write_durably

WATCHED_THREAD = "snapshot"  # begins the name of one that the main thread may wait for


@dataclass(frozen=True)
class Kept:
    """Which snapshots stay: the `newest` (0 = all), the best, and each whose iteration `every` divides (0 = none)."""

    newest: int = 0
    every: int = 0

    def superseded(self, iterations: Sequence[int], best: int | None) -> list[int]:
        """Those, of some in ascending order, that need not stay."""
        old = iterations[: -self.newest] if self.newest else []
        return [i for i in old if i != best and not (self.every and i % self.every == 0)]


class SnapshotWriter:
    """Writes one snapshot at a time, all ranks together; `close` waits for the last.

    identities: names of the head's rows, kept in the training state. background: a copy is made, and written while the
    training goes on. resumed: what the run goes on from. say: gets a line a snapshot. written: oldest first.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        state: TrainingState,
        identities: Sequence[str],
        say: Callable[[str], None],
        kept: Kept = Kept(),
        background: bool = False,
        resumed: Resumed = NOTHING,
    ) -> None:
        self._folder, self._prefix, self._state = folder, prefix, state
        self._names = "".join(f"{name}\n" for name in identities).encode()
        self._say, self._kept, self._best = say, kept, resumed.contents.get("best")
        self.written = [resumed.path] if resumed.path else []
        self._thread = ThreadPoolExecutor(1, WATCHED_THREAD) if background else None
        # Its collectives come between those of the training in any order, so they need a group of their own.
        self._group = new_patient_group() if background else None
        self._pending: Future[None] | None = None
        if background:
            state.now(copied=True)  # to have the memory before the training begins: taking it costs more than a copy

    def write(self, iteration: int, contents: dict[str, Any]) -> None:
        """Write what stands in the `.pt` beside the weights, and the state as it is now.

        InputError on every rank when one of them can't write this snapshot, or couldn't the one before in the
        background; what was whole before stays so.
        """
        self.wait()
        if "accuracy" in contents["metrics"] and (not self._best or contents["metrics"]["accuracy"] >= self._best[1]):
            self._best = iteration, contents["metrics"]["accuracy"]
        tensors = self._state.now(copied=self._thread is not None)
        contents = contents | weights(tensors) | {"iteration": iteration, "best": self._best}
        path = snapshot_path(self._folder, self._prefix, iteration)
        if self._thread:
            self._pending = self._thread.submit(self._write, path, contents, tensors)
        else:
            self._write(path, contents, tensors)

    def failure(self) -> InputError | None:
        """Of the snapshot in the background, as soon as it is known on this rank; `wait` and `write` will raise it."""
        error = self._pending.exception() if self._pending and self._pending.done() else None
        if error is None or isinstance(error, InputError):
            return error
        raise error

    def close(self) -> None:
        try:
            self.wait()
        finally:
            if self._thread:
                self._thread.shutdown()

    def wait(self) -> None:
        """Until the snapshot in the background is written; InputError on every rank when it can't be."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def _write(self, path: Path, contents: dict[str, Any], tensors: Tensors) -> None:
        temporary = path.with_name(f".{path.stem}.state.tmp")
        try:
            self._by_first_rank(path, lambda: self._prepare(temporary, contents, tensors))
            save(tensors, temporary, self._group)
            sums = sums_of(temporary, self._group)
            self._by_first_rank(path, lambda: _commit(path, contents, temporary, sums))
        except InputError:
            shutil.rmtree(temporary, ignore_errors=True)  # no half gigabytes where there is no room
            raise
        self.written.append(path)
        if rank() == 0:
            self._say(f"wrote {path}")
            self._remove_old(contents["iteration"])

    def _prepare(self, temporary: Path, contents: dict[str, Any], tensors: Tensors) -> None:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        ours = re.compile(rf"\.{re.escape(self._prefix)}_\d+\.(pt|state|older)\.tmp")
        for left in [path for path in temporary.parent.iterdir() if ours.fullmatch(path.name)]:  # by a killed run
            _clear(left)
        parts = [tensors, contents["state_dict"], contents.get("average", {})]
        _need_space(temporary.parent, sum(tensor.nbytes for part in parts for tensor in part.values()))
        temporary.mkdir()
        if self._names:
            write_durably(temporary / IDENTITIES, lambda file: file.write(self._names))

    def _remove_old(self, newest: int) -> None:
        """Snapshots ahead of this run's newest are another's, and are left alone."""
        known = [i for i in by_iteration(self._folder, self._prefix) if i <= newest]
        for iteration in self._kept.superseded(known, self._best[0] if self._best else None):
            try:
                remove(snapshot_path(self._folder, self._prefix, iteration))
            except OSError as error:
                self._say(f"an old snapshot stays: {error}")

    def _by_first_rank(self, path: Path, act: Callable[[], None]) -> None:
        """Rank 0 acts, the others wait; if it fails, all of them raise InputError."""
        failure = None
        if rank() == 0:
            try:
                act()
            except (OSError, RuntimeError) as error:  # torch.save raises either
                failure = InputError(f"{path}: can't be written: {error}")
        raise_together(failure, f"{path}: can't be written by rank 0", self._group)


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"needs {needed / 1e9:.3f} GB, and {folder} has {free / 1e9:.3f} GB left")


def _commit(path: Path, contents: dict[str, Any], temporary: Path, sums: bytes) -> None:
    """Give both parts their names. An older snapshot of this name is gone only for the moment that takes."""
    state, older = state_path(path), path.with_name(f".{path.stem}.older.tmp")

    def give_name_to_state() -> None:
        path.unlink(missing_ok=True)
        if state.exists():
            state.rename(older)
        temporary.rename(state)

    write_durably(temporary / SUMS, lambda file: file.write(sums))
    sync_folder(temporary)
    try:
        write_weights(path, contents, give_name_to_state)
    finally:
        if not path.exists():
            shutil.rmtree(state, ignore_errors=True)  # it may have had its name already
    if older.exists():
        shutil.rmtree(older)


def remove(path: Path) -> None:
    """The `.pt` loses its name first: what is left is no snapshot, and `_prepare` knows it for what it is."""
    left = path.rename(path.with_name(f".{path.name}.tmp"))
    sync_folder(path.parent)
    _clear(left)


def _clear(left: Path) -> None:
    """Remove what bears a temporary name; before a `.pt` that has no other name its state, which may have its own."""
    path = left.with_name(left.name.removeprefix(".").removesuffix(".tmp"))
    if path.suffix == ".pt" and not path.exists() and state_path(path).exists():
        shutil.rmtree(state_path(path))
    shutil.rmtree(left) if left.is_dir() else left.unlink()
