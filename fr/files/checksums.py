"""SHA256SUMS: checksums of the files of a folder, in the form that `sha256sum --check` reads.

A training state may be hundreds of gigabytes: each rank reads its share of the files.
"""

import hashlib
import os
import re
from pathlib import Path

import torch.distributed as dist

from fr.distributed import gather_objects, rank, world_size
from fr.errors import InputError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\0]+)")


def sums_of(folder: Path, group: dist.ProcessGroup | None = None) -> bytes:
    """Content of SHA256SUMS for a folder, all ranks together; InputError on every rank if a file can't be read."""
    names = gather_objects(_names(folder) if rank() == 0 else [], group)[0]
    digests, problems = _digests(folder, names, group)
    if problems or not names:
        raise InputError(*problems or [f"{folder}: can't be read again"])
    return "".join(f"{digests[name]}  {name}\n" for name in names).encode()


def read_sums(text: str) -> dict[str, str]:
    """SHA-256 by file name from the content of SHA256SUMS; {} if it is damaged."""
    lines = text.splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    sums = {match[2]: match[1] for match in found if match}
    return sums if len(sums) == len(lines) else {}


def damages(folder: Path) -> list[str]:
    """Differences from SHA256SUMS, one line each, by all ranks together and the same on each; [] if all files match."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    wanted = read_sums("\n".join(gather_objects(lines)[0]))
    if not wanted:
        return [f"{folder / SUMS}: missing or damaged"]
    digests, problems = _digests(folder, list(wanted))
    return problems + [
        f"{folder / name}: damaged: not what was written (SHA-256 differs)"
        for name, digest in digests.items()
        if digest != wanted[name]
    ]


def _digests(
    folder: Path, names: list[str], group: dist.ProcessGroup | None = None
) -> tuple[dict[str, str], list[str]]:
    """SHA-256 of the files by name, and messages about unreadable ones, gathered from all ranks."""
    digests, problems = {}, []
    for name in names[rank() :: world_size()]:
        try:
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            problems.append(f"{folder / name}: can't be read: {error.strerror}")
    parts = gather_objects((digests, problems), group)
    return {name: digest for part, _ in parts for name, digest in part.items()}, [p for _, part in parts for p in part]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
