"""Builders of recordio that several test files use."""

import struct
from pathlib import Path

MAGIC = struct.pack("<I", 0xCED7230A)


def record(labels: list[float], content: bytes, key: int = 0) -> bytes:
    """One label goes into the header, several behind it; the whole is cut wherever the magic number is, 4-aligned."""
    head = struct.pack("<IfQQ", *((0, labels[0]) if len(labels) == 1 else (len(labels), 0.0)), key, 0)
    data = head + (struct.pack(f"<{len(labels)}f", *labels) if len(labels) > 1 else b"") + content
    pieces, start = [], 0
    for place in range(0, len(data) // 4 * 4, 4):
        if data[place : place + 4] == MAGIC:
            pieces.append(data[start:place])
            start = place + 4
    pieces.append(data[start:])
    flags = [0] if len(pieces) == 1 else [1] + [2] * (len(pieces) - 2) + [3]
    return b"".join(
        MAGIC + struct.pack("<I", flag << 29 | len(piece)) + piece + bytes(-len(piece) % 4)
        for flag, piece in zip(flags, pieces, strict=True)
    )


def write(folder: Path, records: dict[int, bytes], classes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines, place = [], 0
    for key, data in records.items():
        lines.append(f"{key}\t{place}\n")
        place += len(data)
    (folder / "train.rec").write_bytes(b"".join(records.values()))
    (folder / "train.idx").write_text("".join(lines))
    (folder / "property").write_text(f"{classes},112,112")


def with_identities(people: list[list[bytes]], labels: list[int] | None = None) -> dict[int, bytes]:
    """Records in face2rec2.py's layout: header 0, images from 1 on, then a record an identity."""
    labels = labels or list(range(len(people)))
    pictures: list[bytes] = []
    ranges = []
    for label, images in zip(labels, people, strict=True):
        ranges.append([len(pictures) + 1.0, len(pictures) + 1.0 + len(images)])
        pictures += [record([label, 1.0], image, len(pictures) + 1) for image in images]
    end = len(pictures) + 1
    made = {0: record([end, end + len(people)], b"")} | dict(enumerate(pictures, start=1))
    return made | {end + number: record(bounds, b"", end + number) for number, bounds in enumerate(ranges)}


def alone(people: list[list[bytes]]) -> dict[int, bytes]:
    """No header: every record is an image with one label, from key 0 on."""
    rows = [(float(label), image) for label, images in enumerate(people) for image in images]
    return {key: record([label], image, key) for key, (label, image) in enumerate(rows)}


PEOPLE = [[b"one", b"two" + MAGIC], [b"3 + " + MAGIC + MAGIC + b"three"], [b"four", b"five!", b"6" * 1_000]]
