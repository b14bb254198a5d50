"""Faults of a run, each as a function that causes it and raises AssertionError where something is lost.

`tests/kill_harness.py` tries them hundreds of times, `tests/test_kills.py` a few times each.
"""

import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.disturbed_jobs import RANKS, Forked, Job, Torchrun
from tests.disturbed_runs import ITERATIONS, Course, Launch, Reference, Run
from tests.fault_points import UNHARMED

AUTO = ("--snap_to_resume", "auto")
SYNC, ASYNC = Course(), Course(background=True)
FEW = Course(val_step=1, keep=2)  # most of its time goes into writing and removing
HANG_TIMEOUT = 5.0  # [seconds]


class NotTried(Exception):
    """The run was over before anything could happen to it."""


class Bench:
    """Folder of runs on one kind of jobs, a subfolder each."""

    def __init__(self, data: Path, scratch: Path, launch: Launch = Forked) -> None:
        self._data, self._scratch, self._launch = data, scratch, launch
        self._runs = 0
        self.reference = Reference.make(scratch / "reference", data, launch)

    def run(self, course: Course) -> Run:
        self._runs += 1
        return Run(self._scratch / f"run_{self._runs}", self._data, self._launch, course)

    @functools.cache  # noqa: B019 - one bench lives as long as its tests
    def operations(self, course: Course) -> list[list[str]]:
        """File operations of each rank below the snapshots in an undisturbed run: lines of `kind path`, in order."""
        run = self.run(course)
        with run.job() as job:
            assert job.wait() == 0, job.said()
            self.reference.assert_equal_at_the_end(run)
            return [(job.control / f"{rank}.trace").read_text().splitlines() for rank in range(RANKS)]

    @functools.cache  # noqa: B019
    def half_done(self) -> Run:
        """A run that has been ended after its second snapshot, the fourth iteration's."""
        run = self.run(SYNC)
        with run.job("--max_iterations", "4") as job:
            assert job.wait() == 0, job.said()
        assert [*sorted(run.visible())] == [2, 4]
        return run

    def copy_half_done(self, run: Run) -> None:
        """Have a run begin where that one has ended."""
        shutil.copytree(self.half_done().out, run.out, ignore=shutil.ignore_patterns("job_*"))

    @functools.cache  # noqa: B019
    def operations_replacing(self) -> list[str]:
        """Operations of the first rank in an undisturbed run that writes the fourth iteration's snapshot once more."""
        run = self.run(SYNC)
        self.copy_half_done(run)
        with run.job(*run.from_second()) as job:
            assert job.wait() == 0, job.said()
            return (job.control / "0.trace").read_text().splitlines()

    def goes_on(self, run: Run, job: Job) -> None:
        """Nothing was lost by a job that has ended, and another one brings the run to its undisturbed end."""
        self.reference.assert_nothing_lost(run, job.said())
        before = run.visible()
        with run.job(*AUTO) as resumed:
            assert resumed.wait() == 0, resumed.said()
            assert not before or f"going on from {before[max(before)]}\n" in resumed.said()
        self.reference.assert_equal_at_the_end(run, {*before})


# --- killed -----------------------------------------------------------------------------------------------------------


def killed_at(bench: Bench, run: Run, rank: int, at: int, kind: str = "", everyone: bool = False) -> None:
    """SIGKILL where a rank's operation is half done, a write, or about to be."""
    with run.job(rank=rank, at=at, kind=kind, everyone=everyone) as job:
        assert job.wait() != 0, "the job ended well without one of its ranks"
        assert job.acted()
        bench.goes_on(run, job)


def killed_after(bench: Bench, run: Run, share: float, victims: tuple[int, ...]) -> None:
    """SIGKILL to some ranks at any moment. share: of the time that an undisturbed job takes."""
    with run.job() as job:
        pids = [job.pid(rank) for rank in victims]
        time.sleep(share * _duration(bench, run.course))
        if job.status() is not None:
            raise NotTried
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if job.wait() == 0:
            raise NotTried  # they had ended well already
        bench.goes_on(run, job)


def killed_with_torchrun(bench: Bench, run: Run, share: float) -> None:
    """SIGKILL to all ranks and torchrun itself, as when a machine goes."""
    with run.job() as job:
        pids = [job.pid(rank) for rank in range(RANKS)]
        time.sleep(share * _duration(bench, run.course))
        if job.status() is not None:
            raise NotTried
        assert isinstance(job, Torchrun)
        for pid in [job.agents[0].pid, *pids]:
            os.kill(pid, signal.SIGKILL)
        job.wait()
        bench.goes_on(run, job)


def killed_again_and_again(bench: Bench, run: Run, moments: list[tuple[int, int]]) -> None:
    """SIGKILL at an operation, by rank, of several jobs that go on one from the other."""
    for rank, at in moments:
        with run.job(*AUTO, rank=rank, at=at) as job:
            assert (job.wait() != 0) == job.acted(), job.said()
            bench.reference.assert_nothing_lost(run, job.said())
    bench.goes_on(run, job)


