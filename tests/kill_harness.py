#!/usr/bin/env python3
"""Disturb small runs in every way that tests/disturbances.py knows, hundreds of times, and count what is lost.

    python -m tests.kill_harness --tries 150 --torchrun 24 --seed 1 --json kills.json
    python -m tests.kill_harness --only ENOSPC --tries 0 --torchrun 0

Ctrl-C ends it with the table so far. What a run has lost is printed at once, and its folder stays.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice, product
from pathlib import Path

import torch

from fr.progress import progress
from tests.conftest import SAMPLE
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
    killed_after,
    killed_again_and_again,
    killed_at,
    killed_replacing,
    killed_with_torchrun,
    read_only,
    restarted,
    small_disk,
)
from tests.disturbed_jobs import RANKS, Forked, Torchrun
from tests.disturbed_runs import Course
from tests.fault_points import UNHARMED
from tools.make_sample_data import make_sample_data

COURSES = (SYNC, ASYNC, FEW)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
STATE = ("identities.txt", ".metadata", "__0_0.distcp", "__1_0.distcp", "SHA256SUMS")


@dataclass(frozen=True)
class Try:
    """One disturbance of one run. fault: what it is called in the table."""

    fault: str
    course: Course
    happens: "partial[None]"  # of a bench and a run

    def __str__(self) -> str:
        return f"{self.course}: {self.happens.func.__name__} {self.happens.keywords}"


@dataclass
class Tally:
    """Outcomes of the tries of a fault."""

    tried: int = 0
    over_before: int = 0
    seconds: float = 0
    losses: list[dict[str, str]] = field(default_factory=list)


def operations_of(bench: Bench, course: Course, rank: int, iteration: int) -> Iterator[tuple[int, str]]:
    """File operations of a rank for an iteration's snapshot and for the one then removed: number from 1, and kind."""
    return writing(bench.operations(course)[rank], iteration, iteration + course.val_step)


def writing(trace: list[str], iteration: int, following: int) -> Iterator[tuple[int, str]]:
    """The part of a trace for the snapshot of an iteration, which the following one's ends: number from 1, and kind."""
    kinds, names = zip(*(line.split(" ", 1) for line in trace), strict=True)
    marks = (f"tiny_{i}.state.tmp" for i in (iteration, following))
    first, after = (next(number for number, name in enumerate(names) if mark in name) for mark in marks)
    return ((number + 1, kinds[number]) for number in range(first, after))


def at_each_operation(bench: Bench) -> Iterator[Try]:
    """Every operation of each rank for one snapshot, and for the beginning of a run."""
    for course, rank in product(COURSES, range(RANKS)):
        for at, _ in operations_of(bench, course, rank, 4):
            yield Try("SIGKILL of a rank at each operation", course, partial(killed_at, rank=rank, at=at))
    for rank in range(RANKS):
        for at, _ in operations_of(bench, SYNC, rank, 4):
            happens = partial(killed_at, rank=rank, at=at, everyone=True)
            yield Try("SIGKILL of all ranks at each operation", SYNC, happens)
    for (error, course), rank in product({"ENOSPC": ASYNC, "EROFS": FEW, "EIO": FEW}.items(), range(RANKS)):
        for at, kind in operations_of(bench, course, rank, 4):
            if kind not in UNHARMED[error]:
                happens = partial(failing_at, error=error, rank=rank, at=at)
                yield Try(f"{error} from each operation on", course, happens)
    for at, _ in writing(bench.operations_replacing(), 4, 6):
        yield Try("SIGKILL amid replacing a snapshot", SYNC, partial(killed_replacing, at=at))
    for at in range(1, 4):  # the folder and the options in it
        for error in UNHARMED:
            yield Try(f"{error} from each operation on", SYNC, partial(failing_at, error=error, rank=0, at=at))
        yield Try("SIGKILL of a rank at each operation", SYNC, partial(killed_at, rank=0, at=at))


