"""A small run that something happens to, and what must hold afterwards whatever it was.

What is there is held against a run that nothing happened to: its losses, and a snapshot of each of its iterations.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.conftest import TINY, data_options, folders, records
from tests.disturbed_jobs import Job
from tests.fault_points import Fault

ITERATIONS = 6
Launch = Callable[[Fault, list[str]], Job]


@dataclass(frozen=True)
class Course:
    """Way in which a run writes its snapshots."""

    val_step: int = 2
    background: bool = False
    keep: int = 0

    def options(self) -> list[str]:
        options = ["--max_iterations", str(ITERATIONS), "--val_step", str(self.val_step)]
        options += ["--async_snapshots"] * self.background
        return options + ["--keep_snapshots", str(self.keep)] * bool(self.keep)

    def kept(self, iterations: set[int]) -> set[int]:
        return set(sorted(iterations)[-self.keep :])  # 0: all

    def __str__(self) -> str:
        return " ".join(self.options()[2:])


class Run:
    """A folder with snapshots and logs that jobs write in one after the other."""

    def __init__(self, out: Path, data: Path, launch: Launch, course: Course) -> None:
        self.out, self.snapshots = out, out / "snapshots"
        self._options = [*data_options(data), *TINY, *folders(out), *course.options()]
        self._launch, self.course = launch, course
        self._jobs = 0

    @contextmanager
    def job(self, *options: str, launch: Launch | None = None, **fault: Any) -> Iterator[Job]:
        """One that has been started, and of which nothing is left afterwards; fault: of `Fault`, among the snapshots
        unless a folder is named."""
        self._jobs += 1
        control = self.out / f"job_{self._jobs}"
        control.mkdir(parents=True)
        where = {"folder": str(self.snapshots), "control": str(control)}
        job = (launch or self._launch)(Fault(**where | fault), [*self._options, *options])
        try:
            yield job
        finally:
            job.end()

    def from_second(self) -> list[str]:
        """Options to go on from the second iteration's snapshot, whatever else there is."""
        return ["--snap_to_resume", str(self.snapshots / "tiny_2.pt")]

    def leftovers(self) -> set[str]:
        """Files among the snapshots that belong to none."""
        whole = {f"{path.stem}.{kind}" for path in self.visible().values() for kind in ("pt", "state")}
        return {path.name for path in self.snapshots.glob("*")} - whole - {"tiny.config.yml", ".tiny.lock"}

    def visible(self) -> dict[int, Path]:
        """The `.pt` files by iteration, as anybody sees them."""
        found = {re.fullmatch(r"tiny_(\d+)\.pt", path.name): path for path in self.snapshots.glob("*")}
        return {int(match[1]): path for match, path in found.items() if match}


@dataclass(frozen=True)
class Reference:
    """The run that nothing happened to."""

    run: Run

    @staticmethod
    def make(out: Path, data: Path, launch: Launch) -> "Reference":
        run = Run(out, data, launch, Course(val_step=1))
        with run.job() as job:
            assert job.wait() == 0, job.said()
        assert [*sorted(run.visible())] == [*range(1, ITERATIONS + 1)]
        return Reference(run)

    def assert_nothing_lost(self, run: Run, said: str) -> None:
        """After a disturbance. said: what the job had said until then."""
        written = {int(number) for number in re.findall(r"wrote \S+/tiny_(\d+)\.pt", said)}
        visible = run.visible()
        missing = run.course.kept(written) - visible.keys()
        assert not missing, f"was written, and is gone: {sorted(missing)}"
        for iteration, path in visible.items():
            self._assert_whole(iteration, path)

    def assert_equal_at_the_end(self, run: Run, before: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        """After a run that came to its end. before: the iterations of the snapshots that it found."""
        log, expected = records(run.out / "logs"), records(self.run.out / "logs")
        assert [record["iteration"] for record in log] == [*range(1, ITERATIONS + 1)], "the log has gaps or repeats"
        assert [record["loss"] for record in log] == [record["loss"] for record in expected], "other losses"
        due = run.course.kept(before | {*range(run.course.val_step, ITERATIONS, run.course.val_step), ITERATIONS})
        assert run.visible().keys() == due, f"there are {[*run.visible()]}, and not {due}"
        assert not run.leftovers(), f"left over: {run.leftovers()}"
        for iteration, path in run.visible().items():
            self._assert_whole(iteration, path)
        owners = {torch.load(path, weights_only=True)["run_id"] for path in run.visible().values()}
        assert len(owners) == 1, f"of several runs: {owners}"

    def _assert_whole(self, iteration: int, path: Path) -> None:
        """Check a snapshot with sha256sum, and that it equals the undisturbed run's bit for bit."""
        state = path.with_suffix(".state")
        assert state.is_dir(), f"{path} has no state"
        command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        checked = subprocess.run(command, cwd=state, capture_output=True, text=True)
        assert checked.returncode == 0, f"{state}: {checked.stdout}{checked.stderr}"
        other = self.run.visible()[iteration]
        files = [{file.name: file.read_bytes() for file in of.iterdir()} for of in (state, other.with_suffix(".state"))]
        assert files[0].keys() == files[1].keys(), f"{state} holds {sorted(files[0])}"
        differing = [name for name in files[0] if files[0][name] != files[1][name]]
        assert not differing, f"{state}: not as undisturbed: {differing}"
        contents, wanted = (torch.load(file, weights_only=True) for file in (path, other))
        weights, wanted_weights = contents.pop("state_dict"), wanted.pop("state_dict")
        assert weights.keys() == wanted_weights.keys()
        for name, tensor in weights.items():
            assert torch.equal(tensor, wanted_weights[name]), f"{path}: {name} is not as undisturbed"
        for own in ("config", "run_id"):
            del contents[own], wanted[own]
        assert contents == wanted, f"{path}: {contents} instead of {wanted}"

