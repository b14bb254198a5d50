"""Folders of people's images: a gallery, or probes.

`Name.jpg` is an image of Name, and so is every image in and below the folder `Name/`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from fr.alignment import CENTER_CROP
from fr.console import counted, print_lines
from fr.data.faces import Faces, shown
from fr.data.readers.folders import images_below, others_note
from fr.errors import InputError
from fr.evaluation.all_pairs import Rows
from fr.evaluation.scoring import Embedder
from fr.files.data_root import DataRoot
from fr.options.detection import DetectorSettings
from fr.progress import progress
from fr.recognition.detection import Mtcnn
from tools.dataset.face_journal import Found
from tools.detect_faces import detect_all, face_of

FEW = 64  # up to so many images are processed in this process, since starting others takes as long


@dataclass(frozen=True)
class Portraits:
    """N images. people: [N] names. usable: [N], True if the image has a face. faces: of the usable images, in order.

    notes: a message about each image with no face, with several, or that can't be read, and about other files.
    """

    people: list[str]
    usable: NDArray[np.bool_]
    faces: Faces
    notes: list[str]

    @property
    def people_of_faces(self) -> list[str]:
        """Person of each image in `faces`."""
        return [name for name, usable in zip(self.people, self.usable, strict=True) if usable]


@dataclass(frozen=True)
class Looking:
    """Face detection in portraits: the detector's settings and device, and the choice between several faces."""

    settings: DetectorSettings
    device: str
    choice: str


def read_portraits(option: str, root: DataRoot, looking: Looking | None) -> Portraits:
    """Read the images of a folder tree, sorted by name. looking: None for aligned crops, which are used whole.

    InputError if there is no such folder, no image in it, or none with a face.
    """
    root.check_exists(option)
    others: Counter[str] = Counter()
    names = images_below(root, others)
    left_out = list(others_note(root.path, others))
    if not names:
        raise InputError(f"{option} {root}: no image in it")
    people = [person_of(name) for name in names]
    if looking is None:
        faces = Faces(root, pa.array(names), np.zeros((len(names), 0, 2)))
        return Portraits(people, np.ones(len(names), dtype=bool), faces, left_out)
    results = list(_look(root, names, looking))
    usable = [isinstance(result, Found) and result.faces > 0 for result in results]
    if not any(usable):
        raise InputError(f"{option} {root}: no face found in its {counted(len(names), 'image')}")
    points = [result.points for result in results if isinstance(result, Found) and result.faces]
    taken = pa.array([name for name, there in zip(names, usable, strict=True) if there])
    faces = Faces(root, taken, np.array(points).reshape(-1, 5, 2))
    unclear = [result for result in results if not (isinstance(result, Found) and result.faces == 1)]
    notes = left_out + [_note(root.path, result, looking.choice) for result in unclear]
    return Portraits(people, np.array(usable), faces, notes)


def embedded(option: str, root: str, looking: Looking | None, embedder: Embedder) -> tuple[Portraits, Rows]:
    """Read a folder of people's images and embed those with a face, [N, E]; prints the files that are no use."""
    if looking:
        refuse_center_crops(embedder)
    portraits = read_portraits(option, DataRoot(Path(root), embedder.options.allow_outside), looking)
    print_lines(shown(portraits.notes))
    return portraits, embedder.embed(portraits.faces)


def refuse_center_crops(embedder: Embedder) -> None:
    """Raise InputError for a network whose input is the centre of an image instead of a detected face."""
    if embedder.model.preprocessing.alignment == CENTER_CROP:
        raise InputError(
            f"{embedder.options.snap} takes the centre of an image ({CENTER_CROP}), not detected faces: give another "
            "--alignment, or crops of faces with --aligned"
        )


def person_of(name: str) -> str:
    """Person of an image, by its path below the folder."""
    path = PurePosixPath(name)
    return path.parts[0] if len(path.parts) > 1 else path.stem


def _look(root: DataRoot, names: list[str], looking: Looking) -> Iterator[Found | str]:
    if len(names) > FEW:
        yield from detect_all(root, names, looking.settings, looking.device, looking.choice)
        return
    detector = Mtcnn(looking.settings, torch.device(looking.device))
    with progress(len(names), "img", "detecting") as bar:
        for name in names:
            yield face_of(detector, root, looking.choice, name)
            bar.update()


def _note(folder: Path, result: Found | str, choice: str) -> str:
    if isinstance(result, str):
        return result
    what = f"{counted(result.faces, 'face')}; used: {choice}" if result.faces else "no face found"
    return f"{folder / result.name}: {what}"
