"""The nvJPEG library that DALI gets, and the JPEGs that a GPU would decode without their end."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fr.data import nvjpeg
from fr.data.pipeline import DaliSettings
from fr.files.images import is_cut_off
from tests.builders.damaged_images import encoded, picture

ROOT = Path(__file__).parent.parent
JPEGS = {
    "baseline": encoded(picture(0)),
    "progressive": encoded(picture(1), progressive=True),
    "restart markers": encoded(picture(2), restart_marker_rows=1),
    "a thumbnail with an end marker inside": encoded(picture(3), exif=b"Exif\0\0" + encoded(picture(4))),
    "gray": encoded(picture(5), mode="L"),
}


def array(content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)


NAMES = ("evaluate_lfw", "fr.models", "fr.data.pipeline", "fr.weights.loading")


@pytest.mark.parametrize("command", ["train", *(pytest.param(one, marks=pytest.mark.thorough) for one in NAMES)])
def test_dali_gets_an_nvjpeg_that_decodes_regions(command: str) -> None:
    """torchvision's own nvJPEG 13.0 has the same library name; whoever comes first decides for the process."""
    script = f"import {command}, torchvision; from fr.data import nvjpeg; print(nvjpeg.version())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    major, minor, _ = map(int, done.stdout.strip("()\n").split(","))
    assert (major, minor) >= (13, 2)


def test_the_highest_version_of_several_is_loaded_and_a_damaged_one_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["libnvjpeg.so.9", "libnvjpeg.so.13.0.2", "libnvjpeg.so.13.2", "libnvjpeg.so.12", "libnvjpeg.so.old"]
    assert nvjpeg.newest([tmp_path / name for name in names]) == tmp_path / "libnvjpeg.so.13.2"
    assert nvjpeg.newest([]) is None
    damaged = tmp_path / "libnvjpeg.so.13"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(nvjpeg, "_installed", lambda: damaged)
    nvjpeg.load_dalis()


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ((13, 3, 2), "images are decoded on the GPU by nvJPEG 13.3.2"),
        ((13, 0, 1), "images are decoded on the GPU by nvJPEG 13.0.1, without fancy upsampling, which needs 13.2"),
        ((), "images are decoded on the GPU by nvJPEG unknown, without fancy upsampling, which needs 13.2"),
    ],
)
def test_the_start_says_where_images_are_decoded(
    version: tuple[int, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvjpeg, "version", lambda: version)
    assert DaliSettings("gpu", 0, 4).describe() == said
    assert DaliSettings("cpu", None, 4).describe() == "images are decoded on the CPU, 4 threads a rank"
    assert DaliSettings("cpu", None, 1).describe().endswith(" CPU, 1 thread a rank")


@pytest.mark.parametrize("kind", JPEGS)
def test_whole_jpegs_are_whole_also_with_bytes_after_their_end(kind: str) -> None:
    for after in (b"", b"\0" * 100, b"\xff\xd8\xff\xda", b"\xff"):
        assert not is_cut_off(array(JPEGS[kind] + after)), after
        filled = JPEGS[kind][:2] + b"\xff" * 5 + JPEGS[kind][2:]  # before a marker (T.81, B.1.1.2)
        assert not is_cut_off(array(filled + after)), after
        assert is_cut_off(array(filled[:-2] + b"\0"))


@given(st.sampled_from(sorted(JPEGS)), st.data())
def test_a_jpeg_cut_anywhere_is_found(kind: str, data: st.DataObject) -> None:
    """In a thumbnail's end too, unless exactly behind its end marker."""
    whole = JPEGS[kind]
    cut = whole[: data.draw(st.integers(3, len(whole) - 1))]
    assert is_cut_off(array(cut)) == (not cut.endswith(b"\xff\xd9"))


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\x89PNG\r\n", b"P6 1 1 255\n\0\0\0"])
def test_what_is_no_jpeg_is_left_to_the_decoder(content: bytes) -> None:
    assert is_cut_off(array(content)) == (content == b"\xff\xd8")
