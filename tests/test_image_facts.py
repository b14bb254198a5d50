"""Facts of each image: against training's own pipeline, and kept from run to run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fr.data.faces import Faces
from fr.data.pipeline import DaliSettings, plain_stream
from fr.data.placement import matrices
from fr.data.readers.tar_shards import read_tar
from fr.errors import InputError
from fr.files.data_root import DataRoot
from tests.builders.damaged_images import UNUSABLE, USABLE, cut_after_row_56, encoded, picture
from tests.builders.tar_shards import sample, write_shard
from tests.conftest import ROOT
from tools.dataset import image_facts
from tools.dataset.image_facts import FACE, Fact, ImageFacts, gather, measure_facts
from tools.dataset.near_duplicates import signature

POINTS = np.array([[20.5, 24.0], [43.0, 23.5], [32.0, 36.0], [23.0, 47.0], [41.5, 46.5]])  # in 64×64 pixels
Map = Callable[..., Iterator[Any]]


def faces_of(folder: Path, *files: bytes, points: np.ndarray = POINTS) -> Faces:
    for number, content in enumerate(files):
        (folder / f"{number}.jpg").write_bytes(content)
    names = pa.array([f"{number}.jpg" for number in range(len(files))])
    return Faces(DataRoot(folder), names, np.tile(points, (len(files), 1, 1)))


def fact_of(folder: Path, content: bytes) -> Fact | str:
    (found,) = measure_facts(faces_of(folder, content))
    return found


# --- what is found of an image ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.3, 8.0])
def test_the_face_looked_at_is_the_one_that_training_sees(tmp_path: Path, scale: float) -> None:
    """Against DALI's graph: both take out what a smaller face can't show, by an area and by a Gaussian."""
    side = int(64 * scale)
    pixels = np.asarray(Image.fromarray(picture(3)).resize((side, side), Image.Resampling.BICUBIC))
    faces = faces_of(tmp_path, encoded(pixels, "PNG"), points=(POINTS + 0.5) * scale - 0.5)
    (image,) = next(plain_stream(faces, np.arange(1), 1, FACE, DaliSettings("cpu", None, 1)))
    matrix = matrices(faces, np.arange(1), [faces.read(0)], FACE)[0][0]
    face = image_facts.face_of(pixels, matrix, FACE.input_size) / 255
    difference = np.abs(face - image.permute(1, 2, 0).numpy())
    assert difference.mean() < 0.01  # of 1; neighbouring pixels differ by 0.04
    assert face.std() > 0.1


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_training_replaces_is_unusable(kind: str, tmp_path: Path) -> None:
    found = fact_of(tmp_path, UNUSABLE[kind])
    assert isinstance(found, str)
    assert found.startswith("can't be decoded")


def test_a_photograph_that_serves_at_some_places_alone_is_unusable(tmp_path: Path) -> None:
    found = fact_of(tmp_path, cut_after_row_56(picture(6)))
    assert found == "can't be decoded whole: cut off, damaged, or of an unknown format"


@pytest.mark.parametrize("kind", USABLE)
def test_unusual_photographs_are_known_by_their_size_colour_and_orientation(kind: str, tmp_path: Path) -> None:
    found = fact_of(tmp_path, USABLE[kind](picture(6)))
    assert isinstance(found, Fact)
    assert (found.width, found.height) == ((12_000 if kind.startswith("12,000") else 64), 64)
    assert found.grey == (kind == "grey")
    assert (found.orientation != 1) == (kind == "turned by EXIF")


def test_the_same_face_has_the_same_signature_wherever_it_is(tmp_path: Path) -> None:
    """In an image wider than OpenCV warps, too."""
    pixels = picture(6)
    wide = encoded(np.pad(pixels, ((0, 10), (40_000, 0), (0, 0))), "PNG")
    (plain,) = measure_facts(faces_of(tmp_path, encoded(pixels, "PNG")))
    (padded,) = measure_facts(faces_of(tmp_path, wide, points=POINTS + np.array([40_000, 0])))
    assert isinstance(plain, Fact)
    assert isinstance(padded, Fact)
    assert padded.signature == plain.signature
    assert padded.content != plain.content


def test_a_box_outside_is_unusable(tmp_path: Path) -> None:
    faces = faces_of(tmp_path, encoded(picture(0)))
    boxed = replace(faces, landmarks=faces.landmarks / 64, boxes=np.array([[70.0, 0, 9, 9]]))
    assert measure_facts(boxed) == ["the box of its face lies outside the image"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([encoded(picture(0)), encoded(picture(0), "PNG"), b""]),
    cut=st.integers(0, 3_000),
    changes=st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 255)), max_size=6),
    tail=st.binary(max_size=30),
)
def test_any_bytes_are_looked_at_or_unusable(
    tmp_path: Path, start: bytes, cut: int, changes: list[tuple[int, int]], tail: bytes
) -> None:
    content = bytearray(start[: len(start) - cut % (len(start) + 1)] + tail)
    for place, value in changes:
        if place < len(content):
            content[place] = value
    found = fact_of(tmp_path, bytes(content))
    assert isinstance(found, str) or (found.width > 0 and len(found.signature) == 32)


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images looked at, in this process."""
    names: list[str] = []

    def here(function: Callable[[Faces], Any], items: list[Faces], *_: object) -> Iterator[Any]:
        for part in items:
            names.extend(part.names.to_pylist())
            yield function(part)

    monkeypatch.setattr(image_facts, "map_in_processes", here)
    monkeypatch.setattr(image_facts, "CHUNK", 2)
    return names