def killed_replacing(bench: Bench, run: Run, at: int) -> None:
    """SIGKILL to the first rank when it replaces a snapshot of the same iteration: that one may go, no other."""
    bench.copy_half_done(run)
    with run.job(*run.from_second(), at=at) as job:
        assert job.wait() != 0
        assert job.acted()
        assert 2 in run.visible()
        bench.goes_on(run, job)


@functools.cache
def _duration(bench: Bench, course: Course) -> float:
    """Seconds from the first rank's beginning to the end of an undisturbed job; a first one may take twice as long."""
    durations = []
    for _ in range(2):
        with bench.run(course).job() as job:
            job.pid(0)
            start = time.monotonic()
            assert job.wait() == 0, job.said()
            durations.append(time.monotonic() - start)
    return min(durations)


# --- storage that fails -----------------------------------------------------------------------------------------------


def failing_at(bench: Bench, run: Run, error: str, rank: int, at: int, kind: str = "") -> None:
    """From a rank's operation on everything fails that such an error concerns."""
    with run.job(act=error, rank=rank, at=at, kind=kind) as job:
        status = job.wait()
        assert job.acted()
        _ended_plainly(job, status, os.strerror(getattr(errno, error)))
        assert "unlink" not in UNHARMED[error] or not run.leftovers(), f"takes room that is needed: {run.leftovers()}"
        bench.goes_on(run, job)


def failing_logs(bench: Bench, run: Run, error: str, at: int) -> None:
    """The same below the logs: a line, and a training that comes to its end."""
    with run.job(folder=str(run.out / "logs"), act=error, at=at) as job:
        assert job.wait() == 0, job.said()
        assert job.acted()
        assert job.said().count("the logs can't be written: ") == 1, job.said()
        bench.reference.assert_nothing_lost(run, job.said())
        due = run.course.kept({*range(run.course.val_step, ITERATIONS, run.course.val_step), ITERATIONS})
        assert run.visible().keys() == due, job.said()


def small_disk(bench: Bench, run: Run, setting: str) -> None:
    """The snapshots lie on a real file system that becomes full, and is given more room. setting: of a tmpfs."""
    run.snapshots.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", setting, "none", str(run.snapshots))
    try:
        with run.job() as job:
            if (status := job.wait()) == 0:
                raise NotTried
            _ended_plainly(job, status, "")
            assert not run.leftovers(), f"takes room that is needed: {run.leftovers()}"
            _mount("-o", "remount,size=1g,nr_inodes=1000", str(run.snapshots))
            bench.goes_on(run, job)
    finally:
        subprocess.run(["umount", "--lazy", run.snapshots], check=True)


def read_only(bench: Bench, run: Run, share: float) -> None:
    """The folder can't be written to from some moment on, until it can."""
    run.snapshots.mkdir(parents=True)
    # A mount can be made read-only only while nothing in it is open for writing, so a view of the folder is, elsewhere.
    (view := run.out / "view").mkdir()
    _mount("--bind", str(run.snapshots), str(view))
    _mount("-o", "remount,ro,bind", str(view))
    with run.job() as job:
        job.pid(0)
        time.sleep(share * _duration(bench, run.course))
        _mount("--bind", str(view), str(run.snapshots))
        try:
            status = job.wait()
        finally:
            subprocess.run(["umount", "--lazy", run.snapshots, view], check=True)
        if status == 0:
            raise NotTried
        _ended_plainly(job, status, os.strerror(errno.EROFS))
        bench.goes_on(run, job)


def _ended_plainly(job: Job, status: int, reason: str) -> None:
    """With a message; or only that an old snapshot couldn't be removed."""
    if status == 0:
        assert re.search(f"an old snapshot can't be removed: .*{reason}", job.said()), job.said()
    else:
        assert status == (2 if isinstance(job, Forked) else 1), job.said()
        assert re.search(f"^train.py: .*can't be .*{reason}", job.said(), re.MULTILINE), job.said()
        assert "Traceback" not in job.said().split("torch/distributed/run.py")[0], job.said()


