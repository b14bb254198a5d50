"""Builders of damaged images that several test files use."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fr.alignment import template_points
from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.data.order import Order
from fr.data.pipeline import DaliSettings
from fr.data.training_stream import TrainingStream
from fr.distributed import Ranks
from fr.files.data_root import DataRoot
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing

CPU = DaliSettings("cpu", None, 1)
SMALL = Preprocessing((32, 32), template="sphereface")
STRONG = Augmentation(flip_prob=0.5, rotate_prob=0.9, rotate_degrees=20, cutout_prob=0.5, blur_prob=0.5)
PEOPLE, EACH, BATCH = 4, 4, 8  # two iterations an epoch
Batches = list[tuple[torch.Tensor, ...]]
Pixels = NDArray[np.uint8]


def picture(seed: int, height: int = 64, width: int = 64) -> Pixels:
    """Blobs of a few pixels, in RGB."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    return np.clip((cv2.GaussianBlur(noise, (0, 0), 2) - 127) * 5 + 127, 0, 255).astype(np.uint8)


def encoded(pixels: Pixels, kind: str = "JPEG", mode: str = "RGB", **settings: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **settings)
    return out.getvalue()


@pytest.fixture
def faces(tmp_path: Path) -> LabelledFaces:
    """4 people × 4 images of 64×64."""
    names = [f"p{index // EACH}/{index}.jpg" for index in range(PEOPLE * EACH)]
    for index, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture(index), quality=95))
    rng = np.random.default_rng(0)
    landmarks = template_points("sphereface", (32, 32)) + 16 + rng.normal(0, 2, (len(names), 5, 2))
    labels = np.arange(len(names), dtype=np.int64) // EACH
    people = [f"p{person}" for person in range(PEOPLE)]
    return LabelledFaces(DataRoot(tmp_path), pa.array(names), landmarks, labels, people)


def as_if_listed(faces: LabelledFaces, instead: dict[int, int]) -> LabelledFaces:
    """The list of someone who knew: the rows of bad images are those of the ones that stand in."""
    return faces.take(np.array([instead.get(index, index) for index in range(len(faces))]))


def stream(
    faces: LabelledFaces,
    bad: BadImages,
    iterations: range = range(4),
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> Iterator[tuple[torch.Tensor, ...]]:
    order = Order(len(faces), BATCH, seed=3)
    ranks = Ranks(rank, world, rank, world, torch.device("cpu"))
    return iter(TrainingStream(faces, order, iterations, ranks, accumulate, SMALL, STRONG, CPU, bad))


def batches(faces: LabelledFaces, bad: BadImages | None = None, world: int = 1, accumulate: int = 1) -> Batches:
    """Four iterations, two epochs, as all ranks together see them. Kept as they come, not copied: a graph that is
    replaced must leave the batches before it alone."""
    bad = bad or BadImages(0)
    by_rank = [list(stream(faces, bad, rank=rank, world=world, accumulate=accumulate)) for rank in range(world)]
    parts = [part for turn in zip(*by_rank, strict=True) for part in turn]
    size = world * accumulate
    whole = [parts[first : first + size] for first in range(0, len(parts), size)]
    return [(torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])) for part in whole]


def assert_equal(found: Batches, expected: Batches) -> None:
    """To the last bit."""
    assert len(found) == len(expected)
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


def reported(bad: BadImages) -> list[str]:
    """Problems this process has found, as the ranks of a run would tell each other."""
    return [bad._news[index] for index in sorted(bad._news)]


GOOD = encoded(picture(99), quality=95)
UNUSABLE: dict[str, bytes] = {
    "empty": b"",
    "one byte": GOOD[:1],
    "header only": GOOD[:200],
    "truncated in the first rows": GOOD[:900],
    "truncated progressive JPEG": encoded(picture(99), progressive=True)[:-2],
    "garbage": bytes(range(256)) * 4,
    "text": b"<html>404</html>" * 50,
    "truncated PNG": encoded(picture(99), "PNG")[:-100],
    "GIF": encoded(picture(99), "GIF"),  # Pillow reads it, DALI doesn't
    "bomb": encoded(np.zeros((9_500, 9_500), dtype=np.uint8), "PNG", mode="1"),  # 12 kB, and 271 MB of RGB
}


def turned(pixels: Pixels) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    return encoded(pixels, quality=95, exif=exif)


def deep(pixels: Pixels) -> bytes:
    return bytes(cv2.imencode(".png", pixels[:, :, ::-1].astype(np.uint16) * 257)[1])


USABLE: dict[str, Callable[[Pixels], bytes]] = {
    "PNG": lambda pixels: encoded(pixels, "PNG"),
    "CMYK": lambda pixels: encoded(pixels, mode="CMYK", quality=95),
    "grey": lambda pixels: encoded(pixels, mode="L", quality=95),
    "16 bit": deep,
    "palette": lambda pixels: encoded(pixels, "PNG", mode="P"),
    "transparent": lambda pixels: encoded(pixels, "PNG", mode="RGBA"),
    "turned by EXIF": turned,
    "with words after its end": lambda pixels: encoded(pixels, quality=95) + b"trailer" * 9,
    "12,000 pixels wide": lambda pixels: encoded(np.pad(pixels, ((0, 0), (0, 11_936), (0, 0))), quality=95),
}


def cut_after_row_56(pixels: Pixels) -> bytes:
    data = encoded(pixels, quality=95, subsampling=0, restart_marker_rows=1)
    return data[: data.index(b"\xff\xd6") + 20]  # the seventh restart marker ends the seventh row of 8 pixels
