"""VGGFace2's `train_list.txt` and landmark table, joined by name, never by row number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fr.data.annotations import (
    LabelledFaces,
    check_first_photograph,
    check_landmarks,
    existing_folder,
    read_text,
    refuse,
)
from fr.data.landmark_csv import landmark_table, read_landmark_csv
from fr.errors import InputError


def read_vgg(root: str, list_file: str, landmarks: str) -> LabelledFaces:
    """VGGFace2: `n000002/0001_01.jpg` a line, joined with bb_landmark's table by name.

    landmarks: the bb_landmark folder (the table is chosen by the list's file name, as in
    face_recognition.pytorch), or one CSV. InputError names file and line of what doesn't fit.
    """
    list_path, folder = Path(list_file), existing_folder("--train_data_root", root)
    names = _read_list(list_path)
    table_path = landmark_table(Path(landmarks), list_path)
    keys, points = read_landmark_csv(table_path)
    wanted = pc.replace_substring_regex(names, r"\.[^./]*$", "")
    rows = pc.index_in(wanted, value_set=keys)
    if rows.null_count:
        lines = np.flatnonzero(rows.is_null().to_numpy(zero_copy_only=False))
        lines_of_list = _line_numbers(list_path)
        refuse([f"{list_path}:{lines_of_list[i]}: {names[i]} has no row in {table_path}" for i in lines.tolist()])
    order = rows.to_numpy(zero_copy_only=False)
    chosen = points[order]
    check_landmarks(chosen, lambda i: f"{table_path}: the row of {names[i]}")
    coded = pc.replace_substring_regex(names, r"/[^/]*$", "").dictionary_encode()
    labels = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    faces = LabelledFaces(folder, names, chosen, labels, coded.dictionary.to_pylist())
    check_first_photograph(faces, "--train_data_root")
    return faces


def _read_list(path: Path) -> pa.StringArray:
    lines = [line.strip() for line in read_text(path).splitlines()]
    problems = [
        f"{path}:{number}: {line!r} isn't <identity>/<file>"
        for number, line in enumerate(lines, start=1)
        if line and ("/" not in line or line.startswith("/") or ".." in line.split("/") or "\0" in line)
    ]
    refuse(problems)
    names = [line for line in lines if line]
    if not names:
        raise InputError(f"{path}: the list is empty")
    return pa.array(names, type=pa.string())


def _line_numbers(path: Path) -> list[int]:
    """Line numbers of the list's entries, blank lines skipped as `_read_list` does."""
    return [number for number, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]
