"""Mirror of a run's snapshots in an object store or another folder (--snap_mirror).

It has the layout of the snapshot folder, in a folder per run: `RUN_ID/PREFIX_1000.state/…`, then
`RUN_ID/PREFIX_1000.pt` as the commit mark. Nothing in a mirror is removed, except a snapshot that is copied again.
"""

import hashlib
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from fr.checkpoint.snapshot import all_paths, read, snapshot_path, state_path
from fr.distributed import gather_objects, patient_group, raise_reason, raise_together, rank
from fr.errors import InputError, in_short
from fr.files.checksums import SUMS, read_sums
from fr.files.durable import sync_folder, write_durably
from fr.files.remote import CHUNK, RemoteFailure, RemoteFile, Store

STOPPED_S = 120.0  # longest wait for copies after a signal; launch/slurm.sh signals five minutes before the limit
Files = dict[str, RemoteFile]  # name below a store's root → file


class SnapshotMirror:
    """Copies snapshots of a run in a thread of rank 0, while the training goes on; with url "" it does nothing.

    A failed copy is reported, and tried again with the next snapshot. patience: longest wait of `close` [s]. say:
    called with each line to print. InputError on every rank if no store can be opened at the URL.
    """

    def __init__(self, url: str, run_id: str, patience: float, say: Callable[[str], None]) -> None:
        self.copying: Path | None = None  # the `.pt` of the snapshot that mustn't be removed now
        self.patience, self._say = patience, say
        self._store, failure = None, None
        if url and rank() == 0:
            try:
                self._store = Store(f"{url.rstrip('/')}/{run_id or 'without_id'}")
            except RemoteFailure as error:
                failure = InputError(f"--snap_mirror {error}")
        raise_reason(failure)
        self._copied: dict[str, bytes] = {}  # name of a `.pt` there → its SHA256SUMS
        self._offered: deque[Sequence[Path]] = deque(maxlen=1)
        self._wake, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)  # the exit doesn't wait for it
        if self._store:
            self._thread.start()

    def offer(self, paths: Sequence[Path]) -> None:
        """Start copying the complete snapshots that the mirror lacks, in this order; returns at once."""
        self._offered.append(paths)
        self._wake.set()

    def close(self) -> None:
        """Wait for the copies, no longer than `patience`."""
        self._closing = True
        self._wake.set()
        if self._store:
            self._thread.join(self.patience)
            if self._thread.is_alive():
                self._say(f"{self._store.url}: not waiting any longer after {self.patience:g} s: lacks {self.copying}")

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing
            if self._offered:
                self._copy_all(self._offered.pop())

    def _copy_all(self, paths: Sequence[Path]) -> None:
        assert self._store
        for path in paths:
            self.copying = path
            try:
                if self._copy(self._store, path):
                    self._say(f"copied {path} to {self._store.url}")
            except Exception as error:  # of any type: a failed copy must not end the training
                if path.exists():  # not removed meanwhile
                    self._say(f"{path}: not copied: {in_short(error)}; tried again with the next snapshot")
                    return
            finally:
                self.copying = None

    def _copy(self, store: Store, path: Path) -> bool:
        """Copy a snapshot, its `.pt` last; False if the mirror has it already."""
        state = state_path(path)
        sums = (state / SUMS).read_bytes()
        if self._copied.get(path.name) == sums:
            return False
        sources = {f"{state.name}/{file.name}": file for file in sorted(state.iterdir())} | {path.name: path}
        there = {file.name: file for file in store.find("")}
        sizes = {name: file.size for name, file in there.items() if name in sources}
        is_new = sizes != {name: file.stat().st_size for name, file in sources.items()}
        is_new = is_new or _content(store, there[f"{state.name}/{SUMS}"]) != sums
        if is_new:
            if path.name in there:
                store.remove(path.name)
            for name, file in sources.items():
                store.write(name, file)
        self._copied[path.name] = sums
        return is_new


