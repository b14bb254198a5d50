"""Images a second of decoding alone, by the decoder's settings, and of the training's whole loader."""

import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from fr.data import placement
from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.data.graph import regions
from fr.data.order import Order
from fr.data.pipeline import DaliSettings, graph_inputs
from fr.data.samples import augmented_batch
from fr.data.training_stream import TrainingStream
from fr.distributed import Ranks
from fr.options.augmentation import Augmentation
from tests.gpu.faces import CONTRACT, dali, read_faces
from tests.gpu.job import Job

_LOADS = (0.0, 0.65, 1.0)  # share of a batch that the hardware JPEG decoder gets; DALI's own is 0.65, fr's 0


def check(job: Job) -> None:
    batch, seconds = job.pick(512, 32), job.pick(1.2, 0.5)
    faces, settings = read_faces(job), dali(job, threads=job.pick(15, 2))
    decoded = [
        _decoding(job, faces, settings, batch, seconds, load, fancy, region)
        for load, fancy, region in [(load, True, True) for load in job.pick(_LOADS, (0.0,))]
        + [(0.0, False, True), (0.0, True, False)]
    ]
    ranks = Ranks(0, 1, 0, 1, job.device)
    order = Order(len(faces), batch, 0)
    stream = TrainingStream(
        faces, order, range(sys.maxsize), ranks, 1, CONTRACT, Augmentation(), settings, BadImages(0)
    )
    batches = iter(stream)
    speed = _images_per_s(job, batches.__next__, batch, 2 * seconds)
    start, steps = time.thread_time(), 8
    for _ in itertools.islice(batches, steps):
        pass
    main_us = (time.thread_time() - start) / (steps * batch) * 1e6
    job.findings.metric("the training's loader", speed, "images/s")
    job.findings.metric("share of decoding alone", speed / max(decoded))
    job.findings.metric("of the training's main thread for it", main_us, "us an image")
    job.findings.metric("Python of the loader, in another thread", _python_us(faces, order, batch), "us an image")
    job.findings.claim("all loaders gave images", min(decoded) > 0 and speed > 0)


def _decoding(
    job: Job,
    faces: LabelledFaces,
    settings: DaliSettings,
    batch: int,
    seconds: float,
    load: float,
    fancy: bool,
    region: bool,
) -> float:
    """Images a second of one setting, of encoded images in memory."""
    built = _decoder(
        source=_encoded_batches(faces, batch),
        device="mixed" if job.on_gpu else "cpu",
        options={"jpeg_fancy_upsampling": fancy} | ({"hw_decoder_load": load} if job.on_gpu else {}),
        region=region,
        batch_size=batch,
        num_threads=settings.threads,
        device_id=settings.gpu,
        prefetch_queue_depth=2,
    )
    speed = _images_per_s(job, built.run, batch, seconds)
    upsampling, part = "fancy" if fancy else "plain", "region" if region else "whole image"
    job.findings.metric(f"decoding, hardware load {load:g}, {upsampling} upsampling, {part}", speed, "images/s")
    return speed


def _encoded_batches(faces: LabelledFaces, batch: int) -> Iterator[tuple[Any, ...]]:
    """The same images again and again: encoded, and the corners of what the training decodes of them."""
    prepared = []
    for first in range(0, min(len(faces), 4 * batch) - batch + 1, batch):
        indices = np.arange(first, first + batch)
        encoded = [faces.read(index) for index in indices.tolist()]
        matrices, _ = placement.matrices(faces, indices, encoded, CONTRACT)
        area = regions(matrices, CONTRACT.input_size)
        low, high = (_inside(corner, encoded) for corner in (area["low"], area["high"]))
        prepared.append((encoded, low, high))
    return itertools.cycle(prepared)


def _inside(corner: NDArray[np.float32], encoded: list[NDArray[np.uint8]]) -> NDArray[np.int32]:
    return np.clip(corner, 0, placement.sizes_of(encoded)[:, ::-1]).astype(np.int32)


@pipeline_def(exec_dynamic=True)
def _decoder(source: Any, device: str, options: dict[str, Any], region: bool) -> Any:
    encoded, low, high = fn.external_source(source=source, num_outputs=3, batch=True)
    shared = {"device": device, "output_type": types.RGB, "adjust_orientation": False, **options}
    if region:
        return fn.decoders.image_slice(encoded, start=low, end=high, axis_names="WH", **shared)
    return fn.decoders.image(encoded, **shared)


def _images_per_s(job: Job, step: Callable[[], Any], batch: int, seconds: float) -> float:
    for _ in range(3):  # what is ready from the start
        step()
    job.synchronize()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        count += batch
    if job.on_gpu:
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def _python_us(faces: LabelledFaces, order: Order, batch: int) -> float:
    """Processor time of order, draws, reading and matrices; microseconds an image."""
    shares = (order.share(iteration, 0, 1) for iteration in range(4))
    batches = (
        augmented_batch(faces, share.indices, CONTRACT, Augmentation(), 0, share.epoch, share.first)
        for share in shares
    )
    start = time.process_time()
    count = sum(len(inputs["encoded"]) for inputs in graph_inputs(batches, deque(), CONTRACT))
    return (time.process_time() - start) / count * 1e6
