"""A small training on hosts of tests/builders/hosts.py, started by torchrun on each as docs/cluster.md has it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.builders.hosts import Hosts
from tests.conftest import ROOT, TINY, data_options, folders, records

ITERATIONS, VAL_STEP = 16, 4
BATCH = "12"  # of 1 to 4 ranks
# Else a host that joins, or comes back, finds no address of the first rank, and all end (torch 2.14).
VARIABLES = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def options(data: Path, out: Path, *more: str) -> list[str]:
    """Options of train.py; the folder gets snapshots and logs."""
    course = ["--max_iterations", str(ITERATIONS), "--val_step", str(VAL_STEP), "--snap_to_resume", "auto"]
    return [*data_options(data), *TINY, "--train_batch_size", BATCH, *folders(out), *course, *more]


def losses(out: Path) -> list[float]:
    """Losses of a finished run, one for each iteration."""
    log = records(out / "logs")
    assert [record["iteration"] for record in log] == [*range(1, ITERATIONS + 1)], "the log has gaps or repeats"
    return [record["loss"] for record in log]


class HostedRun:
    """One rank a host. out: folder that all hosts see. nodes: torchrun's --nnodes. torchrun: more of its options.

    endpoint: where the hosts meet; empty = at the first.
    """

    def __init__(
        self, out: Path, data: Path, hosts: Hosts, nodes: str, *more: str, torchrun: str = "", endpoint: str = ""
    ) -> None:
        self.out, self._hosts = out, hosts
        self._said = out / "said"
        core = str(min(os.sched_getaffinity(0)))  # the same threads on each host, whatever the machine
        meeting = f"--rdzv_backend=c10d --rdzv_endpoint={endpoint or f'{hosts.name(0)}:29500'} --rdzv_id={out.name}"
        self._command = ["taskset", "-c", core, sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}"]
        self._command += [*meeting.split(), "--nproc_per_node=1", "--max-restarts=3", *torchrun.split()]
        self._command += [str(ROOT / "train.py"), *options(data, out, *more)]
        self._agents: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *hosts: int) -> None:
        """Start torchrun on hosts, or again."""
        with self._said.open("ab") as said:
            for host in hosts:
                self._agents[host] = self._hosts.start(host, self._command, os.environ | VARIABLES, said)

    def said(self) -> str:
        """Output of all hosts."""
        return self._said.read_text(errors="replace")

    def iteration(self) -> int:
        """Iterations done, as the log has them."""
        log = self.out / "logs/log.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def wait(self, happens: Callable[[], bool], timeout: float = 150) -> float:
        """Seconds until something holds."""
        start = time.monotonic()
        while not happens():
            assert time.monotonic() < start + timeout, f"not within {timeout} s: {self.said()}"
            time.sleep(0.005)
        return time.monotonic() - start

    def wait_for(self, text: str, timeout: float = 150) -> float:
        """Seconds until a regular expression is found in what was said."""
        return self.wait(lambda: bool(re.search(text, self.said())), timeout)

    def statuses(self, *hosts: int, timeout: float = 150) -> list[int]:
        """Exit statuses of the hosts' torchruns, once they have ended."""
        self.wait(lambda: all(self._agents[host].poll() is not None for host in hosts), timeout)
        return [int(self._agents[host].returncode) for host in hosts]

    def running(self, host: int) -> bool:
        return self._agents[host].poll() is None

    def starts(self) -> list[tuple[int, int]]:
        """Ranks of each start of the training, and the iteration at which it began."""
        sizes = re.findall(r"images a step on (\d+) × cpu", self.said())
        begun = re.findall(r"^iterations (\d+) …", self.said(), re.MULTILINE)
        return [(int(size), int(iteration)) for size, iteration in zip(sizes, begun, strict=True)]
