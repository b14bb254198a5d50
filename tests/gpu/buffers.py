"""Lifetime of DALI's buffers: images that encode their own index, read by a device that lags far behind the host."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fr.data.pipeline import FaceStream
from fr.data.samples import SampleBatch
from fr.preprocessing import Preprocessing
from tests.gpu.faces import dali, image_folder
from tests.gpu.job import Job

_BITS, _CELL = 16, 16  # an image is 4×4 black or white cells of so many pixels
_SIDE = 4 * _CELL
_CONTRACT = Preprocessing((_SIDE, _SIDE), template="arcface")
_LAG = 15_000_000  # cycles that each step keeps the GPU busy, about 8 ms


def check(job: Job) -> None:
    count, batch, steps = job.pick(2_048, 256), job.pick(256, 32), job.pick(300, 30)
    faces = image_folder(job.out / "indexed", [_encoded(index) for index in range(count)])
    order = np.random.default_rng(0).integers(0, count, (steps, batch))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        batches = (SampleBatch(faces, rows) for rows in order)
        stream = FaceStream(batches, batch, _CONTRACT, dali(job))
        read, labels = [], []
        for images, indices in stream:
            # As the training loop moves a batch; nothing waits for the device from here to the end.
            images = images.to(job.device, non_blocking=True, memory_format=memory_format)
            labels.append(torch.from_numpy(indices).to(job.device, non_blocking=True))
            if job.on_gpu:
                torch.cuda._sleep(_LAG)
            read.append(_decoded(images))
        wrong = int((torch.stack(read) != torch.stack(labels)).sum())
        right_labels = np.array_equal(torch.stack(labels).cpu().numpy(), order)
        name = str(memory_format).removeprefix("torch.")
        text = f"{name}: none of {steps} × {batch} images mixed up"
        job.findings.claim(text, not wrong and right_labels, f"{wrong} wrong")


def _encoded(index: int) -> bytes:
    bits = (index >> np.arange(_BITS)) & 1
    pixels = np.kron(bits.reshape(4, 4), np.ones((_CELL, _CELL))) * 255
    _, encoded = cv2.imencode(".jpg", np.repeat(pixels[:, :, None], 3, axis=2).astype(np.uint8))
    content: NDArray[np.uint8] = encoded
    return content.tobytes()


def _decoded(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] → the index that each encodes, [B]."""
    centers = images[:, 0, _CELL // 2 :: _CELL, _CELL // 2 :: _CELL].flatten(1)
    middle = (centers.amax() + centers.amin()) / 2
    return ((centers > middle) * (1 << torch.arange(_BITS, device=images.device))).sum(dim=1)
