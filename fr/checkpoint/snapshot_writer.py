"""Atomic, optionally asynchronous writing of snapshots, and removal of old ones.

Both parts are written and synced to the disk under temporary names before they are renamed; the `.pt` is renamed last.
"""

import errno
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fr.checkpoint.mirror import SnapshotMirror
from fr.checkpoint.resuming import NOTHING, Resumed
from fr.checkpoint.snapshot import SnapshotContents, by_iteration, read_run_id, snapshot_path, state_path, write_weights
from fr.checkpoint.training_state import IDENTITIES, Tensors, TrainingState, save, weights
from fr.distributed import new_patient_group, raise_together, rank
from fr.errors import InputError
from fr.files.checksums import SUMS, sums_of
from fr.files.durable import sync_folder, write_durably

WATCHED_THREAD = "snapshot"  # prefix of the names of threads that the main thread may wait for


@dataclass(frozen=True)
class Kept:
    """Snapshots to keep: the `newest` (0 = all), the best, and each whose iteration `every` divides (0 = none)."""

    newest: int = 0
    every: int = 0

    def superseded(self, iterations: Sequence[int], best: int | None) -> list[int]:
        """Return those of the ascending `iterations` whose snapshots can be removed."""
        old = iterations[: -self.newest] if self.newest else []
        return [i for i in old if i != best and not (self.every and i % self.every == 0)]


class SnapshotWriter:
    """Writer of one snapshot at a time, by all ranks together; `close` waits for the last.

    identities: names of the head's rows, stored in the training state. background: write a copy while the training
    goes on. resumed: the snapshot that the run resumed from. mirror: gets copies. say: called with one line for each
    snapshot. written: paths of the snapshots, oldest first. best: iteration and accuracy of the best one.
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
        mirror: SnapshotMirror | None = None,
    ) -> None:
        self.folder, self.prefix, self._state = folder, prefix, state
        self._names = "".join(f"{name}\n" for name in identities).encode()
        self._say, self._kept, self.best = say, kept, resumed.contents.best if resumed.contents else None
        self.written = [resumed.path] if resumed.path else []
        self._mirror, self._own = mirror, set[Path]()
        self._thread = ThreadPoolExecutor(1, WATCHED_THREAD) if background else None
        # Its collectives come between those of the training in any order, so they need a group of their own.
        self._group = new_patient_group() if background else None
        self._pending: Future[None] | None = None
        if background:
            state.now(copied=True)  # allocate the memory before the training begins: that costs more than a copy

    def write(self, iteration: int, contents: SnapshotContents) -> None:
        """Write a snapshot of the state as it is now; its weights, iteration and best replace those in `contents`.

        InputError on every rank if one of them can't write this snapshot, or failed to write the previous one in the
        background. Complete snapshots stay complete.
        """
        self.wait()
        if "accuracy" in contents.metrics and (not self.best or contents.metrics["accuracy"] >= self.best[1]):
            self.best = iteration, contents.metrics["accuracy"]
        tensors = self._state.now(copied=self._thread is not None)
        contents = replace(
            contents,
            iteration=iteration,
            best=self.best,
            state_dict=weights(tensors, "backbone"),
            average=weights(tensors, "average") or None,
        )
        path = snapshot_path(self.folder, self.prefix, iteration)
        if self._thread:
            self._pending = self._thread.submit(self._write, path, contents, tensors)
        else:
            self._write(path, contents, tensors)

    def failure(self) -> InputError | None:
        """Failure of the background write, once known on this rank; `wait` and `write` will raise it."""
        error = self._pending.exception() if self._pending and self._pending.done() else None
        if error is None or isinstance(error, InputError):
            return error
        raise error

    def close(self) -> None:
        """Wait for the last snapshot, and end the thread."""
        try:
            self.wait()
        finally:
            if self._thread:
                self._thread.shutdown()

    def wait(self) -> None:
        """Wait until the snapshot in the background is written; InputError on every rank when it can't be."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def _write(self, path: Path, contents: SnapshotContents, tensors: Tensors) -> None:
        temporary = path.with_name(f".{path.stem}.state.tmp")
        try:
            self._by_first_rank(path, lambda: self._prepare(temporary, contents, tensors))
            save(tensors, temporary, self._group)
            sums = sums_of(temporary, self._group)
            self._by_first_rank(path, lambda: _commit(path, contents, temporary, sums))
        except InputError:
            shutil.rmtree(temporary, ignore_errors=True)  # partial files would take up a disk that may be full
            raise
        self.written.append(path)
        if rank() == 0:
            self._say(f"wrote {path}")
            own = self._remove_old(contents)
            if self._mirror:
                self._mirror.offer(own[::-1])

    def _prepare(self, temporary: Path, contents: SnapshotContents, tensors: Tensors) -> None:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        ours = re.compile(rf"\.{re.escape(self.prefix)}_\d+\.(pt|state|older)\.tmp")
        for left in [path for path in temporary.parent.iterdir() if ours.fullmatch(path.name)]:  # left by a killed run
            _clear(left)
        parts = [tensors, contents.state_dict, contents.average or {}]
        _need_space(temporary.parent, sum(tensor.nbytes for part in parts for tensor in part.values()))
        temporary.mkdir()
        if self._names:
            write_durably(temporary / IDENTITIES, lambda file: file.write(self._names))

    def _remove_old(self, newest: SnapshotContents) -> list[Path]:
        """Remove superseded snapshots of this run; returns its remaining ones up to the newest's iteration.

        Other runs' snapshots stay. One that is being copied to the mirror stays until the next call.
        """
        known = {i: path for i, path in by_iteration(self.folder, self.prefix).items() if i <= newest.iteration}
        own = [i for i, path in known.items() if self._is_own(path, newest.run_id)]
        for iteration in self._kept.superseded(own, self.best[0] if self.best else None):
            if self._mirror and known[iteration] == self._mirror.copying:
                continue
            try:
                remove(known[iteration])
            except OSError as error:
                self._say(f"an old snapshot can't be removed: {error}")
        return [known[i] for i in own if known[i].exists()]

    def _is_own(self, path: Path, run_id: str) -> bool:
        with suppress(InputError):  # the owner of a damaged one is unknown, so it stays
            if path not in self._own and read_run_id(path) == run_id:
                self._own.add(path)
        return path in self._own

    def _by_first_rank(self, path: Path, act: Callable[[], None]) -> None:
        """Call `act` on rank 0 while the others wait; if it fails, all of them raise InputError."""
        failure = None
        if rank() == 0:
            try:
                act()
            except (OSError, RuntimeError) as error:  # torch.save raises either
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                failure = InputError(f"{path}: can't be written: {reason}")
        raise_together(failure, f"{path}: can't be written by rank 0", self._group)