def drawn(bench: Bench, rng: random.Random) -> Iterator[Try]:
    """Others without end, in turns."""
    while True:
        course = rng.choice(COURSES)
        rank = rng.randrange(RANKS)
        at = rng.choice([at for at, _ in operations_of(bench, course, rank, 4)])
        number = rng.choice(SIGNALS)
        after = partial(killed_after, share=rng.random())
        yield Try("SIGKILL of a rank at any moment", course, partial(after, victims=(rank,)))
        yield Try("SIGKILL of all ranks at any moment", course, partial(after, victims=(0, 1)))
        moments = [(rng.randrange(RANKS), rng.randrange(1, 60)) for _ in range(3)]
        yield Try("SIGKILL of three jobs in a row", course, partial(killed_again_and_again, moments=moments))
        asked = partial(asked_to_end, number=number, rank=rank, after=rng.randrange(1, 5))
        yield Try("SIGTERM, SIGINT, SIGUSR1, SIGHUP to a rank", course, asked)
        amid = partial(asked_in_a_snapshot, number=number, rank=rank, at=at)
        yield Try("the same amid a snapshot", course, amid)
        for fault, change in (("a bit is flipped", flipped), ("a file is cut off", cut)):
            for name in ("tiny_4.pt", f"tiny_4.state/{rng.choice(STATE)}"):
                yield Try(fault, SYNC, partial(damaged, name=name, change=partial(change, where=rng.random())))
        logs = partial(failing_logs, error=rng.choice([*UNHARMED]), at=rng.randrange(1, 18))
        yield Try("the logs can't be written", SYNC, logs)
        setting = rng.choice([f"nr_inodes={rng.randrange(2, 24)}", f"size={rng.randrange(1, 75) * 4}k"])
        yield Try("a file system that becomes full", course, partial(small_disk, setting=setting))
        yield Try("a folder that becomes read-only", FEW, partial(read_only, share=rng.random()))
        stands = partial(hung, act=rng.choice(("SIGSTOP", "sleep")), rank=rank, at=at)
        yield Try("a rank that hangs", course, stands)


def through_torchrun(bench: Bench, rng: random.Random) -> Iterator[Try]:
    """The same by the real command, which takes ten times as long, and what only torchrun does."""
    while True:
        rank = rng.randrange(RANKS)
        sync, background = (
            rng.choice([at for at, _ in operations_of(bench, course, rank, 4)]) for course in (SYNC, ASYNC)
        )
        after = partial(killed_after, share=rng.random())
        yield Try("torchrun: SIGKILL of a rank", SYNC, partial(after, victims=(rank,)))
        yield Try("torchrun: SIGKILL of all, torchrun too", SYNC, partial(killed_with_torchrun, share=rng.random()))
        yield Try("torchrun: --max-restarts", ASYNC, partial(restarted, act="SIGKILL", rank=rank, at=background))
        asked = partial(asked_to_end, number=rng.choice(SIGNALS), rank=rank, after=rng.randrange(1, 5))
        yield Try("torchrun: a signal to a rank", SYNC, asked)
        yield Try("torchrun: SIGUSR1 to all, as Slurm", SYNC, partial(asked_by_slurm, number=signal.SIGUSR1))
        yield Try("torchrun: --max-restarts", SYNC, partial(restarted, act="ENOSPC", rank=rank, at=sync))
        act = rng.choice(("SIGSTOP", "sleep"))
        yield Try("torchrun: a rank that hangs", SYNC, partial(hung, act=act, rank=rank, at=sync))


def happen(bench: Bench, one: Try, tally: Tally) -> None:
    """Count what comes of it; the run of a loss stays where it is."""
    run = bench.run(one.course)
    start = time.monotonic()
    try:
        one.happens(bench, run)
        tally.tried += 1
    except NotTried:
        tally.over_before += 1
    except (AssertionError, OSError, ValueError) as error:
        tally.tried += 1
        tally.losses.append({"try": str(one), "folder": str(run.out), "loss": str(error)})
        print(f"\n{one}\n{run.out}\n{error}", file=sys.stderr)
    tally.seconds += time.monotonic() - start
    if not tally.losses or tally.losses[-1]["folder"] != str(run.out):
        shutil.rmtree(run.out)


