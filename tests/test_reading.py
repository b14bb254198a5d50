"""Files that aren't files, or aren't text: no reader waits for one, or takes it for something else."""

import codecs
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fr.data import storage
from fr.data.formats import READERS
from fr.data.landmark_csv import LANDMARK_COLUMNS
from fr.data.pairs.lfw import read_lfw
from fr.data.readers.source import Source
from fr.data.readers.vgg import label_order
from fr.errors import InputError
from fr.evaluation.scored_model import open_model
from fr.files import foreign_pickle
from fr.files.data_root import DataRoot
from fr.files.untrusted import open_file, open_regular, read_text, read_whole
from fr.options.config_files import read_config_file
from fr.options.definitions import evaluation_options
from fr.weights.initial_weights import read_identities
from tests.bounds import bounded
from tests.builders.training_formats import META, POINTS, Data, data, write_table

__all__ = ["data"]  # a fixture


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def terminal(path: Path) -> None:
    """A terminal, which waits for its user."""
    _, slave = os.openpty()
    path.symlink_to(os.ttyname(slave))


KINDS: dict[Callable[[Path], None], str] = {
    pipe: "not a regular file",
    a_socket: "No such device or address",
    terminal: "not a regular file",
}


@pytest.mark.parametrize("make", KINDS)
def test_what_is_no_regular_file_is_an_error_at_once(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "it")
    with bounded(), pytest.raises(OSError, match=KINDS[make]) as caught:
        open_regular(tmp_path / "it")
    assert caught.value.strerror == KINDS[make]
    with bounded(), pytest.raises(InputError) as refused:
        read_text(tmp_path / "it")
    assert refused.value.problems == (f"{tmp_path}/it: can't be read: {KINDS[make]}",)


def test_what_is_refused_is_closed(tmp_path: Path) -> None:
    pipe(tmp_path / "it")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, tmp_path / "it"):
        for _ in range(5):
            with pytest.raises(OSError):
                open_regular(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_is_one_and_dev_null_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    assert read_text("/dev/null") == ""


def test_no_more_is_read_than_allowed_and_all_of_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it").write_bytes(bytes(range(200)))
    assert read_whole(tmp_path / "it", 200) == bytes(range(200))
    with pytest.raises(OSError, match="200 bytes, more than 199"):
        read_whole(tmp_path / "it", 199)
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 70)))  # as file servers may
    assert read_whole(tmp_path / "it", 200) == bytes(range(200))
    with open_file(tmp_path / "it") as file:
        assert file.read() == bytes(range(200))


def test_a_file_of_terabytes_takes_no_memory(data: Data) -> None:
    """It has holes, and says that it is an image, or a shard or records with one of that size."""
    data.photographs("a/2.jpg")
    os.truncate(data.root / "a/2.jpg", 1 << 42)
    faces = data.read("trp", "\n".join(f"a/{number}.jpg 1 {' '.join(map(str, POINTS))}" for number in (1, 2)))
    with bounded(), pytest.raises(OSError, match="4,398,046,511,104 bytes, more than 268,435,455"):
        faces.read(1)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes, more than 268,435,455"):
        storage.read_slice(str(data.root / "a/2.jpg"), 5, 1 << 40, None)
    with pytest.raises(InputError, match=r"2\.jpg: can't be read: Cannot allocate memory"):
        read_text(data.root / "a/2.jpg")


# --- every reader -----------------------------------------------------------------------------------------------------


def with_table(data: Data, table: Path) -> None:
    data.read("list", "a/1.jpg 1\n", str(table))


def pairs(data: Data, path: Path) -> None:
    read_lfw(DataRoot(data.root), str(path), "")


def landmarks(data: Data, path: Path) -> None:
    listed = path.with_name("pairs.txt")
    listed.write_text("1\t1\na\t1\t2\na\t1\tb\t1\n")
    read_lfw(DataRoot(data.root), str(listed), str(path))


def shards(data: Data, path: Path) -> None:
    listed = path.with_name("shards.txt")
    listed.write_text(path.name)
    READERS["tar"](Source(str(path.parent), str(listed), "", "", aligned=True))


