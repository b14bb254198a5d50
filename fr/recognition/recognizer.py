"""Faces found in pictures → embeddings of length 1, aligned and warped as in training (C1, C3).

Letters: F faces of one picture, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from fr.alignment import Array
from fr.data.faces import Faces
from fr.data.pipeline import DaliSettings, FaceStream
from fr.data.samples import SampleBatch, plain_batch
from fr.data.storage import Pack
from fr.errors import InputError
from fr.evaluation.embedding import Network
from fr.files.data_root import DataRoot
from fr.files.images import Pixels
from fr.preprocessing import Preprocessing
from fr.recognition.detection import DetectedFaces
from fr.recognition.gallery import Rows, of_length_1


class Recognizer:
    """Embeds faces of pictures in memory. One graph for all: building one takes as long as embedding several faces.

    network: [B, 3, H, W] → [B, E], in evaluation mode. most: faces at a time.
    """

    def __init__(
        self, network: Network, preprocessing: Preprocessing, dali: DaliSettings, device: torch.device, most: int
    ) -> None:
        self._network, self._device, self._most = network, device, most
        # What is in these changes from call to call: the graph reads them when it is run, and never ahead.
        self._pictures: list[bytes] = []
        self._points = np.zeros((most, 5, 2))
        names = pa.array([f"face {number}" for number in range(most)])
        faces = Faces(DataRoot(Path()), names, self._points, storage=Pack("", self._pictures))
        self._stream = FaceStream(faces, self._batches(), most, preprocessing, dali, effects=(), ahead=1)

    def __call__(self, pictures: Sequence[Pixels], found: Sequence[DetectedFaces]) -> list[Rows]:
        """pictures: [H, W, 3] RGB, and the faces found in each. The embeddings [F, E] of each picture's.

        InputError when one isn't finite.
        """
        counts = [len(faces) for faces in found]
        encoded = [_lossless(picture) if count else b"" for picture, count in zip(pictures, counts, strict=True)]
        every = [of for of, count in zip(encoded, counts, strict=True) for _ in range(count)]
        if not every:
            return [np.zeros((0, 0), dtype=np.float32)] * len(counts)
        points = np.concatenate([faces.points for faces in found])
        parts = range(0, len(every), self._most)
        rows = np.concatenate([self._embed(every[at : at + self._most], points[at : at + self._most]) for at in parts])
        if not np.isfinite(rows).all():
            raise InputError("the network gives embeddings that aren't finite")
        return np.split(of_length_1(rows), np.cumsum(counts)[:-1])

    @torch.inference_mode()
    def _embed(self, encoded: list[bytes], points: Array) -> Rows:
        self._pictures[:] = encoded
        self._points[: len(points)] = points
        images, _ = next(self._stream)
        rows: Rows = self._network(images.to(self._device)).float().cpu().numpy()
        return rows

    def _batches(self) -> Iterator[SampleBatch]:
        while True:
            yield plain_batch(np.arange(len(self._pictures)))


def _lossless(picture: Pixels) -> bytes:
    """As a PPM file: a header and the pixels, ten times as fast as BMP by OpenCV, forty times as PNG."""
    height, width, _ = picture.shape
    return b"P6 %d %d 255\n" % (width, height) + picture.tobytes()
