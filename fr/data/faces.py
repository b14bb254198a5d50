"""The columns that every list of faces is read into, and the checks that all readers share (C9).

What is wrong with a file is refused as a whole, with file and line, before anything runs.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fr.data.storage import MOST_BYTES, Pack, RecordFile, TarShards
from fr.errors import InputError
from fr.files.untrusted import check_inside, read_whole

_SHOWN = 10  # problems named one by one; the rest is counted
_BLOCK = 4096  # rows that fit into a core's cache


@dataclass(frozen=True)
class LandmarkUnit:
    """What landmarks count in, and how far from 0 and how close together they may be."""

    farthest: float
    far: str
    one_spot: float


PIXELS = LandmarkUnit(1e6, "a million pixels away", 1e-3)  # squares of what is far beyond that overflow in the fit
FRACTIONS = LandmarkUnit(10, "ten boxes away (they are fractions of the box, not pixels)", 1e-4)


@dataclass(frozen=True)
class Faces:
    """Photographs with landmarks, or aligned crops. N photographs.

    boxes: None, or what the landmarks are fractions of, in pixels; a width or height of infinity ends at the edge.
    storage: None for a file each, or where the encoded pictures are. outside: --allow_outside, links may lead anywhere.
    """

    root: Path
    names: pa.StringArray  # [N] paths below root, or names inside the storage
    landmarks: NDArray[np.float64]  # [N, 5, 2] pixels, or fractions of boxes; [N, 0, 2] of aligned crops
    boxes: NDArray[np.float64] | None = field(default=None, kw_only=True)  # [N, 4] x, y, width, height
    storage: TarShards | RecordFile | Pack | None = field(default=None, kw_only=True)
    outside: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """How people are told of a photograph: the path of its file, or the file that it is in and its name there."""
        name = self.names[index].as_py()
        return self.storage.path(self.root, index, name) if self.storage else os.path.join(self.root, name)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The encoded photograph; OSError when it can't be read, OutsideRoot when it isn't below `root`."""
        if self.storage:
            return self.storage.read(self.root, index, self.outside)
        content = read_whole(self.path(index), MOST_BYTES, None if self.outside else self.root)
        return np.frombuffer(content, dtype=np.uint8)


@dataclass(frozen=True)
class LabelledFaces(Faces):
    """Faces to train on."""

    labels: NDArray[np.int64]  # [N] 0 … len(identities) - 1
    identities: list[str]
    notes: tuple[str, ...] = field(default=(), kw_only=True)  # for people: what the reader left out
    _fingerprint: list[str] = field(default_factory=list, init=False, repr=False, compare=False)  # once it was found

    def take(self, rows: NDArray[np.int64]) -> "LabelledFaces":
        """The chosen ones, in this order, with the labels that they have here."""
        return replace(
            self,
            names=self.names.take(pa.array(rows)),
            landmarks=self.landmarks[rows],
            labels=self.labels[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            storage=self.storage.take(rows) if self.storage else None,
        )

    def fingerprint(self) -> str:
        """Hash of everything that decides what an iteration sees, the pixels aside."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            for column in (*self.names.buffers(), self.labels, self.landmarks, self.boxes):
                digest.update(b"" if column is None else column)
            self.remember(digest.hexdigest())
        return self._fingerprint[0]

    def remember(self, fingerprint: str) -> None:
        """Spare `fingerprint` the work: it was found for these columns before."""
        self._fingerprint.append(fingerprint)


@dataclass(frozen=True)
class VerificationFaces(Faces):
    """Distinct photographs and the P pairs drawn from them, in F folds."""

    pairs: NDArray[np.int64]  # [P, 2] rows of names
    same: NDArray[np.bool_]  # [P]
    fold: NDArray[np.int64]  # [P] 0 … F - 1


def refuse(problems: list[str]) -> None:
    """Raise the problems together, the first few by name."""
    if problems:
        raise InputError(*shown(problems))


def shown(problems: list[str]) -> list[str]:
    """The first few, and how many more there are."""
    hidden = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([f"… and {hidden:,} more like these"] if hidden > 0 else [])


def existing_folder(option: str, root: str) -> Path:
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"{option} {root}: no such folder")
    return folder


def check_landmarks(
    points: NDArray[np.float64], where: Callable[[int], str], unit: LandmarkUnit = PIXELS
) -> None:
    """Refuse landmarks [N, 5, 2] that give no similarity: not finite (or beyond any photograph), or all on one spot."""
    not_finite, one_spot = np.zeros((2, len(points)), dtype=bool)
    for first in range(0, len(points), _BLOCK):
        rows = slice(first, first + _BLOCK)
        # NumPy reduces over a short last axis ten times slower than over a first one.
        places = np.ascontiguousarray(points[rows].transpose(1, 2, 0))
        not_finite[rows] = ~(np.abs(places) < unit.farthest).all(axis=(0, 1))  # true for NaN, too
        one_spot[rows] = np.ptp(places, axis=0).max(axis=0) < unit.one_spot
    refuse(
        [f"{where(i)}: not finite, or {unit.far}" for i in np.flatnonzero(not_finite).tolist()]
        + [f"{where(i)}: all five on one spot" for i in np.flatnonzero(one_spot).tolist()]
    )


def check_first_photograph(faces: Faces, option: str) -> None:
    """One look at the disk: a wrong root is the commonest mistake, and best found before the first iteration; so are
    links out of it, of which a folder is mostly made altogether."""
    if not os.path.exists(faces.path(0)):
        raise InputError(f"{faces.path(0)}: no such file; is {option} {faces.root} right?")
    if not faces.outside:
        check_inside(faces.path(0), faces.root)
