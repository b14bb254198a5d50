"""LMDB: what the reader makes of files that LMDB and msgpack wrote, and refuses; training on it."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fr.data.readers.lmdb import read_lmdb
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.lmdb_file import Damaged, entries
from tests.bounds import bounded
from tests.conftest import Losses

lmdb = pytest.importorskip("lmdb", reason="lmdb writes the files to read; bash init_venv.sh --with dev installs it")
msgpack = pytest.importorskip("msgpack", reason="msgpack writes the values; bash init_venv.sh --with dev installs it")


def write(path: Path, entries: dict[bytes, bytes], subdir: bool = False) -> None:
    with lmdb.open(str(path), subdir=subdir, map_size=1 << 28) as environment, environment.begin(write=True) as changes:
        for key, value in entries.items():
            changes.put(key, value)


def published(images: list[bytes], labels: list[int], **settings: Any) -> dict[bytes, bytes]:
    """The layout of imagelist2lmdb.py."""
    pairs = zip(images, labels, strict=True)
    values = {f"{i}".encode(): msgpack.dumps(pair, **settings) for i, pair in enumerate(pairs)}
    facts = {"__keys__": list(values), "__len__": len(images), "__classnum__": max(labels) + 1}
    return values | {key.encode(): msgpack.dumps(value) for key, value in facts.items()}


def problems(folder: Path) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read_lmdb(DataRoot(folder))
    return caught.value.problems


def images(count: int) -> list[bytes]:
    """Some within a page of the tree, most in pages of their own."""
    random = np.random.default_rng(0)
    return [random.bytes(size) for size in random.integers(10, 20_000, count).tolist()]


# --- the file, against LMDB itself ------------------------------------------------------------------------------------


def places(path: Path) -> Iterator[tuple[bytes, bytes]]:
    with path.open("rb") as file:
        for key, offset, size in entries(file.fileno()):
            yield key, os.pread(file.fileno(), size, offset)


@pytest.mark.parametrize("count", [0, 1, 100, 3_000])
def test_entries_are_those_that_lmdb_reads(tmp_path: Path, count: int) -> None:
    """3,000 keys take a tree of three levels; deleted and rewritten ones leave free pages amid the others."""
    random = np.random.default_rng(1)
    path = tmp_path / "a.lmdb"
    write(path, {random.bytes(30): random.bytes(size) for size in random.integers(0, 9_000, count).tolist()})
    with lmdb.open(str(path), subdir=False, map_size=1 << 28) as environment:
        with environment.begin(write=True) as changes:
            for key in [key for key, _ in changes.cursor()][::3]:
                changes.delete(key)
            for key in [key for key, _ in changes.cursor()][::5]:
                changes.put(key, random.bytes(5_000))
        with environment.begin() as reading:
            expected = list(reading.cursor())
            depth = reading.stat()["depth"]
    assert list(places(path)) == expected
    assert depth == {0: 0, 1: 0, 100: 2, 3_000: 3}[count]


def test_named_databases_and_a_foreign_version_are_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "a"), subdir=False, max_dbs=2) as environment:
        environment.open_db(b"inner")
    with pytest.raises(Damaged, match="'inner' isn't a value but a database"):
        list(places(tmp_path / "a"))
    data = bytearray((tmp_path / "a").read_bytes())
    data[20:24] = struct.pack("<I", 2)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(Damaged, match="data version 2, where LMDB"):
        list(places(tmp_path / "a"))


# --- the images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["file", "folder", "data.mdb"])
def test_images_and_labels_by_hand(tmp_path: Path, form: str) -> None:
    pictures = images(12)  # the keys sort as 0, 1, 10, 11, 2, … in the file
    labels = [5, 5, 300, 0, 70_000, 0, 0, 5, 5, 5, 300, 0]
    path = {"file": tmp_path / "x.lmdb", "folder": tmp_path / "x.lmdb", "data.mdb": tmp_path}[form]
    write(path, published(pictures, labels), subdir=form != "file")
    faces = read_lmdb(DataRoot(tmp_path))
    assert faces.names.to_pylist() == [f"{i}" for i in range(12)]
    assert faces.identities == ["0", "5", "300", "70000"]
    assert faces.labels.tolist() == [1, 1, 2, 0, 3, 0, 0, 1, 1, 1, 2, 0]
    assert faces.landmarks.shape == (12, 0, 2)
    assert [faces.read(row).tobytes() for row in (11, *range(11))] == [pictures[11], *pictures[:11]]
    name = {"file": "x.lmdb", "folder": "x.lmdb/data.mdb", "data.mdb": "data.mdb"}[form]
    assert faces.path(3) == f"{tmp_path}/{name}: 3"
    assert faces.notes == (f"{tmp_path}/{name} gives 70,001 classes, but the images are of 4",)


def test_vec2faces_features_are_passed_over_and_old_msgpack_is_read(tmp_path: Path) -> None:
    pictures, feature = images(4), bytes(2_176)
    write(tmp_path / "a.lmdb", published(pictures, [0, 1, 0, 1], use_bin_type=False))
    expected = read_lmdb(DataRoot(tmp_path))
    with_features = {f"{i}".encode(): msgpack.dumps((image, feature, i % 2)) for i, image in enumerate(pictures)}
    (tmp_path / "new").mkdir()
    write(tmp_path / "new/a.lmdb", with_features)
    faces = read_lmdb(DataRoot(tmp_path / "new"))
    assert faces.labels.tolist() == expected.labels.tolist() == [0, 1, 0, 1]
    assert [faces.read(row).tobytes() for row in range(4)] == pictures
    assert [expected.read(row).tobytes() for row in range(4)] == pictures


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_with_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "a.lmdb"
    assert problems(tmp_path) == (f"--train_data_root {tmp_path}: no data.mdb or *.lmdb in it",)
    write(path, published([b"one", b"two", b"three"], [0, 1, 1]) | {b"1": msgpack.dumps({"label": 1})})
    form = "keys 0, 1, … with msgpack's [image, label] or [image, feature, label]"
    assert problems(tmp_path) == (f"{path}: key 1: not {form}",)
    write(path, {b"1": msgpack.dumps((b"two", 7))})
    assert problems(tmp_path) == (f"{path}: key 1: its label 7 isn't one of the 2 of __classnum__",)
    write(path, {b"1": msgpack.dumps((b"two", 1)), b"3": msgpack.dumps((b"four", 1))})
    assert problems(tmp_path) == (f"{path}: 4 images, but __len__ is 3; write or copy it again",)
    write(path, {b"image-000000001": b"png"})
    assert problems(tmp_path) == (f"{path}: key b'image-000000001': not one of {form}",)
    path.with_name("b.lmdb").touch()
    assert problems(tmp_path) == (f"--train_data_root {tmp_path}: several *.lmdb: a.lmdb, b.lmdb; give each a folder",)


def test_files_that_are_cut_or_foreign_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.lmdb"
    write(path, published(images(50), [0, 1] * 25))
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment:
        whole = (environment.info()["last_pgno"] + 1) * 4_096
    os.truncate(path, whole - 4_096)
    assert problems(tmp_path) == (f"{path}: cut short, it should have {whole:,} bytes; copy it again",)
    path.write_bytes(b"\xff\xd8" * 9_000)
    assert problems(tmp_path) == (f"{path}: not an LMDB file",)


def test_branches_in_a_circle_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    """A root with many nodes, each of which is the root again."""
    path = tmp_path / "a.lmdb"
    write(path, published(images(3_000), [0, 1] * 1_500))
    content = bytearray(path.read_bytes())
    page_size = struct.unpack_from("<I", content, 40)[0]
    meta = max((0, page_size), key=lambda at: struct.unpack_from("<Q", content, at + 144)[0])
    root = struct.unpack_from("<Q", content, meta + 128)[0]
    begin = root * page_size
    lower = struct.unpack_from("<H", content, begin + 12)[0]
    places = struct.unpack_from(f"<{(lower - 16) // 2}H", content, begin + 16)
    for place in places:
        struct.pack_into("<HHH", content, begin + place, root & 0xFFFF, root >> 16 & 0xFFFF, 0)
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(Damaged, match="more pages in its branches than in the file"):
        list(entries(file.fileno()))


def test_an_image_that_is_lost_during_a_run_is_an_error_and_no_signal(tmp_path: Path) -> None:
    path = tmp_path / "a.lmdb"
    write(path, published(images(50), [0, 1] * 25))
    faces = read_lmdb(DataRoot(tmp_path))
    os.truncate(path, 8_192)
    with pytest.raises(OSError, match="cut short"):
        faces.read(40)


def test_changed_bytes_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.lmdb"
    write(path, published([b"x" * 50, b"y" * 3_000] * 40, [0, 1] * 40))
    data, random = path.read_bytes(), np.random.default_rng(2)
    refused = 0
    with bounded():
        for _ in range(300):
            changed = bytearray(data)
            for place in random.integers(0, 5 * 4_096, random.integers(1, 4)).tolist():
                changed[place] = random.integers(256)
            path.write_bytes(changed)
            try:
                faces = read_lmdb(DataRoot(tmp_path))
            except InputError:
                refused += 1
            else:
                assert len(faces) == 80
    assert refused > 10


# --- training ---------------------------------------------------------------------------------------------------------


def test_ten_iterations_lose_what_crops_in_files_lose(
    run_small: Callable[..., Losses], sample_data: Path, tmp_path: Path
) -> None:
    folder = sample_data / "vggface2/train"
    people = sorted(folder.iterdir())
    files = [(path.read_bytes(), label) for label, person in enumerate(people) for path in sorted(person.iterdir())]
    write(tmp_path / "a.lmdb", published([image for image, _ in files], [label for _, label in files]))
    rest = ["--train_list", "", "--train_landmarks", "", "--max_iterations", "10"]
    in_files = ["--train_dataset", "folder", "--train_data_root", str(folder), "--aligned", *rest]
    in_lmdb = ["--train_dataset", "lmdb", "--train_data_root", str(tmp_path), *rest]
    assert run_small(*in_lmdb, out=tmp_path / "lmdb") == run_small(*in_files, out=tmp_path / "files")
