#!/usr/bin/env python3
"""Detect the face in each image of a folder tree: boxes and five landmarks as CSVs in VGGFace2's bb_landmark format.

    python tools/detect_faces.py photographs tables
    python tools/detect_faces.py photographs tables --list train.txt --face largest --min_face 40
    python train.py --train_data_root photographs --train_list tables/train_list.txt --train_landmarks tables

OUT gets train_list.txt (images with a face), loose_landmark_train.csv, loose_bb_train.csv, no_face.txt (images without)
and unreadable.txt (with the reasons). Coordinates are in pixels of the image as stored: EXIF's orientation is applied
for detection, which needs upright faces, and undone in the output. Left is left as seen in the stored image.

faces.jsonl records progress: after an interruption, or with new images, run it again for the rest; unreadable images
are tried again. To install the detector: bash init_venv.sh --with detect
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/detect_faces.py", "tools.options.detect_faces:options")

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from fr.console import counted
from fr.data.faces import shown
from fr.data.landmark_csv import LANDMARK_COLUMNS
from fr.data.readers.folders import images_below, others_note, stray_note
from fr.data.readers.lists import read_labelled_list
from fr.data.storage import MOST_BYTES
from fr.distributed import choose_device
from fr.errors import InputError, run_plainly
from fr.files.data_root import DataRoot
from fr.files.durable import replace_file
from fr.files.images import decode
from fr.files.untrusted import OutsideRoot
from fr.options.commands import next_command
from fr.options.detection import DetectorSettings
from fr.recognition.detection import Detector, Mtcnn, choose, detect_stored
from tools.dataset.face_journal import Found, append, open_journal, read_journal
from tools.dataset.face_names import key_of, refuse_ambiguous
from tools.dataset.parallel import map_in_processes
from tools.options.detect_faces import options as read_options
from tools.options.detect_faces import settings_of

JOURNAL, NO_FACE, UNREADABLE = "faces.jsonl", "no_face.txt", "unreadable.txt"
_GPU_WORKERS = 2  # each has a CUDA context of about half a gigabyte


def main(argv: list[str]) -> int:
    options = read_options(argv)
    root = DataRoot(options.photographs, options.allow_outside)
    settings = settings_of(options)
    device = str(choose_device(options.device, 0))
    Mtcnn(settings, torch.device("cpu"))  # a missing package is reported before anything is written
    names, notes = _names(root, options.list)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        bad = _detect(root, names, options, settings, device)
        print("\n".join([*notes, _write_results(options.out, options.split, names, bad)]))
    except OSError as error:  # errors of reading images are handled in `face_of`
        raise InputError(f"{error.filename or options.out}: can't be written: {error.strerror}") from error
    if "/" in names[0]:
        tables = {"train_list": str(options.out / f"{options.split}_list.txt"), "train_landmarks": str(options.out)}
        data = {"train_data_root": str(options.photographs)} | tables
        print(next_command("tools/check_dataset.py", str(options.out / "check"), **data))
    return 0


def _names(root: DataRoot, list_file: str) -> tuple[list[str], tuple[str, ...]]:
    """Paths below the root of the images to search for faces, and lines about those left out.

    If there are folders of identities, images in the root itself are left out, since they have no identity.
    """
    root.check_exists("PHOTOS")
    notes: tuple[str, ...] = ()
    if list_file:
        names: list[str] = read_labelled_list(root, list_file, "").names.to_pylist()
        names = list(dict.fromkeys(names))
    else:
        others: Counter[str] = Counter()
        names = images_below(root, others)
        notes = others_note(root.path, others)
        stray = [name for name in names if "/" not in name]
        if len(stray) < len(names):
            names = [name for name in names if "/" in name]
            notes += stray_note(root.path, stray)
    if not names:
        raise InputError(f"PHOTOS {root}: no image in it")
    refuse_ambiguous(names)
    return names, notes


def _detect(
    root: DataRoot, names: list[str], options: argparse.Namespace, settings: DetectorSettings, device: str
) -> list[str]:
    """Update the journal; return the problems of unreadable images."""
    kept = {"photographs": str(root.path.resolve()), "face": options.face, **asdict(settings)}
    journal, done = open_journal(options.out / JOURNAL, kept)
    with journal:
        todo = [name for name in names if name not in done]
        if len(todo) < len(names):
            print(f"{len(names) - len(todo):,} of {len(names):,} images were done before", flush=True)
        bad = []
        for result in detect_all(root, todo, settings, device, options.face, options.workers):
            if isinstance(result, Found):
                append(journal, result)
            else:
                bad.append(result)
        os.fsync(journal.fileno())
    return bad


def detect_all(
    root: DataRoot, names: list[str], settings: DetectorSettings, device: str, choice: str, workers: int = 0
) -> Iterator[Found | str]:
    """Call `face_of` for each image, in processes. workers: 0 = one per core, and 2 with a GPU."""
    if device != "cpu":
        workers = workers or _GPU_WORKERS
    return map_in_processes(partial(find_face, root, settings, device, choice), names, workers, "detecting")


def find_face(root: DataRoot, settings: DetectorSettings, device: str, choice: str, name: str) -> Found | str:
    """Call `face_of` with this process's own detector."""
    return face_of(_detector(settings, device), root, choice, name)


