"""Training data in tar shards: what the reader makes of them and refuses, and that they train as files do."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.data.readers.tar_shards import read_tar
from fr.data.storage import TarShards
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.tar_members import CutShort, tar_members
from tests.bounds import bounded
from tests.builders.damaged_images import as_if_listed, assert_equal, batches, encoded, picture, reported
from tests.builders.tar_shards import (
    POINTS,
    TEN,
    Files,
    packed,
    put_sum_right,
    sample,
    write_shard,
)
from tests.conftest import Losses, same_weights, vgg_faces, weights


def read(root: Path, aligned: bool = False, list_file: Path | None = None) -> LabelledFaces:
    return read_tar(DataRoot(root), str(list_file or ""), aligned)


def problems(root: Path, aligned: bool = False, list_file: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read(root, aligned, list_file)
    return caught.value.problems


# --- what the reader makes of shards ----------------------------------------------------------------------------------


def test_shards_by_hand(tmp_path: Path) -> None:
    moved = " ".join(str(value + 1) for value in POINTS).encode()
    write_shard(tmp_path / "b.tar", {"README.md": b"words", **sample("p/3", "12", b"third"), "p/3.json": b"{}"})
    write_shard(tmp_path / "a/1.tar", sample("p q/1", " 7\n", b"first", moved) | sample("p/2", "12", b"", ending="PNG"))
    faces = read(tmp_path)
    assert faces.names.to_pylist() == ["p q/1.jpg", "p/2.PNG", "p/3.jpg"]
    assert faces.identities == ["7", "12"]  # by number
    assert faces.labels.tolist() == [0, 1, 1]
    assert faces.landmarks[1:].tolist() == [np.reshape(POINTS, (5, 2)).tolist()] * 2
    assert (faces.landmarks[0] == faces.landmarks[1] + 1).all()
    assert [faces.read(row).tobytes() for row in range(3)] == [b"first", b"", b"third"]
    assert [faces.path(row) for row in (0, 2)] == [f"{tmp_path}/a/1.tar: p q/1.jpg", f"{tmp_path}/b.tar: p/3.jpg"]
    assert faces.notes == (f"left out of {tmp_path} for their endings: 1 .json, 1 .md",)


def test_numbers_are_other_classes_if_they_are_written_otherwise(tmp_path: Path) -> None:
    files = sample("1", "010") | sample("2", "9") | sample("3", "10") | sample("4", "010")
    write_shard(tmp_path / "a.tar", files)
    faces = read(tmp_path)
    assert faces.identities == ["9", "010", "10"]
    assert faces.labels.tolist() == [1, 0, 2, 1]


def test_classes_that_are_not_all_numbers_are_sorted_as_names(tmp_path: Path) -> None:
    files: Files = {}
    for key, identity in enumerate(["zoë", "12", "7", "zoë"]):
        files |= sample(str(key), identity)
    write_shard(tmp_path / "a.tar", files)
    faces = read(tmp_path)
    assert faces.identities == ["12", "7", "zoë"]
    assert faces.labels.tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_and_name_is_read(tmp_path: Path, form: int) -> None:
    """A key ends at the last dot; where that is no sample but its part up to the first dot is, as webdataset's
    `base_plus_ext` has it, the file is another one of that sample."""
    keys = ["0", "J.R.0001", "a.b/1 2", "é/ü", "d" * 40 + "/" + "e" * 90]
    if form != tarfile.USTAR_FORMAT:
        keys.append("x" * 90 + "/" + "y" * 180)
    files: Files = {}
    for row, key in enumerate(keys):
        files |= sample(key, key, b"%d" % row)
    passed_over = {".jpg": b"", "0/.jpg": b"", "0.seg.jpg": b"", "0.jpg.txt": b"", "no_dot": b"", "._0.jpg": b""}
    write_shard(tmp_path / "a.tar", files | passed_over, form)
    faces = read(tmp_path)
    assert faces.names.to_pylist() == [f"{key}.jpg" for key in keys]
    assert faces.notes == (f"left out of {tmp_path} for their endings: 1 without one, 1 .seg.jpg, 1 .txt",)
    assert [faces.identities[label] for label in faces.labels] == keys
    assert [faces.read(row).tobytes() for row in range(len(keys))] == [b"%d" % row for row in range(len(keys))]


def test_what_gnu_tar_packs_is_read(tmp_path: Path) -> None:
    folder, long = tmp_path / "files", "long" * 40
    for name, content in (sample("n1/a", "n1", b"A") | sample(f"n2/{long}", "n2", b"B")).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for kind in ("gnu", "posix"):
        shard = tmp_path / f"{kind}.tar"
        subprocess.run(["tar", f"--format={kind}", "--sort=name", "-C", folder, "-cf", shard, "."], check=True)
    faces = read(tmp_path)
    assert faces.names.to_pylist() == ["n1/a.jpg", f"n2/{long}.jpg"] * 2
    assert faces.labels.tolist() == [0, 1, 0, 1]
    assert [faces.read(row).tobytes() for row in range(4)] == [b"A", b"B"] * 2


def test_a_list_names_the_shards_and_their_order(tmp_path: Path) -> None:
    for name in "abc":
        write_shard(tmp_path / f"{name}.tar", sample(name, name))
    shards = tmp_path / "shards.txt"
    shards.write_text("c.tar\n\na.tar\n")
    assert read(tmp_path, list_file=shards).names.to_pylist() == ["c.jpg", "a.jpg"]
    shards.write_text("c.tar\na.tar\nc.tar\n")
    assert problems(tmp_path, list_file=shards) == (f"{shards}:3: c.tar for the second time",)
    shards.write_text("../a.tar\n")
    assert "must start from --train_data_root" in problems(tmp_path, list_file=shards)[0]
    shards.write_text("d.tar\n")
    assert problems(tmp_path, list_file=shards) == (f"{tmp_path}/d.tar: can't be read: No such file or directory",)


def test_samples_without_a_picture_are_counted(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", sample("1", "p") | sample("2", "p", ending="gif") | sample("3", "q", ending="tiff"))
    faces = read(tmp_path)
    assert faces.names.to_pylist() == ["1.jpg"]
    assert faces.identities == ["p"]
    assert faces.notes == (
        "2 samples without an image (.jpg, .jpeg, .jpe, .jfif, .png, .webp, .bmp) left out",
        f"left out of {tmp_path} for their endings: 1 .gif, 1 .tiff",
    )


def test_crops_need_no_landmarks_if_they_are_said_to_be_crops(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"1.jpg": b"", "1.cls": b"p"})
    assert read(tmp_path, aligned=True).landmarks.shape == (1, 0, 2)
    (problem,) = problems(tmp_path)
    assert "give --aligned" in problem
    assert "tools/detect_faces.py" in problem
    write_shard(tmp_path / "a.tar", sample("1", "p"))
    assert problems(tmp_path, aligned=True) == (
        f"--aligned: the shards of {tmp_path} have landmarks, which align the images; leave it out",
    )


def test_moving_or_repacking_the_shards_leaves_the_fingerprint(tmp_path: Path) -> None:
    files = [sample(f"p/{number}", f"p{number % 2}", b"%d" % number) for number in range(4)]
    write_shard(tmp_path / "one/all.tar", files[0] | files[1] | files[2] | files[3])
    write_shard(tmp_path / "two/a.tar", files[0] | files[1])
    write_shard(tmp_path / "two/b.tar", files[2] | files[3])
    write_shard(tmp_path / "other/all.tar", files[1] | files[0] | files[2] | files[3])
    one, two, other = (read(tmp_path / name).fingerprint() for name in ("one", "two", "other"))
    assert one == two
    assert one != other


# --- what is refused --------------------------------------------------------------------------------------------------


def test_unfit_members_are_refused_together_by_shard_and_name(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", sample("1", "p") | sample("2", " \n ") | {"3.jpg": b""} | sample("4", "p" * 1_001))
    write_shard(
        tmp_path / "b.tar",
        sample("1", "p", landmarks=TEN + b" 5") | sample("2", "p", landmarks=b"x" + TEN) | sample("3", "a\nb"),
    )
    with tarfile.open(tmp_path / "b.tar", "a") as shard:
        shard.addfile(tarfile.TarInfo("3.cls"))
        shard.addfile(tarfile.TarInfo("1.png"))
        for kind, name in ((tarfile.SYMTYPE, "5.jpg"), (tarfile.LNKTYPE, "6.cls"), (tarfile.CHRTYPE, "7.landmarks")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "1.jpg"
            shard.addfile(link)
    a, b = f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"
    special = "a link or another special file; with --dereference and --hard-dereference tar puts the file itself there"
    assert problems(tmp_path) == (
        f"{a}: 2.cls: '' isn't a class",
        f"{a}: 3.jpg: no 3.cls with its class",
        f"{a}: 4.cls: longer than 1,000 bytes",
        f"{b}: 3.cls: a second class of 3",
        f"{b}: 1.png: a second image of 1",
        *(f"{b}: {name}: {special}" for name in ("5.jpg", "6.cls", "7.landmarks")),
        f"{b}: 1.landmarks: '{TEN.decode()} 5' isn't `x1 y1 … x5 y5`",
        f"{b}: 2.landmarks: 'x{TEN.decode()}' isn't `x1 y1 … x5 y5`",
        "… and 1 more like these",
    )


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    """In each of the ways in which GNU tar may write them."""
    for name, content in sample("1", "p").items():
        (tmp_path / name).write_bytes(content)
    os.truncate(tmp_path / "1.jpg", 1_000_000)
    for kind in (["gnu"], ["posix", "--sparse-version=0.0"], ["posix", "--sparse-version=0.1"], ["posix"]):
        command = ["tar", "--sparse", "-C", str(tmp_path), "-cf", str(tmp_path / "a.tar"), *kind[1:]]
        subprocess.run([*command, f"--format={kind[0]}", "1.cls", "1.landmarks", "1.jpg"], check=True)
        assert f"{tmp_path}/a.tar: 1.jpg: a link or another special file" in problems(tmp_path)[0]


def test_landmarks_in_some_samples_alone_or_of_no_use_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", sample("1", "p") | {"2.jpg": b"", "2.cls": b"p"})
    assert problems(tmp_path) == (f"{tmp_path}/a.tar: 2.jpg: no landmarks, and other samples have them",)
    nowhere = b" ".join([b"nan"] * 10)
    write_shard(tmp_path / "a.tar", sample("1", "p") | sample("2", "p", landmarks=nowhere))
    assert problems(tmp_path) == (f"{tmp_path}/a.tar: 2.jpg: not finite, or a million pixels away",)
    write_shard(tmp_path / "a.tar", sample("1", "p", landmarks=b"5 " * 10))
    assert problems(tmp_path) == (f"{tmp_path}/a.tar: 1.jpg: all five on one spot",)


def test_names_and_classes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"\udcff.jpg": b"", "1.jpg": b"", "1.cls": b"\xff"}, tarfile.GNU_FORMAT)
    assert problems(tmp_path) == (
        f"{tmp_path}/a.tar: '\\udcff.jpg': the name isn't UTF-8",
        f"{tmp_path}/a.tar: 1.cls: not UTF-8 text",
    )
    (tmp_path / "a.tar").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.tar"))
    assert problems(tmp_path) == (f"'{tmp_path}/\\udcff.tar': the name isn't UTF-8",)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 200, b"\x1f\x8b" + bytes(600), bytes(200)])
def test_what_is_no_tar_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    (problem,) = problems(tmp_path)
    assert problem.startswith(f"{tmp_path}/a.tar: not an uncompressed tar file: ")


def test_a_root_without_shards_or_samples_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path) == (f"--train_data_root {tmp_path}: no *.tar in it or below",)
    write_shard(tmp_path / "a.tar", {"words.txt": b"?"})
    assert problems(tmp_path) == (f"--train_data_root {tmp_path}: no sample in 1 shard",)
    assert problems(tmp_path / "none") == (f"--train_data_root {tmp_path}/none: no such folder",)
    (tmp_path / "b.tar").mkdir()
    shards = tmp_path / "shards.txt"
    shards.write_text("b.tar")
    assert problems(tmp_path, list_file=shards) == (f"{tmp_path}/b.tar: can't be read: Is a directory",)


# --- cut short --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("cls", "landmarks", "jpg"), ("jpg", "cls", "landmarks")])
def test_a_shard_cut_anywhere_gives_its_whole_samples_and_says_so(tmp_path: Path, order: tuple[str, ...]) -> None:
    files: Files = {}
    for number in range(4):
        made = sample(f"p/{number}", f"p{number % 2}", bytes([65 + number]) * 700)
        files |= {f"p/{number}.{ending}": made[f"p/{number}.{ending}"] for ending in order}
    whole = tmp_path / "whole/a.tar"
    write_shard(whole, files)
    expected, data = read(whole.parent), whole.read_bytes()
    assert isinstance(expected.storage, TarShards)
    ends = (expected.storage.offsets + expected.storage.sizes).tolist()
    cut = tmp_path / "cut/a.tar"
    cut.parent.mkdir()
    complete = (len(data.rstrip(b"\0")) + 511) // 512 * 512 + 512  # with one block of the end mark
    for size in range(0, complete + 200, 100):
        cut.write_bytes(data[:size])
        try:
            faces = read(cut.parent)
        except InputError:
            assert size < 3_500  # bytes of the first sample
            continue
        count = len(faces)
        assert faces.names == expected.names[:count]
        assert (faces.landmarks == expected.landmarks[:count]).all()
        assert [faces.identities[label] for label in faces.labels] == [f"p{n % 2}" for n in range(count)]
        whole_pictures = sum(end <= size for end in ends)
        # The sample that is cut: with all but its image it is a bad image, else it is as if it weren't there.
        assert count in (whole_pictures, whole_pictures + 1) if order[-1] == "jpg" else count in range(5)
        for row in range(count):
            if ends[row] <= size:
                assert faces.read(row).tobytes() == expected.read(row).tobytes()
            else:
                with pytest.raises(OSError, match="cut short"):
                    faces.read(row)
        note = f"{cut} is cut short or damaged: {count} samples in it are used, what follows isn't"
        assert faces.notes == (() if size >= complete else (note,))
    assert count == 4


def test_a_damaged_header_ends_the_shard_there(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, sample("1", "p") | sample("2", "q"))
    data = bytearray(path.read_bytes())
    data[data.index(b"2.cls")] ^= 1
    path.write_bytes(data)
    faces = read(tmp_path)
    assert faces.names.to_pylist() == ["1.jpg"]
    assert faces.notes == (f"{path} is cut short or damaged: 1 samples in it are used, what follows isn't",)


@pytest.mark.parametrize("size", [8 << 40, 1 << 62, 1 << 70])
def test_a_member_that_says_terabytes_is_cut_like_any_other_and_takes_no_memory(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, sample("1", "p") | {"2.cls": b"q", "2.landmarks": TEN})
    member = tarfile.TarInfo("2.jpg")
    member.size = size
    path.write_bytes(path.read_bytes()[: 5 * 1_024] + member.tobuf(tarfile.GNU_FORMAT) + b"picture")
    with bounded():
        faces = read(tmp_path)
        assert faces.read(0).tobytes() == b"picture"
        assert "cut short or damaged" in faces.notes[0]
        if len(faces) == 2:
            with pytest.raises(OSError, match=r"bytes, more than|cut short"):
                faces.read(1)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_without_end_is_damage_and_not_read(tmp_path: Path, kind: bytes) -> None:
    """tarfile would take it into memory at once; the file has holes, and so is no larger on the disk."""
    path = tmp_path / "a.tar"
    write_shard(path, sample("1", "p"))
    endless = tarfile.TarInfo("2.jpg")
    endless.type, endless.size = kind, 4 << 30
    path.write_bytes(path.read_bytes()[: 3 * 1_024] + endless.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 5 << 30)
    with bounded():
        faces = read(tmp_path)
    assert faces.names.to_pylist() == ["1.jpg"]
    assert "cut short or damaged" in faces.notes[0]


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 11 + b"\0", b"-0000000777\0"])
def test_a_negative_size_is_no_circle(tmp_path: Path, size: bytes) -> None:
    """CVE-2025-8194: some versions of tarfile walk back, and on for ever."""
    path = tmp_path / "a.tar"
    write_shard(path, sample("1", "p") | {"2.cls": b"q"})
    data = bytearray(path.read_bytes())
    start = data.index(b"2.cls")
    data[start + 124 : start + 136] = size
    put_sum_right(data, start)
    path.write_bytes(data)
    faces = read(tmp_path)
    assert faces.names.to_pylist() == ["1.jpg"]
    assert "is cut short or damaged: 1 samples" in faces.notes[0]


# --- damage and training ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> LabelledFaces:
    """4 people × 4 images in 3 shards."""
    folder = tmp_path_factory.mktemp("sixteen")
    files = {f"p{number // 4}/{number}": encoded(picture(number), quality=95) for number in range(16)}
    for part in range(3):
        chosen = list(files.items())[part * 6 : part * 6 + 6]
        shard: Files = {}
        for number, (key, image) in enumerate(chosen):
            points = np.reshape(POINTS, (5, 2)) / 2 + part + number / 10
            shard |= sample(key, key.split("/")[0], image, " ".join(map(repr, points.ravel().tolist())).encode())
        write_shard(folder / f"{part}.tar", shard)
    return read(folder)


def copied(faces: LabelledFaces, folder: Path) -> LabelledFaces:
    for path in faces.root.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return replace(faces, root=DataRoot(folder))


def test_a_shard_that_is_cut_is_replaced_from_exactly(sixteen: LabelledFaces, tmp_path: Path) -> None:
    expected = batches(as_if_listed(sixteen, {11: 8}))
    faces = copied(sixteen, tmp_path)
    assert isinstance(faces.storage, TarShards)
    os.truncate(tmp_path / "1.tar", int(faces.storage.offsets[11]) + 100)
    found = read(tmp_path)
    assert len(found) == 16
    assert found.notes[0].startswith(f"{tmp_path}/1.tar is cut short or damaged: 6 samples")
    bad = BadImages(1)
    assert_equal(batches(found, bad), expected)
    (problem,) = reported(bad)
    assert problem.startswith(f"{tmp_path}/1.tar: p2/11.jpg: can't be read: cut short, ")


@pytest.mark.parametrize("kind", ["gone", "shorter", "garbage"])
def test_a_shard_that_changes_under_a_run_is_replaced_from_exactly(
    kind: str, sixteen: LabelledFaces, tmp_path: Path
) -> None:
    """Lost are all samples of the last shard, 12 … 15: the whole of p3, for which p0 stands in."""
    expected = batches(as_if_listed(sixteen, {12: 0, 13: 1, 14: 2, 15: 3}))
    faces = copied(sixteen, tmp_path)
    assert isinstance(faces.storage, TarShards)
    first = int(faces.storage.offsets[12])
    if kind == "gone":
        (tmp_path / "2.tar").unlink()
    elif kind == "shorter":
        os.truncate(tmp_path / "2.tar", first)
    else:
        (tmp_path / "2.tar").write_bytes(bytes(1 << 20))
    bad = BadImages(4)
    assert_equal(batches(faces, bad), expected)
    assert [problem.split(": ")[1] for problem in reported(bad)] == [f"p3/{row}.jpg" for row in range(12, 16)]


@pytest.fixture(scope="module")
def sample_shards(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelledFaces:
    faces = vgg_faces(sample_data)
    return packed(faces, tmp_path_factory.mktemp("shards"), 3)


def words(root: Path) -> list[str]:
    return ["--train_dataset", "tar", "--train_data_root", str(root), "--train_list", "", "--train_landmarks", ""]


def test_ten_iterations_lose_what_files_lose_and_resume_from_other_shards_to_the_last_bit(
    run_small: Callable[..., Losses], sample_shards: LabelledFaces, tmp_path: Path
) -> None:
    expected = run_small("--max_iterations", "10", out=tmp_path / "files")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_small(*words(sample_shards.root.path), "--max_iterations", "10", out=whole) == expected
    run_small(*words(sample_shards.root.path), "--max_iterations", "4", out=parts)
    repacked = packed(sample_shards, tmp_path / "elsewhere", 5)
    resumed = [*words(repacked.root.path), "--max_iterations", "10", "--snap_to_resume", "auto"]
    assert run_small(*resumed, out=parts) == expected
    assert same_weights(weights(parts, 10), weights(whole, 10))


def test_a_run_says_what_was_cut_and_goes_on(
    run_small: Callable[..., Losses], sample_shards: LabelledFaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(sample_shards, tmp_path)
    assert isinstance(sample_shards.storage, TarShards)
    os.truncate(tmp_path / "0001.tar", int(sample_shards.storage.offsets[40]) + 50)
    assert len(run_small(*words(tmp_path), "--max_iterations", "10", out=tmp_path / "out")) == 10
    printed = "".join(capsys.readouterr())
    assert f"{tmp_path}/0001.tar is cut short or damaged: 9 samples in it are used" in printed
    name = sample_shards.names[40].as_py()
    assert printed.count(f"{tmp_path}/0001.tar: {name}: can't be read: ") == 1


# --- anything at all --------------------------------------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from(["1.cls", "1.jpg", "1.landmarks", "2.jpg", "2.cls", "./1.png", "a/" * 60 + "1.jpg", "é.cls", "x"]),
    st.text(min_size=1, max_size=12),
)
CONTENTS = st.one_of(st.sampled_from([b"p", b"7", TEN, b"", b"\xff"]), st.binary(max_size=40))
KINDS = st.sampled_from(b"00000000\x001234567xgLKSV")


@st.composite
def shards(draw: st.DrawFn) -> bytes:
    """A tar file of any members, some bytes of it changed, the sums of its headers put right again or not."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=draw(st.sampled_from([0, 1, 2]))) as shard:
        for name, content, kind in draw(st.lists(st.tuples(NAMES, CONTENTS, KINDS), max_size=5)):
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), bytes([kind])
            with suppress(ValueError):  # of a name that this format can't hold
                shard.addfile(member, io.BytesIO(content))
        end = shard.offset + 1_024
    data = bytearray(out.getvalue()[:end])
    changes = st.tuples(st.integers(0, end - 1), st.binary(min_size=1, max_size=3))
    for place, change in draw(st.lists(changes, max_size=3)):
        data[place : place + 1] = change
    if draw(st.booleans()):
        for start in range(0, len(data) - 1_024, 512):
            put_sum_right(data, start)
    return bytes(data[: draw(st.integers(0, end)) if draw(st.booleans()) else None])


