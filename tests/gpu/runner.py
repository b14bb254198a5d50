"""Processes of the checks: started in order, ended at their time limit, read as they end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.gpu.checks import CHECKS, Check

_ROOT = Path(__file__).resolve().parents[2]
_AT_ONCE = 4  # checks that measure no time, on a machine with cores for them
_CORES_EACH = 3
_CPU_FACTOR = 5  # of the time limits, which are for a GPU


@dataclass(frozen=True)
class Result:
    """problem: what ended the check before it was done, "" if nothing. findings: as `Findings` wrote them."""

    check: Check
    seconds: float
    problem: str
    findings: list[dict[str, str]]

    @property
    def passed(self) -> bool:
        return not self.problem and all(one["end"] == "ok" for one in self.findings if one["kind"] == "claim")


def run_checks(checks: list[Check], device: str, data: Path, out: Path, deadline: float) -> list[Result]:
    """Run the checks; those that measure no time side by side, where they follow each other. deadline: of
    `time.monotonic()`, after which none starts."""
    at_once = max(1, min(_AT_ONCE, len(os.sched_getaffinity(0)) // _CORES_EACH))
    results: list[Result] = []
    running: list[_Running] = []
    try:
        for check in checks:
            while running and (check.alone or running[0].check.alone or len(running) == at_once):
                results += _ended(running)
            if time.monotonic() > deadline:
                results.append(_told(Result(check, 0.0, "not started: out of time", [])))
            else:
                running.append(_Running(check, device, data, out / check.name))
        while running:
            results += _ended(running)
    finally:
        for one in running:
            one.kill()
    return sorted(results, key=lambda result: checks.index(result.check))


class _Running:
    def __init__(self, check: Check, device: str, data: Path, out: Path) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        self.check, self._out, self._start = check, out, time.monotonic()
        self._limit = check.seconds * (1 if device == "cuda" else _CPU_FACTOR)
        with (out / "log.txt").open("wb") as log:
            command = [sys.executable, "-m", "tests.gpu.runner", check.name, device, str(data), str(out)]
            # A session of its own, so that what it started ends with it.
            self._process = subprocess.Popen(
                command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def ended(self) -> Result | None:
        seconds = time.monotonic() - self._start
        status = self._process.poll()
        if status is None and seconds < self._limit:
            return None
        problem = f"ended with status {status}" if status else ""
        if status is None:
            problem = f"not done after {self._limit} s"
        self.kill()
        path = self._out / "findings.jsonl"
        findings = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        if not problem and not findings:
            problem = "it found nothing"
        return _told(Result(self.check, seconds, problem, findings))

    def kill(self) -> None:
        """End what is left of the check's processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _ended(running: list[_Running]) -> list[Result]:
    """Wait until at least one has ended, and take those that have out of the list."""
    while True:
        results = {one: result for one in running if (result := one.ended())}
        if results:
            running[:] = [one for one in running if one not in results]
            return list(results.values())
        time.sleep(0.05)


def _told(result: Result) -> Result:
    print(f"{'ok    ' if result.passed else 'FAILED'} {result.check.name} ({result.seconds:.0f} s) {result.problem}")
    for one in result.findings:
        print(f"       {one['text']}: {one['value']} {one['end']}".replace(":  ", ": ").rstrip())
    return result


def _run_one(name: str, device: str, data: str, out: str) -> None:
    import torch

    from tests.gpu.job import Findings, Job

    module, function = CHECKS[name].place.split(".")
    model = Path(data).parent / "models/mobilefacenet.onnx"
    job = Job(
        torch.device(device),
        Path(data),
        model if model.is_file() else None,
        Path(out),
        Findings(Path(out, "findings.jsonl")),
    )
    try:
        getattr(import_module(f"tests.gpu.{module}"), function)(job)
    except Exception as error:
        traceback.print_exc()
        job.findings.claim("it runs to its end", False, f"{type(error).__name__}: {error}"[-400:])


if __name__ == "__main__":
    _run_one(*sys.argv[1:])
