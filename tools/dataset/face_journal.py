"""Journal of tools/detect_faces.py: JSON lines, the first with the settings, then one per image."""

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

Settings = Mapping[str, Any]  # JSON values


@dataclass(frozen=True)
class Found:
    """Chosen face of an image. faces: number detected; box and points are empty if 0.

    box: x, y, width, height. points: x1, y1 … x5, y5. Both in pixels of the image as stored. score: the detector's, 0
    to 1; None without a face, and in journals of earlier versions.
    """

    name: str
    faces: int
    box: list[float]
    points: list[float]
    score: float | None = None


def open_journal(path: Path, settings: Settings) -> tuple[BinaryIO, set[str]]:
    """Open a journal for appending; returns it and the names in it.

    An incomplete last line of a killed run is cut off. InputError for other settings or an invalid line.
    """
    if path.exists():
        _cut_to_whole_lines(path)
    if path.exists() and path.stat().st_size:
        _check_settings(path, settings)
        done = {entry.name for entry in read_journal(path)}
        return path.open("ab"), done
    file = path.open("ab")
    file.write(json.dumps(settings).encode() + b"\n")
    return file, set()


def append(journal: BinaryIO, entry: Found) -> None:
    """Append and flush, so that a kill of this process loses nothing."""
    journal.write(json.dumps(asdict(entry)).encode() + b"\n")
    journal.flush()


def read_journal(path: Path) -> Iterator[Found]:
    """Entries of a journal, in order; InputError for an invalid line or a repeated image."""
    names = set()
    with open_file(path) as file:
        next(file)
        for number, line in enumerate(file, start=2):
            entry = _parsed(line)
            if entry is None:
                raise InputError(f"{path}:{number}: not a line of this tool; delete it and what follows, and run again")
            if entry.name in names:
                raise InputError(f"{path}:{number}: {entry.name} for the second time; delete the line")
            names.add(entry.name)
            yield entry


def _parsed(line: bytes) -> Found | None:
    try:
        fields = json.loads(line.decode())
        entry = Found(**fields)
        values = [*entry.box, *entry.points, *([] if entry.score is None else [entry.score])]
        numbers = list(map(float, values))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    lengths = (4, 10) if entry.faces else (0, 0)
    fits = (
        type(entry.name) is str
        and type(entry.faces) is int
        and entry.faces >= 0
        and (len(entry.box), len(entry.points)) == lengths
        and all(map(math.isfinite, numbers))
        and all(type(number) in (int, float) for number in values)
    )
    return entry if fits else None


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
    """Position after the last line end, searched backwards: journals are long."""
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
