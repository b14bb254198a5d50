"""Held-out images of the training's identities: top-1 and top-5 accuracy of the head on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fr.data.distributed_reading import read_on_all_ranks
from fr.data.faces import LabelledFaces
from fr.distributed import Ranks
from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax


@dataclass(frozen=True)
class HeldOut:
    """Held-out images [n], and their classes [n] in the head."""

    faces: LabelledFaces
    classes: torch.Tensor

    def accuracies(self, head: MarginSoftmax, embeddings: torch.Tensor) -> dict[str, float]:
        """Top-1 and top-5 accuracy from the embeddings [n, E]; called by all ranks together, each with all rows."""
        rivals = head.rivals(embeddings, self.classes.to(embeddings.device))
        return {f"held_out_top{k}": (rivals < k).double().mean().item() for k in (1, 5)}


def read_held_out(options: Mapping[str, Any], identities: Sequence[str], ranks: Ranks) -> HeldOut | None:
    """Read --held_out_list with the other data options, on all ranks; None without it. identities: of the head.

    Images of other people are left out; InputError if no images remain.
    """
    if not (name := options["held_out_list"]):
        return None
    faces = read_on_all_ranks({**options, "train_list": name}, ranks)
    class_of = {identity: number for number, identity in enumerate(identities)}
    classes = np.array([class_of.get(identity, -1) for identity in faces.identities], dtype=np.int64)[faces.labels]
    rows = np.flatnonzero(classes >= 0)
    if not len(rows):
        raise InputError(f"--held_out_list {name}: none of its identities ({faces.identities[0]}, …) is trained on")
    return HeldOut(faces.take(rows), torch.from_numpy(classes[rows]))
