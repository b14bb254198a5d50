"""Check that results can be written, before the computation that takes long."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fr.distributed import raise_together, rank, world_size
from fr.errors import InputError, os_error_as

Paths = Iterable[str | Path | None]  # "" or None = no output


def check_outputs(files: Paths = (), folders: Paths = ()) -> None:
    """Raise InputError on every rank if rank 0 can't write a file, or into a folder; called by all ranks together.

    Neither has to exist, and nothing is left behind.
    """
    failure = None
    if rank() == 0:
        try:
            for file in [Path(one) for one in files if one]:
                _check(file, file.parent)
            for folder in [Path(one) for one in folders if one]:
                _check(folder, folder)
        except InputError as error:
            failure = error
    if world_size() > 1:
        raise_together(failure, "rank 0 can't write the results")
    elif failure:
        raise failure


def _check(path: Path, folder: Path) -> None:
    """Write a temporary file in the nearest existing folder. Permissions don't tell: root has all of them on /proc."""
    with os_error_as(f"{path}: can't be written"):
        if path != folder and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        existing = next(filter(os.path.exists, (folder, *folder.parents)))
        with tempfile.TemporaryFile(dir=existing):
            pass
