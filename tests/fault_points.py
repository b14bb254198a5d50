"""Fault points in a program that knows nothing of them: at its n-th operation below a folder something happens.

`install` counts what this process does below the folder: opens for writing, each write and read, fsync, rename,
unlink, mkdir, rmdir. In a command, FAULT (a `Fault` as JSON) and PYTHONPATH (tests/faults) have Python do it at start.
"""

import builtins
import errno
import io
import json
import os
import shutil  # before os is patched, or its rmtree would take another way than it does in earnest
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fr.files.durable import replace_file

KINDS = ("open", "write", "fsync", "rename", "unlink", "mkdir", "rmdir", "read")
# What goes on where nothing more can be written, and where nothing can be changed.
UNHARMED = {"ENOSPC": {"unlink", "rmdir", "read"}, "EROFS": {"read"}, "EIO": set[str]()}


@dataclass(frozen=True)
class Fault:
    """Fault, its rank and its time.

    folder: of which the operations count. control: a folder for `{rank}.pid`, `{rank}.trace` (an operation a line) and
    `acted`, which is there as soon as it has happened: once in all, whatever is started again. at: 1 is the first
    operation, of this kind if one is named; 0 = never. act: a signal's name, `sleep` (for ever), or an errno's name:
    every operation from there on then fails with that error, but for those it leaves unharmed. everyone: a signal goes
    to all ranks, this one the last.
    """

    folder: str
    control: str
    rank: int = 0
    at: int = 0
    act: str = "SIGKILL"
    kind: str = ""
    everyone: bool = False

    def environment(self) -> dict[str, str]:
        root = Path(__file__).parent.parent
        return {"FAULT": json.dumps(asdict(self)), "PYTHONPATH": f"{root / 'tests' / 'faults'}:{root}"}


class _Points:
    """The operations of this process so far."""

    def __init__(self, fault: Fault, rank: int) -> None:
        self.fault, self._rank = fault, rank
        self._control = Path(fault.control)
        self._acted = self._control / "acted"
        self._over = self._acted.exists() or rank != fault.rank or not fault.at
        self._trace = (self._control / f"{rank}.trace").open("ab", buffering=0)
        self._lock, self._count, self._failing = threading.Lock(), 0, False

    def reach(self, kind: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """An operation is about to be done; half: does a part of it, if the rest won't be."""
        with self._lock:
            self._trace.write(f"{kind} {os.path.relpath(path, self.fault.folder)}\n".encode())
            self._count += self.fault.kind in ("", kind)
            due = not self._over and self._count == self.fault.at
            self._over = self._over or due
        if due:
            if self.fault.act in (*UNHARMED, "SIGKILL", "SIGSTOP", "sleep"):
                half()
            self._acted.touch()
            self._act()
        if self._failing and kind not in UNHARMED[self.fault.act]:
            number = getattr(errno, self.fault.act)
            raise OSError(number, os.strerror(number), path)

    def _act(self) -> None:
        if self.fault.act in UNHARMED:
            self._failing = True
        elif self.fault.act == "sleep":
            time.sleep(1e6)
        else:
            others = self._control.glob("*.pid") if self.fault.everyone else ()
            for pid in [*({int(path.read_text()) for path in others} - {os.getpid()}), os.getpid()]:
                os.kill(pid, signal.Signals[self.fault.act])


def install(fault: Fault, rank: int) -> None:
    """From here on this process counts, and meets what waits for it."""
    points = _Points(fault, rank)

    def below(path: Any, folder: int | None = None) -> str:
        """The absolute path if it lies in the folder, else empty."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        path = os.path.abspath(os.fsdecode(path))
        return path if f"{path}/".startswith(f"{fault.folder}/") else ""

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            part = memoryview(data)[: len(data) // 2]
            points.reach("write", str(self.name), lambda: io.FileIO.write(self, part))
            return super().write(data) or 0

        def readinto(self, buffer: Any) -> int:
            points.reach("read", str(self.name))
            return super().readinto(buffer) or 0

    plain_open = io.open

    def counted_open(file: Any, mode: str = "r", *rest: Any, **settings: Any) -> Any:
        if isinstance(file, int) or not (path := below(file)):
            return plain_open(file, mode, *rest, **settings)
        writing = bool(set(mode) & set("wxa+"))
        if writing:
            points.reach("open", path)
        raw = Raw(path, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedWriter(raw) if writing else io.BufferedReader(raw)
        named = ("buffering", "encoding", "errors", "newline")
        chosen = dict(zip(named, rest, strict=False)) | settings
        chosen.pop("buffering", None)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, **chosen)

    def counted(kind: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(path: Any, *rest: Any, **settings: Any) -> Any:
            if found := below(path, settings.get("dir_fd")):
                points.reach(kind, found)
            return plain(path, *rest, **settings)

        return wrapper

    io.open = builtins.open = counted_open
    names = {"fsync": "fsync", "rename": "rename", "replace": "rename", "unlink": "unlink", "remove": "unlink"}
    for name, kind in (names | {"mkdir": "mkdir", "rmdir": "rmdir"}).items():
        setattr(os, name, counted(kind, getattr(os, name)))
    assert shutil.rmtree.avoids_symlink_attacks  # by folder descriptors, which `below` follows
    replace_file(Path(fault.control, f"{rank}.pid"), str(os.getpid()).encode())


def install_from_environment() -> None:
    """In the ranks of a job, and not in the torchrun that starts them."""
    if "FAULT" in os.environ and "RANK" in os.environ:
        install(Fault(**json.loads(os.environ["FAULT"])), int(os.environ["RANK"]))
