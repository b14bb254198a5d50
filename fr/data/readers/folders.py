"""One folder per identity, as torchvision's ImageFolder."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from fr.data.faces import LabelledFaces, check_first_image, refuse
from fr.data.landmark_csv import landmark_table, landmarks_of
from fr.data.readers.source import Format
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.names import is_unicode

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_NAMED = 3  # empty folders that are listed by name


def read_folders(root: DataRoot, landmarks: str) -> LabelledFaces:
    """The images in and below each folder of `root`: classes in the order of the folders' names.

    An image ends in .jpg, .jpeg, .png, .bmp or .webp, in capitals or not; names that begin with a dot are skipped, and
    so are links back to a folder they lie in. landmarks: as of `read_vgg`, the table chosen by the root's name; ""
    for aligned crops. InputError names what can't be read, has no landmarks, or leads out of the root.
    """
    root.check_exists("--train_data_root")
    classes = {identity: sorted(pictures) for identity, pictures in _scan(root)}
    empty = sorted(identity for identity, pictures in classes.items() if not pictures)
    identities = sorted(classes.keys() - set(empty))
    if not identities:
        raise InputError(f"--train_data_root {root}: no folder in it holds an image ({', '.join(IMAGE_ENDINGS)})")
    listed = _checked(root.path, [name for identity in identities for name in classes[identity]])
    names = pa.array(listed, type=pa.string())
    labels = np.repeat(np.arange(len(identities)), [len(classes[identity]) for identity in identities])
    if landmarks:
        points = landmarks_of(names, landmark_table(Path(landmarks), root.path), lambda _: f"--train_data_root {root}")
    else:
        points = np.zeros((len(names), 0, 2))
    notes = _note(root.path, empty)
    faces = LabelledFaces(root, names, points, labels.astype(np.int64), identities, notes=notes)
    check_first_image(faces, "--train_data_root")
    return faces


def images_below(root: DataRoot) -> list[str]:
    """Paths below the root of all images in its tree, sorted; endings and InputError as of `read_folders`."""
    return _checked(root.path, sorted(name.removeprefix("./") for name in _images(root, ".", set())))


def _checked(root: Path, names: list[str]) -> list[str]:
    refuse([f"{os.path.join(root, name)!r}: the name isn't UTF-8" for name in names if not is_unicode(name)])
    return names


def _scan(root: DataRoot) -> Iterator[tuple[str, list[str]]]:
    """Folders of the root, each with the paths below the root of its images."""
    with os.scandir(root.path) as entries:
        folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    for identity in folders:
        yield identity, list(_images(root, identity, {_node(root.path)}))


def _images(root: DataRoot, folder: str, above: set[tuple[int, int]]) -> Iterator[str]:
    """Paths below the root of the images in a tree. above: the folders that it lies in, by device and inode.

    Links to folders are checked here, those to files when they are read: there may be millions.
    """
    path = root.path / folder
    try:
        here = _node(path)
        if here in above:
            return
        if path.is_symlink():
            root.check_inside(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from _images(root, f"{folder}/{entry.name}", above | {here})
                elif entry.name.lower().endswith(IMAGE_ENDINGS):
                    yield f"{folder}/{entry.name}"
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error


def _node(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _note(root: Path, empty: list[str]) -> tuple[str, ...]:
    if not empty:
        return ()
    named = ", ".join(empty[:_NAMED]) + (", …" if len(empty) > _NAMED else "")
    return (f"{len(empty):,} folders of {root} without images left out: {named}",)


FORMATS = {"folder": Format(lambda source: read_folders(source.data_root, source.landmarks), None)}
