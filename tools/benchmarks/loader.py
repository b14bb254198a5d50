"""`benchmark.py loader`: images per second of the training's loader, of decoding alone, and of a plain loader.

All forms read the same files in the same order with the same number of threads, and alternate:

- ours: the loader of train.py with the recipe's augmentation (an epoch of it: order, draws, reading, DALI);
- decode: only reading, and DALI decoding whole images;
- yardstick: a PyTorch DataLoader with as many worker processes, each doing the steps of face_recognition.pytorch in
  OpenCV: align to 200×200, mirror, black boxes, rotate with Lanczos, resize, blur, to float;
- ours-Nms: ours, with a delay of N ms in each read, as of a network file system.

CPU time includes all processes and threads and system calls, so it is reliable on a busy machine, too.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from torch.utils.data import DataLoader, Dataset

from fr import alignment
from fr.console import counted
from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.data.formats import read_training_faces
from fr.data.order import Order
from fr.data.pipeline import DaliSettings, graph_inputs
from fr.data.samples import augmented_batch
from fr.data.training_stream import TrainingStream
from fr.distributed import Ranks
from fr.models import training_preprocessing
from fr.options.augmentation import Augmentation
from fr.options.definitions import train_options
from fr.preprocessing import Preprocessing
from fr.progress import tracked

_SIDE = 200  # pixels of face_recognition.pytorch's aligned image


def run(arguments: argparse.Namespace) -> None:
    """Measure the forms alternately, then print the table and the ratios."""
    setting = _Setting.of(arguments.train)
    slow = {f"ours-{delay:g}ms": partial(_ours, delay_s=delay / 1e3) for delay in arguments.read_delay_ms if delay}
    forms = FORMS | slow
    lines, results = [], {}
    for threads in arguments.threads:
        measured: dict[str, list[_Cost]] = {name: [] for name in forms}
        for name in tracked([*forms] * arguments.turns, "turn", counted(threads, "thread")):
            # Opened again for each turn: an open loader would fill its queue while the others are measured.
            measured[name].append(_measure(forms[name](setting, threads), arguments.batches, setting.order.batch_size))
        results[threads] = {name: _median(costs) for name, costs in measured.items()}
        for name, costs in measured.items():
            rates = [cost.images_per_s for cost in costs]
            lines.append(
                f"{threads:7} {name:10} {statistics.median(rates):9.0f} {min(rates):7.0f} … {max(rates):5.0f} "
                f"{results[threads][name].cpu_us:14.0f} {results[threads][name].main_us:14.1f}"
            )
    print(f"{'threads':>7} {'form':10} {'images/s':>9} {'spread':>15} {'CPU us a image':>14} {'main us a image':>14}")
    print("\n".join(lines))
    python_us = _python_cost(setting)
    share = python_us * 2_000 / 1e4
    print(f"preparing DALI's input in Python: {python_us:.0f} us a image, at 2,000 images/s {share:.1f} % of a core")
    first = results[arguments.threads[0]]
    kept = {
        f"kept_at_{name.removeprefix('ours-')}": first[name].images_per_s / first["ours"].images_per_s for name in slow
    }
    print(json.dumps(_ratios(first) | kept | {"python_us": python_us, "main_us": first["ours"].main_us}))


@dataclass(frozen=True)
class _Cost:
    images_per_s: float
    cpu_us: float  # processor time of an image, microseconds
    main_us: float  # of it, that of the main thread, in which the training runs


@dataclass(frozen=True)
class _Setting:
    """Data and settings shared by all forms."""

    faces: LabelledFaces
    order: Order
    preprocessing: Preprocessing
    augment: Augmentation

    @classmethod
    def of(cls, argv: list[str]) -> "_Setting":
        options = train_options(argv).values
        faces = read_training_faces(vars(options))
        order = Order(len(faces), options.train_batch_size, options.seed)
        return cls(faces, order, training_preprocessing(options), Augmentation.from_options(options))


@dataclass(frozen=True)
class _SlowFaces(LabelledFaces):
    """Faces on a slow file system."""

    delay_s: float = field(kw_only=True)

    def read(self, index: int) -> NDArray[np.uint8]:
        time.sleep(self.delay_s)
        return super().read(index)

    @classmethod
    def of(cls, faces: LabelledFaces, delay_s: float) -> "_SlowFaces":
        columns = {one.name: getattr(faces, one.name) for one in fields(faces) if one.init}
        return cls(**columns, delay_s=delay_s)


def _ours(setting: _Setting, threads: int, delay_s: float = 0.0) -> Iterator[Any]:
    """Training loader with DALI on the CPU."""
    faces = _SlowFaces.of(setting.faces, delay_s) if delay_s else setting.faces
    ranks = Ranks(0, 1, 0, 1, torch.device("cpu"))
    endless, dali = range(sys.maxsize), DaliSettings("cpu", None, threads)
    stream = TrainingStream(
        faces, setting.order, endless, ranks, 1, setting.preprocessing, setting.augment, dali, BadImages(0)
    )
    return iter(stream)


def _decode(setting: _Setting, threads: int) -> Iterator[Any]:
    """Reading and DALI's decoder only."""

    @pipeline_def(exec_dynamic=True)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        encoded = fn.external_source(source=_encoded(setting), batch=True)
        return fn.decoders.image(encoded, output_type=types.RGB, adjust_orientation=False)

    built = graph(batch_size=setting.order.batch_size, num_threads=threads, device_id=None, prefetch_queue_depth=2)
    return iter(built.run, None)