def _need_space(folder: Path, needed: int) -> None:
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < needed:  # mounts of object stores report 0 of 0 bytes
        raise OSError(errno.ENOSPC, f"needs {needed / 1e9:.3f} GB, and {folder} has {usage.free / 1e9:.3f} GB left")


def _commit(path: Path, contents: SnapshotContents, temporary: Path, sums: bytes) -> None:
    """Rename both parts to their final names. An older snapshot of this name is absent only during the renames."""
    state, older = state_path(path), path.with_name(f".{path.stem}.older.tmp")

    def rename_state() -> None:
        path.unlink(missing_ok=True)
        if state.exists():
            state.rename(older)
        temporary.rename(state)

    write_durably(temporary / SUMS, lambda file: file.write(sums))
    sync_folder(temporary)
    try:
        write_weights(path, contents, rename_state)
    finally:
        if not path.exists():
            shutil.rmtree(state, ignore_errors=True)  # it may have been renamed already
    if older.exists():
        shutil.rmtree(older)


def remove(path: Path) -> None:
    """Remove a snapshot, its `.pt` first: an interrupted removal leaves no snapshot, and `_clear` removes the rest."""
    left = path.rename(path.with_name(f".{path.name}.tmp"))
    sync_folder(path.parent)
    _clear(left)


def _clear(left: Path) -> None:
    """Remove a file or folder with a temporary name; first the training state of a `.pt` that has no other name."""
    path = left.with_name(left.name.removeprefix(".").removesuffix(".tmp"))
    if path.suffix == ".pt" and not path.exists() and state_path(path).exists():
        shutil.rmtree(state_path(path))
    shutil.rmtree(left) if left.is_dir() else left.unlink()
