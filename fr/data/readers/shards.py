"""Common code of formats with many images in each of several files: list of files, identities, landmarks."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fr.data.faces import check_landmarks, refuse
from fr.data.lines import Lines, read_lines
from fr.data.readers.source import Source
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.names import is_unicode

_WHOLE = "[0-9]{1,18}"


def shard_names(root: DataRoot, list_file: str, ending: str) -> list[str]:
    """Paths below a root of the files that list_file names, one a line, or of all with that ending, sorted.

    InputError names files that are listed twice, or lead out of the root.
    """
    root.check_exists("--train_data_root")
    return _listed(Path(list_file), root) if list_file else _found(root.path, ending)


def shard_files(ending: str) -> Callable[[Source], list[Path]]:
    """Make the function `Format.inputs` of a format whose files have that ending."""

    def inputs(source: Source) -> list[Path]:
        listed = [Path(source.list_file)] if source.list_file else []
        names = shard_names(source.data_root, source.list_file, ending)
        return [*listed, *(Path(source.root, name) for name in names)]

    return inputs


def refuse_repeated(lines: Lines, names: Sequence[str]) -> None:
    """Raise InputError for files that a list names more than once."""
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    refuse([f"{lines.where(i)}: {name} for the second time" for i, name in enumerate(names) if first[name] != i])


def _listed(path: Path, root: DataRoot) -> list[str]:
    lines = read_lines(path)
    shards: list[str] = lines.paths(lines.texts, root).to_pylist()
    refuse_repeated(lines, shards)
    return shards


def _found(folder: Path, ending: str) -> list[str]:
    shards = sorted(str(path.relative_to(folder)) for path in folder.rglob(f"*{ending}") if path.is_file())
    if not shards:
        raise InputError(f"--train_data_root {folder}: no *{ending} in it or below")
    refuse([f"{str(folder / name)!r}: the name isn't UTF-8" for name in shards if not is_unicode(name)])
    return shards


def class_labels(classes: pa.StringArray) -> tuple[NDArray[np.int64], list[str]]:
    """Labels [N] and identities of classes [N], sorted by number if all are whole numbers, else as text."""
    coded = classes.dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    numbered = all(re.fullmatch(_WHOLE, name) for name in distinct)
    identities = sorted(distinct, key=lambda name: (int(name) if numbered else 0, name))
    rank = {name: label for label, name in enumerate(identities)}
    labels = np.array([rank[name] for name in distinct], dtype=np.int64)
    return labels[coded.indices.to_numpy(zero_copy_only=False)], identities


def shard_points(
    landmarked: NDArray[np.bool_],
    points: NDArray[np.float64],
    aligned: bool,
    root: DataRoot,
    where: Callable[[int], str],
    remedy: str,
) -> NDArray[np.float64]:
    """Landmarks [N, 5, 2] pixels if all samples have landmarks, or [N, 0, 2] for aligned crops.

    landmarked [N]: mask of the samples with landmarks. remedy: how they get into the shards. InputError unless all
    have landmarks, or none of them and the images are aligned crops.
    """
    if landmarked.any() and aligned:
        raise InputError(f"--aligned: the shards of {root} have landmarks, which align the images; leave it out")
    if not landmarked.any() and not aligned:
        raise InputError(
            f"--train_data_root {root}: no landmarks in the shards; give --aligned if the images are aligned crops, "
            f"else {remedy}"
        )
    if not landmarked.any():
        return np.zeros((len(landmarked), 0, 2))
    refuse([f"{where(i)}: no landmarks, and other samples have them" for i in np.flatnonzero(~landmarked).tolist()])
    check_landmarks(points, where)
    return points
