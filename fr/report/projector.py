"""Embeddings for TensorBoard's projector: vectors, names, and the aligned images as sprites.

N images, E embedding size, S side of a thumbnail.
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

from fr.errors import os_error_as
from fr.files.names import printable

# Side of the sprite sheet in pixels. The projector's limit is 8,192 (pytorch issue 75502), for which torch would need
# 6 GB, since it makes several copies with eight bytes a value.
_SHEET = 4096


@contextmanager
def open_projector(folder: Path) -> Iterator[SummaryWriter]:
    """Open a log folder for `tensorboard --logdir`; InputError if it can't be written, now or later."""
    with os_error_as(f"{folder}: can't be written"), SummaryWriter(str(folder)) as writer:
        yield writer


def add_set(
    writer: SummaryWriter,
    name: str,
    embeddings: NDArray[np.float32],
    names: list[str],
    images: Iterable[NDArray[np.uint8]],
) -> None:
    """Add a selectable set to the projector. embeddings: [N, E]; images: N RGB images [H, W, 3]."""
    side = _SHEET // math.ceil(math.sqrt(len(names)))
    thumbnails = np.stack([_thumbnail(image, side) for image in images])
    sprites = torch.from_numpy(thumbnails).permute(0, 3, 1, 2).float().div(255)
    writer.add_embedding(torch.from_numpy(embeddings), list(map(printable, names)), sprites, tag=name)


def _thumbnail(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Pad and shrink [H, W, 3] to [S, S, 3], S <= `max_side`: torch's sheet is square only if its images are."""
    height, width = image.shape[:2]
    largest = max(height, width)
    square = np.zeros((largest, largest, 3), dtype=np.uint8)
    square[:height, :width] = image
    side = min(largest, max_side)
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
