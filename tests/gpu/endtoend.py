"""train.py from JPEGs to weights, against what loader and step do by themselves."""

import json
import statistics
import subprocess
import time
from pathlib import Path

from tests.gpu.commands import NO_VALIDATION, environment, records, train, training_command
from tests.gpu.job import Job

_SETTLED = 0.3  # of the iterations, after which speeds count


def check(job: Job) -> None:
    steps = job.pick(200, 6)
    for model, side, batch in job.pick((("mobilenet", 128, 512), ("iresnet50", 112, 256)), (("mobilenet", 32, 32),)):
        out = job.out / model
        options = ["--model", model, "--input_size", str(side), "--train_batch_size", str(batch)]
        options += ["--max_iterations", str(steps), "--epoch_total_num", "1000", "--val_step", "1000000"]
        options += ["--precision", "bf16", "--channels_last", *NO_VALIDATION, "--lr", "0.01"]
        options += ["--log_step", job.pick("10", "1")]  # each record waits for the device
        log = [record for record in train(job, out, *options) if record["iteration"] > steps * _SETTLED]
        speed = statistics.median(record["images_per_s"] for record in log)
        wait = statistics.median(record["data_wait"] for record in log)
        job.findings.metric(f"{model}, batch {batch}", speed, "images/s")
        job.findings.metric(f"{model}: data_wait", wait, "of the time")
        step = _measured(job.out, "step", f"{model} {batch}, bf16 channels_last")
        least = min(_measured(job.out, "loader", "the training's loader"), step)
        if least < float("inf"):
            job.findings.metric(f"{model}: share of the slower of loader and step", speed / least)
        finite = all(abs(record["loss"]) < float("inf") for record in log)
        job.findings.claim(f"{model}: losses stay finite", finite and not log[-1]["skipped_steps"], log[-1]["loss"])
    seconds = _seconds_to_first_step(job, job.out / "first")
    job.findings.metric("seconds to the first step, imports included", seconds, "s")


def _seconds_to_first_step(job: Job, out: Path) -> float:
    """Seconds of the quick start's recipe from starting the command to the first line of its log."""
    command = training_command(job, out, "--max_iterations", "2", *NO_VALIDATION)
    start = time.monotonic()
    with subprocess.Popen(command, env=environment()) as process:
        while not records(out) and process.poll() is None:
            time.sleep(0.01)
        seconds = time.monotonic() - start
        if process.wait():
            raise RuntimeError(f"train.py ended with {process.returncode}")
    return seconds


def _measured(out: Path, check: str, name: str) -> float:
    """The largest images/s among another check's metrics with this beginning; infinite when it didn't run."""
    path = out.parent / check / "findings.jsonl"
    found = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    speeds = [one["value"] for one in found if one["text"].startswith(name) and one["end"] == "images/s"]
    return max((float(speed.replace(",", "")) for speed in speeds), default=float("inf"))
