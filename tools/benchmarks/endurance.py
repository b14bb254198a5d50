"""`benchmark.py endurance`: resource leaks of a long training.

It runs a training on drawn faces, with validations and snapshots, which is stopped by SIGTERM and resumed. For each
process it samples private memory, open files, threads, and the size of /dev/shm, and reports the minima of the first
and the last quarter of the samples, after a tenth of them as warm-up, and the slope by least squares. A leak raises the
minimum; memory that a validation allocates and frees doesn't. Each iteration must be logged once.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fr.errors import InputError
from fr.progress import progress
from fr.report.run_logs import read_log
from tools.make_sample_data import Options, make_sample_data

_ROOT = Path(__file__).resolve().parents[2]
_SMALL = "--input_size 32 --embed_size 32 --train_batch_size 8 --lr 0.02 --clip_norm 5 --device cpu --dali_threads 1"
_OFTEN = "--log_step 1 --epoch_total_num 1000000 --keep_snapshots 2 --snap_to_resume auto --snap_prefix long"


@dataclass(frozen=True)
class Sample:
    """Resources of a process after some iterations. memory, shared: MB; shared: all of /dev/shm."""

    iteration: int
    memory: float
    files: int
    threads: int
    shared: float


@dataclass(frozen=True)
class Trend:
    """Minima of the first and the last quarter, and the slope per thousand iterations."""

    first: float
    last: float
    slope: float


def run(arguments: argparse.Namespace) -> None:
    """Train, with stops and resumes, then print a table for each process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small = Options(identities=12, images_per_identity=8, lfw_identities=40, pairs_per_fold=2)
        make_sample_data(folder / "data", small)
        results = []
        with progress(arguments.iterations, "it", "training") as bar:
            for number in range(arguments.stops + 1):
                until = arguments.iterations * (number + 1) // (arguments.stops + 1)
                last = number == arguments.stops
                samples = [*_train(folder, arguments, until, last, bar)]
                results.append({name: asdict(trend) for name, trend in trends(samples).items()})
                _print(number, samples, results[-1])
        log = read_log(folder / "logs")
        once = not log.disorder and [*log.records] == [*range(1, arguments.iterations + 1)]
    print(json.dumps({"each_iteration_once": once, "processes": results}))


def _train(folder: Path, arguments: argparse.Namespace, until: int, last: bool, bar: "tqdm[Any]") -> Iterator[Sample]:
    """Train in a process until it is stopped at an iteration or has finished; yield its samples."""
    command = [sys.executable, "train.py", *_SMALL.split(), *_OFTEN.split(), *_places(folder)]
    command += ["--max_iterations", str(arguments.iterations), "--val_step", str(arguments.val_step)]
    with (folder / "output").open("a") as output:
        process = subprocess.Popen([*command, *arguments.train], cwd=_ROOT, stdout=output, stderr=output)
    done, stopped, began = 0, False, _last_iteration(folder)
    try:
        while process.poll() is None:
            time.sleep(0.25)
            now = _last_iteration(folder)
            bar.update(now - bar.n)
            if now > max(done, began) and (sample := take_sample(process.pid, now)):
                done = now
                yield sample
            if now >= until and not last and not stopped:
                stopped = True
                process.send_signal(signal.SIGTERM)
    finally:
        process.kill()
        status = process.wait()
    if status != (128 + signal.SIGTERM if stopped else 0):
        raise InputError(f"the training ended with status {status}:\n{(folder / 'output').read_text()[-2000:]}")


def _places(folder: Path) -> list[str]:
    vgg, lfw = folder / "data/vggface2", folder / "data/lfw"
    places = {
        "train_data_root": vgg / "train",
        "train_list": vgg / "meta/train_list.txt",
        "train_landmarks": vgg / "bb_landmark",
        "val_data_root": lfw / "lfw",
        "val_list": lfw / "pairs.txt",
        "val_landmarks": lfw / "lfw_landmark.txt",
        "snap_folder": folder / "snapshots",
        "log_folder": folder / "logs",
    }
    return [word for name, path in places.items() for word in (f"--{name}", str(path))]


def _last_iteration(folder: Path) -> int:
    try:
        with (folder / "logs/log.jsonl").open("rb") as file:
            file.seek(-min(4096, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = file.read().split(b"\n")
        return int(json.loads(lines[-2])["iteration"])
    except (OSError, IndexError, ValueError):
        return 0


def take_sample(pid: int, iteration: int) -> Sample | None:
    """Sample a process from /proc; None if it has ended."""
    process = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        files = len(os.listdir(process / "fd"))
        return Sample(iteration, int(status["RssAnon"].split()[0]) / 1024, files, int(status["Threads"]), _shared())
    except (OSError, KeyError):
        return None


def _shared() -> float:
    shm = os.statvfs("/dev/shm")
    return (shm.f_blocks - shm.f_bfree) * shm.f_frsize / 2**20


def trends(samples: list[Sample]) -> dict[str, Trend]:
    """Trends by metric, from at least 8 samples."""
    if len(samples) < 8:
        raise InputError(f"{len(samples)} samples are too few to judge by: more --iterations, or fewer --stops")
    warm = samples[len(samples) // 10 :]
    quarter = max(1, len(warm) // 4)
    by_name = {}
    for name in ("memory", "files", "threads", "shared"):
        values = [float(getattr(sample, name)) for sample in warm]
        slope = np.polyfit([sample.iteration / 1000 for sample in warm], values, 1)[0]
        by_name[name] = Trend(min(values[:quarter]), min(values[-quarter:]), float(slope))
    return by_name


def _print(number: int, samples: list[Sample], by_name: dict[str, Any]) -> None:
    print(f"process {number + 1}, iterations {samples[0].iteration:,} to {samples[-1].iteration:,}")
    print(f"{'':>10} {'first':>9} {'last':>9} {'slope/1000':>11}")
    for name, trend in by_name.items():
        print(f"{name:>10} {trend['first']:9.1f} {trend['last']:9.1f} {trend['slope']:11.2f}")
