"""train.py on the sample recipe: losses on the device against the CPU's."""

from functools import partial

from tests.gpu.commands import NO_VALIDATION, side_by_side, train
from tests.gpu.job import Job

_FIRST = 3  # steps before a difference of roundings has grown
# Relative difference that is allowed in them, by the run: a fresh network shows the 0.02 grey levels between the
# decoders of GPU and CPU (0.3 % on an H200), and bf16's rounding.
_ALLOWED = {"fp32, DALI on the CPU": 1e-3, "fp32": 1e-2, "bf16": 2e-2}


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
        # On a CPU, drawn faces at 32 px show bf16's rounding more than real ones do.
        allowed = _ALLOWED[name] if job.on_gpu or name != "bf16" else 5e-2
        job.findings.claim(
            f"{name}: the first {_FIRST} losses are the CPU's to {allowed:g}",
            max(differences[:_FIRST]) <= allowed,
            f"{max(differences[:_FIRST]):.1e}",
        )
        job.findings.metric(f"{name}: largest difference in {iterations} iterations", max(differences), "of the loss")