def _mounts(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def _mount(*arguments: str) -> None:
    assert _mounts(*arguments), arguments


# --- damaged files ----------------------------------------------------------------------------------------------------


def flipped(content: bytes, where: float) -> bytes:
    """With another bit at a place between 0, the first, and 1."""
    place, bit = divmod(int(where * 8 * len(content)), 8)
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def cut(content: bytes, where: float) -> bytes:
    return content[: int(where * len(content))]


def damaged(bench: Bench, run: Run, name: str, change: Callable[[bytes], bytes]) -> None:
    """A file of the newest snapshot isn't what was written, which is said, and the one before is gone on from.

    name: of the file, below the snapshots. Where nobody reads what has changed, as some bytes of a `.pt`, the newest
    may serve as well: what it gives must then be right.
    """
    bench.copy_half_done(run)
    path = run.snapshots / name
    path.write_bytes(change(path.read_bytes()))
    with run.job(*AUTO) as job:
        assert job.wait() == 0, job.said()
        culprit = f"{path.parent}/" if path.name == "SHA256SUMS" else f"{path}: "  # a list is wrong about others
        refused = culprit in job.said() and f"going on from {run.snapshots}/tiny_2.pt\n" in job.said()
        unread = path.suffix == ".pt" and f"going on from {run.snapshots}/tiny_4.pt\n" in job.said()
        assert refused != unread, job.said()
    bench.reference.assert_equal_at_the_end(run)


# --- asked to end -----------------------------------------------------------------------------------------------------


def asked_to_end(bench: Bench, run: Run, number: signal.Signals, rank: int, after: int) -> None:
    """A signal to one rank after so many iterations: all end within two more, with a snapshot."""
    log = run.out / "logs" / "log.jsonl"
    with run.job() as job:
        job.pid(rank)
        while not log.exists() or log.read_bytes().count(b"\n") < after:
            assert job.status() is None, job.said()
            time.sleep(0.001)
        first = log.read_bytes().count(b"\n")
        job.signal(rank, number)
        last = log.read_bytes().count(b"\n") + 2  # the iteration that was under way, and the next
        status = job.wait()
        if last >= ITERATIONS and status == 0:
            raise NotTried
        _ended_on(job, number, status)
        assert first <= max(run.visible()) <= last, f"{[*run.visible()]}, asked between {first} and {last}"
        bench.goes_on(run, job)


def asked_in_a_snapshot(bench: Bench, run: Run, number: signal.Signals, rank: int, at: int) -> None:
    """A signal to a rank amid its writing of the fourth iteration's snapshot: it is finished."""
    with run.job(act=number.name, rank=rank, at=at) as job:
        status = job.wait()
        assert job.acted()
        if run.course.background and max(run.visible()) == ITERATIONS and status == 0:
            raise NotTried  # it came when the training was through
        _ended_on(job, number, status)
        # Asked for the fifth iteration, the ranks have answered before; it may have a snapshot of its own.
        assert 4 <= max(run.visible()) <= (ITERATIONS if run.course.background else 5)
        bench.goes_on(run, job)


def asked_by_slurm(bench: Bench, run: Run, number: signal.Signals) -> None:
    """A signal to all processes of the job, torchrun included, which passes on what it is told to pass on."""
    launch = partial(Torchrun, torchrun=("--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"))
    with run.job(launch=launch) as job:
        job.pid(0)
        while not run.visible():
            assert job.status() is None, job.said()
            time.sleep(0.01)
        assert isinstance(job, Torchrun)
        for pid in [job.agents[0].pid, *(job.pid(rank) for rank in range(RANKS))]:
            os.kill(pid, number)
        assert job.wait() != 0
        bench.goes_on(run, job)


def _ended_on(job: Job, number: signal.Signals, status: int) -> None:
    """With the status that requeues it; what torchrun reports is in its table of failures."""
    if isinstance(job, Forked):
        # Those that are slower than the first are ended as torchrun does it.
        assert {process.exitcode for process in job.ranks} <= {128 + number, -signal.SIGTERM}, job.said()
        assert status == 128 + number, job.said()
    else:
        assert status != 0 and re.search(rf"exitcode +: {128 + number} ", job.said()), job.said()


# --- restarted, and hung ----------------------------------------------------------------------------------------------


def restarted(bench: Bench, run: Run, act: str, rank: int, at: int, hosts: int = 1) -> None:
    """torchrun starts the ranks again when one has failed, and they go on from the newest snapshot unasked."""
    launch = partial(Torchrun, torchrun=("--max-restarts", "3"), hosts=hosts)
    with run.job(launch=launch, act=act, rank=rank, at=at) as job:
        assert job.wait() == 0, job.said()
        assert job.acted()
        bench.reference.assert_nothing_lost(run, job.said())
        assert "going on from" in job.said()
        # Those that were kept before the restart were kept again.
        bench.reference.assert_equal_at_the_end(run)


def hung(bench: Bench, run: Run, act: str, rank: int, at: int) -> None:
    """A rank stands still, at an operation: the job ends in time, and says which it was, or where."""
    with run.job("--hang_timeout", str(HANG_TIMEOUT), act=act, rank=rank, at=at) as job:
        while not job.acted():
            assert job.status() is None, job.said()
            time.sleep(0.01)
        start = time.monotonic()
        how = "no sign of life" if act == "SIGSTOP" else r"in .*fault_points\.py:\d+ \(_act\)"
        named = rf"rank {rank} has hung: {how} for {HANG_TIMEOUT:g} s at iteration \d+"
        while not re.search(named, job.said()):
            assert time.monotonic() < start + 2 * HANG_TIMEOUT, f"not said: {job.said()}"
            time.sleep(0.01)
        assert act != "SIGSTOP" or f"rank {1 - rank} has hung" not in job.said(), "it was the other"
        # torchrun gives ranks that it ends half a minute before it kills them.
        assert job.wait(timeout=45) != 0
        traced = {path.name for path in (run.out / "logs").glob("collectives_*")}
        assert f"collectives_{1 - rank}" in traced, traced  # of the one that waited
        bench.goes_on(run, job)
