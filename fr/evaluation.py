"""Photographs → embeddings over all ranks → verification figures."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from fr.data.annotations import Faces, VerificationFaces
from fr.data.pipeline import DaliSettings, plain_stream
from fr.distributed import Ranks, gather_rows, raise_together
from fr.errors import InputError
from fr.monitor import progress
from fr.preprocessing import Preprocessing
from fr.verification import Verification, cosine_scores, verify

Network = Callable[[torch.Tensor], torch.Tensor]  # [B, 3, H, W] → [B, E]: a backbone, or what stands for one


@torch.inference_mode()
def embed(
    model: Network,
    faces: Faces,
    preprocessing: Preprocessing,
    settings: DaliSettings,
    ranks: Ranks,
    batch_size: int,
    flipped: bool,
) -> NDArray[np.float32]:
    """Embeddings of all photographs, each embedded once by one rank: [N, E] on every rank.

    flipped: mean of the embeddings of the picture and of its mirror image. batch_size: photographs a rank at a time.
    A backbone must be in evaluation mode. InputError, on all ranks together, names photographs that can't be read or
    whose embedding isn't finite.
    """
    counts = [len(part) for part in np.array_split(np.arange(len(faces)), ranks.world_size)]
    first = sum(counts[: ranks.rank])
    indices = np.arange(first, first + counts[ranks.rank])
    parts, failure = [], None
    with progress(len(indices), "img", "embedding", shown=ranks.is_main) as bar:
        try:
            for batch in plain_stream(faces, indices, batch_size, preprocessing, settings):
                images = batch.to(ranks.device, non_blocking=True)
                embeddings = model(images)
                if flipped:
                    embeddings = (embeddings + model(images.flip(3))) / 2
                parts.append(embeddings.float().cpu())
                bar.update(len(images))
        except InputError as error:
            failure = error
    raise_together(failure, "another rank can't read its photographs")
    every = gather_rows(torch.cat(parts) if parts else _no_rows(model, preprocessing, ranks), counts).numpy()
    wrong = np.flatnonzero(~np.isfinite(every).all(axis=1)).tolist()
    if wrong:
        raise InputError(*[f"{faces.path(i)}: its embedding isn't finite" for i in wrong[:10]])
    return every


def _no_rows(model: Network, preprocessing: Preprocessing, ranks: Ranks) -> torch.Tensor:
    """[0, E] of a rank that has no photograph, since there are fewer of them than ranks."""
    picture = torch.zeros(1, 3, *preprocessing.input_size, device=ranks.device)
    rows: torch.Tensor = model(picture)
    return rows[:0].float().cpu()


def pair_scores(faces: VerificationFaces, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each pair: [P]."""
    first, second = faces.pairs.T
    return cosine_scores(embeddings[first], embeddings[second])


def evaluate(
    model: Network,
    faces: VerificationFaces,
    preprocessing: Preprocessing,
    settings: DaliSettings,
    ranks: Ranks,
    batch_size: int,
    flipped: bool,
) -> tuple[Verification, NDArray[np.float64]]:
    """Verification figures and pair scores [P], the same on every rank."""
    scores = pair_scores(faces, embed(model, faces, preprocessing, settings, ranks, batch_size, flipped))
    return verify(scores, faces.same, faces.fold), scores
