"""A rank that hangs ends the run, and is named."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from fr.distributed import Heartbeat, Ranks
from fr.train import watchdog
from fr.train.watchdog import STATUS, Post, culprits, watched
from tests.conftest import ROOT, TINY, data_options, folders


def posts(*told: tuple[int, int]) -> dict[int, Post]:
    return {rank: Post(beat, count, count, "file.py:1 (f)") for rank, (beat, count) in enumerate(told)}


@pytest.mark.parametrize(
    ("earlier", "now", "named"),
    [
        (posts((4, 9), (4, 8), (4, 9)), posts((6, 9), (6, 8), (6, 9)), [1]),  # it waits for something of its own
        (posts((4, 9), (4, 9), (4, 9)), posts((6, 9), (4, 9), (6, 9)), [1]),  # suspended, after as many steps
        (posts((4, 9), (4, 9), (4, 8)), posts((6, 9), (4, 9), (6, 8)), [1]),  # suspended counts more than behind
        (posts((4, 9), (4, 9)), posts((6, 9), (6, 9)), [0, 1]),  # between two collectives of a step: places tell
        (posts((4, 9)), posts((6, 9)), [0]),
    ],
)
def test_the_culprits_are_the_suspended_or_those_that_are_behind(
    earlier: dict[int, Post], now: dict[int, Post], named: list[int]
) -> None:
    assert culprits(earlier, now) == named


def test_the_patience_begins_anew_with_a_step_and_so_do_the_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both ranks make a step at 6 s, which is more than half of the patience; rank 1 is suspended at 8 s."""
    now, heart, store = 0.0, Heartbeat(), dist.HashStore()

    class Beats(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0
            heart.count = int(now >= 6)
            if now < 8:
                store.set("1", json.dumps(asdict(Post(int(now), heart.count, 0, ""))))
            return False

    def end(lines: list[str]) -> None:
        raise RuntimeError(*lines)

    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(watchdog, "_end", end)
    ranks, answer = Ranks(0, 2, 0, 2, torch.device("cpu")), watchdog._Answer(0)
    with pytest.raises(RuntimeError) as ended:
        watchdog._watch(ranks, 8.0, heart, tmp_path, store, answer, Beats())
    assert ended.value.args[0] == "rank 1 has hung: no sign of life for 8 s at iteration 0"
    assert now == 6 + 8 and "rank 0" not in str(ended.value)


def run_alone(code: str, logs: Path) -> subprocess.CompletedProcess[str]:
    setup = "import time, torch\nfrom fr.distributed import Heartbeat, Ranks\nfrom fr.train.watchdog import watched\n"
    setup += "ranks = Ranks(0, 1, 0, 1, torch.device('cpu'))\nheart = Heartbeat()\n"
    setup += f"import pathlib\nlogs = pathlib.Path({str(logs)!r})\n"
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    return subprocess.run(
        [sys.executable, "-c", setup + code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_process_that_hangs_says_where_and_ends(tmp_path: Path) -> None:
    began = time.monotonic()
    group = "import torch.distributed as dist\n"
    group += "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
    group += "dist.all_reduce(torch.ones(5))\n"
    hangs = "def hangs():\n    time.sleep(600)\nwith watched(ranks, 1.0, heart, logs):\n    hangs()"
    hung = run_alone(group + hangs, tmp_path / "logs")
    assert hung.returncode == STATUS
    said, traced = hung.stderr.splitlines()
    assert said == "rank 0 has hung: in <string>:12 (hangs) for 1 s at iteration 0"
    assert traced == f"the ranks' last collectives, by torch's flight recorder: {tmp_path}/logs/collectives_*"
    (collective,) = pickle.loads((tmp_path / "logs/collectives_0").read_bytes())["entries"]
    assert collective["input_sizes"] == [[5]] and "reduce" in collective["profiling_name"]
    assert time.monotonic() - began > 1


def test_who_waits_for_a_snapshot_in_the_background_says_where_that_hangs(tmp_path: Path) -> None:
    pools = "from concurrent.futures import ThreadPoolExecutor\n"
    pools += "from fr.checkpoint.snapshot_writer import WATCHED_THREAD\n"
    pools += "idle, busy = (ThreadPoolExecutor(1, WATCHED_THREAD + name) for name in ('_idle', '_busy'))\n"
    pools += "idle.submit(int).result()\n"
    hangs = "def writes():\n    time.sleep(600)\n"
    hangs += "with watched(ranks, 1.0, heart, logs):\n    busy.submit(writes).result()"
    hung = run_alone(pools + hangs, tmp_path)
    assert re.match(
        r"rank 0 has hung: in threading\.py:\d+ \(wait\), its thread snapshot_busy_0 in <string>:13 \(writes\) "
        r"for 1 s at iteration 0\n",
        hung.stderr,
    )


@pytest.mark.thorough
def test_who_goes_on_lives_and_0_watches_nobody(tmp_path: Path) -> None:
    goes_on = "for _ in range(40):\n        time.sleep(0.1)\n        heart.count += 1"
    for patience, acts in ((1.0, goes_on), (0, "time.sleep(2)")):
        alone = run_alone(f"with watched(ranks, {patience}, heart, logs):\n    {acts}\nprint('lived')", tmp_path)
        assert alone.stdout == "lived\n"


def test_who_gets_no_answer_of_the_store_ends_too(tmp_path: Path) -> None:
    """A host whose network has gone: the store is at a process that is suspended."""
    serve = "import time, torch.distributed as dist\nstore = dist.TCPStore('127.0.0.1', 0, is_master=True)\n"
    serve += "print(store.port, flush=True)\ntime.sleep(600)"
    hangs = "import os, signal\nos.environ |= {'WORLD_SIZE': '2', 'RANK': '0', 'MASTER_ADDR': '127.0.0.1'}\n"
    hangs += "with watched(ranks, 2.0, heart, logs):\n    os.kill(%d, signal.SIGSTOP)\n    time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            port = f"import os\nos.environ['MASTER_PORT'] = '{int(server.stdout.readline())}'\n"
            hung = run_alone(port + hangs % server.pid, tmp_path)
        finally:
            server.kill()
    assert hung.returncode == STATUS
    assert re.fullmatch(r"rank 0: the other ranks are out of reach: no answer for \d s\n", hung.stderr)


def test_after_the_training_nobody_watches(tmp_path: Path) -> None:
    with watched(Ranks(0, 1, 0, 1, torch.device("cpu")), 0.2, Heartbeat(), tmp_path):
        pass
    time.sleep(0.5)  # or this process would be gone


def wait_until(happens: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.thorough
def test_a_suspended_rank_ends_the_job_with_its_name(sample_data: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = [*data_options(sample_data), *TINY, *folders(tmp_path), "--hang_timeout", "8", "--epoch_total_num", "999"]
    with (tmp_path / "stderr").open("w") as log:
        job = subprocess.Popen([*torchrun, "train.py", *options], cwd=ROOT, stderr=log, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: (tmp_path / "logs/log.jsonl").exists())
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        ranks = {environment_of(int(pid))["RANK"]: int(pid) for pid in children}
        os.kill(ranks["1"], signal.SIGSTOP)
        assert job.wait(120) != 0
    finally:
        job.kill()
    assert "rank 1 has hung: no sign of life for 8 s at iteration " in (tmp_path / "stderr").read_text()


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
