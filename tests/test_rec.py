"""insightface's RecordIO: what the reader makes of it and refuses, and that it trains as the same crops in files do."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def

from fr.data.bad_images import BadImages
from fr.data.formats import read_training_faces
from fr.data.readers import insightface
from fr.data.readers.insightface import read_records
from fr.data.storage import RecordFile
from fr.errors import InputError
from fr.files.data_root import DataRoot
from tests.bounds import bounded
from tests.builders.damaged_images import as_if_listed, assert_equal, batches, encoded, picture, reported
from tests.builders.recordio import (
    MAGIC,
    PEOPLE,
    alone,
    record,
    with_identities,
    write,
)
from tests.builders.training_formats import option_problems
from tests.conftest import Losses, same_weights, weights

# --- a plain writer, after dmlc-core's recordio.cc and MXNet's recordio.py --------------------------------------------


def problems(folder: Path) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read_records(DataRoot(folder))
    return caught.value.problems


# --- what the reader makes of the files -------------------------------------------------------------------------------


def test_pictures_and_classes_by_hand(tmp_path: Path) -> None:
    write(tmp_path, with_identities(PEOPLE, labels=[4, 0, 7]), 8)
    faces = read_records(DataRoot(tmp_path))
    assert faces.names.to_pylist() == ["1", "2", "3", "4", "5", "6"]
    assert faces.identities == ["0", "4", "7"]
    assert faces.labels.tolist() == [1, 1, 0, 2, 2, 2]
    assert faces.landmarks.shape == (6, 0, 2)
    assert [faces.read(row).tobytes() for row in range(6)] == [image for images in PEOPLE for image in images]
    assert faces.path(2) == f"{tmp_path}/train.rec: record 3"
    assert faces.notes == (f"{tmp_path}/property gives 8 classes, but the images are of 3",)


def test_without_a_header_record_every_record_is_a_picture(tmp_path: Path) -> None:
    write(tmp_path, alone(PEOPLE), 3)
    faces = read_records(DataRoot(tmp_path))
    assert faces.names.to_pylist() == ["0", "1", "2", "3", "4", "5"]
    assert faces.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert not faces.notes


def test_the_property_file_of_im2rec_and_of_rec_builder(tmp_path: Path) -> None:
    """MXNet's im2rec writes none and names the files by its prefix; rec_builder.py adds the number of images."""
    write(tmp_path, alone(PEOPLE), 4)
    expected = read_records(DataRoot(tmp_path))
    assert expected.notes == (f"{tmp_path}/property gives 4 classes, but the images are of 3",)
    (tmp_path / "property").write_text("3,112,112\n6\n")
    faces = read_records(DataRoot(tmp_path))
    assert (faces.labels.tolist(), faces.notes) == (expected.labels.tolist(), ())
    (tmp_path / "property").unlink()
    for name in ("train.rec", "train.idx"):
        (tmp_path / name).rename(tmp_path / f"my.faces{Path(name).suffix}")
    options = {"train_dataset": "rec", "train_data_root": str(tmp_path), "data_cache": str(tmp_path / "cache")}
    unsettled = time.time() - 60  # the cache leaves files alone that may still be written
    for path in tmp_path.glob("my.*"):
        os.utime(path, (unsettled, unsettled))
    for faces in (read_records(DataRoot(tmp_path)), read_training_faces(options), read_training_faces(options)):
        assert (faces.labels.tolist(), faces.notes) == (expected.labels.tolist(), ())
        assert [faces.read(row).tobytes() for row in range(6)] == [image for images in PEOPLE for image in images]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    (tmp_path / "another.rec").touch()
    several = "several .rec in it, and none is train.rec: another.rec, my.faces.rec"
    assert problems(tmp_path) == (f"--train_data_root {tmp_path}: {several}",)
    (tmp_path / "train.rec").touch()  # which is read rather than another one
    assert problems(tmp_path) == (f"{tmp_path}/train.idx: can't be read: No such file or directory",)


def test_records_are_those_that_dali_reads(tmp_path: Path) -> None:
    write(tmp_path, alone(PEOPLE), 3)
    faces = read_records(DataRoot(tmp_path))

    @pipeline_def(batch_size=6, num_threads=1, device_id=None)
    def reader() -> Any:
        return (*fn.readers.mxnet(path=[f"{tmp_path}/train.rec"], index_path=[f"{tmp_path}/train.idx"]),)

    images, labels = reader().run()
    assert labels.as_array().ravel().tolist() == faces.labels.tolist()
    assert [np.asarray(images.at(row)).tobytes() for row in range(6)] == [faces.read(row).tobytes() for row in range(6)]