def _encoded(setting: _Setting) -> Iterator[list[NDArray[np.uint8]]]:
    for iteration in count():
        yield [setting.faces.read(index) for index in setting.order.share(iteration, 0, 1).indices.tolist()]


def _yardstick(setting: _Setting, threads: int) -> Iterator[Any]:
    """Typical PyTorch DataLoader."""
    epoch = setting.order.iterations_per_epoch
    batches = (setting.order.share(number, 0, 1).indices.tolist() for number in range(10_000 * epoch))
    loader = DataLoader(_StepByStep(setting), batch_sampler=batches, num_workers=threads)
    return iter(loader)


FORMS = {"ours": _ours, "decode": _decode, "yardstick": _yardstick}


class _StepByStep(Dataset[tuple[torch.Tensor, int]]):
    """Preprocessing steps of face_recognition.pytorch, with its probabilities and strengths."""

    def __init__(self, setting: _Setting) -> None:
        self._setting = setting
        self._template = alignment.template_points(setting.preprocessing.template, (_SIDE, _SIDE))
        self._random = np.random.default_rng()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        cv2.setNumThreads(1)
        random, faces = self._random, self._setting.faces
        image: Any = cv2.imdecode(faces.read(index), cv2.IMREAD_COLOR)
        (matrix,) = alignment.procrustes(faces.landmarks[[index]], self._template)
        image = cv2.warpAffine(image, matrix, (_SIDE, _SIDE))
        if random.random() < 0.5:
            image = cv2.flip(image, 1)
        if random.random() < 0.05:
            for x, y in random.permutation(self._template)[: random.integers(1, 4)].astype(int):
                cv2.rectangle(image, (x - 20, y - 20), (x + 20, y + 20), (0, 0, 0), cv2.FILLED)
        if random.random() < 0.95:
            turn = cv2.getRotationMatrix2D((_SIDE / 2, _SIDE / 2), random.uniform(-10, 10), 1)
            image = cv2.warpAffine(image, turn, (_SIDE, _SIDE), flags=cv2.INTER_LANCZOS4)
        image = cv2.resize(image, self._setting.preprocessing.input_size[::-1])
        if random.random() < 0.2:
            image = cv2.blur(image, (5, 5))
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
        return torch.from_numpy(image.astype(np.float32) / 255), int(faces.labels[index])


def _measure(loader: Iterator[Any], batches: int, batch_size: int) -> _Cost:
    for _ in islice(loader, 3):  # finished batches in the queue, and those in progress
        pass
    start, began, main = time.perf_counter(), _processor_seconds(), time.thread_time()
    for _ in islice(loader, batches):
        pass
    images = batches * batch_size
    seconds, used = time.perf_counter() - start, _processor_seconds() - began
    return _Cost(images / seconds, used / images * 1e6, (time.thread_time() - main) / images * 1e6)


def _processor_seconds() -> float:
    """CPU seconds of this process with all threads, and of a DataLoader's workers."""
    workers = multiprocessing.active_children()
    ticks = sum(
        int(ticks)
        for worker in workers
        for ticks in Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    )
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _median(costs: list[_Cost]) -> _Cost:
    columns = zip(*((cost.images_per_s, cost.cpu_us, cost.main_us) for cost in costs), strict=True)
    return _Cost(*map(statistics.median, columns))


def _python_cost(setting: _Setting) -> float:
    """CPU microseconds per image that Python takes to prepare DALI's input: order, draws, reading, matrices."""
    how = setting.preprocessing, setting.augment, 0
    batches = (
        augmented_batch(setting.faces, share.indices, *how, share.epoch, share.first)
        for share in (setting.order.share(iteration, 0, 1) for iteration in count())
    )
    prepared = graph_inputs(batches, deque(), setting.preprocessing)
    return _measure(prepared, 20, setting.order.batch_size).cpu_us


def _ratios(costs: dict[str, _Cost]) -> dict[str, float]:
    ours, decode, yardstick = (costs[name] for name in FORMS)
    return {
        "ratio_to_yardstick": ours.images_per_s / yardstick.images_per_s,
        "fraction_of_decode": ours.images_per_s / decode.images_per_s,
        "cpu_ratio_to_yardstick": yardstick.cpu_us / ours.cpu_us,
        "cpu_fraction_of_decode": decode.cpu_us / ours.cpu_us,
    }
