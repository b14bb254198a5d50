#!/usr/bin/env python3
"""Check a data set: unreadable images, bad landmarks, duplicates, identities that are in the verification set.

    python tools/check_dataset.py runs/check @configs/mobilenet_arcface.yml --train_meta identity_meta.csv
    python tools/check_dataset.py runs/check --train_dataset folder --train_data_root photographs --aligned

Arguments after OUT are train.py's data options; --val_data_root, --val_list and --val_landmarks define the verification
set. OUT gets

    findings.csv         path, identity, kind, detail, other path
    index.html           the same with images, in one file
    cleaned_<list>.txt   the list without images that have findings of the kinds of --drop, for --train_list
    facts/               cached measurements of each image: a later run measures only new images

Of duplicates within one identity the first is kept; of duplicates across identities none, since some of their labels
are wrong. An identity is dropped with all its images. Identities are compared with the verification set by name: their
own, or that in --train_meta. The list has the format that was read, `list` for folders; for shards no list is written.
Exit status: 0 if nothing is dropped, 1 if something is, 2 for invalid input.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/check_dataset.py", "tools.options.check_dataset:options")

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.console import counted
from fr.data.faces import LabelledFaces
from fr.data.formats import read_training_faces
from fr.data.lines import folder_classes, read_lines
from fr.data.pairs.lfw import read_lfw
from fr.data.readers.lists import has_face
from fr.data.readers.vgg import person_names
from fr.errors import run_plainly
from fr.files.data_root import DataRoot
from fr.files.durable import csv_file, write_result
from fr.options.commands import next_command
from tools.dataset.checks import Findings, check, same_names
from tools.dataset.findings_page import findings_page
from tools.dataset.image_facts import gather
from tools.make_list import refuse_unlistable
from tools.options.check_dataset import KINDS, Limits
from tools.options.check_dataset import options as read_options


def main(argv: list[str]) -> int:
    arguments, resolved = read_options(argv)
    options = resolved.values
    faces = read_training_faces(vars(options))
    lines = list_lines(options, faces)
    people = _people(options, faces)
    facts = gather(faces, arguments.out / "facts", arguments.workers)
    limits = Limits(arguments.drop, arguments.min_images, arguments.min_face, arguments.landmark_misfit, arguments.near)
    findings = check(faces, facts, limits, people, arguments.workers)
    about = {
        "Data": f"{options.train_dataset}, {options.train_data_root} {options.train_list}",
        "Images": f"{counted(len(faces), 'image')} of {counted(len(faces.identities), 'identity')}; "
        f"{counted(findings.stays.sum(), 'image')} stay",
    } | ({"Left out by the reader": "; ".join(faces.notes)} if faces.notes else {})
    files = {
        "findings.csv": _table(faces, findings),
        "index.html": findings_page(faces, facts, findings, arguments.drop, about, arguments.thumbnails),
    }
    cleaned = cleaned_list(options, lines, findings.stays) if lines is not None else {}
    files |= cleaned
    for name, content in files.items():
        write_result(arguments.out / name, content)
    wrote = ", ".join(str(arguments.out / name) for name in files)
    notes = [*resolved.notes, *faces.notes]
    print("\n".join([*notes, *_summary(findings, arguments.drop), about["Images"], f"wrote {wrote}"]))
    if cleaned and options.train_dataset in ("vgg", "folder", "list"):
        (name,) = cleaned
        places = [options.train_data_root, str(arguments.out / "lists"), "--list", str(arguments.out / name)]
        places += ["--landmarks", options.train_landmarks] if options.train_landmarks else []
        print(next_command("tools/make_list.py", *places, "--people", "0.2"))
    return 0 if findings.stays.all() else 1


def list_lines(options: argparse.Namespace, faces: LabelledFaces) -> list[str] | None:
    """Line of each image [N] in a list for train.py; None if the format has no list."""
    if faces.storage is not None:
        return None
    if options.train_dataset == "folder":
        names = faces.names.to_pylist()
        refuse_unlistable(names, "list")
        return [f"{name}\t{faces.identities[label]}" for name, label in zip(names, faces.labels.tolist(), strict=True)]
    texts = read_lines(Path(options.train_list)).texts
    if options.train_dataset in ("ms1m", "imdbface"):  # their other lines are images without a face
        texts = texts.filter(has_face(texts))
    lines: list[str] = texts.to_pylist()
    return lines


def cleaned_list(options: argparse.Namespace, lines: list[str], stays: NDArray[np.bool_]) -> dict[str, bytes]:
    """Name and content of the list of those lines [N] for which `stays` [N] is True."""
    # In a folder of landmark files, the file is chosen by the name of the list, or of the root.
    name = f"cleaned_{Path(options.train_list or options.train_data_root).absolute().stem}.txt"
    return {name: "".join(f"{lines[row]}\n" for row in np.flatnonzero(stays).tolist()).encode()}


def _people(options: argparse.Namespace, faces: LabelledFaces) -> dict[int, str] | None:
    """Label → person of the verification set with the identity's name; None without a verification set."""
    if not options.val_list:
        return None
    names = person_names(Path(options.train_meta)) if options.train_meta else {}
    root = DataRoot(Path(options.val_data_root), options.allow_outside)
    lfw = read_lfw(root, options.val_list, options.val_landmarks)
    _, people = folder_classes(lfw.names)
    return same_names([names.get(identity, identity) for identity in faces.identities], people)


def _table(faces: LabelledFaces, findings: Findings) -> bytes:
    rows = [["path", "identity", "kind", "detail", "other"]]
    for finding in findings.found:
        path, other = ("" if row is None else faces.names[row].as_py() for row in (finding.row, finding.other))
        rows.append([path, faces.identities[finding.label], finding.kind, finding.detail, other])
    return csv_file(rows)


def _summary(findings: Findings, drop: list[str]) -> list[str]:
    counts = Counter(finding.kind for finding in findings.found)
    lines = [f"{kind:22}{counts[kind]:9,}{'' if kind in drop else '   (kept)'}" for kind in KINDS if counts[kind]]
    return lines + [f"{kind:22}not checked: {reason}" for kind, reason in findings.unchecked.items()]


if __name__ == "__main__":
    run_plainly("tools/check_dataset.py", main)
