"""Helpers of the benchmarks: measurements in separate processes."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def measure_in_own_processes(module: str, case: Any, ranks: int) -> list[Any]:
    """Run `python -m MODULE CASE FOLDER RANK` for each rank; return the FOLDER/RANK.json it writes. case: dataclass."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, json.dumps(dataclasses.asdict(case)), folder]
        root = Path(__file__).resolve().parents[2]
        processes = [subprocess.Popen([*command, str(rank)], cwd=root) for rank in range(ranks)]
        if sum(abs(process.wait()) for process in processes):
            raise SystemExit(f"{case}: a process failed (out of memory?)")
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
