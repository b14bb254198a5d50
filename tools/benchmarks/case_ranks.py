"""Helpers of the benchmarks: measurements in separate processes."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist


def measure_in_own_processes(module: str, case: Any, ranks: int) -> list[Any]:
    """Run `python -m MODULE CASE FOLDER RANK` for each rank, which calls `write_measured`; its results by rank.

    case: a dataclass.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, json.dumps(dataclasses.asdict(case)), folder]
        root = Path(__file__).resolve().parents[2]
        processes = [subprocess.Popen([*command, str(rank)], cwd=root) for rank in range(ranks)]
        if sum(abs(process.wait()) for process in processes):
            raise SystemExit(f"{case}: a process failed (out of memory?)")
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]


def write_measured(kind: Callable[..., Any], measure: Callable[[Any, int], Any]) -> None:
    """Call `measure` for the case and rank of this process's command line, and write its result to a file.

    kind: dataclass of the case. `measure` runs in a process group of the case's ranks.
    """
    case, folder, rank = kind(**json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=case.ranks)
    Path(folder, f"{rank}.json").write_text(json.dumps(measure(case, rank)))
    dist.barrier()
    dist.destroy_process_group()
