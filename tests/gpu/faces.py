"""Faces of the check's data through the training's DALI graph."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fr.data.faces import Faces, LabelledFaces
from fr.data.formats import read_training_faces
from fr.data.pipeline import DaliSettings, FaceStream
from fr.data.samples import augmented_batch
from fr.files.data_root import DataRoot
from fr.options.augmentation import Augmentation
from fr.options.definitions import train_options
from fr.preprocessing import Preprocessing
from tests.builders.command_options import data_options
from tests.gpu.job import Job

CONTRACT = Preprocessing((112, 112), template="arcface")
PLAIN = Augmentation(flip_prob=0, rotate_prob=0, cutout_prob=0, blur_prob=0)
SEED, EPOCH = 0, 0


def read_faces(job: Job) -> LabelledFaces:
    """The training faces of the check's data."""
    return read_training_faces(vars(train_options([*data_options(job.data), "--data_cache", "none"]).values))


def first_faces(job: Job, count: int) -> LabelledFaces:
    """So many of them, or as many as there are."""
    faces = read_faces(job)
    return faces.take(np.arange(min(count, len(faces))))


def dali(job: Job, device: str = "", threads: int = 0) -> DaliSettings:
    """DALI on the check's device, or on another one."""
    on_gpu = job.on_gpu and device != "cpu"
    return DaliSettings("gpu" if on_gpu else "cpu", 0 if on_gpu else None, threads or job.pick(8, 2))


def stream(
    faces: Faces, settings: DaliSettings, batch: int, augmentation: Augmentation = PLAIN
) -> Iterator[tuple[torch.Tensor, NDArray[np.int64]]]:
    """All faces once, in their order: images [n, 3, H, W] on DALI's device, and their indices [n]."""
    batches = (
        augmented_batch(faces, rows, CONTRACT, augmentation, SEED, EPOCH, int(rows[0]))
        for rows in np.split(np.arange(len(faces)), range(batch, len(faces), batch))
    )
    return FaceStream(batches, batch, CONTRACT, settings, augmentation.effects)


def in_gray_levels(images: torch.Tensor) -> NDArray[np.float64]:
    """Network input [n, 3, H, W] → pixels from 0 to 255."""
    std, mean = (np.array(values)[:, None, None] for values in (CONTRACT.std, CONTRACT.mean))
    return (images.cpu().numpy().astype(np.float64) * std + mean) * 255


def image_folder(folder: Path, encoded: list[bytes]) -> Faces:
    """Files of encoded aligned crops, 0.jpg …, as faces."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    for number, content in enumerate(encoded):
        (folder / f"{number}.jpg").write_bytes(content)
    names = pa.array([f"{number}.jpg" for number in range(len(encoded))])
    return Faces(DataRoot(folder), names, np.empty((len(encoded), 0, 2)))
