"""VGGFace2's `train_list.txt`, landmark table and `identity_meta.csv`, joined by name, never by row number."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fr.data.faces import LabelledFaces, refuse, with_first_image
from fr.data.landmark_csv import given_landmarks
from fr.data.lines import Lines, folder_classes, read_lines
from fr.data.readers.source import Format, Source, text_files
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.untrusted import read_text

META_HEADER = "Class_ID, Name, Sample_Num, Flag, Gender"
_META_ROW = re.compile(
    r'\s*(?P<id>[^\s,"]+)\s*,(?P<name>.*?)(?:,\s*(?:[0-9]+\s*)?)?,\s*(?P<flag>[01])\s*,\s*(?P<gender>[mfu])\s*,?\s*'
)


def read_vgg(root: DataRoot, list_file: str, landmarks: str, meta_file: str = "") -> LabelledFaces:
    """Read VGGFace2's list, `n000002/0001_01.jpg` a line, joined by name with bb_landmark's table.

    landmarks: the bb_landmark folder (the table is chosen by the list's file name, as in face_recognition.pytorch), or
    one CSV; "" for none. Labels number the identities in order of first appearance in the list, or with a meta_file in
    its order (`label_order`). InputError names file and line of invalid content.
    """
    root.check_exists("--train_data_root")
    lines = read_lines(Path(list_file))
    names = _names(lines, root)
    points = given_landmarks(names, landmarks, lines.path, lines.where)
    labels, identities = folder_classes(names)
    if meta_file:
        labels, identities = _by_meta(lines, labels, identities, Path(meta_file))
    return with_first_image(LabelledFaces(root, names, points, labels, identities), "--train_data_root")


def _names(lines: Lines, root: DataRoot) -> pa.StringArray:
    lines.refuse_malformed("<identity>/<file>", pc.invert(pc.match_substring(lines.texts, "/")))
    return lines.paths(lines.texts, root)


def _by_meta(
    lines: Lines, labels: NDArray[np.int64], identities: list[str], path: Path
) -> tuple[NDArray[np.int64], list[str]]:
    """Labels and identities of the list, renumbered in the order of the meta file."""
    order = {name: place for place, name in enumerate(label_order(path))}
    first = np.unique(labels, return_index=True)[1].tolist()
    refuse([
        f"{lines.where(row)}: the identity {name} isn't in {path}"
        for row, name in zip(first, identities, strict=True)
        if name not in order
    ])
    ordered = sorted(identities, key=order.__getitem__)
    rank = {name: label for label, name in enumerate(ordered)}
    return np.array([rank[name] for name in identities], dtype=np.int64)[labels], ordered


def label_order(path: Path) -> list[str]:
    """identity_meta.csv → Class_IDs as VGGFace2-pytorch labels them: Flag 1 (train) in file order, then Flag 0 (test).

    InputError names file and line.
    """
    rows = _meta_rows(path)
    return sorted(rows, key=lambda name: rows[name]["flag"], reverse=True)  # stable, also with reverse


def person_names(path: Path) -> dict[str, str]:
    """identity_meta.csv → name of each Class_ID, such as `14th_Dalai_Lama`. InputError names file and line."""
    return {identity: row["name"].replace('"', "").strip() for identity, row in _meta_rows(path).items()}


def genders(path: Path) -> dict[str, str]:
    """identity_meta.csv → m or f, by Class_ID and by name; unknown ones are absent. InputError as `person_names`."""
    known = {identity: row["gender"] for identity, row in _meta_rows(path).items() if row["gender"] != "u"}
    return known | {name: known[identity] for identity, name in person_names(path).items() if identity in known}


def _meta_rows(path: Path) -> dict[str, re.Match[str]]:
    """Class_ID → its row.

    Rows are `n000001, "14th_Dalai_Lama", 424, 0, m`. A name may hold commas, and copies saved by a spreadsheet have
    doubled quotes or lack Sample_Num, so a row is parsed from both ends.
    """
    by_id: dict[str, re.Match[str]] = {}
    problems = []
    rows = read_text(path).splitlines()
    if not rows or [field.strip() for field in rows[0].split(",")] != META_HEADER.split(", "):
        raise InputError(f"{path}:1: expected the header {META_HEADER}")
    for number, row in enumerate(rows[1:], start=2):
        match = _META_ROW.fullmatch(row)
        if not row.strip():
            continue
        if not match:
            problems.append(f"{path}:{number}: isn't {META_HEADER} with a Flag of 0 or 1")
        elif match["id"] in by_id:
            problems.append(f"{path}:{number}: {match['id']} for the second time")
        else:
            by_id[match["id"]] = match
    refuse(problems)
    return by_id


def _read(source: Source) -> LabelledFaces:
    return read_vgg(source.data_root, source.list_file, source.landmarks, source.meta)


FORMATS = {"vgg": Format(_read, text_files)}
