"""Jobs of two ranks that something happens to: the real torchrun, or ranks forked from a server that has torch loaded.

Both run train.py's own `main` over gloo. The second takes a second and a half instead of ten, does what torchrun does
when a rank fails, and has a smaller backbone.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

import train
from tests.builders.ranks import become_rank, run_command, start_ranks
from tests.conftest import ROOT, one_layer
from tests.fault_points import Fault, install

RANKS = 2
_GRACE = 3.0  # from SIGTERM to SIGKILL, where torchrun allows half a minute [seconds]


class Job:
    """A job that has been started. control: as in `Fault`."""

    def __init__(self, control: Path) -> None:
        self.control, self._said = control, control / "said.txt"

    def said(self) -> str:
        """Output on stdout and stderr, without the table of the options."""
        lines = self._said.read_text(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.endswith(("(default)\n", "(command line)\n")))

    def acted(self) -> bool:
        """Return True if the fault of the job has occurred."""
        return (self.control / "acted").exists()

    def pid(self, rank: int) -> int:
        """Process id of a rank, as soon as it has one."""
        path = self.control / f"{rank}.pid"
        while not path.exists():
            assert self.status() is None, f"it ended before rank {rank} had begun: {self.said()}"
            time.sleep(0.01)
        return int(path.read_text())

    def signal(self, rank: int, number: int) -> None:
        """To one rank, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid(rank), number)

    def wait(self, timeout: float = 120) -> int:
        """The exit status; a job that goes on for longer is a loss."""
        until = time.monotonic() + timeout
        while (status := self.status()) is None:
            assert time.monotonic() < until, f"still there after {timeout} s: {self.said()}"
            time.sleep(0.01)
        return status

    def status(self) -> int | None:
        """None while it runs; 128 + the signal's number of one that was killed."""
        raise NotImplementedError

    def end(self) -> None:
        """Kill whatever is left of it."""
        raise NotImplementedError


class Torchrun(Job):
    """The real command, a process of it for each of some hosts. torchrun: options of its own."""

    def __init__(self, fault: Fault, options: list[str], torchrun: Sequence[str] = (), hosts: int = 1) -> None:
        super().__init__(Path(fault.control))
        with socket.create_server(("127.0.0.1", 0)) as free:
            meeting = f"--rdzv_backend=c10d --rdzv_endpoint=127.0.0.1:{free.getsockname()[1]} --nnodes={hosts}".split()
        torchrun = [*(meeting if hosts > 1 else ["--standalone"]), f"--nproc_per_node={RANKS // hosts}", *torchrun]
        command = [sys.executable, "-m", "torch.distributed.run", *torchrun, str(ROOT / "train.py"), *options]
        with self._said.open("ab") as said:
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | fault.environment()
            started: dict[str, Any] = {"stdout": said, "stderr": said, "env": environment, "start_new_session": True}
            cores = [str(core) for core in sorted(os.sched_getaffinity(0))]  # shared out, for the same threads a rank
            self.agents = [
                subprocess.Popen(["taskset", "-c", ",".join(cores[host::hosts] or cores), *command], **started)
                for host in range(hosts)
            ]

    def status(self) -> int | None:
        codes = [agent.poll() for agent in self.agents]
        return None if None in codes else max(128 - code if code and code < 0 else code or 0 for code in codes)

    def end(self) -> None:
        for agent in self.agents:
            for pid in [*_children(agent.pid), agent.pid] if agent.poll() is None else []:
                os.kill(pid, signal.SIGKILL)
            agent.wait()
        for path in self.control.glob("*.pid"):  # ranks whose torchrun was killed
            pid = int(path.read_text())
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists() and str(self.control.parent) in command.read_text():
                os.kill(pid, signal.SIGKILL)


class Forked(Job):
    """Ranks without torchrun, started by this process."""

    def __init__(self, fault: Fault, options: list[str]) -> None:
        super().__init__(Path(fault.control))
        self._failed = 0
        self._deadline = float("inf")
        self.ranks, self._store = start_ranks(_run_rank, RANKS, fault, options, str(self._said))

    def status(self) -> int | None:
        """Asking is what makes it do as torchrun does: when a rank has failed, the others are ended."""
        codes = [process.exitcode for process in self.ranks]
        failed = [code for code in codes if code]
        if failed and not self._failed:
            self._failed = 128 - failed[0] if failed[0] < 0 else failed[0]
            self._deadline = time.monotonic() + _GRACE
            for process in self.ranks:
                process.terminate()
        if time.monotonic() > self._deadline:
            self.end()
        return None if None in codes else self._failed

    def end(self) -> None:
        for process in self.ranks:
            process.kill()
            process.join()


def _run_rank(rank: int, world: int, port: int, fault: Fault, options: list[str], said: str) -> None:
    become_rank(rank, world, port)
    install(fault, rank)
    with mock.patch.object(train, "build_model", small_backbone):
        run_command("train.py", options, said, said)


def small_backbone(name: str, embed_size: int, input_size: tuple[int, int], _kwargs: object = None) -> nn.Module:
    """With batch statistics, which the ranks have each their own of until a snapshot."""
    return nn.Sequential(one_layer(name, embed_size, input_size), nn.BatchNorm1d(embed_size))


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]

