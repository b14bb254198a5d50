"""Helpers of the benchmarks: measurements in separate processes, and train.py's default loss settings."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from fr.losses.settings import LossSettings
from fr.options.definitions import train_options


def measure_in_own_processes(module: str, case: Any, ranks: int) -> list[Any]:
    """Run `python -m MODULE CASE FOLDER RANK` for each rank; return the FOLDER/RANK.json it writes. case: dataclass."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, json.dumps(dataclasses.asdict(case)), folder]
        root = Path(__file__).resolve().parents[2]
        processes = [subprocess.Popen([*command, str(rank)], cwd=root) for rank in range(ranks)]
        if sum(abs(process.wait()) for process in processes):
            raise SystemExit(f"{case}: a process failed (out of memory?)")
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]


def loss_settings(**changes: Any) -> LossSettings:
    """Default loss settings of train.py, with some options changed."""
    return dataclasses.replace(_default_loss_settings(), **changes)


@cache
def _default_loss_settings() -> LossSettings:
    required = [word for name in ("data_root", "list", "landmarks") for word in (f"--train_{name}", "x")]
    return LossSettings.of(train_options(required).values)