def test_the_classes_are_known_from_two_records_an_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, with_identities([[b"x"] * 50, [b"y"] * 50]), 2)
    pread, calls = os.pread, []

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        calls.append(offset)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    faces = read_records(DataRoot(tmp_path))
    assert faces.labels.tolist() == [0] * 50 + [1] * 50
    assert len(calls) == 1 + 2 + 2  # the header, the identities, an image of each


@pytest.mark.parametrize("kind", ["a gap", "an overlap", "beyond", "not whole", "damaged", "one less", "nobody"])
def test_identity_records_that_do_not_tell_it_exactly_are_not_trusted(kind: str, tmp_path: Path) -> None:
    """Float32 keeps no odd number above 2^24: ranges of the largest sets are rounded. Every record is asked then."""
    records = with_identities(PEOPLE)
    wrong = {"a gap": [2.0, 3.0], "an overlap": [1.0, 4.0], "beyond": [1.0, 30.0], "not whole": [1.0, 2.5]}
    records[7] = {"damaged": b"\0" * 40}.get(kind) or record(wrong.get(kind, [1.0, 3.0]), b"")
    if kind in ("one less", "nobody"):
        records[0] = record([7.0, 9.0 if kind == "one less" else 7.0], b"")
    write(tmp_path, records, 3)
    faces = read_records(DataRoot(tmp_path))
    assert faces.names.to_pylist() == ["1", "2", "3", "4", "5", "6"]
    assert faces.labels.tolist() == [0, 0, 1, 2, 2, 2]
    lost = (f"1 record of {tmp_path}/train.rec whose class can't be read left out: 7",)
    assert faces.notes == (lost if kind == "damaged" else ())


def test_an_index_of_the_first_few_records_is_enough(tmp_path: Path) -> None:
    """The last of them goes on to the end of the file, as far as it knows."""
    write(tmp_path, alone(PEOPLE), 3)
    whole = read_records(DataRoot(tmp_path))
    lines = (tmp_path / "train.idx").read_text().splitlines()
    (tmp_path / "train.idx").write_text("\n".join(lines[:2]))
    os.truncate(tmp_path / "train.rec", 1 << 40)
    found = read_records(DataRoot(tmp_path))
    assert found.names.to_pylist() == ["0", "1"]
    with bounded(megabytes=600):  # what a record may have at most, and its copy
        assert [found.read(row).tobytes() for row in (0, 1)] == [whole.read(row).tobytes() for row in (0, 1)]


def test_a_record_of_labels_alone_takes_no_more_than_its_bytes(tmp_path: Path) -> None:
    """Sixteen million of them, of which two count."""
    write(tmp_path, {0: record([0.0, 1.0], b"picture")}, 1)
    (tmp_path / "train.rec").write_bytes(struct.pack("<4sIIfQQ", MAGIC, 24 + (64 << 20), 16 << 20, 0, 0, 0))
    os.truncate(tmp_path / "train.rec", 32 + (64 << 20))
    with bounded(), pytest.raises(InputError, match="no image can be read"):
        read_records(DataRoot(tmp_path))


def test_moving_the_folder_leaves_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path / "a", with_identities(PEOPLE), 3)
    write(tmp_path / "b/c", with_identities(PEOPLE), 3)
    one, two = (read_records(DataRoot(tmp_path / name)).fingerprint() for name in ("a", "b/c"))
    write(tmp_path / "a", with_identities(PEOPLE, labels=[0, 2, 1]), 3)
    assert one == two != read_records(DataRoot(tmp_path / "a")).fingerprint()


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "magic": lambda data: b"\0" + data[1:],
    "length": lambda data: data[:7] + b"\x01" + data[8:],  # 16 million bytes more
    "flag of the chain": lambda data: data[:7] + bytes([2 << 5]) + data[8:],
    "header": lambda data: data[:8] + b"\xff" * 4 + data[12:],  # four billion labels
    "picture": lambda data: data[:40] + bytes(len(data) - 40),
}


@pytest.fixture(scope="module")
def sixteen() -> list[list[bytes]]:
    """4 people × 4 crops."""
    images = [encoded(picture(number), quality=95) for number in range(16)]
    return [images[first : first + 4] for first in range(0, 16, 4)]


