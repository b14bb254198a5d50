"""Builders of feature runs that several test files use."""

import importlib
import multiprocessing
import os
from pathlib import Path
from typing import Any
from unittest import mock

import torch.distributed as dist
import torch.multiprocessing as mp

from fr.errors import InputError
from tools.features.sinks import FileEach


def on_rank(rank: int, world: int, port: int, options: list[str], taken: str, tool: str) -> None:
    torchrun: dict[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    torchrun |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ.update({name: str(value) for name, value in torchrun.items()})
    take = FileEach.take

    def note(sink: FileEach, part: Any, features: Any) -> None:
        with Path(f"{taken}.{rank}").open("a") as file:
            file.writelines(f"{row}\n" for row in features.rows)
        take(sink, part, features)

    with mock.patch.object(FileEach, "take", note):
        try:
            importlib.import_module(tool).main(options)
        except InputError as error:
            Path(f"{taken}.{rank}").write_text(str(error))


def run_ranks(world: int, options: list[str], taken: Path, tool: str = "tools.extract_features") -> list[str]:
    """A tool on forked ranks: what each took, or its error."""
    store = dist.TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
    multiprocessing.set_forkserver_preload(["tests.conftest", "tests.rank_server", "torch._dynamo"])
    arguments = (world, store.port, options, str(taken), tool)
    mp.start_processes(on_rank, arguments, nprocs=world, start_method="forkserver")
    return [path.read_text() for path in sorted(taken.parent.glob(f"{taken.name}.*"))]
