"""Images → embeddings over all ranks → verification metrics."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fr.data.faces import Faces, VerificationFaces
from fr.data.pipeline import DaliSettings, plain_stream
from fr.distributed import Heartbeat, Ranks, gather_rows, raise_reason
from fr.errors import InputError
from fr.evaluation.people import people_of_names
from fr.evaluation.verification import Verification, cosine_scores, l2_scores, verify
from fr.preprocessing import Preprocessing
from fr.progress import progress

Network = Callable[[torch.Tensor], torch.Tensor]  # [B, 3, H, W] → [B, E]: a backbone or an ONNX model


@torch.inference_mode()
def embed(
    model: Network,
    faces: Faces,
    preprocessing: Preprocessing,
    settings: DaliSettings,
    ranks: Ranks,
    batch_size: int,
    flipped: bool,
    flip_mode: str = "sum",
    heartbeat: Heartbeat | None = None,
) -> NDArray[np.float32]:
    """Embed all images, split over the ranks: [N, E] on every rank.

    flipped: use the mirror image too: mean of both embeddings (flip_mode "sum") or both concatenated, [N, 2E]
    ("concat"). batch_size: images per rank. A backbone must be in evaluation mode. InputError, on all ranks together,
    names images that can't be read or whose embedding isn't finite; another exception on one rank is an InputError on
    the others.
    """
    network = with_mirror_image(model, flip_mode) if flipped else model
    counts = [len(part) for part in np.array_split(np.arange(len(faces)), ranks.world_size)]
    first = sum(counts[: ranks.rank])
    indices = np.arange(first, first + counts[ranks.rank])
    rows, done = torch.empty(0), 0
    failure: Exception | None = None
    with progress(len(indices), "img", "embedding", shown=ranks.is_main) as bar:
        try:
            for batch in plain_stream(faces, indices, batch_size, preprocessing, settings):
                images = batch.to(ranks.device, non_blocking=True)
                of_batch = network(images).float()
                if not done:
                    rows = of_batch.new_empty(len(indices), of_batch.shape[1])
                rows[done : done + len(images)] = of_batch  # on the device: copying each to the CPU would wait for it
                done += len(images)
                if heartbeat:
                    heartbeat.count += 1
                bar.update(len(images))
            rows = (rows if done else _no_rows(network, preprocessing, ranks)).cpu()
        except Exception as error:
            failure = error
    raise_reason(failure)
    embeddings: NDArray[np.float32] = gather_rows(rows, counts).numpy()
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1)).tolist()
    if bad:
        raise InputError(*[f"{faces.path(i)}: its embedding isn't finite" for i in bad[:10]])
    return embeddings


def batch_size_on(device: torch.device, wish: int) -> int:
    """Value of --val_batch_size: `wish`, or for 0 what keeps the device busy."""
    return wish or (256 if device.type == "cuda" else 20)


def with_mirror_image(model: Network, flip_mode: str) -> Network:
    """Combine embeddings with the mirror images': their mean [B, E] ("sum") or concatenated [B, 2E] ("concat")."""

    def network(images: torch.Tensor) -> torch.Tensor:
        embeddings, mirrored = model(images), model(images.flip(3))
        return torch.cat([embeddings, mirrored], dim=1) if flip_mode == "concat" else (embeddings + mirrored) / 2

    return network


def _no_rows(model: Network, preprocessing: Preprocessing, ranks: Ranks) -> torch.Tensor:
    """Empty rows [0, E] of a rank without images, where there are fewer images than ranks."""
    image = torch.zeros(1, 3, *preprocessing.input_size, device=ranks.device)
    rows: torch.Tensor = model(image)
    return rows[:0].float()


def pair_scores(
    faces: VerificationFaces, embeddings: NDArray[np.float32], dist: str = "cos", center: bool = False
) -> NDArray[np.float64]:
    """Score of each pair [P]: the cosine of its embeddings, or minus their distance with dist "l2".

    embeddings: [N, E] of all images. center: subtract their mean first.
    """
    first, second = faces.pairs.T
    rows = compared(embeddings, center)
    return _SCORES[dist](rows[first], rows[second])


def compared(embeddings: NDArray[np.float32], center: bool) -> NDArray[Any]:
    """Embeddings [N, E] as pairs of them are compared: less their mean with `center`."""
    return embeddings - embeddings.mean(axis=0, dtype=np.float64) if center else embeddings


_SCORES = {"cos": cosine_scores, "l2": l2_scores}


def people_of_pairs(faces: VerificationFaces) -> NDArray[np.int64]:
    """Numbers of the two identities in each pair, [P, 2], as of `people_of_names`."""
    return people_of_names(faces.names, faces.pairs, faces.same)


def evaluate(
    model: Network,
    faces: VerificationFaces,
    preprocessing: Preprocessing,
    settings: DaliSettings,
    ranks: Ranks,
    batch_size: int,
    flipped: bool,
    heartbeat: Heartbeat | None = None,
) -> tuple[Verification, NDArray[np.float64], NDArray[np.float32]]:
    """Verification result, pair scores [P] and embeddings [N, E], the same on every rank."""
    embeddings = embed(model, faces, preprocessing, settings, ranks, batch_size, flipped, heartbeat=heartbeat)
    scores = pair_scores(faces, embeddings)
    return verify(scores, faces.same, faces.fold), scores, embeddings