@pytest.mark.parametrize("kind", [*DAMAGE, "cut short"])
@pytest.mark.parametrize("when", ["before", "in mid-run"])
def test_a_corrupt_record_is_replaced_exactly(kind: str, when: str, sixteen: list[list[bytes]], tmp_path: Path) -> None:
    """Known by its place from the identity records, which are read before it is damaged or in spite of it."""
    row = 15 if kind == "cut short" else 4  # the first image of an identity, or the last record of the file
    records = with_identities(sixteen)
    records = {key: records[key] for key in [*range(17, 21), *range(17)]}  # an index may have any order
    write(tmp_path, records, 4)
    faces = read_records(DataRoot(tmp_path))
    expected = batches(as_if_listed(faces, {row: 12 if row == 15 else 5}))
    stored = faces.storage
    assert isinstance(stored, RecordFile)
    first, size = int(stored.offsets[row]), int(stored.sizes[row])
    data = (tmp_path / "train.rec").read_bytes()
    if kind == "cut short":
        os.truncate(tmp_path / "train.rec", first + 100)
    else:
        damaged = DAMAGE[kind](data[first : first + size])
        (tmp_path / "train.rec").write_bytes(data[:first] + damaged + data[first + size :])
    faces = read_records(DataRoot(tmp_path)) if when == "before" else faces
    assert len(faces) == 16
    assert not faces.notes
    bad = BadImages(1)
    assert_equal(batches(faces, bad), expected)
    (problem,) = reported(bad)
    said = "decoded" if kind == "picture" else "read"
    assert problem.startswith(f"{tmp_path}/train.rec: record {row + 1}: can't be {said}: ")


def test_a_corrupt_record_whose_class_nothing_tells_is_left_out_and_said(tmp_path: Path) -> None:
    records = alone(PEOPLE)
    for key, kind in ((1, "magic"), (2, "header"), (3, "length"), (4, "flag of the chain")):
        records[key] = DAMAGE[kind](records[key])
    records[5] = record([float("nan")], b"?")
    write(tmp_path, records, 3)
    faces = read_records(DataRoot(tmp_path))
    assert faces.names.to_pylist() == ["0"]
    assert faces.notes == (
        f"5 records of {tmp_path}/train.rec whose class can't be read left out: 1, 2, 3, …",
        f"{tmp_path}/property gives 3 classes, but the images are of 1",
    )


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.rec", "train.idx"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path, with_identities(PEOPLE), 3)
    (tmp_path / name).unlink()
    (problem,) = problems(tmp_path)
    missing = f"{tmp_path}/train.idx: can't be read: "
    assert problem.startswith(missing if name == "train.idx" else f"--train_data_root {tmp_path}: no .rec in it")
    assert problems(tmp_path / "none") == (f"--train_data_root {tmp_path}/none: no such folder",)


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write(tmp_path, with_identities(PEOPLE), 3)
    rec, index = tmp_path / "train.rec", tmp_path / "train.idx"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines) + "20\t4000000\n21\t-4\n22\t6\n")
    assert problems(tmp_path) == tuple(
        f"{index}: record {key} at {place}, where in the {rec.stat().st_size:,} bytes of {rec} none can begin"
        for key, place in ((20, "4,000,000"), (21, "-4"), (22, "6"))
    )
    index.write_text("".join(lines) + "3\t4\n")
    assert problems(tmp_path) == (f"{index}: the key 3 for the second time",)
    index.write_text("".join(lines) + "30\t0\n")
    assert problems(tmp_path) == (f"{index}: the offset 0 for the second time",)
    index.write_text("".join(lines[:-1]))
    assert problems(tmp_path) == (f"{rec}: its header counts 10 records, and its index 9; do they belong together?",)
    index.write_text("".join(lines).replace("2\t", "12\t", 1))
    assert problems(tmp_path) == (f"{index}: no record 2",)
    index.write_text("\n")
    assert problems(tmp_path) == (f"{index}: the index is empty",)
    for text in ("", "1\n", "1 2\n", "a\t1\n", "1\t\n", "1\t2\t3\n"):
        index.write_text(text)
        assert problems(tmp_path)[0].startswith(f"{index}: isn't lines of `key<tab>offset`: ")


