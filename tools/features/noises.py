"""MegaFace's and FaceScrub's wrong pictures, as insightface listed them and cleans features of them.

https://github.com/deepinsight/insightface, recognition/_evaluation_/megaface/remove_noises.py, and after it
face_recognition.pytorch's dump_features.py. Every feature gets one number more, 0. In a distractor of MegaFace that
shows someone of FaceScrub it is 100, so that it is near to no probe. A wrong picture of FaceScrub gets the sum of the
identity's right ones, a little noise added, at length 1.

Unlike there: a picture is noise if its whole name is in the list, where any part of one did in dump_features.py, which
also counted the wrong pictures into the sum.
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

LISTS = ("megaface_noises.txt", "facescrub_noises.txt")  # a --noises_list must be called so, whatever stands before
_FAR = 100.0
_JITTER = 0.001
_HEADER = 16  # bytes


def read_noises(path: Path, names: Sequence[str]) -> NDArray[np.bool_]:
    """Which pictures [N], named by their paths, a list has; InputError for a name that is none of LISTS.

    Lines that are blank or begin with # don't count; of a line with tabs the second field does.
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
    """Whether a list of noises is FaceScrub's."""
    return path.name.endswith(LISTS[1])


def identity_of(name: str) -> str:
    """`Aaron Eckhart/Aaron Eckhart_1.jpg` or `Aaron_Eckhart/Aaron_Eckhart_1.png` → `Aaron_Eckhart`."""
    return _stem(name).rpartition("_")[0]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.replace(" ", "_")


def marked(noise: NDArray[np.bool_], row: int, values: Vector) -> bytes:
    """The matrix of a picture with its additional number. noise [N]; values [D]."""
    return column_matrix(np.append(values, np.float32(_FAR if noise[row] else 0)))


@dataclass(frozen=True)
class Centroids:
    """Gives FaceScrub's wrong pictures the features of their identity. noise [N]; paths: files of features [N]."""

    names: Sequence[str]
    noise: NDArray[np.bool_]
    paths: Sequence[Path]

    def write(self) -> list[str]:
        """Writes those that aren't there; says of which identities there is no right picture to make one of."""
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
                without.append(f"{self.names[row]}: a wrong picture, and there is no right one of {identity}")
        return without


def _centroid(right: NDArray[np.float32], row: int) -> Vector:
    """right [n, D + 1] → [D + 1]; the noise is that of the list's row, whoever draws it."""
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
