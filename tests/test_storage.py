"""Encoded images that aren't a file each: their bytes, their names, and what becomes of a file that changes."""

import os
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from fr.data import storage
from fr.data.faces import Faces
from fr.data.storage import Pack, RecordFile, TarShards, read_slice
from fr.files.data_root import DataRoot
from fr.files.record_io import Damaged, unpack
from tests.conftest import ROOT

BYTES = np.random.default_rng(0).integers(0, 256, 1_000, dtype=np.uint8).tobytes()


def slices(shards: list[str], rows: list[tuple[int, int, int]]) -> TarShards:
    shard, offsets, sizes = np.array(rows).T
    return TarShards(shards, shard.astype(np.int32), offsets, sizes)


def test_slices_of_shards_are_the_bytes_at_their_places(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.tar", "deep/b.tar"):
        (tmp_path / name).write_bytes(name.encode() + BYTES)
    stored = slices(["a.tar", "deep/b.tar"], [(1, 110, 100), (0, 5, 1_000), (1, 10, 0)])
    faces = Faces(DataRoot(tmp_path), pa.array(["p/1.jpg", "p/2.jpg", "é 3.jpg"]), np.zeros((3, 0, 2)), storage=stored)
    assert [faces.read(index).tobytes() for index in range(3)] == [BYTES[100:200], BYTES, b""]
    assert faces.path(0) == f"{tmp_path}/deep/b.tar: p/1.jpg"
    assert faces.path(1) == f"{tmp_path}/a.tar: p/2.jpg"


def test_faces_without_a_storage_are_a_file_each(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(BYTES)
    faces = Faces(DataRoot(tmp_path), pa.array(["a.jpg"]), np.zeros((1, 0, 2)))
    assert faces.read(0).tobytes() == BYTES
    assert faces.path(0) == f"{tmp_path}/a.jpg"


def test_a_shard_that_shrinks_or_goes_away_is_an_error_with_words(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(BYTES)
    stored = slices(["a.tar", "none.tar"], [(0, 900, 100), (1, 0, 1)])
    assert stored.read(DataRoot(tmp_path), 0).tobytes() == BYTES[900:]
    os.truncate(tmp_path / "a.tar", 930)
    with pytest.raises(OSError, match="cut short, 70 bytes are missing") as caught:
        stored.read(DataRoot(tmp_path), 0)
    assert caught.value.strerror == "cut short, 70 bytes are missing"
    with pytest.raises(FileNotFoundError):
        stored.read(DataRoot(tmp_path), 1)


def test_a_share_that_comes_back_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"old")
    assert read_slice(str(path), 0, 3, None) == b"old"
    path.unlink()
    path.write_bytes(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", stale)
        with pytest.raises(OSError, match="Stale file handle"):
            read_slice(str(path), 0, 3, None)
    assert read_slice(str(path), 0, 3, None) == b"new"


def stale(*_: object) -> bytes:
    raise OSError(116, "Stale file handle")


def test_few_of_many_files_stay_open(tmp_path: Path) -> None:
    for number in range(storage._KEPT_OPEN + 40):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
    before = len(os.listdir("/proc/self/fd"))
    for number in [*range(storage._KEPT_OPEN + 40), 0]:
        assert read_slice(f"{tmp_path}/{number}", 0, len(str(number)), None) == b"%d" % number
    assert len(os.listdir("/proc/self/fd")) <= before + storage._KEPT_OPEN
    storage._opened().cache_clear()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("kind", ["files", "shards", "records", "pack"])
def test_many_threads_read_what_one_reads(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than stay open, so that threads close what others have just found open."""
    few = lru_cache(maxsize=2)(storage._Opened)
    monkeypatch.setattr(storage, "_opened", lambda: few)
    monkeypatch.setattr(os, "pread", slow_pread)
    contents = [b"%d " % number * 50 for number in range(40)]
    faces = stored_as(kind, tmp_path, contents)

    def read(seed: int) -> bool:
        order = np.random.default_rng(seed).integers(0, len(contents), 200).tolist()
        return all(faces.read(index).tobytes() == contents[index] for index in order)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(16)))


pread = os.pread


def slow_pread(descriptor: int, size: int, offset: int) -> bytes:
    time.sleep(1e-5)  # lets another thread in
    return pread(descriptor, size, offset)


def stored_as(kind: str, folder: Path, contents: list[bytes]) -> Faces:
    names, points = pa.array([str(number) for number in range(len(contents))]), np.zeros((len(contents), 0, 2))
    sizes: NDArray[np.int64] = np.array([len(content) for content in contents])
    if kind == "records":
        records = [part(0, header([0.0]) + content) for content in contents]
        (folder / "train.rec").write_bytes(b"".join(records))
        sizes = np.array([len(record) for record in records])
        return Faces(DataRoot(folder), names, points, storage=RecordFile("train.rec", np.cumsum(sizes) - sizes, sizes))
    if kind == "pack":
        return Faces(DataRoot(folder), names, points, storage=Pack("", contents))
    for number, content in enumerate(contents):
        (folder / str(number)).write_bytes(content)
    whole = TarShards(names.to_pylist(), np.arange(len(contents), dtype=np.int32), np.zeros_like(sizes), sizes)
    return Faces(DataRoot(folder), names, points, storage=whole if kind == "shards" else None)
def test_fewer_files_stay_open_where_the_system_allows_fewer(tmp_path: Path) -> None:
    for number in range(64):
        (tmp_path / str(number)).write_bytes(b"x")
    code = (
        "import os, resource, sys; from fr.data.storage import read_slice\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); before = len(os.listdir('/proc/self/fd'))\n"
        "for number in range(64): read_slice(f'{sys.argv[1]}/{number}', 0, 1, None)\n"
        "assert len(os.listdir('/proc/self/fd')) - before == 10"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


# --- RecordIO ---------------------------------------------------------------------------------------------------------


def part(flag: int, content: bytes) -> bytes:
    return struct.pack("<II", 0xCED7230A, flag << 29 | len(content)) + content + bytes(-len(content) % 4)


def header(labels: list[float], key: int = 7) -> bytes:
    """MXNet's IRHeader: one label inside it, or several behind it."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], key, 0)
    return struct.pack("<IfQQ", len(labels), 0, key, 0) + struct.pack(f"<{len(labels)}f", *labels)


MAGIC = struct.pack("<I", 0xCED7230A)


@pytest.mark.parametrize(
    ("data", "labels", "content"),
    [
        (part(0, header([3.0]) + b"picture"), [3], b"picture"),
        (part(0, header([3.0, 1.0]) + b"picture") + b"the next record", [3, 1], b"picture"),
        (part(0, header([3.0])), [3], b""),
        # The content was cut where it held the magic number, which isn't written twice.
        (part(1, header([3.0]) + b"1234") + part(3, b"tail"), [3], b"1234" + MAGIC + b"tail"),
        (part(1, header([3.0])) + part(2, b"5678") + part(3, b"t"), [3], MAGIC + b"5678" + MAGIC + b"t"),
        (part(1, header([3.0])) + part(2, b"") + part(3, b""), [3], MAGIC + MAGIC),
    ],
)
def test_records_by_hand(data: bytes, labels: list[float], content: bytes) -> None:
    found, picture = unpack(data)
    assert found.labels.tolist() == labels
    assert found.flag == (len(labels) if len(labels) > 1 else 0)
    assert picture == content


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cut short"),
        (part(0, header([3.0]) + b"picture!")[:-1], "longer than its place in the file"),
        (b"\0" + part(0, header([3.0])), "no magic number where it begins"),
        (part(0, b"short"), "too short for its header"),
        (part(0, struct.pack("<IfQQ", 1_000_000, 0, 0, 0)), "too short for 1,000,000 labels"),
        (part(2, b"5678") + part(3, b"tail"), "it begins in the middle"),
        (part(3, b"tail"), "it begins in the middle"),
        (part(1, header([3.0])) + part(0, header([4.0])), "another one begins inside it"),
        (part(1, header([3.0])) + part(5, b""), "another one begins inside it"),
        (part(1, header([3.0])), "cut short"),
        (part(1, header([3.0])) + b"garbage!", "no magic number where it begins"),
    ],
)
def test_a_damaged_record_is_told_from_a_whole_one(data: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=f"the record is damaged: {problem}"):
        unpack(data)
    (tmp_path / "train.rec").write_bytes(BYTES + data)
    stored = RecordFile("train.rec", np.array([1_000]), np.array([len(data)]))
    with pytest.raises(OSError, match=f"the record is damaged: {problem}") as caught:
        stored.read(DataRoot(tmp_path), 0)
    assert caught.value.strerror


def test_a_record_is_read_without_its_header_and_named_by_its_key(tmp_path: Path) -> None:
    records = [part(0, header([float(key)]) + bytes([key]) * key) for key in range(5)]
    (tmp_path / "train.rec").write_bytes(b"".join(records))
    sizes: NDArray[np.int64] = np.array([len(record) for record in records])
    stored = RecordFile("train.rec", np.cumsum(sizes) - sizes, sizes)
    faces = Faces(DataRoot(tmp_path), pa.array([str(key) for key in range(5)]), np.zeros((5, 0, 2)), storage=stored)
    assert [faces.read(index).tobytes() for index in range(5)] == [bytes([key]) * key for key in range(5)]
    assert faces.path(3) == f"{tmp_path}/train.rec: record 3"
