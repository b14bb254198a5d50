"""Where a verification set is: as options say, inside the folder they name, or where the training had it."""

from collections.abc import Sequence
from pathlib import Path

from fr.errors import InputError

OPTIONS = ("val_data_root", "val_list", "val_landmarks")
_PAIRS, _LANDMARKS, _PICTURES = "pairs.txt", "lfw_landmark.txt", "lfw"


def find_set(said: Sequence[str], stored: Sequence[str], snap: str) -> tuple[str, str, str]:
    """Root, pairs and landmarks, from those said on the command line and those in the snapshot; "" = unknown.

    A root said alone may be the folder of a whole set: pairs.txt, lfw_landmark.txt, and the people's folders
    there or in lfw/. InputError when something is missing.
    """
    root, pairs, landmarks = said
    folder = Path(root)
    if root and not (pairs or landmarks) and (folder / _PAIRS).is_file() and (folder / _LANDMARKS).is_file():
        pictures = folder / _PICTURES
        return str(pictures if pictures.is_dir() else folder), str(folder / _PAIRS), str(folder / _LANDMARKS)
    root, pairs, landmarks = (here or there for here, there in zip(said, stored, strict=True))
    if not (root and pairs and landmarks):
        raise InputError(
            f"{snap} names no verification set: give --{', --'.join(OPTIONS)}, or as --{OPTIONS[0]} a folder with "
            f"{_PAIRS} and {_LANDMARKS}"
        )
    return root, pairs, landmarks
