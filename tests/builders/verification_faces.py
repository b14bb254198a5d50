"""Builders of verification faces that several test files use."""

from pathlib import Path

from fr.data.faces import VerificationFaces
from fr.data.pairs.lfw import read_lfw
from fr.files.data_root import DataRoot


def faces_of(data: Path) -> VerificationFaces:
    return read_lfw(DataRoot(Path(f"{data}/lfw/lfw")), f"{data}/lfw/pairs.txt", f"{data}/lfw/lfw_landmark.txt")
