"""TinyFace (Cheng, Zhu and Gong, ACCV 2018; https://qmul-tinyface.github.io): 1:N identification of small faces.

`Testing_Set/` has the images in `Probe/`, `Gallery_Match/` and `Gallery_Distractor/`, and their identities in
`probe_img_ID_pairs.mat` (`probe_set`, cells with the names of N images, and `probe_ids`, N numbers) and
`gallery_match_img_ID_pairs.mat` (`gallery_set`, `gallery_ids`). Distractors are of other people than the probes.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fr.data.faces import Faces, refuse
from fr.data.pairs.pair_faces import ENDINGS
from fr.errors import InputError, os_error_as
from fr.files.data_root import DataRoot
from fr.files.mat_file import Cells, read_mat

_PARTS = {"Probe": ("probe_img_ID_pairs.mat", "probe"), "Gallery_Match": ("gallery_match_img_ID_pairs.mat", "gallery")}
_DISTRACTORS = "Gallery_Distractor"
DISTRACTOR = -1


@dataclass(frozen=True)
class TinyFace:
    """Q probes, then G images of the gallery, aligned crops. identity: [Q + G], DISTRACTOR for distractors."""

    faces: Faces
    identity: NDArray[np.int64]
    probes: int


def read_tinyface(root: DataRoot, images: Path | None = None) -> TinyFace:
    """Read TinyFace from `Testing_Set` or its parent folder. images: None, or a folder with aligned copies.

    InputError for malformed lists, missing images, and probes whose identity isn't in the gallery.
    """
    root.check_exists("the set")
    lists = root.below("Testing_Set") if (root.path / "Testing_Set").is_dir() else root
    place = lists if images is None else DataRoot(images, root.outside_allowed)
    names: list[str] = []
    identities: list[NDArray[np.int64]] = []
    for part, (file, variable) in _PARTS.items():
        path = lists.path / file
        listed, ids = _read(path, variable)
        there = _by_stem(place.path / part)
        refuse([f"{path}: {place.path / part / name}: no such file" for name in listed if Path(name).stem not in there])
        names += [f"{part}/{there[Path(name).stem]}" for name in listed]
        identities.append(ids)
    probes, gallery = identities
    lacking = sorted({*probes.tolist()} - {*gallery.tolist()})
    refuse([f"{lists.path}: the gallery has no image of identity {one}, which a probe shows" for one in lacking])
    distractors = sorted(_by_stem(place.path / _DISTRACTORS).values())
    names += [f"{_DISTRACTORS}/{name}" for name in distractors]
    identity = np.concatenate([probes, gallery, np.full(len(distractors), DISTRACTOR)])
    faces = Faces(place, pa.array(names, type=pa.string()), np.zeros((len(names), 0, 2)))
    return TinyFace(faces, identity, len(probes))


def _read(path: Path, variable: str) -> tuple[list[str], NDArray[np.int64]]:
    """Names and identities [N] of a list; a name has no folder, an identity is 0 or more."""
    found = read_mat(path, [f"{variable}_set", f"{variable}_ids"])
    cells, ids = found.values()
    names = cells.values if isinstance(cells, Cells) else []
    if not names or not isinstance(ids, np.ndarray) or ids.size != len(names):
        raise InputError(f"{path}: no N cells {variable}_set and N numbers {variable}_ids")
    problems = [
        f"{path}: image {row} isn't a name and an identity"
        for row, (name, number) in enumerate(zip(names, ids.ravel(order="F").tolist(), strict=True), start=1)
        if not isinstance(name, str) or not name or "/" in name or not 0 <= number < 2**53 or number % 1
    ]
    refuse(problems)
    return names, ids.ravel(order="F").astype(np.int64)


def _by_stem(folder: Path) -> dict[str, str]:
    """Images of a folder by name without ending. It is listed once, since a file server may be slow."""
    with os_error_as(f"{folder}: can't be read"):
        return {Path(entry.name).stem: entry.name for entry in os.scandir(folder) if entry.name.endswith(ENDINGS)}
