"""Columns that all formats are read into, and the checks that all readers share.

All problems of a file are reported together, with file and line, before anything runs.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fr.data.storage import MOST_BYTES, Storage
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.names import form_note

_SHOWN = 10  # problems listed one by one; the others are counted
_LOOKED_INTO = 1000  # folders in the root that are searched for a missing image
_BLOCK = 4096  # rows that fit into a core's cache


@dataclass(frozen=True)
class LandmarkUnit:
    """Unit of landmarks, with limits on their distance from 0 and from each other."""

    farthest: float
    far: str
    one_spot: float


PIXELS = LandmarkUnit(1e6, "a million pixels away", 1e-3)  # much larger coordinates overflow in the fit
FRACTIONS = LandmarkUnit(10, "ten boxes away (they are fractions of the box, not pixels)", 1e-4)


@dataclass(frozen=True)
class Faces:
    """Images with landmarks, or aligned crops. N images.

    boxes: None, or the boxes [pixels] that landmarks are fractions of; an infinite width or height ends at the image's
    edge. storage: location of the encoded images; None = each is a file.
    """

    root: DataRoot
    names: pa.StringArray  # [N] paths below root, or names inside the storage
    landmarks: NDArray[np.float64]  # [N, 5, 2] pixels, or fractions of boxes; [N, 0, 2] of aligned crops
    boxes: NDArray[np.float64] | None = field(default=None, kw_only=True)  # [N, 4] x, y, width, height
    storage: Storage | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def columns_digest(self) -> bytes:
        """SHA-256 of names and positions, for comparison between ranks: not of pixels, nor of the root."""
        digest = hashlib.sha256("\0".join(self.names.to_pylist()).encode("utf-8", "surrogateescape"))
        for column in (self.landmarks, self.boxes):
            digest.update(b"" if column is None else np.ascontiguousarray(column).data)
        return digest.digest()

    def spaced_rows(self, most: int) -> NDArray[np.int64]:
        """Rows of up to `most` images, evenly spaced over the list."""
        return np.unique(np.linspace(0, len(self) - 1, most).astype(np.int64))

    def path(self, index: int) -> str:
        """Name of an image in messages: its path, or the file that holds it and its name in that file."""
        name = self.names[index].as_py()
        return self.storage.path(self.root, index, name) if self.storage else os.path.join(self.root.path, name)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The encoded image; OSError if it can't be read, OutsideRoot if it isn't below `root`."""
        if self.storage:
            return self.storage.read(self.root, index)
        return np.frombuffer(self.root.read_whole(self.path(index), MOST_BYTES), dtype=np.uint8)


