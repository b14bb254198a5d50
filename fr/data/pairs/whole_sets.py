"""Complete verification sets at one path: the description of a form that each module here has, and shared code."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fr.data.faces import VerificationFaces
from fr.data.landmark_csv import landmark_csvs
from fr.data.pairs.pair_faces import ENDINGS, Pairs
from fr.errors import InputError, os_error_as
from fr.files.data_root import DataRoot
from fr.options.names import SET_NAMES

IMAGES, LFW_LANDMARKS = "lfw", "lfw_landmark.txt"
LANDMARKS = (LFW_LANDMARKS, "landmarks.txt", "landmarks.csv")
# landmark5.txt, lfw_landmarks.txt, bb_landmark/, cfp_lmk.csv, x_5pts.txt
_LIKE_LANDMARKS = re.compile(r"landmark|lmk|(^|[^a-z0-9])5 ?pts?([^a-z0-9]|$)|keypoint", re.IGNORECASE)


class SetForm(NamedTuple):
    """Form of complete sets, which a module of this package defines and `fr/options/names.py` lists.

    expected: description of the expected files, for a message. is_at: returns True if a set of this form is at a path.
    read: returns name and faces of the set at a root, given --val_set and the option that named the root; InputError if
    it can't be read.
    """

    expected: str
    is_at: Callable[[Path], bool]
    read: Callable[[DataRoot, str, str], tuple[str, VerificationFaces]]


def check_kind(kind: str, form: str, path: Path) -> None:
    """Raise InputError if --val_set names another form than that of the set; other kinds are names of sets."""
    if kind in ("pairs", "bin") and kind != form:
        raise InputError(f"{path}: not {kind}, but of the form {form}")


def set_name(path: Path, form: str, kind: str) -> str:
    """Name of a set in metrics: that of a known set, or the file's."""
    if kind not in ("auto", "pairs", "bin"):
        return kind
    stem = path.stem.lower()
    known = next((name for part, name in SET_NAMES.items() if part in stem), "lfw" if form == "lfw" else "")
    return known or re.sub(r"\W+", "_", stem).strip("_") or form


def named_landmarks(folder: Path) -> str:
    """Landmark file of a set's folder, recognised by its name; "" if there is none."""
    return next((str(folder / name) for name in LANDMARKS if (folder / name).is_file()), "")


def landmarks_in(folder: Path) -> str:
    """Same as `named_landmarks`, with InputError if a file of another name seems to hold landmarks."""
    if named := named_landmarks(folder):
        return named
    with os_error_as(f"{folder}: can't be read"):
        found = sorted(name for name in os.listdir(folder) if _LIKE_LANDMARKS.search(name))
    if found:
        raise InputError(
            f"{folder}: {', '.join(found[:3])} looks like landmarks, which are read from {' or '.join(LANDMARKS)} "
            "only: rename it, or move it away if the images are aligned crops"
        )
    return ""


def landmark_file(folder: Path) -> str:
    """The landmark file in a folder given as --val_landmarks: one with a usual name, or the only CSV."""
    if named := named_landmarks(folder):
        return named
    tables = landmark_csvs(folder)
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables[:3]) or f"none, nor {', '.join(LANDMARKS)}"
        raise InputError(f"--val_landmarks {folder}: a folder; give the file itself; its CSV files: {names}")
    return str(tables[0])


def images_in(folder: Path, pairs: Pairs) -> Path:
    """The folder that the paths of the list start from: `folder`, or a folder in it, `lfw` before others.

    It is the first in which the first image exists, with any of ENDINGS.
    """
    with os_error_as(f"{folder}: can't be read"):
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    inside.sort(key=lambda name: name != IMAGES)
    first = next(iter(pairs.where))
    stem = first.removesuffix(Path(first).suffix)
    names = (first, *(stem + ending for ending in ENDINGS))
    candidates = (folder / IMAGES, folder, *(folder / name for name in inside))
    return next((place for place in candidates if any(_is_file(place / name) for name in names)), folder)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False
