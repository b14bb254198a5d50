"""The inputs and the record of one check. A check is a function of a `Job`, run in a process of its own."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Findings:
    """Append-only record of a check: each line is printed and written at once, so that a crash leaves what came before.

    A check passes when it ends by itself, in time, and each of its claims holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def claim(self, text: str, holds: bool, seen: object = "") -> None:
        """One sentence that must hold, and the value that decided it."""
        self._add("claim", text, seen, "ok" if holds else "FAILED")

    def metric(self, name: str, value: float | str, unit: str = "") -> None:
        """A measured value, for the table."""
        shown = (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}") if isinstance(value, float) else value
        self._add("metric", name, shown, unit)

    def skip(self, text: str, reason: str) -> None:
        """A part that this machine can't check, such as two ranks on one GPU."""
        self._add("skip", text, reason, "not checked here")

    def _add(self, kind: str, text: str, value: object, end: str) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "text": text, "value": str(value), "end": end}) + "\n")
        print(f"  {text}: {value} {end}".replace(":  ", ": "), flush=True)


@dataclass(frozen=True)
class Job:
    """device: `cuda` or `cpu`. data: a folder with vggface2/ and lfw/ as tools/make_sample_data.py lays them out.
    onnx_model: the shared MobileFaceNet, or None. out: folder of this check's files."""

    device: torch.device
    data: Path
    onnx_model: Path | None
    out: Path
    findings: Findings

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, on_gpu: T, on_cpu: T) -> T:
        """A size: what a GPU is measured with, or as little as shows that the code runs."""
        return on_gpu if self.on_gpu else on_cpu

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, function: Any) -> float:
        """Wall time of `function()` including the kernels it launched."""
        self.synchronize()
        start = time.perf_counter()
        function()
        self.synchronize()
        return time.perf_counter() - start


def note(text: str) -> None:
    """A line for the check's log alone."""
    print(text, file=sys.stderr, flush=True)
