"""Ends that nobody planned: a killed rank, SIGTERM, a rank that hangs; and the losses of several ranks."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tests.gpu.commands import NO_VALIDATION, environment, records, run, torchrun, training_command
from tests.gpu.job import Job

_QUICK = (*NO_VALIDATION, "--epoch_total_num", "1000", "--lr", "0.01", "--precision", "fp32")
_PATIENCE = 60  # seconds for what a training should have done long before


def check(job: Job) -> None:
    ranks = min(2, torch.cuda.device_count()) if job.on_gpu else 2
    _sigterm(job)
    _killed_rank(job, ranks)
    if ranks < 2:
        for text in ("2 ranks have the losses of 1, with uneven shards", "a rank that hangs is named"):
            job.findings.skip(text, "needs 2 GPUs, there is 1")
        return
    _two_against_one(job)
    _hanging_rank(job)


def _sigterm(job: Job) -> None:
    out = job.out / "sigterm"
    with _started(training_command(job, out, *_QUICK, "--max_iterations", "100000")) as process:
        _wait_until(lambda: len(records(out)) >= 5)
        process.send_signal(signal.SIGTERM)
        status = process.wait(_PATIENCE)
    done = len(records(out))
    saved = [path.name for path in (out / "snapshots").glob("run_*.pt")]
    job.findings.claim(
        "SIGTERM ends the training with a snapshot", status == 143 and saved == [f"run_{done}.pt"], f"{status}, {saved}"
    )


def _killed_rank(job: Job, ranks: int) -> None:
    out, iterations = job.out / "killed", 60
    options = [*_QUICK, "--max_iterations", str(iterations), "--val_step", "10", "--snap_to_resume", "auto"]
    command = training_command(job, out, *options, launcher=torchrun(ranks, "--max-restarts=1"))
    with _started(command) as process:
        _wait_until(lambda: (out / "snapshots/run_10.pt").exists())
        victim = _children(process.pid)[-1]
        os.kill(victim, signal.SIGKILL)
        status = process.wait(2 * _PATIENCE)
    done = [record["iteration"] for record in records(out)]
    job.findings.claim(
        f"torchrun restarts {ranks} killed rank(s) and the run goes on",
        status == 0 and done == [*range(1, iterations + 1)],
        f"status {status}, {len(done)} iterations",
    )


def _two_against_one(job: Job) -> None:
    """The data without its last identity, so that the shards are uneven."""
    names = (job.data / "vggface2/meta/train_list.txt").read_text().split()
    last = names[-1].split("/")[0]
    odd = len({name.split("/")[0] for name in names}) % 2 == 0
    shorter = job.out / "train_list.txt"
    shorter.write_text("".join(f"{name}\n" for name in names if not (odd and name.startswith(f"{last}/"))))
    losses = []
    for ranks in (1, 2):
        out = job.out / f"of{ranks}"
        options = [*_QUICK, "--max_iterations", "3", "--train_list", str(shorter), "--sync_bn"]
        run(training_command(job, out, *options, launcher=torchrun(ranks)))
        losses.append([record["loss"] for record in records(out)])
    differences = [abs(one - two) / one for one, two in zip(*losses, strict=True)]
    # The first loss shows the forward pass, later ones the gradients, whose roundings grow by the step.
    same = differences[0] < 1e-5 and max(differences) < 1e-3
    seen = f"{differences[0]:.1e}, later {max(differences):.1e}"
    job.findings.claim("2 ranks have the losses of 1, with uneven shards", same, seen)


def _hanging_rank(job: Job) -> None:
    out = job.out / "hanging"
    patience = job.pick("30", "8")  # seconds; on a GPU the first step takes some
    options = [*_QUICK, "--max_iterations", "100000", "--hang_timeout", patience]
    command = training_command(job, out, *options, launcher=torchrun(2))
    with _started(command) as process:
        _wait_until(lambda: len(records(out)) >= 3)
        victim = _children(process.pid)[-1]
        os.kill(victim, signal.SIGSTOP)
        status = process.wait(2 * _PATIENCE)  # torchrun gives the stopped rank 30 s to end
    said = (job.out / "log.txt").read_text(errors="replace")
    job.findings.claim("a rank that hangs is named", status != 0 and "rank 1 has hung" in said, f"status {status}")


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background, which doesn't outlive this block."""
    with subprocess.Popen(command, env=environment()) as process:
        try:
            yield process
        finally:
            for child in [*_children(process.pid), process.pid] if process.poll() is None else []:
                os.kill(child, signal.SIGKILL)


def _wait_until(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE
    while not reached():
        if time.monotonic() > until:
            raise TimeoutError(f"the training didn't come so far within {_PATIENCE} s")
        time.sleep(0.02)


def _children(parent: int) -> list[int]:
    """Children of a process, in the order in which it started them."""
    return [
        int(child)
        for task in Path(f"/proc/{parent}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
