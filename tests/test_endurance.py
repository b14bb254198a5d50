"""That the watch over a long run sees what it is to see, and that a run passes it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fr.errors import InputError
from tests.conftest import ROOT
from tools.benchmarks.endurance import Sample, take_sample, trends


def own() -> Sample:
    sample = take_sample(os.getpid(), 0)
    assert sample
    return sample


def test_a_sample_counts_memory_files_threads_and_shared_memory(run_distributed: Callable[..., list[None]]) -> None:
    run_distributed(1, sample_counts)  # in a fresh process: what earlier tests left in this one comes and goes


def sample_counts() -> None:
    before = own()
    ballast = bytearray(os.urandom(64 << 20))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(7)]
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    shared = Path(f"/dev/shm/test_endurance_{os.getpid()}")
    try:
        with shared.open("wb") as file:
            for _ in range(16):  # at once it would take memory that malloc may keep
                file.write(bytes(1 << 20))
        after = own()
    finally:
        shared.unlink()
        over.set()
        for descriptor in files:
            os.close(descriptor)
    assert after.memory - before.memory == pytest.approx(len(ballast) / 2**20, abs=8)
    assert (after.files - before.files, after.threads - before.threads) == (7, 3)
    assert after.shared - before.shared == pytest.approx(16, abs=4)
    assert take_sample(2**22 + 1, 0) is None


def test_a_leak_has_a_slope_and_a_warm_up_has_none() -> None:
    warm_up = [Sample(i, 400 + 10 * min(i, 10), 20, 8, 0.0) for i in range(1, 200)]
    flat = trends(warm_up)["memory"]
    assert (flat.first, flat.last) == (500, 500) and abs(flat.slope) < 1e-6
    leak = trends([Sample(i, 400 + 0.05 * i, 20 + i // 10, 8, 0.0) for i in range(1, 200)])
    assert leak["memory"].slope == pytest.approx(50)
    assert leak["files"].slope == pytest.approx(100, rel=0.02)
    assert leak["threads"].slope == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="3 samples are too few"):
        trends(warm_up[:3])


@pytest.mark.thorough
def test_a_run_with_a_stop_keeps_its_files_and_threads_and_logs_each_iteration_once() -> None:
    options = ["--iterations", "90", "--val_step", "15", "--stops", "1", "--train", "--async_snapshots"]
    command = [sys.executable, "tools/benchmark.py", "endurance", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["each_iteration_once"] is True
    assert len(found["processes"]) == 2
    for process in found["processes"]:
        assert process["files"]["last"] - process["files"]["first"] <= 4
        assert process["threads"]["last"] - process["threads"]["first"] <= 4