@pytest.fixture
def five(tmp_path: Path) -> Faces:
    folder = tmp_path / "photographs"
    folder.mkdir()
    return faces_of(folder, *(encoded(picture(seed)) for seed in range(5)))


def assert_equal(found: ImageFacts, expected: ImageFacts) -> None:
    assert vars(found).keys() == vars(expected).keys()
    for name, value in vars(found).items():
        assert np.array_equal(value, getattr(expected, name)), name


def test_a_second_run_looks_at_new_and_changed_photographs_alone(
    five: Faces, looked: list[str], tmp_path: Path
) -> None:
    kept = tmp_path / "facts"
    first = gather(five, kept, 1)
    assert looked == five.names.to_pylist()
    looked.clear()
    assert_equal(gather(five, kept, 1), first)
    assert not looked
    Path(five.path(1)).write_bytes(encoded(picture(9)))
    os.utime(five.path(2), (1, 1))
    moved = replace(five, landmarks=five.landmarks + np.array([0, 0, 0, 1, 0])[:, None, None])
    again = gather(moved, kept, 1)
    assert looked == ["1.jpg", "2.jpg", "3.jpg"]
    assert_equal(again, gather(moved, tmp_path / "anew", 1))


def test_an_interrupted_run_keeps_what_it_has(
    five: Faces, looked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "facts"
    with monkeypatch.context() as patch:
        patch.setattr(image_facts, "signature", lambda grey: interrupt() if len(looked) > 3 else signature(grey))
        with pytest.raises(KeyboardInterrupt):
            gather(five, kept, 1)
    looked.clear()
    whole = gather(five, kept, 1)
    assert looked == ["2.jpg", "3.jpg", "4.jpg"]
    assert_equal(whole, gather(five, tmp_path / "anew", 1))


def interrupt() -> Any:
    raise KeyboardInterrupt


def test_what_was_unusable_is_tried_again(five: Faces, looked: list[str], tmp_path: Path) -> None:
    content = Path(five.path(3)).read_bytes()
    Path(five.path(3)).write_bytes(content[:300] + bytes(len(content) - 300))
    stat = os.stat(five.path(3))
    found = gather(five, tmp_path / "facts", 1)
    assert list(found.problems) == [3]
    Path(five.path(3)).write_bytes(content)
    os.utime(five.path(3), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    looked.clear()
    assert not gather(five, tmp_path / "facts", 1).problems
    assert looked == ["3.jpg"]


def test_a_photograph_that_is_listed_twice_is_looked_at_once(five: Faces, looked: list[str], tmp_path: Path) -> None:
    rows = [0, 3, 0, 1, 3]
    twice = replace(five, names=five.names.take(pa.array(rows)), landmarks=five.landmarks[rows])
    Path(five.path(3)).unlink()
    found = gather(twice, tmp_path / "facts", 1)
    assert looked == ["0.jpg", "3.jpg", "1.jpg"]
    assert found.content[0] == found.content[2] != found.content[3]
    assert found.problems == dict.fromkeys((1, 4), "can't be read: No such file or directory")


@pytest.mark.parametrize("name", ["x.parquet", "file"])
def test_facts_that_cannot_be_used_are_refused(name: str, five: Faces, looked: list[str], tmp_path: Path) -> None:
    kept = tmp_path / "facts"
    if name == "file":
        kept.touch()
    else:
        kept.mkdir()
        (kept / name).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match=f"{kept}: (damaged: .*; delete it|can't be used: )"):
        gather(five, kept, 1)


def test_photographs_in_shards_give_the_facts_of_files(five: Faces, looked: list[str], tmp_path: Path) -> None:
    for shard, rows in {"a": (0, 1), "b": (2, 3, 4)}.items():
        files: dict[str, bytes] = {}
        for row in rows:
            words = " ".join(map(str, five.landmarks[row].ravel())).encode()
            files |= sample(str(row), "0", five.read(row).tobytes(), words)
        write_shard(tmp_path / f"shards/{shard}.tar", files)
    packed = read_tar(DataRoot(tmp_path / "shards"), "", aligned=False)
    found = gather(packed, tmp_path / "facts", 1)
    assert_equal(found, gather(five, tmp_path / "others", 1))
    looked.clear()
    gather(packed, tmp_path / "facts", 1)
    assert not looked


SCRIPT = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from fr.data.readers.folders import read_folders
from fr.errors import run_plainly
from fr.files.data_root import DataRoot
from tools.dataset import image_facts
image_facts.CHUNK = 8
if __name__ == "__main__":
    faces = read_folders(DataRoot(Path({data!r})), "")
    run_plainly("test", lambda _: bool(image_facts.gather(faces, Path({out!r}), 2).problems))
"""


@pytest.mark.thorough
def test_ctrl_c_ends_a_real_run_and_the_next_one_goes_on(sample_data: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "facts"
    script.write_text(SCRIPT.format(root=str(ROOT), data=str(sample_data / "vggface2/train"), out=str(out)))
    running = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert running.returncode == 130
    assert "Traceback" not in said
    assert 1 <= len(kept) < 12  # of 96 images
    assert subprocess.run([sys.executable, str(script)], capture_output=True, check=False).returncode == 0
    whole = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(whole) == 12
    assert kept.items() <= whole.items()