FUZZ = settings(deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])


@FUZZ
@given(data=st.one_of(shards(), st.binary(max_size=1_200)), aligned=st.booleans())
def test_any_shard_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, aligned: bool) -> None:
    """Whatever is read is fit to train on; anything else raises InputError and nothing else."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed_tar"
    folder.mkdir(exist_ok=True)
    (folder / "a.tar").write_bytes(data)
    try:
        faces = read(folder, aligned)
    except InputError as error:
        assert 1 <= len(error.problems) <= 11
        assert str(folder) in error.problems[0]
        str(error).encode()  # fit to print
        return
    assert len(faces) == len(faces.labels) == len(faces.landmarks) > 0
    assert set(faces.labels.tolist()) == set(range(len(faces.identities)))
    assert np.isfinite(faces.landmarks).all()
    for row in range(len(faces)):
        try:
            assert faces.read(row).tobytes() in data
        except OSError:
            assert faces.notes


@FUZZ
@given(data=shards())
def test_members_are_those_of_the_standard_library(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Our short cut through plain headers finds all that tarfile does; and more if a field is damaged that we pass."""
    path = tmp_path_factory.getbasetemp() / "members.tar"
    path.write_bytes(data)

    def fields(member: tarfile.TarInfo) -> tuple[object, ...]:
        return member.name, member.size, member.offset_data, member.type, member.issparse(), member.isreg()

    found, expected = [], []
    with path.open("rb") as file:
        try:
            for member in tar_members(file, str(path)):
                found.append(fields(member))
        except (CutShort, InputError):
            pass
    end = -1
    try:
        with tarfile.open(path, "r:") as reference:
            while (one := reference.next()) and 0 <= one.size <= sys.maxsize and reference.offset > end:
                end = reference.offset
                expected.append(fields(one))
    except Exception:
        pass  # whatever it is, it ends there
    assert found[: len(expected)] == expected
