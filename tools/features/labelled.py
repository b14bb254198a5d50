"""A snapshot's head, and labelled images of its classes, for tools that compare them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from fr.console import counted, print_lines
from fr.data.bad_images import BadImages
from fr.data.distributed_reading import read_on_all_ranks
from fr.data.faces import LabelledFaces
from fr.distributed import Ranks, gather_objects
from fr.errors import InputError
from fr.evaluation.scoring import Embedder
from fr.options.parsing import Resolved
from fr.weights.initial_weights import read_identities
from fr.weights.loading import Weights, read_weights
from tools.features.classes import Indices
from tools.features.parts import Extractor, Features, Part, extract

Judged = TypeVar("Judged")


@dataclass(frozen=True)
class LabelledImages:
    """Images, and the head of C classes with K centres each that they are compared with.

    head: [C, K · E], bias: [C] or None for cosines, names: [C]. targets: class of each image [N], -1 = none. rows:
    indices of the images with a class.
    """

    head: torch.Tensor
    bias: torch.Tensor | None
    sub_centers: int
    names: list[str]
    faces: LabelledFaces
    targets: Indices
    rows: Indices
    extractor: Extractor
    overrides: list[str]


def labelled_images(resolved: Resolved, ranks: Ranks) -> LabelledImages:
    """Read the head of --snap, with --identities, and the images of the data options, all ranks together.

    InputError if the file has no head for its network's embeddings, or no image is of its classes.
    """
    options = resolved.values
    embedder = Embedder.open(resolved, ranks)
    model = embedder.model
    if not isinstance(model.network, nn.Module):
        raise InputError(f"--snap {options.snap}: an ONNX model has no head; give the snapshot")
    weights = read_weights(Path(options.snap))
    head = _head(weights)
    names = _class_names(weights, len(head), options.identities)
    faces = read_on_all_ranks(vars(options), ranks)
    targets = class_of_each(faces, names)
    rows = np.flatnonzero(targets >= 0)
    if not len(rows):
        raise InputError(
            f"none of the {counted(len(faces.identities), 'identity')} ({faces.identities[0]}, …) is a class of "
            f"{options.snap} ({names[0]}, …); give images of the identities that it was trained on"
        )
    extractor = Extractor(embedder.network, faces, model.preprocessing, embedder.dali, options.batch_size)
    dimensions = extractor.dimensions(ranks.device)
    sub_centers, rest = divmod(head.shape[1], dimensions)
    if rest or (sub_centers > 1 and weights.bias is not None):
        raise InputError(f"{options.snap}: its head is for embeddings of {head.shape[1]} numbers, not {dimensions}")
    return LabelledImages(head, weights.bias, sub_centers, names, faces, targets, rows, extractor, [*model.overrides])


def judged_images(
    images: LabelledImages, ranks: Ranks, bad: BadImages, judge: Callable[[Features], Judged]
) -> list[Judged]:
    """Results of `judge` for the images, some at a time, of all ranks on each. InputError if none can be used."""
    if ranks.is_main:
        print_lines(images.overrides)
    own: list[Judged] = []

    def take(_part: Part, features: Features) -> None:
        if len(features.rows):
            own.append(judge(features))

    extract(images.extractor, images.extractor.parts(images.rows), ranks, bad, take)
    every = [judged for of_rank in gather_objects(own) for judged in of_rank]
    if not every:
        raise InputError("none of the images can be used", *bad.listed[:1])
    return every


def class_of_each(faces: LabelledFaces, names: list[str]) -> Indices:
    """Class of each image [N] in a head of `names`; -1 = none.

    By the identity's name or the last part of it (`n000002` of `train/n000002`).
    """
    rows = {name: row for row, name in enumerate(names)}
    classes = [rows.get(name, rows.get(name.rpartition("/")[2], -1)) for name in faces.identities]
    return np.array(classes, dtype=np.int64)[faces.labels]


def _head(weights: Weights) -> torch.Tensor:
    """Head [C, K · E]; InputError for a snapshot without one."""
    if weights.head is None:
        raise InputError(
            f"{weights.path}: no head: a training stores it in the folder {weights.path.stem}.state beside the "
            "snapshot, tools/import_weights.py with --identities in the snapshot"
        )
    return weights.head


def _class_names(weights: Weights, classes: int, identities: str) -> list[str]:
    """Names of the head's rows; InputError if they are unknown or their number differs."""
    names, of_head = read_identities(Path(identities)) if identities else weights.identities, counted(classes, "class")
    if names is None:
        raise InputError(f"{weights.path}: the names of its {of_head} aren't stored: give --identities")
    if len(names) != classes:
        given = counted(len(names), "identity")
        raise InputError(f"{identities or weights.path}: {given} for a head of {of_head}")
    return names
