"""Cleaning of MegaFace and FaceScrub features by insightface's lists of noisy images.

https://github.com/deepinsight/insightface, recognition/_evaluation_/megaface/remove_noises.py, and after it
face_recognition.pytorch's dump_features.py. Every feature gets one additional dimension, 0. For a MegaFace distractor
that shows someone of FaceScrub it is 100, so that it is far from every probe. A noisy image of FaceScrub gets the sum
of the identity's clean features with a little noise, normalised.

Unlike there, an image is noisy only if its whole name is in the list (any part of it in dump_features.py, which also
included noisy images in the sum).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fr.errors import InputError
from fr.files.durable import write_result
from fr.files.untrusted import read_text, read_whole
from fr.randomness import Purpose, uniforms
from tools.features.sinks import Vector, column_matrix

LISTS = ("megaface_noises.txt", "facescrub_noises.txt")  # file names of --noises_list must end so
_FAR = 100.0
_JITTER = 0.001
_HEADER = 16  # bytes


def read_noises(path: Path, names: Sequence[str]) -> NDArray[np.bool_]:
    """Mask [N] of the images in a list, by their paths; InputError for a list that isn't one of LISTS.

    Blank lines and lines that begin with # are ignored; of a line with tabs the second field is the name.
    """
    if not path.name.endswith(LISTS):
        raise InputError(f"--noises_list {path}: must be called {' or '.join(LISTS)}, which are cleaned in two ways")
    lines = [line for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    listed = [line.split("\t")[min(1, line.count("\t"))].strip() for line in lines]
    if of_facescrub(path):
        stems = {_stem(name) for name in listed}
        return np.array([_stem(name) in stems for name in names])
    wanted = {PurePosixPath(name).parts for name in listed}
    lengths = {len(parts) for parts in wanted}
    return np.array([any(PurePosixPath(name).parts[-length:] in wanted for length in lengths) for name in names])


def of_facescrub(path: Path) -> bool:
    """Test for FaceScrub's list by its name."""
    return path.name.endswith(LISTS[1])


def identity_of(name: str) -> str:
    """Identity of `Aaron Eckhart/Aaron Eckhart_1.jpg` or `Aaron_Eckhart/Aaron_Eckhart_1.png`: `Aaron_Eckhart`."""
    return _stem(name).rpartition("_")[0]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.replace(" ", "_")


def marked(noise: NDArray[np.bool_], row: int, values: Vector) -> bytes:
    """Matrix of an image's feature with the additional dimension. noise [N]; values [D]."""
    return column_matrix(np.append(values, np.float32(_FAR if noise[row] else 0)))


@dataclass(frozen=True)
class Centroids:
    """Features of FaceScrub's noisy images from their identity. noise [N]; paths: feature files [N]."""

    names: Sequence[str]
    noise: NDArray[np.bool_]
    paths: Sequence[Path]

    def write(self) -> list[str]:
        """Write missing files; returns messages about identities without a clean image."""
        right: dict[str, list[int]] = {}
        for row in np.flatnonzero(~self.noise).tolist():
            right.setdefault(identity_of(self.names[row]), []).append(row)
        without = []
        for row in np.flatnonzero(self.noise).tolist():
            files = [self.paths[other] for other in right.get(identity_of(self.names[row]), [])]
            values = [_read(file) for file in files if file.exists()]
            if values:
                write_result(self.paths[row], column_matrix(_centroid(np.array(values), row)))
            else:
                identity = identity_of(self.names[row])
                without.append(f"{self.names[row]}: a wrong image, and there is no right one of {identity}")
        return without


def _centroid(right: NDArray[np.float32], row: int) -> Vector:
    """Centroid [D + 1] of clean features [n, D + 1]; its noise depends only on the row of the list."""
    total = right.sum(axis=0, dtype=np.float64)
    total[:-1] += _JITTER * (2 * uniforms(0, Purpose.FEATURES, row, 1, len(total) - 1)[0] - 1)
    centroid: Vector = (total / np.linalg.norm(total)).astype(np.float32)
    return centroid


def _read(path: Path) -> Vector:
    try:
        content = read_whole(path, 1 << 24)
        count = struct.unpack("<4i", content[:_HEADER])[0]
        return np.frombuffer(content, dtype="<f4", offset=_HEADER, count=count)
    except (OSError, ValueError, struct.error) as error:
        raise InputError(f"{path}: damaged: delete it, and run again") from error
