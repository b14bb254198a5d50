"""What tools/detect_faces.py has found so far: JSON lines, the first with the settings, then one a photograph."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fr.errors import InputError
from fr.files.untrusted import open_file
from tools.dataset.marked_folder import differences

Settings = Mapping[str, Any]  # that JSON can hold


@dataclass(frozen=True)
class Found:
    """The face chosen in a photograph. faces: how many there were; box and points are empty if none.

    box: x, y, width, height. points: x1, y1 … x5, y5. Both in pixels of the file as stored.
    """

    name: str
    faces: int
    box: list[float]
    points: list[float]


def open_journal(path: Path, settings: Settings) -> tuple[BinaryIO, set[str]]:
    """The journal to append to, and the names that are in it.

    A line that a killed run left without its end is cut off. InputError when the settings in it are others, or a line
    isn't one.
    """
    if path.exists():
        _cut_to_whole_lines(path)
    if path.exists() and path.stat().st_size:
        _check_settings(path, settings)
        done = {found.name for found in read_journal(path)}
        return path.open("ab"), done
    file = path.open("ab")
    file.write(json.dumps(settings).encode() + b"\n")
    return file, set()


def append(journal: BinaryIO, found: Found) -> None:
    """Flushed: what is written stays when this process is killed."""
    journal.write(json.dumps(asdict(found)).encode() + b"\n")
    journal.flush()


def read_journal(path: Path) -> Iterator[Found]:
    """What stands in a journal, in order; InputError names the line that isn't one, or names a photograph again."""
    names = set()
    with open_file(path) as file:
        next(file)
        for number, line in enumerate(file, start=2):
            found = _parsed(line)
            if found is None:
                raise InputError(f"{path}:{number}: not a line of this tool; delete it and what follows, and run again")
            if found.name in names:
                raise InputError(f"{path}:{number}: {found.name} for the second time; delete the line")
            names.add(found.name)
            yield found


def _parsed(line: bytes) -> Found | None:
    try:
        fields = json.loads(line.decode())
        found = Found(**fields)
        numbers = [*map(float, found.box), *map(float, found.points)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    lengths = (4, 10) if found.faces else (0, 0)
    fits = (
        type(found.name) is str
        and type(found.faces) is int
        and found.faces >= 0
        and (len(found.box), len(found.points)) == lengths
        and all(map(math.isfinite, numbers))
        and all(type(number) in (int, float) for number in (*found.box, *found.points))
    )
    return found if fits else None


def _check_settings(path: Path, settings: Settings) -> None:
    with open_file(path) as file:
        line = file.readline()
    try:
        stored = json.loads(line.decode())
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or stored.keys() != settings.keys():
        raise InputError(f"{path}:1: not a journal of this tool; give another OUT")
    if other := differences(stored, settings):
        raise InputError(f"{path}: was begun with {', '.join(other)}; give another OUT, or delete it to start over")


def _cut_to_whole_lines(path: Path) -> None:
    """Looks for the last end of a line from the back: journals are long."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - 65_536)
            file.seek(start)
            end = file.read(size - start).rfind(b"\n")
            if end >= 0:
                size = start + end + 1
                break
            size = start
        file.truncate(size)
