"""Builders of tar shards that several test files use."""

import io
import tarfile
from pathlib import Path

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


def put_sum_right(data: bytearray, start: int) -> None:
    """The checksum of a tar header."""
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
