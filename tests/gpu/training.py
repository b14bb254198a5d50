"""train.py on the sample recipe: losses on the device against the CPU's."""

from functools import partial

from tests.gpu.commands import NO_VALIDATION, side_by_side, train
from tests.gpu.job import Job

_FIRST = 3  # steps before a difference of roundings has grown
_SAME = 1e-3  # relative difference that is allowed in them


def check(job: Job) -> None:
    iterations = job.pick(30, 6)
    length = ["--max_iterations", str(iterations), "--val_step", "1000000", *NO_VALIDATION]
    forms = {
        "CPU": ["--device", "cpu", "--precision", "fp32"],
        "fp32, DALI on the CPU": ["--precision", "fp32", "--dali_device", "cpu"],
        "fp32": ["--precision", "fp32"],
        "bf16": ["--precision", "bf16"],
    }
    logs = side_by_side({name: partial(train, job, job.out / name, *length, *form) for name, form in forms.items()})
    losses = {name: [record["loss"] for record in log] for name, log in logs.items()}
    reference = losses.pop("CPU")
    for name, run in losses.items():
        differences = [abs(loss - wanted) / wanted for loss, wanted in zip(run, reference, strict=True)]
        # bf16 is another network's rounding; a CPU's drawn faces at 32 px show it more than real ones on a GPU.
        allowed = job.pick(2e-2, 5e-2) if name == "bf16" else _SAME
        job.findings.claim(
            f"{name}: the first {_FIRST} losses are the CPU's to {allowed:g}",
            max(differences[:_FIRST]) <= allowed,
            f"{max(differences[:_FIRST]):.1e}",
        )
        job.findings.metric(f"{name}: largest difference in {iterations} iterations", max(differences), "of the loss")
