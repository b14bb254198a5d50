"""A verification set in which some people of the training set are planted, under other names and in other images."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fr.data.faces import LabelledFaces

FOLDS = 10


@dataclass(frozen=True)
class Planted:
    """identities: name of the person in the set → identity of the training set. options: of both, for a command."""

    identities: dict[str, str]
    options: list[str]


def plant(
    faces: LabelledFaces, lfw: Path, out: Path, pairs: int, planted: int, identities: int, images: int
) -> Planted:
    """Write a copy of the set `lfw` of so many pairs of a kind in each fold, with `planted` pairs of a kind more.

    faces: the training set, of which `identities` with so many images each are listed. Of every second person who is
    planted the two images themselves aren't in the list. A same pair is of two images of one such person, a different
    pair of one and somebody of the set.
    """
    draw = np.random.default_rng(0)
    names, base = faces.names.to_pylist(), lfw / "lfw"
    chosen = draw.permutation(identities)[: FOLDS * planted].tolist()
    of_label = {label: np.flatnonzero(faces.labels == label)[: images + 2] for label in range(identities)}
    held_out = chosen[1::2]
    listed = [rows[2:] if label in held_out else rows[:images] for label, rows in of_label.items()]
    (out / "train_list.txt").parent.mkdir(parents=True, exist_ok=True)
    (out / "train_list.txt").write_text("".join(f"{names[row]}\n" for row in np.concatenate(listed).tolist()))

    lines, landmarks = (lfw / "pairs.txt").read_text().splitlines(), (lfw / "lfw_landmark.txt").read_text()
    stored = int(lines[0].split()[1])
    kept: list[str] = []
    marks: list[str] = []
    who: dict[str, str] = {}
    for fold in range(FOLDS):
        of_fold = lines[1 + 2 * stored * fold :]
        same, different = of_fold[:pairs], of_fold[stored : stored + pairs]
        for number in range(fold * planted, (fold + 1) * planted):
            name, label = f"Planted_{number:03}", chosen[number]
            who[name] = faces.identities[label]
            other = different[number % pairs].split("\t")[:2]
            same, different = [*same, f"{name}\t1\t2"], [*different, "\t".join([name, "1", *other])]
            for image, row in enumerate(of_label[label][:2].tolist(), start=1):
                path = out / f"lfw/{name}/{name}_{image:04}.jpg"
                points = changed(faces.path(row), faces.landmarks[row], path, draw)
                marks.append("\t".join([f"{name}/{path.name}", *(f"{value:.2f}" for value in points.ravel())]))
        kept += same + different
    (out / "pairs.txt").write_text("\n".join([f"{FOLDS}\t{pairs + planted}", *kept]) + "\n")
    for fields in (line.split("\t") for line in kept):
        for name in {fields[0], *fields[2:3]} - {*who} if len(fields) == 4 else {fields[0]} - {*who}:
            shutil.copytree(base / name, out / "lfw" / name, dirs_exist_ok=True)
    (out / "lfw_landmark.txt").write_text(landmarks + "\n".join(marks) + "\n")
    data = ["--train_data_root", str(faces.root.path), "--train_list", str(out / "train_list.txt")]
    return Planted(who, [*data, "--val_data_root", str(out)])


def changed(
    source: str, points: NDArray[np.float64], path: Path, draw: np.random.Generator
) -> NDArray[np.float64]:
    """Write the image cropped, smaller, compressed anew and mirrored by chance; return its landmarks [5, 2]."""
    image = cv2.imread(source)
    assert image is not None
    (left, top, right, bottom), scale = draw.integers(10, 45, 4).tolist(), draw.uniform(0.6, 1.1)
    image = image[top:-bottom, left:-right]
    points = points - [left, top]
    if draw.random() < 0.5:
        image = image[:, ::-1]
        points = np.stack([image.shape[1] - 1 - points[:, 0], points[:, 1]], axis=1)[[1, 0, 2, 4, 3]]
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, int(draw.integers(30, 70))])
    placed: NDArray[np.float64] = (points + 0.5) * scale - 0.5
    return placed
