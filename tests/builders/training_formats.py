"""Builders of training formats that several test files use."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fr.data.faces import LabelledFaces
from fr.data.formats import READERS
from fr.data.landmark_csv import LANDMARK_COLUMNS
from fr.data.readers.source import Source
from fr.data.readers.vgg import read_vgg
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.options.definitions import train_options

POINTS = [30.5, 40.25, 70.0, 41.0, 50.0, 60.0, 35.0, 80.0, 65.0, 81.5]
TEN = " ".join(map(str, POINTS))
HUNDREDTHS = " ".join(str(value / 100) for value in POINTS)
# A line of each text format for an image and its identity.
LINES: dict[str, Callable[[str, str], str]] = {
    "list": lambda name, identity: f"{name} {identity}",
    "trp": lambda name, identity: f"{name} {identity} {TEN}",
    "ms1m": lambda name, _: f"{name} | {HUNDREDTHS} | 7 9 100 100",
    "imdbface": lambda name, _: f"{name} | {HUNDREDTHS} | 7 9 100 100",
}


class Data:
    """Images (empty files) and a list under construction."""

    def __init__(self, folder: Path) -> None:
        self.root, self.list_file, self.table = folder / "images", folder / "list.txt", folder / "points.csv"
        self.root.mkdir(exist_ok=True)

    def photographs(self, *names: str) -> None:
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()

    def read(self, dataset: str, text: str | bytes = "", landmarks: str = "", meta: str = "") -> LabelledFaces:
        self.list_file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return READERS[dataset](Source(str(self.root), str(self.list_file), landmarks, meta))

    def problems(self, dataset: str, text: str | bytes = "", landmarks: str = "", meta: str = "") -> tuple[str, ...]:
        with pytest.raises(InputError) as caught:
            self.read(dataset, text, landmarks, meta)
        return caught.value.problems


@pytest.fixture
def data(tmp_path: Path) -> Data:
    made = Data(tmp_path)
    made.photographs("a/1.jpg")
    return made


def write_table(path: Path, rows: dict[str, float]) -> None:
    """A landmark CSV with POINTS moved by as much."""
    lines = [",".join(["NAME_ID", *LANDMARK_COLUMNS])]
    lines += [",".join([f'"{name}"', *(str(value + shift) for value in POINTS)]) for name, shift in rows.items()]
    path.write_text("\n".join(lines) + "\n")


META = 'Class_ID, Name, Sample_Num, Flag, Gender\nc, "Cy", 3, 0, m\nb, "Bo,_Jr.", 2, 1, f\na, "Al", 9, 1, u\n'


def option_problems(*words: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        train_options(["--train_data_root", "r", *words])
    return caught.value.problems


def converted(dataset: str, sample: Path, out: Path) -> list[str]:
    """The sample data in another format, and the options that say so."""
    base = sample / "vggface2"
    faces = read_vgg(DataRoot(base / "train"), str(base / "meta/train_list.txt"), str(base / "bb_landmark"))
    names, list_file = faces.names.to_pylist(), out / f"{dataset}.txt"
    rows = []
    for name, label, pixels in zip(names, faces.labels.tolist(), faces.landmarks, strict=True):
        with Image.open(f"{faces.root}/{name}") as image:
            width, height = image.size
        x, y, w, h = (5, 8, width - 20, height) if dataset == "ms1m" else (0, 0, width, height)
        cut = [x, y, min(w, width - x), min(h, height - y)]  # the box of ms1m reaches beyond the image
        fractions = (pixels - cut[:2]) / cut[2:]
        rows.append({
            "list": f"{name} {label + 5}",
            "trp": f"{name} {10 * label} " + " ".join(map(repr, pixels.ravel().tolist())),
        }.get(dataset, f"{name} | {' '.join(map(repr, fractions.ravel().tolist()))} | {x} {y} {w} {h}"))
    list_file.write_text("\n".join(rows))
    table = str(base / "bb_landmark") if dataset in ("list", "folder") else ""
    if dataset == "list":
        table += "/loose_landmark_train.csv"
    listed = [] if dataset == "folder" else ["--train_list", str(list_file)]
    return ["--train_dataset", dataset, "--train_landmarks", table, *(listed or ["--train_list", ""])]
