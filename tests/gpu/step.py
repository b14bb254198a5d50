"""Images/s, memory and MFU of whole training steps, on images that are already on the device."""

import statistics
import time
from dataclasses import dataclass

import torch

from fr.distributed import float32_products, open_ranks
from fr.models import build_model, family
from fr.train.replicas import deterministic
from tests.gpu.checks import CHECKS
from tests.gpu.job import Job, note
from tests.gpu.steps import BEST, EMBED_SIZE, Form, Step, free_memory, our_step, yardstick_step
from tools.count_flops import count

FORMS = {
    "fp32": Form(),
    "tf32": Form("tf32"),
    "bf16": Form("bf16"),
    "fp16": Form("fp16"),
    "bf16 channels_last": BEST,
    "compiled": Form("bf16", channels_last=True, compiled=True),
}
YARDSTICK = "fp16 of torch alone"  # not in FORMS: `yardstick_step`
_PEAKS = {"fp32": "fp32", "tf32": "tf32"}  # the products that a form's MFU refers to; bf16 for all others
# A case isn't begun with less time left: imports have taken some of it, and compiling a model takes most of a minute.
_OTHER_SECONDS, _COMPILE_SECONDS = 12, 50
_NOISE = 0.97  # of a ratio of two medians, each over five groups of steps


@dataclass(frozen=True)
class Case:
    model: str
    batch: int
    form: str


def check(job: Job) -> None:
    """Speed of each form on each model, and of fr's best form against the yardstick."""
    end = time.monotonic() + CHECKS["step"].seconds
    speeds: dict[Case, float] = {}
    with open_ranks(job.device.type), deterministic(False):  # as train.py has it
        peaks = product_speeds(job)
        for name, peak in peaks.items():
            job.findings.metric(f"matrix product {name}", peak / 1e12, "TFLOP/s")
        for case in _cases(job):
            left = end - time.monotonic()
            if left < (_COMPILE_SECONDS if case.form == "compiled" else _OTHER_SECONDS):
                job.findings.skip(_title(case), f"{left:.0f} s were left")
                continue
            speed = _attempt(job, case)
            if not speed:
                continue
            speeds[case] = speed
            peak = peaks[_PEAKS.get(case.form, "bf16")]
            job.findings.metric(f"{_title(case)}: MFU", speed * training_flops(case.model) / peak * 100, "%")
    for case, speed in speeds.items():
        if case.form == YARDSTICK and (ours := speeds.get(Case(case.model, case.batch, "bf16 channels_last"))):
            text = f"{case.model} {case.batch}: bf16 channels_last against {YARDSTICK}"
            job.findings.metric(text, ours / speed, "times as fast")
            if job.on_gpu:
                job.findings.claim(f"{text}: at least as fast", ours / speed >= _NOISE, f"{ours / speed:.3f}")


def _cases(job: Job) -> list[Case]:
    """The most telling first; the compiled ones need not get their turn."""
    if not job.on_gpu:
        return [Case("mobilenet", 2, form) for form in ("fp32", "bf16 channels_last", YARDSTICK)]
    batches = {"mobilenet": 512, "iresnet50": 256, "iresnet100": 256}
    cases = [Case(model, batch, form) for model, batch in batches.items() for form in ("bf16 channels_last", YARDSTICK)]
    cases += [Case("mobilenet", 512, form) for form in ("fp32", "tf32", "bf16", "fp16")]
    return [*cases, *(Case(model, batches[model], "compiled") for model in ("mobilenet", "iresnet50"))]


def _title(case: Case) -> str:
    return f"{case.model} {case.batch}, {case.form}"


def _attempt(job: Job, case: Case) -> float | None:
    """Images a second; None, and a failed claim, where the case raises, such as for want of memory."""
    try:
        speed, loss = _measured(job, case)
    except Exception as error:  # torch.compile raises errors of many kinds; the other cases go on
        note(repr(error))
        job.findings.claim(f"{_title(case)}: runs", False, f"{type(error).__name__}: {str(error)[:300]}")
        return None
    finally:
        free_memory()
    job.findings.claim(f"{_title(case)}: finite loss", bool(loss.isfinite()), f"{loss:.4f}")
    job.findings.metric(f"{_title(case)}", speed, "images/s")
    if job.on_gpu:
        job.findings.metric(f"{_title(case)}: peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB")
    return speed


def _measured(job: Job, case: Case) -> tuple[float, torch.Tensor]:
    """Images a second and the last loss."""
    if job.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    if case.form == YARDSTICK:
        step = yardstick_step(job.device, case.model, case.batch)
    else:
        step = our_step(job.device, case.model, case.batch, FORMS[case.form])
    seconds, loss = seconds_a_step(job, step)
    return case.batch / seconds, loss.cpu()


def seconds_a_step(job: Job, step: Step) -> tuple[float, torch.Tensor]:
    """Median over groups of steps, before and after each of which the device is waited for; and the last loss."""
    steps = job.pick(2, 1)

    def group() -> torch.Tensor:
        return [step(iteration) for iteration in range(steps)][-1]

    loss = [group() for _ in range(job.pick(2, 1))][-1]  # warm-up
    seconds = []
    job.synchronize()
    for _ in range(job.pick(5, 1)):
        start = time.perf_counter()
        loss = group()
        job.synchronize()
        seconds.append((time.perf_counter() - start) / steps)
    return statistics.median(seconds), loss


def training_flops(model: str) -> int:
    """Training FLOPs of one image: forward, and twice that backward; convolutions and products of the backbone."""
    with torch.device("meta"):
        backbone = build_model(model, EMBED_SIZE, family(model).input_size)
    return 3 * 2 * count(backbone, family(model).input_size).macs


def product_speeds(job: Job) -> dict[str, float]:
    """FLOP/s of a large square matrix product in each precision, several in a row so that clocks are those of work."""
    side, times = job.pick(8192, 512), job.pick(10, 1)

    def speed(dtype: torch.dtype, tf32_allowed: bool) -> float:
        a, b = (torch.randn(side, side, device=job.device, dtype=dtype) for _ in range(2))

        def products() -> None:
            for _ in range(times):
                torch.mm(a, b)

        with float32_products(tf32_allowed):
            products()
            return 2 * side**3 * times / statistics.median(job.seconds(products) for _ in range(3))

    return {
        "fp32": speed(torch.float32, False),
        "tf32": speed(torch.float32, True),
        "bf16": speed(torch.bfloat16, False),
    }
