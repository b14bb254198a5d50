"""Builders of vgg and lfw that several test files use."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from fr.data.faces import VerificationFaces
from fr.data.pairs.lfw import read_lfw
from fr.errors import InputError
from fr.files.data_root import DataRoot

POINTS = [30.5, 40.25, 70.0, 41.0, 50.0, 60.0, 35.0, 80.0, 65.0, 81.5]
LFW_PAIRS = "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\nBob\t1\t2\nBob\t2\tAnn\t2\n"
LFW_ROWS = [f"{name}/{name}_{number:04d}.jpg" for name in ("Bob", "Ann") for number in (2, 1)]


@dataclass
class Lfw:
    """An LFW folder under construction."""

    folder: Path

    def __post_init__(self) -> None:
        self.root, self.pairs, self.landmarks = (self.folder / name for name in ("lfw", "pairs.txt", "points.txt"))
        for name in LFW_ROWS:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()
        self.pairs.write_text(LFW_PAIRS)
        self.landmarks.write_text("".join(self.row(name, shift) for shift, name in enumerate(LFW_ROWS)))

    @staticmethod
    def row(name: str, shift: int) -> str:
        return "\t".join([name, *(f"{value + shift:g}" for value in POINTS)]) + "\n"

    def read(self) -> VerificationFaces:
        return read_lfw(DataRoot(self.root), str(self.pairs), str(self.landmarks))

    def problems(self) -> tuple[str, ...]:
        with pytest.raises(InputError) as caught:
            self.read()
        return caught.value.problems
