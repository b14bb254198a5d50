"""Progress bar, `log.jsonl`, `validation.jsonl` and TensorBoard files of a run, written by rank 0."""

import errno
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from fr.errors import in_short
from fr.preprocessing import Preprocessing
from fr.progress import progress

# JSONL key → TensorBoard name. Names of face_recognition.pytorch are used only with the same meaning: not
# `Accuracy/classification`, there a running mean of the epoch without the margin, nor `Loss/AUX_losses`, a sum.
_SCALARS = {
    "loss": "Loss/train_loss",
    "softmax_loss": "Loss/softmax_loss",
    "lr": "Learning_rate",
    "classification_accuracy": "Accuracy/classification_with_margin",
    "images_per_s": "Speed/images_per_s",
    "data_wait": "Speed/data_wait",
    "bad_images": "Data/bad_images",
    "gradient_norm": "Gradient/norm",
    "skipped_steps": "Gradient/skipped_steps",
    "loss_scale": "Gradient/loss_scale",
    "center_loss": "Loss/center_loss",
    "push_loss": "Loss/push_loss",
    "push_plus_loss": "Loss/push_plus_loss",
    "global_push_loss": "Loss/global_push_plus_loss",
    "min_margin_loss": "Loss/min_margin_loss",
    "triplet_loss": "Loss/triplet_loss",
    "magnitude_loss": "Loss/magnitude_loss",
}
_VALIDATION = {
    "same_accuracy": "Accuracy/Val_same_accuracy",
    "diff_accuracy": "Accuracy/Val_diff_accuracy",
    "accuracy": "Accuracy/Val_accuracy",
    "auc": "Accuracy/AUC",
    "threshold": "Estimated_threshold",
    "held_out_top1": "Accuracy/held_out_top1",
    "held_out_top5": "Accuracy/held_out_top5",
    "ema_held_out_top1": "Accuracy/held_out_top1_ema",
    "ema_held_out_top5": "Accuracy/held_out_top5_ema",
    "ema_accuracy": "Accuracy/Val_accuracy_ema",
    "ema_auc": "Accuracy/AUC_ema",
}
_OF_GROUPS = re.compile("(.*?)group_((fmr|fnmr|threshold).*)")  # metrics of `fr/evaluation/group_rates.py`
_SHOWN_IMAGES = 32


def _validation_tag(key: str) -> str:
    """TensorBoard name of a validation metric, `Sets/cfp_fp_accuracy` for sets after the first; "" = none."""
    if match := _OF_GROUPS.match(key):
        return f"Groups/{match[1]}{match[2]}"
    other_set = key.removeprefix("ema_") not in _VALIDATION and key.endswith(("_accuracy", "_auc"))
    return _VALIDATION.get(key, f"Sets/{key}" if other_set else "")


