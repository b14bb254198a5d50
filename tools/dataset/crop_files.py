"""The files of crops: what they are called, and a folder that keeps whole ones over interruptions."""

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fr.data.annotations import LabelledFaces, refuse
from fr.errors import InputError
from fr.files import replace_file, write_result
from fr.photographs import Pixels
from fr.reading import read_whole
from tools.dataset.face_names import key_of, refuse_ambiguous

MARK = "crops.json"
_LONGEST = 1 << 20  # bytes of it


@dataclass(frozen=True)
class Targets:
    """Where crops go: names [N] below out. quality: of JPEG."""

    out: Path
    names: list[str]
    quality: int

    def missing(self) -> NDArray[np.int64]:
        """Which of them aren't there."""
        names = tqdm(self.names, desc="looking", unit="img", mininterval=1)
        return np.flatnonzero([not os.path.exists(self.out / name) for name in names])

    def write_crop(self, index: int, pixels: Pixels) -> None:
        """pixels: [H, W, 3] in blue, green, red. InputError when it can't be written."""
        name = self.names[index]
        kind = Path(name).suffix
        settings = [cv2.IMWRITE_JPEG_QUALITY, self.quality] if kind == ".jpg" else []  # else it warns, of each file
        _, encoded = cv2.imencode(kind, pixels, settings)
        self.write(name, encoded.tobytes())

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all."""
        write_result(self.out / name, content)


def target_names(faces: LabelledFaces, kind: str) -> list[str]:
    """The names of the crops: those of the photographs with another ending; in a storage, below their identity.

    InputError for those that would be one file, or not below the folder.
    """
    names: list[str] = faces.names.to_pylist()
    if faces.storage:
        names = [f"{faces.identities[label]}/{name}" for label, name in zip(faces.labels.tolist(), names, strict=True)]
    strays = [name for name in names if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name]
    refuse([f"{name!r}: would lead out of the folder" for name in strays])
    refuse_ambiguous(names)
    return [f"{key_of(name)}.{kind}" for name in names]


def open_folder(out: Path, settings: dict[str, Any]) -> None:
    """Begin or go on with the crops in a folder; InputError when it has others, or anything else."""
    mark, text = out / MARK, json.dumps(settings, indent=1) + "\n"
    try:
        if mark.exists():
            if read_whole(mark, _LONGEST) != text.encode():
                raise InputError(f"{mark}: the crops there have other settings; give another --out")
        elif out.exists() and any(out.iterdir()):
            raise InputError(f"--out {out}: holds other files; give a new folder")
        else:
            out.mkdir(parents=True, exist_ok=True)
            replace_file(mark, text.encode())
    except OSError as error:
        raise InputError(f"--out {out}: can't be used: {error.strerror}") from error
