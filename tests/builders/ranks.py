"""Ranks of this host, forked from a server that has torch loaded: a small job takes two seconds instead of ten.

What torchrun itself does, `tests.conftest.launch` and `tests/disturbed_jobs.py` try.
"""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.distributed as dist

from fr.errors import run_plainly
from tests.conftest import ROOT

PRELOADED = ["tests.conftest", "tests.disturbed_jobs", "tests.rank_server", "torch._dynamo"]


def start_ranks(target: Callable[..., None], world: int, *arguments: Any) -> tuple[list[BaseProcess], dist.TCPStore]:
    """Start `target(rank, world, port, *arguments)` on each rank; the store, which must outlive them, has the port."""
    store = dist.TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    ranks: list[BaseProcess] = [
        server.Process(target=_on_cores, args=(os.sched_getaffinity(0), target, rank, world, store.port, *arguments))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks, store


def _on_cores(cores: set[int], target: Callable[..., None], *arguments: Any) -> None:
    """Call `target` on this process's cores of now: the server has those of when it was started."""
    os.sched_setaffinity(0, cores)
    target(*arguments)


def become_rank(rank: int, world: int, port: int) -> None:
    """Set the environment as torchrun does, and the defaults of a process that is no test."""
    torchrun: dict[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    torchrun |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ.update({name: str(value) for name, value in torchrun.items()})
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    multiprocessing.set_start_method("fork", force=True)  # as in a command: a lock of tqdm's then leaves nothing behind


def run_command(script: str, options: list[str], out: str, err: str) -> None:
    """Run a command's `main` in this process, and end it; output is appended to files."""
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv = [script, *options]
    run_plainly(script, importlib.import_module(script.removesuffix(".py")).main)


def _rank(
    rank: int, world: int, port: int, script: str, options: list[str], environment: dict[str, str], out: str, err: str
) -> None:
    become_rank(rank, world, port)
    os.environ.update(environment)
    os.chdir(ROOT)
    run_command(script, options, out, err)


def launch_forked(
    script: str, *options: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`tests.conftest.launch` on two ranks, without torchrun; the status is that of the rank that ended worst."""
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        processes, _store = start_ranks(_rank, 2, script, [*options], environment or {}, str(out), str(err))
        until = time.monotonic() + 300
        for process in processes:
            process.join(max(0, until - time.monotonic()))
        for process in processes:
            process.kill()
            process.join()
        worst = max(abs(process.exitcode or 0) for process in processes)
        said = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
        return subprocess.CompletedProcess([script, *options], worst, *said)
