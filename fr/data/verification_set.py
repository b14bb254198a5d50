"""Verification sets from options: recognised by the files at a path, or given as root, list and landmarks.

A set of --val_sets is `path` or `kind=path`; the path is a file, or the folder of a complete set, in one of the forms
that the modules of fr/data/pairs/ read.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from fr.console import counted
from fr.data.crop_sizes import size_warning
from fr.data.faces import VerificationFaces, swapped_note
from fr.data.pairs.lfw import read_lfw
from fr.data.pairs.pair_faces import faces_of_pairs
from fr.data.pairs.pair_lists import list_form, list_in, read_pairs
from fr.data.pairs.whole_sets import (
    IMAGES,
    LANDMARKS,
    LFW_LANDMARKS,
    SetForm,
    check_kind,
    landmark_file,
    named_landmarks,
    set_name,
)
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.options.names import SET_FORMS, SET_KINDS, SET_LISTS, SET_OPTIONS

FOLDER = "working_folder"  # of a training, stored with its options in a snapshot
FORMS: list[SetForm] = [import_module(f"fr.data.pairs.{file}").FORM for file in SET_FORMS]
_PAIRS = SET_LISTS[0]
_TAKEN = ("same", "diff", "ema")  # not allowed as names: `same_accuracy` is a metric of the first set


@dataclass(frozen=True)
class VerificationSet:
    """A set and the name of its metrics.

    source: path it was read from, for messages. unused: landmark file beside a list of aligned crops; "" = none.
    """

    name: str
    source: str
    faces: VerificationFaces
    unused: str = ""

    def describe(self) -> str:
        """`calfw: 6,000 pairs of 7,156 images, aligned crops, /data/calfw`"""
        crops = "" if self.faces.landmarks.shape[1] else ", aligned crops"
        pairs, images = counted(len(self.faces.pairs), "pair"), counted(len(self.faces), "image")
        return f"{self.name}: {pairs} of {images}{crops}, {self.source}"

    @property
    def warning(self) -> str:
        """Warning about landmarks, or that images without landmarks don't look like aligned crops; "" = none."""
        if self.faces.landmarks.shape[1]:
            note = swapped_note(self.faces.landmarks)
            return note and f"{self.name}: {note}"
        if self.unused:
            return (
                f"{self.name}: the images are taken for aligned crops, and {self.unused} isn't used; give it as "
                "--val_landmarks if they are photographs"
            )
        why = size_warning(self.faces)
        return why and (
            f"{self.name}: no landmarks ({', '.join(LANDMARKS)}) in {self.source}, so its images are taken for "
            f"aligned crops, but {why}"
        )


def read_sets(
    place: Sequence[str], kind: str, sets: Sequence[str], allow_outside: bool = False
) -> list[VerificationSet]:
    """The sets of a run. place: root, list and landmarks of the first one, all empty = none. sets: of --val_sets.

    A number is added to a name that is in use, or whose metrics would have the names of the first set's. allow_outside:
    paths and links may lead out of a set's folder. InputError if a set can't be read or scored.
    """
    read = [_read_place(place, kind, allow_outside)] if place[0] else []
    read += [read_set(word, allow_outside) for word in sets]
    problems = [problem for one in read for problem in _unscorable(one)]
    if problems:
        raise InputError(*problems)
    taken = {*_TAKEN}
    for index, one in enumerate(read):
        numbered = (f"{one.name}_{number}" for number in count(2))
        read[index] = replace(one, name=next(name for name in chain([one.name], numbered) if name not in taken))
        taken.add(read[index].name)
    return read


def _unscorable(one: VerificationSet) -> list[str]:
    """Reasons for which a set has no K-fold accuracy, one line each."""
    same, folds = int(one.faces.same.sum()), len(np.unique(one.faces.fold))
    counts = {"same": same, "different": len(one.faces.pairs) - same}
    problems = [
        f"{one.source}: no {kind} pairs; a verification needs both kinds" for kind, n in counts.items() if not n
    ]
    if folds < 2:
        problems.append(f"{one.source}: {folds} fold; each fold is scored at the threshold of the others: two at least")
    return problems


def read_set(word: str, allow_outside: bool = False) -> VerificationSet:
    """A set of --val_sets, `path` or `kind=path`."""
    kind, equals, path = word.partition("=")
    if equals and kind in SET_KINDS:
        return _read_whole(DataRoot(Path(path), allow_outside), kind, "--val_sets")
    return _read_whole(DataRoot(Path(word), allow_outside), "auto", "--val_sets")


