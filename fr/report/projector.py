"""Embeddings for TensorBoard's projector: vectors, names, and the aligned pictures as sprites.

N photographs, E embedding size, S side of a thumbnail.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from fr.errors import InputError
from fr.files.names import printable

# The projector shows sheets of 8,192 × 8,192 pixels at most (pytorch issue 75502). torch makes them of numbers of eight
# bytes, several times over, which for such a one is 6 GB.
_SHEET = 4096


@contextmanager
def open_projector(folder: Path) -> Iterator[SummaryWriter]:
    """A log folder for `tensorboard --logdir`; InputError when it can't be written, now or later."""
    try:
        with SummaryWriter(str(folder)) as writer:
            yield writer
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror}") from error


def add_set(
    writer: SummaryWriter,
    name: str,
    embeddings: NDArray[np.float32],
    names: list[str],
    pictures: Iterable[NDArray[np.uint8]],
) -> None:
    """One more set to choose in the projector. embeddings: [N, E]; pictures: of each photograph, [H, W, 3] RGB."""
    side = _SHEET // math.ceil(math.sqrt(len(names)))
    thumbnails = np.stack([_thumbnail(picture, side) for picture in pictures])
    sprites = torch.from_numpy(thumbnails).permute(0, 3, 1, 2).float().div(255)
    writer.add_embedding(torch.from_numpy(embeddings), list(map(printable, names)), sprites, tag=name)


def _thumbnail(picture: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """[H, W, 3] → [S, S, 3], S at most `most`: torch's sheet is square as long as its pictures are."""
    height, width = picture.shape[:2]
    largest = max(height, width)
    square = np.zeros((largest, largest, 3), dtype=np.uint8)
    square[:height, :width] = picture
    side = min(largest, most)
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
