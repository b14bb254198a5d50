"""Images as they are stored and as they are shown, against Pillow's own turning; bytes that aren't images."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fr.errors import InputError
from fr.files.images import Pixels, StoredImage, decode

NOISE: Pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> Pixels:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return np.frombuffer(out.getvalue(), dtype=np.uint8)


def turned(orientation: int) -> Pixels:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(NOISE), exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_as_pillow_turns_it_and_every_place_is_found_again(orientation: int) -> None:
    file = turned(orientation)
    photograph = decode(file, "turned")
    assert photograph.orientation == orientation
    assert np.array_equal(photograph.stored, NOISE)
    with Image.open(io.BytesIO(file.tobytes())) as image:
        assert np.array_equal(photograph.upright(), np.asarray(ImageOps.exif_transpose(image)))
    places = np.argwhere(np.ones(photograph.upright().shape[:2], dtype=bool))[:, ::-1].astype(float)
    x, y = photograph.stored_places(places).astype(int).T
    assert np.array_equal(photograph.stored[y, x].reshape(photograph.upright().shape), photograph.upright())


def test_mirrored_is_what_no_turning_brings_back() -> None:
    rotations = [np.rot90(NOISE, quarter).tobytes() for quarter in range(4)]
    for orientation in range(1, 9):
        photograph = StoredImage(NOISE, orientation)
        assert photograph.mirrored == (photograph.upright().tobytes() not in rotations)


@pytest.mark.parametrize("said", [0, 9, 77])
def test_an_orientation_that_exif_does_not_know_turns_nothing(said: int) -> None:
    assert decode(turned(said), "turned").orientation == 1


def test_every_kind_of_picture_becomes_rgb() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(grey)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    see_through = encoded(image.convert("P"), transparency=bytes(range(256)))
    for file in (encoded(image), encoded(deep), encoded(image.convert("RGBA")), see_through):
        assert np.array_equal(decode(file, "grey").stored, np.stack([grey] * 3, axis=2))
    flat = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert decode(encoded(flat, "JPEG"), "red").stored[4, 4, 0] > 200


def test_a_small_file_with_very_many_pixels_is_refused() -> None:
    file = encoded(Image.new("1", (12_000, 8_000)))
    assert len(file) < 100_000
    with pytest.raises(InputError, match=r"^bomb: can't be decoded: more than 89,478,485 pixels$"):
        decode(file, "bomb")


JPEG, WEBP = (encoded(Image.fromarray(np.tile(NOISE, (6, 6, 1))), kind, quality=90) for kind in ("JPEG", "WEBP"))


@settings(deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_by_name_or_give_a_picture(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from([turned(6), JPEG, WEBP])).tobytes())
    for _ in range(data.draw(st.integers(0, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    _decodes_or_is_refused(bytes(file[: data.draw(st.integers(0, len(file)))]))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_by_name_or_give_a_picture(file: bytes) -> None:
    _decodes_or_is_refused(file)


def _decodes_or_is_refused(file: bytes) -> None:
    try:
        photograph = decode(np.frombuffer(file, dtype=np.uint8), "it.jpg")
    except InputError as error:
        assert str(error).startswith("it.jpg: can't be decoded: ")
    else:
        assert photograph.stored.ndim == 3 and photograph.stored.shape[2] == 3
        assert photograph.orientation in range(1, 9)
