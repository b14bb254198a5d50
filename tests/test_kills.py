"""Kills, failing storage, damaged files, signals and hung ranks: nothing is lost, and the run that goes on is the same.

A few tries of each, the first of most kinds without --thorough; `python -m tests.kill_harness` makes hundreds.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.disturbances import (
    ASYNC,
    FEW,
    SYNC,
    Bench,
    NotTried,
    asked_by_slurm,
    asked_in_a_snapshot,
    asked_to_end,
    cut,
    damaged,
    failing_at,
    failing_logs,
    flipped,
    hung,
    killed_again_and_again,
    killed_at,
    killed_replacing,
    killed_with_torchrun,
    restarted,
)
from tests.disturbed_jobs import Torchrun
from tests.disturbed_runs import Course
from tests.kill_harness import STATE, operations_of, writing


def quick_first(values: Iterable[Any]) -> list[Any]:
    """Parameters of a test, all but the first marked thorough."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.thorough) for value in others)]


COURSES = {"at once": SYNC, "in the background": ASYNC, "two kept": FEW}


@pytest.fixture(scope="module")
def bench(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(sample_data, tmp_path_factory.mktemp("forked"))


@pytest.fixture(scope="module")
def real(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """By the real torchrun."""
    return Bench(sample_data, tmp_path_factory.mktemp("torchrun"), Torchrun)


def some(bench: Bench, course: Course, rank: int, count: int, *kinds: str) -> list[int]:
    """Numbers of operations for a snapshot, of some kinds or any, drawn anew for each but the same each time."""
    numbers = [at for at, kind in operations_of(bench, course, rank, 4) if not kinds or kind in kinds]
    return random.Random(f"{course} {rank} {kinds}").sample(numbers, min(count, len(numbers)))


def tried_until_in_time(disturb: Callable[[float], None]) -> None:
    """A busy machine doesn't keep the time of an undisturbed run: a job that was over is no failure, yet."""
    for share in (0.6, 0.4, 0.2):
        with suppress(NotTried):
            return disturb(share)
    pytest.fail("the runs were over each time before anything could happen to them")


# --- the fault points themselves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_the_fault_points_see_every_file_and_each_is_on_the_disk_before_the_snapshot_has_its_name(
    bench: Bench, rank: int
) -> None:
    numbers = [at for at, _ in operations_of(bench, SYNC, rank, 4)]
    trace = bench.operations(SYNC)[rank][numbers[0] - 1 : numbers[-1]]
    state = {path.name for path in (bench.half_done().snapshots / "tiny_4.state").iterdir()}
    files = {0: state - {"__1_0.distcp", ".metadata"} | {".metadata.tmp", ".tiny_4.pt.tmp"}, 1: {"__1_0.distcp"}}[rank]
    paths = {name if name.startswith(".tiny") else f".tiny_4.state.tmp/{name}" for name in files}
    assert {line.removeprefix("write ") for line in trace if line.startswith("write ")} == paths
    for path in paths:
        assert trace.index(f"fsync {path}") > max(at for at, line in enumerate(trace) if line == f"write {path}")
    if rank == 0:
        names = [line for line in trace if line.startswith(("fsync", "rename", "unlink"))]
        assert names[-9:] == [
            *("fsync .tiny_4.state.tmp/SHA256SUMS", "fsync .tiny_4.state.tmp", "fsync .tiny_4.pt.tmp"),
            *("unlink tiny_4.pt", "rename .tiny_4.state.tmp", "fsync .", "rename .tiny_4.pt.tmp"),
            *("unlink .tiny_4.pt.tmp", "fsync ."),
        ]


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", quick_first([0, 1]))
@pytest.mark.parametrize("course", quick_first(COURSES))
def test_a_rank_killed_amid_a_snapshot_loses_nothing(bench: Bench, course: str, rank: int) -> None:
    for at in some(bench, COURSES[course], rank, 2):
        killed_at(bench, bench.run(COURSES[course]), rank=rank, at=at)


@pytest.mark.parametrize("kind", quick_first(["rename", "unlink", "fsync"]))
def test_a_rank_killed_where_names_change_loses_nothing(bench: Bench, kind: str) -> None:
    for at in some(bench, FEW, 0, 3, kind):
        killed_at(bench, bench.run(FEW), rank=0, at=at)


@pytest.mark.thorough
def test_all_ranks_killed_at_once_lose_nothing(bench: Bench) -> None:
    for rank in (0, 1):
        (at,) = some(bench, SYNC, rank, 1)
        killed_at(bench, bench.run(SYNC), rank=rank, at=at, everyone=True)


@pytest.mark.thorough
def test_a_run_that_is_killed_again_and_again_comes_to_its_end(bench: Bench) -> None:
    killed_again_and_again(bench, bench.run(SYNC), [(0, 70), (1, 40), (0, 1)])


@pytest.mark.thorough
def test_a_kill_amid_replacing_a_snapshot_costs_no_other(bench: Bench) -> None:
    renames = [at for at, kind in writing(bench.operations_replacing(), 4, 6) if kind in ("rename", "unlink")]
    for at in (renames[0], renames[-1]):
        killed_replacing(bench, bench.run(SYNC), at=at)


# --- storage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("course", quick_first(COURSES))
@pytest.mark.parametrize("error", quick_first(["ENOSPC", "EROFS", "EIO"]))
def test_storage_that_fails_ends_the_run_with_a_reason_and_loses_nothing(
    bench: Bench, error: str, course: str
) -> None:
    for rank in (0, 1):
        (at,) = some(bench, COURSES[course], rank, 1, "open", "write", "fsync")
        failing_at(bench, bench.run(COURSES[course]), error, rank=rank, at=at)


@pytest.mark.thorough
def test_an_old_snapshot_that_cant_be_removed_stays_for_a_while(bench: Bench) -> None:
    removal = operations_of(bench, FEW, 0, 4)
    (at,) = [at for at, _ in removal if bench.operations(FEW)[0][at - 1] == "rename tiny_2.pt"]
    failing_at(bench, bench.run(FEW), "EIO", rank=0, at=at + 2)  # its .pt has gone, its state is still there


@pytest.mark.parametrize("at", quick_first([1, 2, 3]))
def test_a_folder_that_cant_be_written_to_is_told_at_the_start(bench: Bench, at: int) -> None:
    failing_at(bench, bench.run(SYNC), "EROFS", rank=0, at=at)


def test_logs_that_cant_be_written_cost_no_snapshot(bench: Bench) -> None:
    failing_logs(bench, bench.run(SYNC), "ENOSPC", at=14)


@pytest.mark.thorough
def test_a_real_file_system_that_is_full_or_read_only_loses_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Through the harness, which mounts them where nobody else sees it."""
    environment = {name: value for name, value in os.environ.items() if name != "FR_KILL_HARNESS_MOUNTS"}
    counts = tmp_path / "counts.json"
    command = [sys.executable, "-m", "tests.kill_harness", "--only", "becomes", "--tries", "42", "--torchrun", "0"]
    scratch = str(tmp_path_factory.mktemp("s"))  # names of sockets are short
    command += ["--seed", "3", "--json", str(counts), "--scratch", scratch]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    if "mounting isn't allowed" in done.stderr:
        pytest.skip("mounting isn't allowed here; the other tests use fault points instead")
    assert done.returncode == 0, done.stdout + done.stderr
    tried = {fault: tally["tried"] for fault, tally in json.loads(counts.read_text())["faults"].items()}
    assert tried["a file system that becomes full"] >= 1 and tried["a folder that becomes read-only"] >= 1


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick_first(["tiny_4.pt", *(f"tiny_4.state/{name}" for name in STATE)]))
@pytest.mark.parametrize("change", quick_first([flipped, cut]))
def test_a_damaged_file_is_noticed_and_the_snapshot_before_is_gone_on_from(
    bench: Bench, name: str, change: "type[bytes]"
) -> None:
    rng = random.Random(f"{name} {change.__name__}")
    for _ in range(3 if name == "tiny_4.pt" else 1):  # of which not every byte counts
        damaged(bench, bench.run(SYNC), name, partial(change, where=rng.random()))


# --- signals and hung ranks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("rank", quick_first([1, 0]))
def test_a_signal_to_one_rank_ends_all_within_two_iterations_with_a_snapshot(
    bench: Bench, number: signal.Signals, rank: int
) -> None:
    tried_until_in_time(lambda _: asked_to_end(bench, bench.run(SYNC), number, rank, after=1))


@pytest.mark.parametrize("course", quick_first(["at once", "two kept"]))
def test_a_signal_amid_a_snapshot_lets_it_be_finished(bench: Bench, course: str) -> None:
    for rank in (0, 1):
        (at,) = some(bench, COURSES[course], rank, 1)
        asked_in_a_snapshot(bench, bench.run(COURSES[course]), signal.SIGTERM, rank, at)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("act", "rank", "course"), [("SIGSTOP", 0, SYNC), ("SIGSTOP", 1, SYNC), ("sleep", 1, SYNC), ("sleep", 1, ASYNC)]
)
def test_a_rank_that_hangs_is_named_and_ends_the_job(bench: Bench, act: str, rank: int, course: Course) -> None:
    (at,) = some(bench, course, rank, 1)
    hung(bench, bench.run(course), act, rank, at)


# --- the real torchrun ------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(("rank", "hosts"), [(1, 1), (1, 2), (0, 2)])
def test_torchrun_brings_a_job_back_by_itself(real: Bench, rank: int, hosts: int) -> None:
    """On two hosts each torchrun counts the failures of its own ranks."""
    (at,) = some(real, SYNC, rank, 1)
    restarted(real, real.run(SYNC), "SIGKILL", rank, at, hosts)


@pytest.mark.thorough
def test_a_machine_that_goes_costs_no_snapshot(real: Bench) -> None:
    tried_until_in_time(lambda share: killed_with_torchrun(real, real.run(SYNC), share))


@pytest.mark.thorough
def test_slurms_warning_to_all_processes_leaves_a_snapshot(real: Bench) -> None:
    asked_by_slurm(real, real.run(SYNC), signal.SIGUSR1)