def fetch_newest(url: str, folder: Path, prefix: str) -> list[str]:
    """Fetch the newest complete snapshot of a prefix into a folder that has none; returns lines to print.

    Rank 0 does it for all ranks. If several runs have snapshots there, those of the run that wrote last are used.
    InputError on every rank if the mirror or the folder can't be accessed, or all snapshots are damaged.
    """
    notes: list[str] = []
    failure = None
    if rank() == 0 and not all_paths(folder, prefix):
        try:
            notes = _fetch_newest(Store(url), folder, prefix)
        except RemoteFailure as error:
            failure = InputError(f"--snap_mirror {error}")
        except InputError as error:
            failure = error
        except OSError as error:
            failure = InputError(f"{folder}: can't be written to: {error.strerror or error}")
    with patient_group() as group:  # hundreds of gigabytes may take an hour
        raise_together(failure, "rank 0 couldn't fetch a snapshot from --snap_mirror", group)
    return gather_objects(notes)[0]


def _fetch_newest(store: Store, folder: Path, prefix: str) -> list[str]:
    files = {file.name: file for file in store.find("")}
    pattern = re.compile(rf"([^/]+)/{re.escape(prefix)}_(\d+)\.pt")
    runs: dict[str, dict[int, str]] = {}
    for name in files:
        if match := pattern.fullmatch(name):
            runs.setdefault(match[1], {})[int(match[2])] = name
    if not runs:
        return [f"{store.url}: no snapshot of {prefix} there yet"]
    last = max(runs, key=lambda run: store.modified(runs[run][max(runs[run])])) if len(runs) > 1 else next(iter(runs))
    damaged = []
    for iteration in sorted(runs[last], reverse=True):
        name, path = runs[last][iteration], snapshot_path(folder, prefix, iteration)
        try:
            _fetch(store, files, name, path)
        except _Damaged as error:
            damaged.append(str(error))
            continue
        return [*damaged, f"fetched {store.url}/{name}"]
    raise InputError(*damaged)


class _Damaged(Exception):
    """A snapshot in the mirror is incomplete or damaged."""


def _fetch(store: Store, files: Files, name: str, path: Path) -> None:
    """Fetch a snapshot, check it, and rename it to its final names; _Damaged if it isn't complete and intact."""
    state_name, state = name.removesuffix(".pt") + ".state", state_path(path)
    # Names of snapshots that are being written, so that the next write removes what a killed one leaves.
    temporary, temporary_state = path.with_name(f".{path.name}.tmp"), path.with_name(f".{state.name}.tmp")
    for left in (state, temporary_state):  # left by a killed fetch, since there is no `.pt`
        shutil.rmtree(left, ignore_errors=True)
    temporary_state.mkdir()
    listed = files.get(f"{state_name}/{SUMS}")
    content = _content(store, listed) if listed else b""
    sums = read_sums(content.decode(errors="replace"))
    if not sums:
        raise _Damaged(f"{store.url}/{state_name}/{SUMS}: missing or damaged")
    for part, digest in sums.items():
        file = files.get(f"{state_name}/{part}")
        if not file or _fetch_file(store, file, temporary_state / part) != digest:
            raise _Damaged(f"{store.url}/{state_name}/{part}: missing or damaged")
    write_durably(temporary_state / SUMS, lambda target: target.write(content))
    _fetch_file(store, files[name], temporary)
    try:
        read(temporary)
    except InputError as error:
        raise _Damaged(f"{store.url}/{name}: not a snapshot, or damaged") from error
    sync_folder(temporary_state)
    temporary_state.rename(state)
    sync_folder(folder := path.parent)
    temporary.rename(path)
    sync_folder(folder)


def _fetch_file(store: Store, file: RemoteFile, target: Path) -> str:
    """Write a file of a store to the disk; returns its SHA-256."""
    digest = hashlib.sha256()

    def write_into(out: BinaryIO) -> None:
        for start in range(0, file.size, CHUNK):
            data = store.read(file.name, start, min(start + CHUNK, file.size))
            digest.update(data)
            out.write(data)

    write_durably(target, write_into)
    return digest.hexdigest()


def _content(store: Store, file: RemoteFile) -> bytes:
    """Content of a small file of a store."""
    return store.read(file.name, 0, file.size)