def table(tallies: dict[str, Tally]) -> str:
    lines = [f"{'fault':40} {'tried':>6} {'losses':>7} {'over before':>12} {'s each':>7}"]
    for fault, tally in sorted(tallies.items()):
        each = tally.seconds / (tally.tried + tally.over_before)
        lines.append(f"{fault:40} {tally.tried:6} {len(tally.losses):7} {tally.over_before:12} {each:7.1f}")
    tried, losses = (sum(counts) for counts in zip(*((t.tried, len(t.losses)) for t in tallies.values()), strict=True))
    return "\n".join([*lines, f"{'together':40} {tried:6} {losses:7}"])


def in_own_mounts(argv: list[str]) -> bool:
    """Start this command again where what it mounts is its own and goes with it; False = that isn't allowed here."""
    if _OWN_MOUNTS in os.environ:
        return True
    own = ["unshare", "--mount", *(["--map-root-user"] * bool(os.geteuid()))]
    probe = [*own, "mount", "-t", "tmpfs", "none", "/tmp"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        return False
    os.environ[_OWN_MOUNTS] = "1"
    os.execvp("unshare", [*own, sys.executable, "-m", "tests.kill_harness", *argv])


_OWN_MOUNTS = "FR_KILL_HARNESS_MOUNTS"
_MOUNTING = ("a file system that becomes full", "a folder that becomes read-only")


def chosen(options: argparse.Namespace, mounts: bool, scratch: Path) -> list[tuple[Bench, Try]]:
    """In an order that leaves a fair share of each fault, whenever it is interrupted."""
    rng = random.Random(options.seed)

    def wanted(tries: Iterable[Try]) -> Iterator[Try]:
        return (one for one in tries if options.only in one.fault and (mounts or one.fault not in _MOUNTING))

    forked = Bench(scratch / "data", scratch / "forked", Forked)
    tries = [(forked, one) for one in wanted(at_each_operation(forked))]
    tries += [(forked, one) for one in wanted(islice(drawn(forked, rng), options.tries))]
    if options.torchrun:
        real = Bench(scratch / "data", scratch / "torchrun", Torchrun)
        tries += [(real, one) for one in wanted(islice(through_torchrun(real, rng), options.torchrun))]
    rng.shuffle(tries)
    return tries


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=150, help="drawn at random, beside those at each operation")
    parser.add_argument("--torchrun", type=int, default=24, help="drawn of those through the real torchrun")
    parser.add_argument("--only", default="", help="part of the name of the faults to try; empty = all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--json", type=Path, help="file for the counts and the losses")
    parser.add_argument("--scratch", type=Path, help="folder for the runs; unsaid = a new temporary one")
    options = parser.parse_args(argv)
    if not (mounts := in_own_mounts(argv)):
        print(f"left out, since mounting isn't allowed here: {', '.join(_MOUNTING)}", file=sys.stderr)
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ |= {"XDG_CACHE_HOME": str(scratch / "cache"), "TMPDIR": str(scratch)}
    make_sample_data(scratch / "data", SAMPLE, workers=2)
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    with suppress(KeyboardInterrupt):
        tries = chosen(options, mounts, scratch)
        with progress(len(tries), "try", "disturbed") as bar:
            for bench, one in tries:
                happen(bench, one, tallies[one.fault])
                bar.set_postfix_str(f"losses {sum(len(tally.losses) for tally in tallies.values())}")
                bar.update()
    print(table(tallies))
    losses = sum(len(tally.losses) for tally in tallies.values())
    if options.json:
        counts = {fault: asdict(tally) for fault, tally in sorted(tallies.items())}
        options.json.write_text(json.dumps({"arguments": argv, "torch": torch.__version__, "faults": counts}, indent=1))
    if not losses and not options.scratch:
        shutil.rmtree(scratch)
    return bool(losses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