def pictures(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """RGB images from 0 to 1, on the CPU, from the input of the network [B, 3, H, W]."""
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    std = torch.tensor(preprocessing.std)[:, None, None]
    pixels = (images.cpu() * std + mean).clamp(0, 1)
    return pixels.flip(1) if preprocessing.color_order == "bgr" else pixels


class Silent:
    """No-op monitor of every rank but rank 0."""

    def shows(self, images: torch.Tensor, preprocessing: Preprocessing) -> None: ...
    def advance(self) -> None: ...
    def log(self, record: dict[str, float]) -> None: ...
    def validated(self, iteration: int, figures: dict[str, float], lines: list[str]) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class Monitor(Silent):
    """Monitor of rank 0. `folder` gets the TensorBoard files, `log.jsonl` (a record a log step) and
    `validation.jsonl` (a record a validation); records past `first`, from before a resume, are dropped.

    OSError if the folder can't be written to at the start. A later failure is reported once and loses records; writing
    continues when it is possible again.
    """

    def __init__(self, folder: Path, first: int, total: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._log, self._validation = folder, folder / "log.jsonl", folder / "validation.jsonl"
        for path in (self._log, self._validation):
            _keep_records(path, first)
        self._first = first + 1  # first iteration of this process, counted from 1 as in the records
        self._board: SummaryWriter | None = SummaryWriter(str(folder), purge_step=self._first)
        self._failures = self._skipped = 0
        self._hook = threading.excepthook
        threading.excepthook = self._thread_failed
        self._bar = progress(total, "it", "training", first)

    def shows(self, images: torch.Tensor, preprocessing: Preprocessing) -> None:
        """Log a grid of the first step's images [B, 3, H, W], as they enter the network."""
        shown = pictures(images[:_SHOWN_IMAGES], preprocessing)
        self._keep(lambda: self._draw(lambda board: board.add_images("Input", shown, self._first)))

    def advance(self) -> None:
        self._bar.update()

    def log(self, record: dict[str, float]) -> None:
        scalars = {_SCALARS[key]: record[key] for key in record.keys() & _SCALARS.keys()}
        self._keep(lambda: self._write(self._log, record, scalars))
        self._bar.set_postfix_str(
            f"loss {record['loss']:.4f}, lr {record['lr']:.4g}, {record['images_per_s']:.0f} images/s", refresh=False
        )

    def validated(self, iteration: int, figures: dict[str, float], lines: list[str]) -> None:
        scalars = {tag: value for key, value in figures.items() if (tag := _validation_tag(key))}
        self._keep(lambda: self._write(self._validation, {"iteration": iteration, **figures}, scalars))
        self._keep(lambda: self._draw(lambda board: board.flush()))
        self.say("\n".join([f"iteration {iteration}:", *lines]))

    def say(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        self._close_board()
        threading.excepthook = self._hook

    def _keep(self, write: Callable[[], None]) -> None:
        """Write to the logs. A failure never ends the training; the first one is reported."""
        try:
            if not self._folder.is_dir():  # removed: TensorBoard would keep writing to the deleted file
                self._close_board()
                self._folder.mkdir(parents=True)
                self.say(f"{self._folder} was removed; the logs continue in a new one")
            write()
        except Exception as error:  # TensorBoard passes on exceptions of file system plug-ins
            self._close_board()
            self._failures += 1
            self._skipped = 2**self._failures
            if self._failures == 1:
                self.say(f"the logs can't be written: {in_short(error)}; the training continues, and tries again later")

    def _write(self, path: Path, record: dict[str, float], scalars: dict[str, float]) -> None:
        _append(path, record)

        def add(board: SummaryWriter) -> None:
            for tag, value in scalars.items():
                board.add_scalar(tag, value, int(record["iteration"]))

        self._draw(add)

    def _draw(self, add: Callable[[SummaryWriter], None]) -> None:
        """Add to the TensorBoard file; after a failure to a new one, tried at increasing intervals of records."""
        if self._skipped:
            self._skipped -= 1
            return
        self._board = self._board or SummaryWriter(str(self._folder))
        add(self._board)

    def _close_board(self) -> None:
        if self._board:
            with suppress(Exception):  # the failure may be in the file that is closed
                self._board.close()
            self._board = None

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Ignore a failure of TensorBoard's thread, since its next call raises it again."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._hook(failure)


class Stopwatch:
    """Images per second and the share of time in which the device waited for data, from lap to lap.

    A CPU waits while a batch is fetched. A GPU still computes the last step meanwhile: its wait, from the end of its
    kernels until the batch is ready, is measured with CUDA events. images: number processed in this lap, to be counted
    up from outside.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.restart()

    def restart(self) -> None:
        self._since, self.images = self._now(), 0
        self._waits: list[tuple[Any, Any]] = []

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Context for fetching a batch."""
        start = self._now()
        yield
        self._waits.append((start, self._now()))

    def lap(self) -> Callable[[], dict[str, float]]:
        """Begin a lap; returns a function for the metrics of the finished lap, to call when the device has done it."""
        since, images, waits = self._since, self.images, self._waits
        self.restart()
        end = self._since

        def figures() -> dict[str, float]:
            elapsed = self._seconds(since, end)
            waited = sum(self._seconds(*wait) for wait in waits)
            return {"images_per_s": images / elapsed, "data_wait": waited / elapsed}

        return figures

    def _seconds(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end) / 1e3 if self._on_gpu else end - start)

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _keep_records(path: Path, last: int) -> None:
    """Drop records after iteration `last`, which the resumed run will write again, and an incomplete last line.

    A new run renames the file of an earlier one to the next free name.
    """
    if not path.exists():
        return
    if last == 0:
        earlier = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
        path.rename(next(name for name in earlier if not name.exists()))
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            if json.loads(line)["iteration"] <= last:
                kept.append(line + b"\n")
        except (ValueError, TypeError, LookupError, RecursionError):  # the line isn't a record
            break
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(b"".join(kept))
    temporary.replace(path)


def _append(path: Path, record: dict[str, float]) -> None:
    """Append a line of strict JSON atomically; values that aren't finite become null."""
    plain = {key: value if math.isfinite(value) else None for key, value in record.items()}
    line = (json.dumps(plain) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        if file.write(line) < len(line):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