@dataclass(frozen=True)
class LabelledFaces(Faces):
    """Faces to train on."""

    labels: NDArray[np.int64]  # [N] 0 … len(identities) - 1
    identities: list[str]
    notes: tuple[str, ...] = field(default=(), kw_only=True)  # lines about entries that the reader left out
    _fingerprint: list[str] = field(default_factory=list, init=False, repr=False, compare=False)  # cached

    def take(self, rows: NDArray[np.int64]) -> "LabelledFaces":
        """The chosen rows, in this order; labels and identities are unchanged."""
        return replace(
            self,
            names=self.names.take(pa.array(rows)),
            landmarks=self.landmarks[rows],
            labels=self.labels[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            storage=self.storage.take(rows) if self.storage else None,
        )

    def fingerprint(self) -> str:
        """Hash of everything that determines the samples of an iteration, except the pixels."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            for column in (*self.names.buffers(), self.labels, self.landmarks, self.boxes):
                digest.update(b"" if column is None else column)
            self.remember(digest.hexdigest())
        return self._fingerprint[0]

    def remember(self, fingerprint: str) -> None:
        """Set the result of `fingerprint`, computed for these columns earlier."""
        self._fingerprint.append(fingerprint)


@dataclass(frozen=True)
class VerificationFaces(Faces):
    """Distinct images and P pairs of them, in F folds."""

    pairs: NDArray[np.int64]  # [P, 2] rows of names
    same: NDArray[np.bool_]  # [P]
    fold: NDArray[np.int64]  # [P] 0 … F - 1


SomeFaces = TypeVar("SomeFaces", bound=Faces)


def refuse(problems: list[str]) -> None:
    """Raise InputError with the problems, if there are any; the first few are listed, the rest counted."""
    if problems:
        raise InputError(*shown(problems))


def refuse_rows(rows: NDArray[np.int64], problem: Callable[[int], str]) -> None:
    """Raise InputError as `refuse`, for rows of a list of millions: `problem` is called only for the rows shown."""
    if len(rows):
        more = len(rows) - _SHOWN
        hidden = [f"… and {more:,} more like these"] if more > 0 else []
        raise InputError(*map(problem, rows[:_SHOWN].tolist()), *hidden)


def shown(problems: list[str]) -> list[str]:
    """The first few problems, and a line with the number of the others."""
    hidden = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([f"… and {hidden:,} more like these"] if hidden > 0 else [])


def check_landmarks(points: NDArray[np.float64], where: Callable[[int], str], unit: LandmarkUnit = PIXELS) -> None:
    """Refuse landmarks [N, 5, 2] without a similarity: not finite (or beyond any image), or all in one place."""
    not_finite, one_spot = np.zeros((2, len(points)), dtype=bool)
    for first in range(0, len(points), _BLOCK):
        rows = slice(first, first + _BLOCK)
        # NumPy reduces over a short last axis ten times slower than over the first one.
        places = np.ascontiguousarray(points[rows].transpose(1, 2, 0))
        not_finite[rows] = ~(np.abs(places) < unit.farthest).all(axis=(0, 1))  # true for NaN, too
        one_spot[rows] = np.ptp(places, axis=0).max(axis=0) < unit.one_spot
    refuse(
        [f"{where(i)}: not finite, or {unit.far}" for i in np.flatnonzero(not_finite).tolist()]
        + [f"{where(i)}: all five on one spot" for i in np.flatnonzero(one_spot).tolist()]
    )


def swapped_note(points: NDArray[np.float64]) -> str:
    """Note that left and right are swapped in most of the landmarks [N, 5, 2]; "" if they aren't.

    No rotation corrects such points: the best-fitting similarity doesn't show the face upright.
    """
    if not points.shape[1]:
        return ""
    swapped = int(np.sum((points[:, 0, 0] > points[:, 1, 0]) & (points[:, 3, 0] > points[:, 4, 0])))
    if 2 * swapped <= len(points):
        return ""
    return (
        f"left and right are swapped in the landmarks of {swapped:,} of {len(points):,} images: the first point is the "
        "eye on the left of the image, the fourth the corner of the mouth there"
    )


def with_first_image(faces: SomeFaces, option: str) -> SomeFaces:
    """Return the faces; InputError unless the first image exists and lies inside the root.

    It finds a wrong root, the most common mistake, before the first iteration; and links out of the root, since a
    folder with one such link usually consists of them.
    """
    if not os.path.exists(faces.path(0)):
        first = faces.path(0)
        note = form_note(first, os.path.exists) or _elsewhere(faces, option)
        raise InputError(f"{first}: no such file{note}")
    faces.root.check_inside(faces.path(0))
    return faces


def _elsewhere(faces: Faces, option: str) -> str:
    """End of a message about the missing first image: the folder near the root where it was found, if any."""
    name, root = faces.names[0].as_py(), faces.root.path
    try:
        with os.scandir(root) as entries:
            inside = [Path(entry.path) for entry in islice(entries, _LOOKED_INTO) if entry.is_dir()]
    except OSError:
        inside = []
    near = next((folder for folder in (root.parent, *sorted(inside)) if os.path.exists(folder / name)), None)
    return f"; is {option} {faces.root} right?" if near is None else f"; it is in {near}: give {option} {near}"
