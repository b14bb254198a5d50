"""train.py and evaluate_lfw.py as a user starts them, and what they wrote."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from tests.builders.command_options import data_options, validation_options
from tests.gpu.job import Job

T = TypeVar("T")
NO_VALIDATION = ("--val_data_root", "", "--val_list", "", "--val_landmarks", "")
_CORES_EACH = 3


def training_command(job: Job, out: Path, *options: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """train.py with the quick start's recipe and the check's data; later options win. `out` gets snapshots/run_N.pt
    and logs/."""
    where = ["--snap_folder", f"{out}/snapshots", "--snap_prefix", "run", "--log_folder", f"{out}/logs"]
    shared = ["--data_cache", "none", "--device", job.device.type, "--log_step", "1", "--max_bad_images", "0"]
    script = [*launcher, "train.py", "@configs/quickstart.yml"]
    return [sys.executable, *script, *data_options(job.data), *validation_options(job.data), *where, *shared, *options]


def torchrun(ranks: int, *options: str) -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", *options)


def environment() -> dict[str, str]:
    """Environment of a command. OMP_NUM_THREADS is torchrun's default; set, it doesn't warn."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(command: list[str]) -> str:
    """Run a command and return its output; RuntimeError with the end of its errors when it fails."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    print(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}", flush=True)
    if done.returncode:
        raise RuntimeError(f"{command[1:3]} ended with {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def train(job: Job, out: Path, *options: str) -> list[dict[str, Any]]:
    """Run train.py to its end; the records of its log."""
    run(training_command(job, out, *options))
    return records(out)


def side_by_side(jobs: dict[str, Callable[[], T]]) -> dict[str, T]:
    """Call functions that wait for commands, as many at a time as there are cores for; the results by name."""
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) // _CORES_EACH)) as pool:
        return dict(zip(jobs, pool.map(lambda job: job(), jobs.values()), strict=True))


def records(out: Path) -> list[dict[str, Any]]:
    """Records of a run's log, so far."""
    path = out / "logs/log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def same_weights(first: Path, second: Path) -> bool:
    """Return True if two snapshots hold the same bits."""
    one, other = (torch.load(path, weights_only=True, map_location="cpu")["state_dict"] for path in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
