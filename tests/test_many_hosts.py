"""Trainings on two to four hosts, in network namespaces: links that fail, hosts that die, come back and join."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.builders.hosted_runs import ITERATIONS, VAL_STEP, VARIABLES, HostedRun, losses, options
from tests.builders.hosts import Hosts, impossible
from tests.conftest import ROOT, SPREAD, same_weights, weights

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(bool(impossible()), reason=impossible() or "possible")]
FAULT_AT = 6  # iteration; the newest snapshot is the fourth's
HANG_TIMEOUT = 8.0  # [seconds]
WATCHED = ("--hang_timeout", f"{HANG_TIMEOUT:g}")
QUICK = "--rdzv_conf=last_call_timeout=3"  # [seconds] for more hosts than the fewest; 30 unasked
Begun = Callable[..., HostedRun]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(3, tmp_path)
    yield hosts
    hosts.close()


@pytest.fixture(scope="module")
def undisturbed(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run on two hosts that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    hosts = Hosts(2, folder)
    try:
        run = HostedRun(folder, sample_data, hosts, "2")
        run.start(0, 1)
        assert run.statuses(0, 1) == [0, 0], run.said()
        assert run.starts() == [(2, 0)]
    finally:
        hosts.close()
    return folder


@pytest.fixture
def begun(hosts: Hosts, sample_data: Path, tmp_path: Path) -> Begun:
    """begun(*options, …) → a run on two hosts, just past an iteration."""

    def begin(*more: str, nodes: str = "2", torchrun: str = "", endpoint: str = "", number: int = 2) -> HostedRun:
        hosts.switch.delay = max(hosts.switch.delay, 0.005)  # a fast machine would be past the next snapshot
        run = HostedRun(tmp_path, sample_data, hosts, nodes, *more, torchrun=torchrun, endpoint=endpoint)
        run.start(*range(number))
        run.wait(lambda: run.iteration() >= FAULT_AT)
        assert run.iteration() < 2 * VAL_STEP, "too late"
        return run

    return begin


def assert_equal_at_the_end(run: HostedRun, undisturbed: Path) -> None:
    """Bit for bit as if nothing had happened."""
    assert losses(run.out) == losses(undisturbed)
    assert same_weights(weights(run.out, ITERATIONS), weights(undisturbed, ITERATIONS))


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_link_that_is_down_for_seconds_only_costs_time(hosts: Hosts, begun: Begun, undisturbed: Path) -> None:
    run = begun()
    hosts.switch.unplugged = {1}
    time.sleep(0.5)
    before = run.iteration()
    time.sleep(3)
    assert run.iteration() == before, "the ranks did not need each other"
    hosts.switch.unplugged = set()
    assert run.statuses(0, 1) == [0, 0], run.said()
    assert run.starts() == [(2, 0)]
    assert_equal_at_the_end(run, undisturbed)


def test_a_lossy_slow_link_only_costs_time(
    hosts: Hosts, sample_data: Path, tmp_path: Path, undisturbed: Path
) -> None:
    """1 % of the frames are lost, and a round trip takes 50 ms."""
    hosts.switch.loss, hosts.switch.delay = 0.01, 0.025
    run = HostedRun(tmp_path, sample_data, hosts, "2")
    run.start(0, 1)
    assert run.statuses(0, 1, timeout=300) == [0, 0], run.said()
    assert hosts.switch.lost > 20
    assert run.starts() == [(2, 0)]
    assert_equal_at_the_end(run, undisturbed)


def test_a_link_that_stays_down_ends_both_sides_in_time_and_the_run_goes_on_when_the_host_is_back(
    hosts: Hosts, begun: Begun, undisturbed: Path
) -> None:
    """The lost host's torchrun hangs until its kernel gives the connections up; here the host is switched off."""
    run = begun(*WATCHED)
    hosts.switch.unplugged = {1}
    unplugged = time.monotonic()
    run.wait_for(rf"rank 1 has hung: no sign of life for {HANG_TIMEOUT:g} s")
    run.wait_for("rank 1: the other ranks are out of reach")
    assert time.monotonic() < unplugged + 3 * HANG_TIMEOUT  # on a busy machine
    assert "rank 0 has hung" not in run.said()
    hosts.kill(1)
    hosts.switch.unplugged = set()
    run.start(1)
    assert run.statuses(0, 1) == [0, 0], run.said()
    assert run.starts() == [(2, 0), (2, VAL_STEP)]
    assert_equal_at_the_end(run, undisturbed)


# --- hosts ------------------------------------------------------------------------------------------------------------


def test_a_host_that_dies_and_comes_back_finds_the_others_waiting(
    hosts: Hosts, begun: Begun, undisturbed: Path
) -> None:
    run = begun()
    hosts.kill(1)
    time.sleep(3)
    assert run.running(0)
    run.start(1)
    assert run.statuses(0, 1) == [0, 0], run.said()
    assert run.starts() == [(2, 0), (2, VAL_STEP)]
    assert_equal_at_the_end(run, undisturbed)


def test_hosts_join_and_leave_and_the_samples_stay_the_same(
    hosts: Hosts, begun: Begun, sample_data: Path, tmp_path: Path
) -> None:
    """--nnodes 2:4: a third host joins, the second dies for good. The classes are sharded anew each time."""
    alone = tmp_path / "alone"
    command = [sys.executable, str(ROOT / "train.py"), *options(sample_data, alone, *SPREAD)]
    subprocess.run(command, env=os.environ | VARIABLES, check=True, capture_output=True, timeout=150)
    hosts.switch.delay = 0.02  # or the training would be over before anyone has joined
    run = begun(*SPREAD, nodes="2:4", torchrun=QUICK)
    run.start(2)
    run.wait(lambda: len(run.starts()) == 2)
    (_, (ranks, joined)) = run.starts()
    assert ranks == 3 and joined >= FAULT_AT, "a host that joins costs no iteration: the others write a snapshot first"
    run.wait(lambda: run.iteration() > joined)
    hosts.kill(1)
    hosts.switch.delay = 0.0
    assert run.statuses(0, 2) == [0, 0], run.said()
    assert [ranks for ranks, _ in run.starts()] == [2, 3, 2]
    # Sums of the same numbers in another order: some 1e-6 of each loss.
    assert losses(run.out) == pytest.approx(losses(alone), rel=1e-4)


def test_without_the_first_host_the_others_end_and_can_be_started_again(
    hosts: Hosts, begun: Begun, sample_data: Path, tmp_path: Path, undisturbed: Path
) -> None:
    """It keeps the store at which torchrun's c10d meets."""
    run = begun(*WATCHED)
    hosts.kill(0)
    assert run.statuses(1, timeout=60) == [1]
    again = HostedRun(tmp_path, sample_data, hosts, "2", endpoint=f"{hosts.name(2)}:29500")
    again.start(1, 2)
    assert again.statuses(1, 2) == [0, 0], again.said()
    assert again.starts() == [(2, 0), (2, VAL_STEP)]
    assert_equal_at_the_end(again, undisturbed)


def test_hosts_that_meet_in_a_file_go_on_without_the_first(hosts: Hosts, begun: Begun, tmp_path: Path) -> None:
    meeting = f"{QUICK},store_type=file"
    run = begun(nodes="1:3", torchrun=meeting, endpoint=str(tmp_path / "meeting"), number=3)
    hosts.kill(0)
    assert run.statuses(1, 2) == [0, 0], run.said()
    assert [ranks for ranks, _ in run.starts()] == [3, 2]
    assert len(losses(run.out)) == ITERATIONS