def test_the_class_count_is_checked(tmp_path: Path) -> None:
    write(tmp_path, with_identities(PEOPLE, labels=[0, 3, 1]), 3)
    facts = tmp_path / "property"
    assert problems(tmp_path) == (
        f"{tmp_path}/train.rec: record 3: its class 3 isn't one of the 3 of {facts}",
    )
    for text in ("", "3", "3,112", "three,112,112", "3,112,112\n4,112,112"):
        facts.write_text(text)
        (problem,) = problems(tmp_path)
        assert problem.startswith(f"{facts}: isn't `classes,height,width`")


def test_an_index_of_another_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, alone(PEOPLE), 3)
    (tmp_path / "train.idx").write_text("0\t4\n1\t8\n")
    assert problems(tmp_path) == (
        f"{tmp_path}/train.rec: no image can be read; does {tmp_path}/train.idx belong to it?",
    )


def test_options_that_it_does_not_use_are_refused() -> None:
    for word, value in {"list": "l", "landmarks": "p", "meta": "m"}.items():
        assert option_problems("--train_dataset", "rec", f"--train_{word}", value) == (
            f"command line: --train_{word}: not used by --train_dataset rec",
        )
    assert option_problems("--train_dataset", "rec", "--aligned") == (
        "command line: --aligned: not used by --train_dataset rec",
    )


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crops(sample_data: Path) -> Path:
    """The sample data's images, taken for aligned crops: one folder an identity."""
    return sample_data / "vggface2/train"


def words(dataset: str, root: Path, *more: str) -> list[str]:
    empty = [word for name in ("list", "landmarks") for word in (f"--train_{name}", "")]
    return ["--train_dataset", dataset, "--train_data_root", str(root), *empty, *more]


def test_ten_iterations_lose_what_crops_in_files_lose_and_resume_to_the_last_bit(
    run_small: Callable[..., Losses], crops: Path, tmp_path: Path
) -> None:
    people = [[path.read_bytes() for path in sorted(person.iterdir())] for person in sorted(crops.iterdir())]
    write(tmp_path / "rec", with_identities(people), len(people))
    expected = run_small(*words("folder", crops, "--aligned"), "--max_iterations", "10", out=tmp_path / "files")
    options = words("rec", tmp_path / "rec")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_small(*options, "--max_iterations", "10", out=whole) == expected
    run_small(*options, "--max_iterations", "4", out=parts)
    assert run_small(*options, "--max_iterations", "10", "--snap_to_resume", "auto", out=parts) == expected
    assert same_weights(weights(parts, 10), weights(whole, 10))


# --- anything at all --------------------------------------------------------------------------------------------------


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """train.rec, train.idx and property, some bytes of them changed, cut or put in."""
    label = st.one_of(st.integers(0, 9).map(float), st.floats(width=32))
    people = draw(st.lists(st.lists(st.binary(max_size=9), max_size=3), max_size=3))
    records = draw(st.sampled_from([with_identities, alone]))(people)
    for key in draw(st.lists(st.integers(0, 9), max_size=2)):
        records[key] = record(draw(st.lists(label, min_size=1, max_size=3)), draw(st.binary(max_size=9)))
    lines, place = [], 0
    for key, data in records.items():
        lines.append(f"{key}\t{place}\n")
        place += len(data)
    files = [bytearray(part) for part in (b"".join(records.values()), "".join(lines).encode(), b"4,112,112")]
    for which in draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), max_size=3)):
        start = draw(st.integers(0, len(files[which])))
        files[which][start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(files[0]), bytes(files[1]), bytes(files[2])


@settings(deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
@given(files=st.one_of(damaged_files(), st.tuples(*[st.binary(max_size=60)] * 3)))
def test_any_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, files: tuple[bytes, ...]) -> None:
    """Whatever is read is fit to train on; anything else raises InputError and nothing else."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed_rec"
    folder.mkdir(exist_ok=True)
    for name, content in zip(insightface.FILES, files, strict=True):
        (folder / name).write_bytes(content)
    try:
        faces = read_records(DataRoot(folder))
    except InputError as error:
        assert 1 <= len(error.problems) <= 11
        assert str(folder) in error.problems[0]
        str(error).encode()  # fit to print
        return
    assert len(faces) == len(faces.labels) > 0
    assert set(faces.labels.tolist()) == set(range(len(faces.identities)))
    for row in range(len(faces)):
        try:
            assert len(faces.read(row)) <= len(files[0])
        except OSError as error:
            assert error.strerror
