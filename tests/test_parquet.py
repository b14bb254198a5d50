"""Parquet: what the reader makes of tables as `datasets` writes them, and refuses; training on it."""

import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fr.data import row_groups
from fr.data.order import Balance, Order, Windows
from fr.data.prefetch import files_of, window_warnings
from fr.data.readers.parquet import read_parquet
from fr.data.row_groups import RowGroups
from fr.errors import InputError
from fr.files.data_root import DataRoot
from tests.bounds import bounded
from tests.builders.tar_shards import POINTS
from tests.conftest import Losses

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(
    path: Path, images: list[bytes | None], rows: int = 2, names: list[str] | None = None, **columns: Any
) -> None:
    """The layout of `datasets`: a struct of bytes and path, and of a ClassLabel the names beside the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pa.array([{"bytes": image, "path": f"{i}.jpg"} for i, image in enumerate(images)], IMAGE)
    table = pa.table({"image": values, **columns})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)


def problems(root: Path, aligned: bool = True, list_file: str = "") -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read_parquet(DataRoot(root), list_file, aligned)
    return caught.value.problems


# --- what the reader makes of the files -------------------------------------------------------------------------------


def test_rows_of_two_files_by_hand(tmp_path: Path) -> None:
    names = ["Ann", "Bob", "Cy", "Dee"]
    write(tmp_path / "data/train-1.parquet", [b"d", b"e"], names=names, label=[3, 0])
    write(tmp_path / "data/train-0.parquet", [b"a", b"b", b"c"], names=names, label=[3, 1, 1])
    faces = read_parquet(DataRoot(tmp_path), "", aligned=True)
    assert faces.identities == ["Ann", "Bob", "Dee"]
    assert faces.labels.tolist() == [2, 1, 1, 2, 0]
    assert faces.landmarks.shape == (5, 0, 2)
    assert [faces.read(row).tobytes() for row in (4, 2, 0, 3, 1)] == [b"e", b"c", b"a", b"d", b"b"]
    assert faces.path(3) == f"{tmp_path}/data/train-1.parquet: row 0"
    assert faces.path(2) == f"{tmp_path}/data/train-0.parquet: row 2"
    groups = files_of(faces)  # of two rows each: what --shuffle_window counts
    assert groups is not None
    assert groups.tolist() == [0, 0, 1, 2, 2]
    part = faces.take(np.array([4, 0]))
    assert [part.read(row).tobytes() for row in range(2)] == [b"e", b"a"]
    (tmp_path / "list.txt").write_text("data/train-1.parquet\n")
    assert read_parquet(DataRoot(tmp_path), str(tmp_path / "list.txt"), aligned=True).identities == ["Ann", "Dee"]


@pytest.mark.parametrize(
    ("column", "values", "identities", "labels"),
    [
        ("label", [10, 9, 10], ["9", "10"], [1, 0, 1]),
        ("identity", ["n10", "n9", "n10"], ["n10", "n9"], [0, 1, 0]),
        ("labels", ["10", "9", "10"], ["9", "10"], [1, 0, 1]),
        ("cls", pa.array([7, 7, 8], pa.uint16()), ["7", "8"], [0, 0, 1]),
    ],
)
def test_labels_without_names_ascend(
    tmp_path: Path, column: str, values: Any, identities: list[str], labels: list[int]
) -> None:
    write(tmp_path / "a.parquet", [b"a", b"b", b"c"], **{column: values, "other": [1, 2, 3]})
    faces = read_parquet(DataRoot(tmp_path), "", aligned=True)
    assert (faces.identities, faces.labels.tolist()) == (identities, labels)


def test_landmarks_and_plain_bytes(tmp_path: Path) -> None:
    moved = [value + 1 for value in POINTS]
    nested = pa.array([np.reshape(POINTS, (5, 2)).tolist(), np.reshape(moved, (5, 2)).tolist()])
    for points in (pa.array([POINTS, moved]), nested):
        table = pa.table({"jpg": pa.array([b"a", b"b"]), "label": [0, 1], "landmarks": points})
        pq.write_table(table, tmp_path / "a.parquet", compression="NONE")
        faces = read_parquet(DataRoot(tmp_path), "", aligned=False)
        assert faces.landmarks.reshape(2, 10).tolist() == [POINTS, moved]
        assert [faces.read(row).tobytes() for row in (1, 0)] == [b"b", b"a"]
    assert problems(tmp_path)[0].startswith("--aligned: the shards of ")


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_with_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert problems(tmp_path) == (f"--train_data_root {tmp_path}: no *.parquet in it or below",)
    write(path, [b"a", b"b"], label=[0, 1])
    (problem,) = problems(tmp_path, aligned=False)
    assert "no landmarks in the shards; give --aligned" in problem and "add a column `landmarks`" in problem
    write(path, [b"a", b"b"], label=[0, None])
    assert problems(tmp_path) == (f"{path}: row 1: no label",)
    write(path, [b"a", b"b"], names=["Ann"], label=[0, 1])
    assert problems(tmp_path) == (f"{path}: row 1: label 1, and there are 1 class names",)
    write(path, [b"a", b"b"], label=[0.5, 1.5])
    assert problems(tmp_path) == (f"{path}: column label: double, and neither whole numbers nor text",)
    write(path, [b"a", b"b"], person=[0, 1])
    assert problems(tmp_path) == (
        f"{path}: no column label or labels or identity or cls; it has image, person",
    )
    write(path, [b"a", b"b"], label=[0, 1], landmarks=[POINTS, POINTS[:9]])
    assert problems(tmp_path) == (f"{path}: row 1: landmarks that aren't ten numbers, x1 y1 … x5 y5",)
    write(path, [b"a", b"b", None], label=[0, 1, 1])
    remedy = "put the files into the table (datasets: save with embed_external_files=True)"
    assert problems(tmp_path) == (f"{path}: rows 2–2: 1 without image.bytes; {remedy}, or leave the rows out",)
    pq.write_table(pa.table({"label": [0, 1]}), path)
    assert problems(tmp_path) == (f"{path}: no column of images as bytes; it has label",)
    both = {name: pa.array([b"a"]) for name in ("photo", "mask")}
    pq.write_table(pa.table({**both, "label": [0]}), path)
    assert problems(tmp_path) == (
        f"{path}: several columns of bytes, photo, mask: which has the images? Name it image",
    )
    write(path, [b"a", b"b"], names=["Ann", "Bob"], label=[0, 1])
    write(tmp_path / "b.parquet", [b"a", b"b"], names=["Bob", "Ann"], label=[0, 1])
    assert problems(tmp_path) == (f"{tmp_path}/b.parquet: the names of its classes aren't those of {path}",)
    path.write_bytes(path.read_bytes()[:-20])
    assert problems(tmp_path)[0].startswith(f"{path}: not a Parquet file that can be read: ")


def test_a_row_group_too_large_to_decode_for_one_image_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fr.data.readers.parquet.MOST_OF_A_GROUP", 14_000)
    write(tmp_path / "a.parquet", [bytes(4_000), np.random.default_rng(0).bytes(16_000)], rows=1, label=[0, 1])
    (problem,) = problems(tmp_path)
    assert problem.startswith(f"{tmp_path}/a.parquet: row group 1: 16,")
    assert problem.endswith("more than 14,000; write it with smaller row groups (pyarrow: row_group_size=100)")


def test_one_image_in_many_rows_is_decoded_within_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The footer counts an image of a column with a dictionary once."""
    monkeypatch.setattr(row_groups, "MOST_OF_A_GROUP", 1 << 20)
    path = tmp_path / "a.parquet"
    write(path, [bytes(100_000)] * 1_000, rows=1_000, label=[i % 2 for i in range(1_000)])
    assert path.stat().st_size < 200_000
    faces = read_parquet(DataRoot(tmp_path), "", aligned=True)
    with pytest.raises(OSError, match="row group 0: more than 1,048,576 bytes of images"):
        faces.read(0)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (7, "the names of its classes aren't a list of texts"),
        (["x", ""], "the names of its classes aren't a list of texts"),
        (["x", "x"], "two of its classes have the same name"),
    ],
)
def test_class_names_that_name_nobody_are_refused(names: Any, said: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [b"a", b"b"], names=names, label=[0, 1])
    assert problems(tmp_path) == (f"{tmp_path}/a.parquet: column label: {said}",)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array([b"a"]), pa.array([0]), pa.array([1])], names=["image", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert problems(tmp_path) == (f"{tmp_path}/a.parquet: two of its columns have one name: image, label, label",)


def test_a_file_replaced_by_a_shorter_one_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [b"a", b"b", b"c"], rows=3, label=[0, 1, 1])
    faces = read_parquet(DataRoot(tmp_path), "", aligned=True)
    write(tmp_path / "a.parquet", [b"d"], rows=3, label=[0])
    with pytest.raises(OSError, match="row group 0 has 1 row now"):
        faces.read(2)


