"""Images without identities, for feature extraction.

| format | content |
|---|---|
| photos | all images in the tree of a folder, or those of a list with a path a line |
| trp_test | `path x1 y1 … x5 y5` a line, in pixels: the test list of Trillion Pairs |
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fr.data.faces import LabelledFaces, check_landmarks, with_first_image
from fr.data.landmark_csv import given_landmarks
from fr.data.lines import read_lines
from fr.data.readers.folders import images_below, others_note
from fr.data.readers.source import Format, text_files
from fr.errors import InputError
from fr.files.data_root import DataRoot


def read_images(root: DataRoot, list_file: str, landmarks: str) -> LabelledFaces:
    """All images in the tree of `root`, in the order of their names; or those of a list, a path a line, in its order.

    landmarks: as in `read_vgg`, with the table chosen by the name of the list, or else of the root; "" for aligned
    crops. InputError names images that can't be read, have no landmarks, or lead out of the root.
    """
    root.check_exists("--train_data_root")
    where: Callable[[int], str]
    notes: tuple[str, ...] = ()
    if list_file:
        lines = read_lines(Path(list_file))
        names, source, where = lines.paths(lines.texts, root), lines.path, lines.where
    else:
        others: Counter[str] = Counter()
        names = pa.array(images_below(root, others), type=pa.string())
        notes = others_note(root.path, others)
        source, where = root.path, lambda _: f"--train_data_root {root}"
    if not len(names):
        raise InputError(f"--train_data_root {root}: no image in it")
    return _unlabelled(root, names, given_landmarks(names, landmarks, source, where), notes)


def read_trillion_pairs_test(root: DataRoot, list_file: str) -> LabelledFaces:
    """Read `path x1 y1 … x5 y5` a line, in pixels. InputError names file and line of invalid content."""
    root.check_exists("--train_data_root")
    lines = read_lines(Path(list_file))
    parts = pc.ascii_split_whitespace(lines.texts, max_splits=10, reverse=True)
    path = lines.columns(parts, 11, "`path x1 y1 … x5 y5`")[0]
    points = lines.points(pc.list_flatten(pc.list_slice(parts, 1, 11)))
    check_landmarks(points, lines.where)
    return _unlabelled(root, lines.paths(path, root), points)


def _unlabelled(
    root: DataRoot, names: pa.StringArray, points: NDArray[np.float64], notes: tuple[str, ...] = ()
) -> LabelledFaces:
    faces = LabelledFaces(root, names, points, np.zeros(len(names), dtype=np.int64), [""], notes=notes)
    return with_first_image(faces, "--train_data_root")


FORMATS = {
    "photos": Format(lambda source: read_images(source.data_root, source.list_file, source.landmarks), None),
    "trp_test": Format(lambda source: read_trillion_pairs_test(source.data_root, source.list_file), text_files),
}