def sets_to_score(said: Mapping[str, Any], stored: Mapping[str, Any], snap: str) -> list[VerificationSet]:
    """The sets given by options, or else those of the training, from its options `stored`.

    InputError if there is none, or one can't be read.
    """
    stored = _found(stored)
    places = [[options.get(name, "") for name in SET_OPTIONS] for options in (said, stored)]
    allow_outside = bool(said.get("allow_outside"))  # a snapshot can't give this permission
    kinds = [options.get("val_set", "auto") for options in (said, stored)]
    kind = kinds[0] if kinds[0] != "auto" or any(places[0]) else kinds[1]
    sets = said.get("val_sets") or ([] if any(places[0]) else stored.get("val_sets", []))
    if sets and not any(places[0]) and (said.get("val_sets") or not any(places[1])):
        return read_sets(["", "", ""], kind, sets, allow_outside)
    return read_sets(find_set(places[0], places[1], snap, kind), kind, sets, allow_outside)


def _found(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a training, with the paths of its sets relative to the present working folder.

    A path that doesn't exist is tried relative to the folder that the training ran in.
    """
    folder = stored.get(FOLDER, "")

    def path(text: str) -> str:
        return text if not text or os.path.exists(text) else os.path.join(folder, text)

    def word(text: str) -> str:
        kind, equals, rest = text.partition("=")
        return f"{kind}={path(rest)}" if equals and kind in SET_KINDS else path(text)

    places = {name: path(stored[name]) for name in SET_OPTIONS if name in stored}
    return {**stored, **places, "val_sets": [word(text) for text in stored.get("val_sets", [])]}


def find_set(said: Sequence[str], stored: Sequence[str], snap: str, kind: str = "auto") -> tuple[str, str, str]:
    """Root, list and landmarks, from the command line (`said`) and the snapshot (`stored`); "" = unknown.

    A root given alone may be a complete set. LFW's folder, with pairs.txt, lfw_landmark.txt, and the people's folders
    in it or in lfw/, gives all three; another folder gives the root only. InputError if something is missing.
    """
    root, pairs, landmarks = said
    folder = Path(root)
    if root and not (pairs or landmarks):
        if (folder / _PAIRS).is_file() and (folder / LFW_LANDMARKS).is_file():
            images = folder / IMAGES
            return str(images if images.is_dir() else folder), str(folder / _PAIRS), str(folder / LFW_LANDMARKS)
        if kind != "auto" or _is_whole(folder, list_stored=bool(stored[1])):
            return root, "", ""
    root, pairs, landmarks = (here or there for here, there in zip(said, stored, strict=True))
    if root and not any(said) and not (pairs or landmarks):
        return root, "", ""
    if said[0] and not (pairs or landmarks):
        return root, "", ""  # of no known form: `_read_whole` says what it lacks
    if not (root and pairs):
        raise InputError(
            f"{snap} names no verification set: give --{', --'.join(SET_OPTIONS)} (no landmarks = aligned crops), or "
            f"as --{SET_OPTIONS[0]} a folder with {_PAIRS} and {LFW_LANDMARKS}, or --val_sets"
        )
    return root, pairs, landmarks


def _is_whole(path: Path, list_stored: bool) -> bool:
    """Return True if a complete set can be read from a path; a moved folder of images may hold a copy of LFW's list."""
    listed = list_in(path)
    replaced = list_stored and listed is not None and listed.name == _PAIRS
    return not replaced and any(form.is_at(path) for form in FORMS)


def _read_place(place: Sequence[str], kind: str, allow_outside: bool) -> VerificationSet:
    """The set of --val_data_root, --val_list and --val_landmarks, or of --val_data_root alone."""
    folder, list_file, landmarks = place
    root = DataRoot(Path(folder), allow_outside)
    if landmarks and Path(landmarks).is_dir():
        landmarks = landmark_file(Path(landmarks))
    if not list_file:
        return _read_whole(root, kind, "--val_data_root")
    path = Path(list_file)
    unused = "" if landmarks else named_landmarks(path.parent)
    form = "lfw" if kind == "lfw" else list_form(path)
    if form == "lfw":
        return VerificationSet(set_name(path, form, kind), folder, read_lfw(root, list_file, landmarks), unused)
    check_kind(kind, form, path)
    faces = faces_of_pairs(root, read_pairs(path, form), landmarks, "--val_data_root")
    return VerificationSet(set_name(path, form, kind), list_file, faces, unused)


def _read_whole(root: DataRoot, kind: str, option: str) -> VerificationSet:
    """A set from one path: a folder, a list of pairs, or a `.bin` file of insightface."""
    if not root.path.exists():
        raise InputError(f"{option} {root}: no such file or folder")
    for form in FORMS:
        if form.is_at(root.path):
            name, faces = form.read(root, kind, option)
            return VerificationSet(name, str(root.path), faces)
    raise InputError(f"{option} {root}: no verification set: expected {', or '.join(form.expected for form in FORMS)}")