def test_an_image_that_is_damaged_or_gone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, [bytes(100_000)] * 4, rows=2, label=[0, 1, 0, 1])
    faces = read_parquet(DataRoot(tmp_path), "", aligned=True)
    with path.open("r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 20)
    with pytest.raises(OSError, match="row group 0: "):
        faces.read(0)
    assert faces.read(3).tobytes() == bytes(100_000)
    path.unlink()
    row_groups.GROUPS._kept.clear()
    with pytest.raises(FileNotFoundError):
        faces.read(3)


# --- groups kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row groups in the order in which they are decoded."""
    groups: list[int] = []
    decode = row_groups._decoded

    def counted(path: str, group: int, *rest: Any) -> pa.Array:
        groups.append(group)
        return decode(path, group, *rest)

    monkeypatch.setattr(row_groups, "_decoded", counted)
    return groups


def test_a_group_is_decoded_once_and_those_longest_unused_are_dropped(tmp_path: Path, decoded: list[int]) -> None:
    write(tmp_path / "a.parquet", [bytes([i]) * 1_000 for i in range(8)], rows=2, label=[0] * 8)
    groups = RowGroups(most=5_000)  # two groups of 2,000 bytes and their offsets

    def first(group: int) -> bytes:
        value: bytes = groups.column((f"{tmp_path}/a.parquet", group, "image.bytes", None))[0].as_py()
        return value

    assert [first(group)[0] for group in (0, 1, 0, 2, 0, 1, 3)] == [0, 2, 0, 4, 0, 2, 6]
    assert decoded == [0, 1, 2, 1, 3]
    together = threading.Barrier(8)
    found: list[bytes] = []

    def ask() -> None:
        together.wait()
        found.append(first(2))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [bytes([4]) * 1_000] * 8
    assert decoded == [0, 1, 2, 1, 3, 2]


def test_windows_too_large_to_stay_decoded_are_told_with_the_largest_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    """Reading an epoch decodes each group once with the size that is said, and some again with one more."""
    random, rows = np.random.default_rng(0), 8
    write(tmp_path / "a.parquet", [random.bytes(10_000) for _ in range(12 * rows)], rows, label=[0] * 12 * rows)
    faces = read_parquet(DataRoot(tmp_path), "", aligned=True)
    files = files_of(faces)
    assert files is not None
    monkeypatch.setattr(row_groups, "KEPT", 400_000)  # five groups of 80 kB

    def told(window: int) -> list[str]:
        order = Order(len(faces), rows, 1, windows=Windows(files, window) if window else None)
        monkeypatch.setattr("fr.data.storage.GROUPS", RowGroups(row_groups.KEPT))
        decoded.clear()
        for iteration in range(order.iterations_per_epoch):
            for row in order.share(iteration, 0, 1).indices.tolist():
                faces.read(row)
        return window_warnings(faces, order)

    for window in (0, 12, 99, 5):
        (line,) = told(window)
        assert line.startswith(f"--shuffle_window {window}: " if window else "no --shuffle_window: ")
        assert line.endswith("again and again. Give --shuffle_window 4 or less")
        assert len(decoded) > 12
    assert told(4) == [] and len(decoded) == 12
    balanced = Order(len(faces), rows, 1, balance=Balance(np.arange(len(faces)), 1))
    assert window_warnings(faces, balanced)[0].endswith("or less, without --weighted and --images_per_identity")
    monkeypatch.setattr(row_groups, "KEPT", 12 * 81_000)
    assert told(0) == []


# --- damage, training -------------------------------------------------------------------------------------------------


def test_changed_bytes_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, [b"x" * 50, b"y" * 300] * 8, names=["Ann", "Bob"], label=[0, 1] * 8)
    data, random = path.read_bytes(), np.random.default_rng(3)
    refused = 0
    with bounded():
        for number in range(200):
            path.unlink()
            path = tmp_path / f"{number}.parquet"  # a process knows a file by its name
            changed = bytearray(data)
            for place in random.integers(0, len(data), random.integers(1, 4)).tolist():
                changed[place] = random.integers(256)
            path.write_bytes(changed)
            try:
                faces = read_parquet(DataRoot(tmp_path), "", aligned=True)
                for row in range(len(faces)):
                    faces.read(row)
            except (InputError, OSError):
                refused += 1
    assert refused > 10