def records(name: str) -> Callable[[Data, Path], None]:
    def read(data: Data, path: Path) -> None:
        for other, content in {"property": "1,1,1", "train.rec": "x" * 8, "train.idx": "0\t0\n"}.items():
            (data.root / other).write_text(content)
        (data.root / name).unlink()
        path.rename(data.root / name)
        READERS["rec"](Source(str(data.root), "", "", "", allow_outside=True))

    return read


def scored(path: Path) -> None:
    open_model(evaluation_options(["--snap", str(path)]).values, torch.device("cpu"))


READ: dict[str, Callable[[Data, Path], object]] = {
    **{
        kind: lambda data, path, kind=kind: READERS[kind](Source(str(data.root), str(path), str(data.table), ""))  # type: ignore[misc]
        for kind in ("vgg", "list", "ms1m", "imdbface", "trp")
    },
    "landmark CSV": with_table,
    "meta": lambda _, path: label_order(path),
    "pairs": pairs,
    "landmarks of pairs": landmarks,
    "shard": shards,
    "list of shards": lambda data, path: READERS["tar"](Source(str(data.root), str(path), "", "", aligned=True)),
    "train.idx": records("train.idx"),
    "property": records("property"),
    "config": lambda _, path: read_config_file(str(path)),
    "identities": lambda _, path: read_identities(path),
    "weights": lambda _, path: foreign_pickle.read(path),
    "snapshot or ONNX": lambda _, path: scored(path),
}
TEXTS = [name for name in READ if name not in ("shard", "weights", "snapshot or ONNX")]


@pytest.mark.parametrize("reader", READ)
def test_no_reader_waits_for_a_pipe(reader: str, data: Data, tmp_path: Path) -> None:
    write_table(data.table, {"a/1": 0})
    pipe(tmp_path / "it")
    with bounded(), pytest.raises(InputError, match=r"not a regular file|no such file or folder"):
        READ[reader](data, tmp_path / "it")


def test_no_picture_is_waited_for_either(data: Data) -> None:
    pipe(data.root / "a/2.jpg")
    faces = data.read("trp", "\n".join(f"a/{number}.jpg 1 {' '.join(map(str, POINTS))}" for number in (1, 2)))
    with bounded(), pytest.raises(OSError, match="not a regular file"):
        faces.read(1)


# --- text -------------------------------------------------------------------------------------------------------------

HEADER = ",".join(["NAME_ID", *LANDMARK_COLUMNS])
ROW = ",".join(['"a/1"', *map(str, POINTS)])
GOOD = {
    "vgg": ("a/1.jpg", "a/2.jpg"),
    "landmark CSV": (HEADER, ROW),
    "meta": tuple(META.strip().split("\n")[:2]),
    "list of shards": ("1.tar", "2.tar"),
    "train.idx": ("0\t0", "1\t4"),
    "property": ("1,1,1", ""),
    "config": ("lr: 1", "m: 0.5"),
}
CODED = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "big-endian UTF-16": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("reader", TEXTS)
def test_utf16_is_called_by_its_name_in_every_text(reader: str, coding: str, data: Data, tmp_path: Path) -> None:
    write_table(data.table, {"a/1": 0})
    (tmp_path / "it").write_bytes(CODED[coding]("\n".join(GOOD.get(reader, ("a b", "c d")))))
    with pytest.raises(InputError, match=r"(it|train\.idx|property)(:1)?: .*UTF-16.*; save it as UTF-8"):
        READ[reader](data, tmp_path / "it")


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc3", b"\0"], ids=["byte", "surrogate", "half", "NUL"])
@pytest.mark.parametrize("reader", TEXTS)
def test_what_is_not_text_is_refused_by_its_line(reader: str, bad: bytes, data: Data, tmp_path: Path) -> None:
    write_table(data.table, {"a/1": 0})
    first, second = GOOD.get(reader, ("a b", "c d"))
    for end in (b"\n", b"\r\n"):
        (tmp_path / "it").write_bytes(codecs.BOM_UTF8 + first.encode() + end + bad + second.encode())
        with pytest.raises(InputError, match=r"(it|train\.idx|property):2: (not UTF-8 text|a NUL byte)"):
            READ[reader](data, tmp_path / "it")
