"""Builders of feature runs that several test files use."""

import importlib
from pathlib import Path
from typing import Any
from unittest import mock

from fr.errors import InputError
from tests.builders.ranks import become_rank, start_ranks
from tools.features.sinks import FileEach


def on_rank(rank: int, world: int, port: int, options: list[str], taken: str, tool: str) -> None:
    become_rank(rank, world, port)
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
    ranks, _store = start_ranks(on_rank, world, options, str(taken), tool)
    for process in ranks:
        process.join()
    assert not any(process.exitcode for process in ranks)
    return [path.read_text() for path in sorted(taken.parent.glob(f"{taken.name}.*"))]
