"""Ownership of a prefix of snapshots: one run writes under it at a time, and only beside its own snapshots.

A snapshot holds the id of the run that wrote it; a resumed run keeps the id. Old snapshots without an id count as
those of one run.
"""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fr.checkpoint.snapshot import all_paths, read_run_id, state_path
from fr.checkpoint.snapshot_writer import remove
from fr.distributed import gather_objects, raise_together, rank
from fr.errors import InputError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # of some network mounts


@dataclass(frozen=True)
class Claim:
    """Snapshots to resume from, in the order to try them, and those of other runs, which --overwrite removes."""

    resumable: list[Path]
    others: list[Path]


@contextmanager
def locked(folder: Path, prefix: str, patience: float = 0) -> Iterator[None]:
    """Context that holds the lock of a prefix, so that no other run writes under it; entered by all ranks together.

    InputError if another process still holds it after `patience` seconds, or the folder can't be written to. Rank 0
    holds a lock of the kernel, which ends with the process in any case.
    """
    descriptor, failure = -1, None
    if rank() == 0:
        path = folder / f".{prefix}.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if _lock(descriptor, patience):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            else:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                failure = InputError(
                    f"{path}: {holder} is writing snapshots under this prefix: give another --snap_prefix or "
                    "--snap_folder, or end that run"
                )
        except OSError as error:
            failure = InputError(f"--snap_folder {folder}: can't be written to: {error.strerror or error}")
    try:
        raise_together(failure, "rank 0 can't write to the folder of snapshots")
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def claim(choice: str, folder: Path, prefix: str, job: str, overwrite: bool = False, restarted: bool = False) -> Claim:
    """Snapshots to resume from; rank 0 looks for all ranks. choice: a `.pt`, `auto` = the newest run's, empty = none.

    job: the id of a new run. restarted: torchrun has restarted all ranks after a failure (--max-restarts): the run's
    own snapshots are tried first. InputError if there are other runs' snapshots under this prefix, unless `overwrite`.
    """
    found, failure = Claim([], []), None
    if rank() == 0:
        try:
            found = _claim(choice, folder, prefix, job, overwrite, restarted)
        except InputError as error:
            failure = error
    problems = gather_objects(failure.problems if failure else ())[0]
    if problems:
        raise InputError(*problems)
    return gather_objects(found)[0]


def patience(start: int, hang_timeout: float) -> float:
    """Seconds to wait for the lock of the previous start's rank 0, perhaps on another host; 0 unless restarted.

    start: number of this start of the ranks by torchrun, from 1. Slurm's count of restarts begins with 0.
    """
    again = start > 1 or int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    return min(120.0, hang_timeout or 120.0) if again else 0.0


def _claim(choice: str, folder: Path, prefix: str, job: str, overwrite: bool, restarted: bool) -> Claim:
    present = all_paths(folder, prefix)
    owners = {path: _owner(path) for path in present}
    newest_first = [path for path in present if state_path(path).is_dir()]
    known = (owners[path] for path in newest_first if owners[path] is not None)
    own = next(known, job) if choice == "auto" else _owner(Path(choice)) if choice else job
    if choice == "auto":
        resumable = [path for path in newest_first if owners[path] in (own, None)]
    else:
        given = Path(choice).resolve()
        same = [path for path in present if path.resolve() == given]
        chosen = (same or [Path(choice)]) if choice else []
        ours = [path for path in newest_first if owners[path] == own] if restarted else []
        resumable = ours + [path for path in chosen if path not in ours]
    if resumable and own is None:  # it can't be read; resuming reports that
        return Claim(resumable, [])
    others = [path for path in present if owners[path] != own and (owners[path] is not None or not resumable)]
    if others and not overwrite and not newest_first:
        raise InputError(
            f"{others[0]} exists, of the same --snap_prefix, and has no {state_path(others[0]).name} to resume from: "
            f"give another --snap_prefix (with --init_from {others[0]} to begin with its weights), or --overwrite to "
            "remove it"
        )
    if others and not overwrite:
        raise InputError(
            f"{others[0]} is an earlier run's, of the same --snap_prefix: give --snap_to_resume auto to resume from "
            "it, another --snap_prefix, or --overwrite to remove it"
            if not resumable
            else f"{others[0]} is another run's than {resumable[0]}: move it away, or give --overwrite to remove it"
        )
    newer = [path for path in newest_first if owners[path] == own]
    may_restart = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    if choice not in ("", "auto") and newer and newer[0] not in resumable and may_restart and not restarted:
        raise InputError(
            f"{newer[0]} is an earlier run's, and with --max-restarts this run would resume from it after a restart: "
            "give --snap_to_resume auto or another --snap_prefix, or move it away"
        )
    return Claim(resumable, others)


def remove_others(others: Sequence[Path]) -> None:
    """Remove other runs' snapshots; rank 0 does it for all. InputError on every rank if one can't be removed."""
    failure = None
    try:
        for path in others if rank() == 0 else ():
            remove(path)
    except OSError as error:
        name = error.filename or "an earlier run's snapshot"
        failure = InputError(f"--overwrite: {name} can't be removed: {error.strerror or error}")
    raise_together(failure, "--overwrite: rank 0 can't remove an earlier run's snapshot")


def _owner(path: Path) -> str | None:
    """Id of the run that wrote a snapshot, "" if it holds none; None if it can't be read."""
    try:
        return read_run_id(path)
    except InputError:
        return None


def _lock(descriptor: int, patience: float) -> bool:
    """Take the lock; False while another process has it. True also on file systems without locks."""
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.5)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return True
