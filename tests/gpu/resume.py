"""Six steps against three and three more, bit for bit; and a training state that crosses to the other device."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu.commands import NO_VALIDATION, same_weights, side_by_side, train
from tests.gpu.job import Job

_LENGTH = ("--val_step", "3", "--deterministic", "--snap_to_resume", "auto")
# Whatever a training state holds: an average of the weights, momentum of a sampled head.
_EXACT = (*_LENGTH, *NO_VALIDATION, "--precision", "bf16", "--ema_decay", "0.9", "--sample_rate", "0.5")
_CROSSING = (*_LENGTH, "--precision", "fp32")  # with validations


def check(job: Job) -> None:
    here, cpu = (), ("--device", "cpu")
    logs = side_by_side({
        "whole": partial(_stages, job, job.out / "whole", _EXACT, {6: here}),
        "synchronous": partial(_stages, job, job.out / "synchronous", _EXACT, {3: here, 6: here}),
        "asynchronous": partial(
            _stages, job, job.out / "asynchronous", (*_EXACT, "--async_snapshots"), {3: here, 6: here}
        ),
        "crossing": partial(_stages, job, job.out / "crossing", _CROSSING, {3: here, 6: cpu, 9: here}),
    })
    for name in ("synchronous", "asynchronous"):
        same = same_weights(*(job.out / run / "snapshots/run_6.pt" for run in ("whole", name)))
        job.findings.claim(f"{name} snapshots: three steps and three resumed are six", same)
    iterations = [record["iteration"] for record in logs["crossing"]]
    job.findings.claim(
        f"a training goes from {job.device.type} to cpu and back", iterations == [*range(1, 10)], iterations
    )


def _stages(job: Job, out: Path, options: Sequence[str], stages: dict[int, Sequence[str]]) -> list[dict[str, Any]]:
    """Train up to each iteration in a process of its own, with options of its own."""
    log = []
    for last, more in stages.items():
        log = train(job, out, *options, *more, "--max_iterations", str(last))
    return log
