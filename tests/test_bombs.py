"""Small files that say that they hold enormous images: named and left alone, not decoded."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fr.data import graph
from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.data.pipeline import plain_stream
from fr.errors import InputError
from fr.files.images import MOST_PIXELS, TOO_LARGE, decode, is_too_large
from tests.bounds import bounded
from tests.builders.damaged_images import (
    CPU,
    SMALL,
    UNUSABLE,
    as_if_listed,
    assert_equal,
    batches,
    encoded,
    faces,
    reported,
)
from tools.dataset.image_facts import measure_facts
from tools.pack_dataset import LEFT_OUT
from tools.pack_dataset import main as pack_dataset

__all__ = ["faces"]  # a fixture

SIDE = 9_500  # its square is a little more than may be decoded, and takes 271 MB in RGB
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "JPEG": ("JPEG", {}),
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"lossless": True, "method": 0}),
    "TIFF": ("TIFF", {"compression": "group4"}),
}
DALI_OWN = 100  # MB that graphs take however small their images are


def bomb(kind: str, side: int = SIDE) -> bytes:
    form, settings = KINDS[kind]
    mode = {"TIFF": "1", "PNG": "1", "WEBP": "RGB"}.get(form, "L")
    out = io.BytesIO()
    Image.new(mode, (side, side)).save(out, form, **settings)
    return out.getvalue()


def test_the_limit_is_pillows() -> None:
    assert MOST_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_replaced_in_training_and_an_error_in_a_verification(kind: str, faces: LabelledFaces) -> None:
    path = Path(faces.path(6))
    expected = batches(as_if_listed(faces, {6: 7}))
    path.write_bytes(content := bomb(kind))
    assert len(content) < SIDE * SIDE // 80
    bad = BadImages(1)
    with bounded(megabytes=DALI_OWN):
        found = batches(faces, bad)
    assert_equal(found, expected)
    assert reported(bad) == [f"{path}: {TOO_LARGE}"]
    with bounded(megabytes=DALI_OWN), pytest.raises(InputError) as caught:
        list(plain_stream(faces, np.arange(8), 4, SMALL, CPU))
    assert caught.value.problems == (f"{path}: {TOO_LARGE}",)


def test_an_aligned_crop_may_be_no_bomb_either(faces: LabelledFaces) -> None:
    crops = LabelledFaces(faces.root, faces.names, np.zeros((len(faces), 0, 2)), faces.labels, faces.identities)
    expected = batches(as_if_listed(crops, {6: 7}))
    Path(faces.path(6)).write_bytes(bomb("PNG"))
    bad = BadImages(1)
    with bounded(megabytes=DALI_OWN):
        assert_equal(batches(crops, bad), expected)
    assert reported(bad) == [f"{faces.path(6)}: {TOO_LARGE}"]


def test_the_sides_product_is_not_cut_to_64_bits(faces: LabelledFaces) -> None:
    """2^32 - 2^31 by as many, or 2^64 / 4: a header that says so has nothing behind it."""
    content = bytearray(encoded(np.zeros((8, 8, 3), dtype=np.uint8), "PNG"))
    for width, height in ((0x7FFFFFFF, 0x7FFFFFFF), (1 << 20, 1 << 20)):
        content[16:24] = struct.pack(">II", width, height)
        Path(faces.path(6)).write_bytes(content)
        bad = BadImages(1)
        with bounded(megabytes=DALI_OWN):
            batches(faces, bad)
        assert len(reported(bad)) == 1


def test_a_picture_of_just_the_limit_is_decoded(faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MOST_PIXELS", 64 * 64)
    assert len(batches(faces)) == 4
    monkeypatch.setattr(graph, "MOST_PIXELS", 64 * 64 - 1)
    with pytest.raises(InputError, match="no image of the list can be decoded"):
        batches(faces, BadImages(1_000))


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE])  # of the latter Pillow itself says nothing but that
def test_tools_do_not_decode_a_bomb_either(side: int, faces: LabelledFaces) -> None:
    content = np.frombuffer(bomb("PNG", side), dtype=np.uint8)
    assert is_too_large(content)
    with bounded(megabytes=50), pytest.raises(InputError) as caught:
        decode(content, "it")
    assert caught.value.problems == (f"it: {TOO_LARGE}",)
    Path(faces.path(0)).write_bytes(content.tobytes())
    with bounded(megabytes=DALI_OWN):
        assert measure_facts(faces)[0] == TOO_LARGE


@pytest.mark.parametrize("kind", [kind for kind in UNUSABLE if kind != "bomb"])
def test_what_cannot_be_decoded_for_another_reason_is_no_bomb(kind: str) -> None:
    assert not is_too_large(np.frombuffer(UNUSABLE[kind], dtype=np.uint8))


def test_a_bomb_is_not_packed(faces: LabelledFaces, tmp_path: Path) -> None:
    Path(faces.path(0)).write_bytes(bomb("PNG"))
    words = ["--train_dataset", "folder", "--train_data_root", str(faces.root), "--aligned", "--workers", "1"]
    assert pack_dataset([*words, "--out", str(tmp_path.parent / f"{tmp_path.name}_out")]) == 0
    (named,) = (tmp_path.parent / f"{tmp_path.name}_out").glob(f"*{LEFT_OUT}")
    assert named.read_text() == f"{faces.path(0)}: {TOO_LARGE}\n"
