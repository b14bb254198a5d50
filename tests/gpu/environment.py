"""Versions; a process group; DALI's graph; where decoding ran."""

import re
import time
from importlib import metadata
from pathlib import Path

import torch
import torch.distributed as dist

from fr.data.faces import Faces
from fr.distributed import open_ranks
from tests.gpu.faces import dali, first_faces, stream
from tests.gpu.job import Job

_PACKAGES = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-nvjpeg", "nvidia-nvimgcodec-cu13", "numpy")
_WARNING = "ROI decode with fancy upsampling"  # nvImageCodec's, when nvJPEG refuses and the CPU decodes


def check(job: Job) -> None:
    _versions(job)
    with open_ranks(job.device.type) as ranks:
        sums = [torch.ones(3, device=device) for device in {"cpu", job.device.type}]
        for tensor in sums:
            dist.all_reduce(tensor)
        job.findings.claim(
            "a group of one adds up tensors of the CPU and of the device",
            all(tensor.cpu().tolist() == [1.0] * 3 for tensor in sums),
            dist.get_backend_config(),
        )
        faces = first_faces(job, 512)
        start = time.perf_counter()
        images, _ = next(stream(faces, dali(job), batch=64))
        seconds = time.perf_counter() - start
        # 3.9 s on an H100, nearly all of it CUDA's and nvJPEG's libraries, loaded and started.
        job.findings.claim("the first batch comes within 8 s of making the graph", seconds < 8, f"{seconds:.2f} s")
        job.findings.claim("images lie on the device", images.device.type == ranks.device.type, images.device)
        _decoding(job, faces)


def _versions(job: Job) -> None:
    found = {"torch": torch.__version__, "CUDA": str(torch.version.cuda)}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if job.on_gpu:
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {card.multi_processor_count} multiprocessors",
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
        path = Path("/proc/driver/nvidia/version")
        driver = re.search(r"Module\s+(?:for \S+\s+)?([\d.]+)", path.read_text()) if path.exists() else None
        found["driver"] = driver.group(1) if driver else "unknown"
    job.findings.metric("versions", ", ".join(f"{name} {value}" for name, value in found.items()))


def _decoding(job: Job, faces: Faces) -> None:
    """A GPU decodes when nvImageCodec didn't warn, and when the processor has little to do."""
    costs = {}
    for name, settings in {"device": dali(job), "cpu": dali(job, "cpu")}.items():
        batches = stream(faces, settings, batch=64)
        next(batches)
        start, images = time.process_time(), 0
        for batch, _ in batches:
            images += len(batch)
        job.synchronize()
        costs[name] = (time.process_time() - start) / max(1, images) * 1e6
    job.findings.metric("processor time an image, DALI on the device", costs["device"], "us")
    job.findings.metric("processor time an image, DALI on the CPU", costs["cpu"], "us")
    log = (job.out / "log.txt").read_text(errors="replace")
    refused = _WARNING in log
    job.findings.claim("nvJPEG decodes regions itself, nothing falls back to the CPU", not refused, "warned" * refused)