def test_ten_iterations_lose_what_crops_in_files_lose(
    run_small: Callable[..., Losses], sample_data: Path, tmp_path: Path
) -> None:
    folder = sample_data / "vggface2/train"
    people = sorted(folder.iterdir())
    files = [(path, label) for label, person in enumerate(people) for path in sorted(person.iterdir())]
    labels, names = [label for _, label in files], [person.name for person in people]
    write(tmp_path / "a.parquet", [path.read_bytes() for path, _ in files], rows=5, names=names, label=labels)
    rest = ["--aligned", "--train_list", "", "--train_landmarks", "", "--max_iterations", "10"]
    in_files = ["--train_dataset", "folder", "--train_data_root", str(folder), *rest]
    in_table = ["--train_dataset", "parquet", "--train_data_root", str(tmp_path), *rest]
    assert run_small(*in_table, out=tmp_path / "table") == run_small(*in_files, out=tmp_path / "files")


def test_bytes_that_are_no_table_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array([b"a"]), "label": [0]}), buffer)
    for content in (b"", b"PAR1", buffer.getvalue()[:-8] + b"\xff" * 4 + b"PAR1"):
        (tmp_path / "a.parquet").write_bytes(content)
        assert problems(tmp_path)[0].startswith(f"{tmp_path}/a.parquet: not a Parquet file that can be read: ")


def test_so_many_groups_are_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = row_groups.KEPT // row_groups.MOST_OF_A_GROUP
    busy, most, enough = [0], [0], threading.Event()

    def decoded(_path: str, group: int, *_rest: Any) -> pa.Array:
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        if busy[0] == limit:
            enough.set()
        assert enough.wait(30)
        busy[0] -= 1
        return pa.array([bytes([group])])

    monkeypatch.setattr(row_groups, "_decoded", decoded)
    groups = RowGroups()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda group: groups.column(("f", group, "c", None))[0].as_py(), range(16)))
    assert found == [bytes([group]) for group in range(16)]
    assert most == [limit]
