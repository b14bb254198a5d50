"""evaluate_lfw.py: of a snapshot on the device against the CPU, and of the shared ONNX model."""

import json
import sys
import time
from pathlib import Path

from tests.builders.command_options import validation_options
from tests.gpu.commands import NO_VALIDATION, run, train
from tests.gpu.job import Job

_AUC = 5e-4
_CONTRACT = ["--template", "arcface", "--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225"]


def check(job: Job) -> None:
    out = job.out / "trained"
    model = ["--model", "mobilenet", "--input_size", job.pick("112", "32"), "--lr", "0.01"]
    train(job, out, *model, "--max_iterations", "3", *NO_VALIDATION)
    # The same faces for both: a network after three steps shows the 0.02 grey levels between the decoders of GPU and
    # CPU (AUC 0.7094 and 0.7085 on an H200), and computing convolutions in TF32 still more (0.5310).
    snapshot = [f"{out}/snapshots/run_3.pt", "--dali_device", "cpu"]
    auc, wanted = (_figures(job, device, "snapshot", snapshot)["auc"] for device in (job.device.type, "cpu"))
    job.findings.claim(f"AUC is the CPU's to {_AUC}", abs(auc - wanted) <= _AUC, f"{auc:.4f}, {wanted:.4f}")
    if job.onnx_model:  # ONNX Runtime's CPU build runs it; the faces come from the device
        accuracy = _figures(job, job.device.type, "ONNX model", [str(job.onnx_model), *_CONTRACT])["accuracy"]
        job.findings.claim("the published network has its accuracy", abs(accuracy - 0.9863) < 0.003, f"{accuracy:.4f}")
    else:
        job.findings.skip("the published network", "FR_SHARED_DATA isn't set")


def _figures(job: Job, device: str, name: str, snap: list[str]) -> dict[str, float]:
    path = Path(job.out, f"{name}-{device}.json")
    options = ["--device", device, "--flipped_emb", "--bootstrap", "0", "--json", str(path), "--val_batch_size", "128"]
    start = time.monotonic()
    run([sys.executable, "evaluate_lfw.py", "--snap", *snap, *validation_options(job.data), *options])
    job.findings.metric(f"{name}: evaluate_lfw.py with --device {device}", time.monotonic() - start, "s")
    content: dict[str, float] = json.loads(path.read_text())
    return content
