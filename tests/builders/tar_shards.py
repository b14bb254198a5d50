"""Builders of tar shards that several test files use."""

import io
import tarfile
from pathlib import Path

import numpy as np

from fr.data.faces import LabelledFaces
from fr.data.readers.tar_shards import read_tar
from fr.files.data_root import DataRoot

POINTS = [30.5, 40.25, 70.0, 41.0, 50.0, 60.0, 35.0, 80.0, 65.0, 81.5]
TEN = " ".join(map(str, POINTS)).encode()
Files = dict[str, bytes]


def sample(key: str, identity: str, image: bytes = b"picture", landmarks: bytes = TEN, ending: str = "jpg") -> Files:
    return {f"{key}.cls": identity.encode(), f"{key}.landmarks": landmarks, f"{key}.{ending}": image}


def write_shard(path: Path, files: Files, form: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as shard:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))


def packed(faces: LabelledFaces, folder: Path, shards: int) -> LabelledFaces:
    """The same faces in shards, in the same order."""
    rows = np.array_split(np.arange(len(faces)), shards)
    for number, part in enumerate(rows):
        files: Files = {}
        for row in part.tolist():
            key, identity = faces.names[row].as_py().removesuffix(".jpg"), faces.identities[faces.labels[row]]
            points = " ".join(map(repr, faces.landmarks[row].ravel().tolist()))
            files |= sample(key, identity, faces.read(row).tobytes(), points.encode())
        write_shard(folder / f"{number:04d}.tar", files)
    return read_tar(DataRoot(folder), "", aligned=False)


def put_sum_right(data: bytearray, start: int) -> None:
    """The checksum of a tar header."""
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
