"""Class centres of a training set, from the embeddings of its images. C classes, E embedding size, N images."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.distributed import Ranks, gather_objects
from fr.errors import InputError
from fr.evaluation.overlap import Rows, sums_by
from fr.evaluation.verification import unit_rows
from tools.features.parts import Extractor, Features, Part, extract


@dataclass(frozen=True)
class Centres:
    """Centres of classes. sums [C, E]: of the unit embeddings of each class, 0 without images. first [C, E]: embedding
    of each class's first image."""

    sums: Rows
    first: Rows

    def held_out(self) -> Rows:
        """Cosine of each class's first image with the centre of its others, for classes with both."""
        others = self.sums - self.first
        several = self.first.any(axis=1) & (np.linalg.norm(others, axis=1) > 1e-6)  # of one image only rounding remains
        cosines: Rows = (unit_rows(self.first[several]) * unit_rows(others[several])).sum(axis=1)
        return cosines


def class_centres(extractor: Extractor, faces: LabelledFaces, ranks: Ranks, bad: BadImages) -> Centres:
    """Centres of all classes, the same on every rank. InputError if no image can be used."""
    size = len(faces.identities), extractor.dimensions(ranks.device)
    centres = Centres(np.zeros(size), np.zeros(size))
    is_first = np.zeros(len(faces), dtype=np.bool_)
    is_first[np.unique(faces.labels, return_index=True)[1]] = True

    def take(_part: Part, features: Features) -> None:
        for sums, chosen in ((centres.sums, slice(None)), (centres.first, is_first[features.rows])):
            if len(features.rows[chosen]):
                sums += sums_by(features.values[chosen], faces.labels[features.rows[chosen]], len(sums))

    extract(extractor, extractor.parts(np.arange(len(faces))), ranks, bad, take, "embedding the training images")
    for sums in (centres.sums, centres.first):
        dist.all_reduce(torch.from_numpy(sums))  # in place: the tensor shares the memory
    if not centres.sums.any():
        raise InputError("none of the images can be used", *bad.listed[:1])
    return centres


def features_of(extractor: Extractor, rows: NDArray[np.int64], ranks: Ranks, bad: BadImages) -> Features:
    """Features of the usable images of these rows, on every rank."""
    own: list[Features] = []
    extract(extractor, extractor.parts(rows), ranks, bad, lambda _part, features: own.append(features))
    return Features.joined(part for of_rank in gather_objects(own) for part in of_rank)