def face_of(detector: Detector, root: DataRoot, choice: str, name: str) -> Found | str:
    """Detect the face of an image; returns a message if the file is unreadable."""
    path = root.path / name
    try:
        encoded = root.read_whole(path, MOST_BYTES)
        photograph = decode(np.frombuffer(encoded, dtype=np.uint8), str(path))
    except OSError as error:
        return f"{path}: can't be read: {error.strerror}"
    except OutsideRoot:
        raise
    except InputError as error:
        return str(error)
    faces = detect_stored(detector, photograph)
    if not len(faces):
        return Found(name, 0, [], [])
    chosen = choose(faces, photograph.stored, choice)
    box, points = (np.round(values[chosen].ravel(), 3).tolist() for values in (faces.boxes, faces.points))
    return Found(name, len(faces), box, points, round(float(faces.scores[chosen]), 6))


@cache
def _detector(settings: DetectorSettings, device: str) -> Detector:
    torch.set_num_threads(1)  # the cores are for the workers
    return Mtcnn(settings, torch.device(device))


def _write_results(out: Path, split: str, names: list[str], bad: list[str]) -> str:
    """Write the journal's entries of these images as tables and lists, in their order; return a summary.

    Entries of images that are no longer in the folder or the list stay in the journal, but aren't written.
    """
    wanted = set(names)
    found = {entry.name: entry for entry in read_journal(out / JOURNAL) if entry.name in wanted}
    entries = [found[name] for name in names if name in found]
    faces = [entry for entry in entries if entry.faces]
    boxes = (_row(one, one.box, 0, "" if one.score is None else f"{one.score:.6f}") for one in faces)
    landmarks = (_row(one, one.points, 3) for one in faces)
    tables: dict[str, Iterable[str]] = {
        f"{split}_list.txt": (entry.name for entry in faces),
        f"loose_bb_{split}.csv": chain(["NAME_ID,X,Y,W,H,SCORE"], boxes),
        f"loose_landmark_{split}.csv": chain([",".join(["NAME_ID", *LANDMARK_COLUMNS])], landmarks),
        NO_FACE: (entry.name for entry in entries if not entry.faces),
        UNREADABLE: bad,
    }
    for name, lines in tables.items():
        replace_file(out / name, "".join(f"{line}\n" for line in lines).encode())
    several, none = sum(entry.faces > 1 for entry in faces), len(entries) - len(faces)
    summary = f"{counted(len(faces), 'image')} with a face, {several:,} of them with several; {none:,} without"
    return "\n".join([*shown(bad), f"{out}: {summary} ({NO_FACE}); {len(bad):,} unreadable ({UNREADABLE})"])


def _row(entry: Found, values: Sequence[float], digits: int, *more: str) -> str:
    key = '"{}"'.format(key_of(entry.name).replace('"', '""'))
    return ",".join([key, *(f"{value:.{digits}f}" for value in values), *more])


if __name__ == "__main__":
    run_plainly("tools/detect_faces.py", main)
