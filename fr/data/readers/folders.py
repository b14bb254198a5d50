"""One folder per identity, as torchvision's ImageFolder."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from fr.console import counted
from fr.data.faces import LabelledFaces, refuse, with_first_image
from fr.data.landmark_csv import given_landmarks
from fr.data.readers.source import Format
from fr.errors import InputError, os_error_as
from fr.files.data_root import DataRoot
from fr.files.names import is_unicode

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp")
_NAMED = 3  # empty folders, and endings, that are listed by name
# Folders that file servers and operating systems create; the thumbnails in them aren't images of the data set.
_OF_SYSTEMS = ("@eadir", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information")
_FILES_OF_SYSTEMS = ("thumbs.db", "desktop.ini")


def read_folders(root: DataRoot, landmarks: str) -> LabelledFaces:
    """The images in and below each folder of `root`: classes in the order of the folders' names.

    An image has one of IMAGE_ENDINGS, in any case; other files are counted in a note. Names that begin with a dot,
    folders of file servers, and links to an enclosing folder are skipped. landmarks: as in `read_vgg`, with the table
    chosen by the root's name; "" for aligned crops. InputError names what can't be read, has no landmarks, or leads out
    of the root.
    """
    root.check_exists("--train_data_root")
    others: Counter[str] = Counter()
    stray: list[str] = []
    classes = {identity: sorted(pictures) for identity, pictures in _scan(root, others, stray)}
    empty = sorted(identity for identity, pictures in classes.items() if not pictures)
    identities = sorted(classes.keys() - set(empty))
    if not identities:
        raise InputError(f"--train_data_root {root}: no folder in it holds an image ({', '.join(IMAGE_ENDINGS)})")
    listed = _checked(root.path, [name for identity in identities for name in classes[identity]])
    names = pa.array(listed, type=pa.string())
    labels = np.repeat(np.arange(len(identities)), [len(classes[identity]) for identity in identities])
    points = given_landmarks(names, landmarks, root.path, lambda _: f"--train_data_root {root}")
    notes = (*_named("folder", f"of {root} without images left out", empty), *stray_note(root.path, stray))
    notes += others_note(root.path, others)
    faces = LabelledFaces(root, names, points, labels.astype(np.int64), identities, notes=notes)
    return with_first_image(faces, "--train_data_root")


def images_below(root: DataRoot, others: Counter[str] | None = None) -> list[str]:
    """Paths below the root of all images in its tree, sorted; endings and InputError as in `read_folders`.

    others: updated with the number of other files, by ending.
    """
    left_out = Counter() if others is None else others
    return _checked(root.path, sorted(name.removeprefix("./") for name in _images(root, ".", set(), left_out)))


def others_note(root: Path | str, others: Counter[str]) -> tuple[str, ...]:
    """A line about files that aren't read, by their endings; () if there are none."""
    if not others:
        return ()
    ordered = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{count:,} {ending or 'without one'}" for ending, count in ordered[: 2 * _NAMED])
    more = ", …" if len(others) > 2 * _NAMED else ""
    return (f"left out of {root} for their endings: {named}{more}",)


def _checked(root: Path, names: list[str]) -> list[str]:
    refuse([f"{os.path.join(root, name)!r}: the name isn't UTF-8" for name in names if not is_unicode(name)])
    return names


def _scan(root: DataRoot, others: Counter[str], stray: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Folders of the root, each with the paths of its images. stray: extended by the images in the root itself."""
    with os.scandir(root.path) as entries:
        seen = [(entry.name, entry.is_dir()) for entry in entries if not _is_hidden(entry.name)]
    stray += [name for name, is_folder in seen if not is_folder and name.lower().endswith(IMAGE_ENDINGS)]
    for identity in (name for name, is_folder in seen if is_folder):
        yield identity, list(_images(root, identity, {_node(root.path)}, others))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEMS or name.lower() in _FILES_OF_SYSTEMS


def _images(root: DataRoot, folder: str, above: set[tuple[int, int]], others: Counter[str]) -> Iterator[str]:
    """Paths below the root of the images in a tree. above: device and inode of the enclosing folders.

    others: updated with the number of other files, by ending.
    Links to folders are checked here, links to files when they are read, since there may be millions.
    """
    path = root.path / folder
    with os_error_as(f"{path}: can't be read"):
        here = _node(path)
        if here in above:
            return
        if path.is_symlink():
            root.check_inside(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    yield from _images(root, f"{folder}/{entry.name}", above | {here}, others)
                elif entry.name.lower().endswith(IMAGE_ENDINGS):
                    yield f"{folder}/{entry.name}"
                else:
                    others[os.path.splitext(entry.name)[1].lower()] += 1


def _node(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def stray_note(root: Path, stray: list[str]) -> tuple[str, ...]:
    """A line about images in the root itself, which have no identity; () if there are none."""
    return _named("image", f"in {root} itself, in no identity's folder, left out", sorted(stray))


def _named(noun: str, what: str, names: list[str]) -> tuple[str, ...]:
    more = ", …" if len(names) > _NAMED else ""
    return (f"{counted(len(names), noun)} {what}: {', '.join(names[:_NAMED])}{more}",) if names else ()


FORMATS = {"folder": Format(lambda source: read_folders(source.data_root, source.landmarks), None)}
