"""Crop files: names, existing ones, writing."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from fr.data.faces import LabelledFaces, refuse
from fr.files.durable import write_result
from fr.files.images import Pixels
from fr.progress import tracked
from tools.dataset.face_names import key_of, refuse_ambiguous


@dataclass(frozen=True)
class Targets:
    """Target files of crops: names [N] below out. quality: of JPEG."""

    out: Path
    names: list[str]
    quality: int

    def missing(self) -> NDArray[np.int64]:
        """Indices of the missing files."""
        names = tracked(self.names, "img", "looking")
        return np.flatnonzero([not os.path.exists(self.out / name) for name in names])

    def remove_others(self) -> int:
        """Remove crops of images that are no longer in the data, and emptied folders; returns the number of crops."""
        kept, removed = {os.path.normpath(name) for name in self.names}, 0
        endings = {Path(name).suffix for name in self.names}
        for folder, _, files in os.walk(self.out, topdown=False):
            here = os.path.relpath(folder, self.out)
            gone = [
                name
                for name in files
                if not name.startswith(".")
                and Path(name).suffix in endings
                and os.path.normpath(f"{here}/{name}") not in kept
            ]
            for name in gone:
                os.unlink(f"{folder}/{name}")
            removed += len(gone)
            if gone and folder != str(self.out) and not os.listdir(folder):
                os.rmdir(folder)
        return removed

    def write_crop(self, index: int, pixels: Pixels) -> None:
        """Write a crop of BGR pixels [H, W, 3]; InputError if it can't be written."""
        name = self.names[index]
        kind = Path(name).suffix
        settings = [cv2.IMWRITE_JPEG_QUALITY, self.quality] if kind == ".jpg" else []  # OpenCV warns if set for PNG
        _, encoded = cv2.imencode(kind, pixels, settings)
        self.write(name, encoded.tobytes())

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically."""
        write_result(self.out / name, content)


def target_names(faces: LabelledFaces, kind: str) -> list[str]:
    """Crop names: those of `names_below` with another ending.

    InputError for names that collide or lie outside of the folder.
    """
    names = names_below(faces)
    refuse_ambiguous(names)
    return [f"{key_of(name)}.{kind}" for name in names]


def names_below(faces: LabelledFaces) -> list[str]:
    """Names for files about the images: the images' names; for images in a storage, in a folder of their identity.

    InputError for names that lead out of the folder.
    """
    names: list[str] = faces.names.to_pylist()
    if faces.storage:
        names = [f"{faces.identities[label]}/{name}" for label, name in zip(faces.labels.tolist(), names, strict=True)]
    strays = [name for name in names if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name]
    refuse([f"{name!r}: would lead out of the folder" for name in strays])
    return names
