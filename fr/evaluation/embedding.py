"""Images → embeddings over all ranks → scores of pairs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fr.data.faces import Faces, VerificationFaces
from fr.data.pipeline import DaliSettings, FaceStream
from fr.data.samples import plain_batches
from fr.distributed import Heartbeat, Ranks, gather_objects, gather_rows, raise_reason
from fr.errors import InputError
from fr.evaluation.people import people_of_names
from fr.evaluation.verification import cosine_scores, l2_scores
from fr.preprocessing import Preprocessing
from fr.progress import progress

Network = Callable[[torch.Tensor], torch.Tensor]  # [B, 3, H, W] → [B, E]: a backbone or an ONNX model
Matrix = NDArray[np.float32]


def embed(
    network: Network,
    faces: Faces,
    preprocessing: Preprocessing,
    settings: DaliSettings,
    ranks: Ranks,
    batch_size: int,
    what: str = "",
) -> Matrix:
    """`embed_sets` of one network and one set."""
    bar = f"embedding {what}".rstrip()
    ((rows,),) = embed_sets([network], [faces], preprocessing, settings, ranks, batch_size, bar=bar)
    return rows


@torch.inference_mode()
def embed_sets(
    networks: Sequence[Network],
    sets: Sequence[Faces],
    preprocessing: Preprocessing,
    settings: DaliSettings,
    ranks: Ranks,
    batch_size: int,
    heartbeat: Heartbeat | None = None,
    bar: str = "embedding",
) -> list[list[Matrix]]:
    """Embed all images, split over the ranks: for each network, of each set [N, E], on every rank.

    Each image is decoded once, whatever the number of networks, and there is one DALI graph. batch_size: images per
    rank. bar: text of the progress bar. A backbone must be in evaluation mode. InputError, on all ranks together, names
    images that can't be read or whose embedding isn't finite; another exception on one rank is an InputError on the
    others.
    """
    digests = [faces.columns_digest for faces in sets] if ranks.world_size > 1 else []
    if any(others != digests for others in gather_objects(digests)):
        raise InputError("the images to embed aren't the same on all ranks: hosts have different lists or landmarks")
    shares = [np.array_split(np.arange(len(faces)), ranks.world_size) for faces in sets]
    batches = [
        (number, batch)
        for number, (faces, share) in enumerate(zip(sets, shares, strict=True))
        for batch in plain_batches(faces, share[ranks.rank], batch_size)
    ]
    # By network and set, on the device: copying each batch to the CPU would wait for it.
    parts: list[list[list[torch.Tensor]]] = [[[] for _ in sets] for _ in networks]
    failure: Exception | None = None
    count = sum(len(batch.indices) for _, batch in batches)
    with progress(count, "img", bar, shown=ranks.is_main) as shown:
        try:
            stream = FaceStream((batch for _, batch in batches), batch_size, preprocessing, settings)
            for (number, _), (images, _) in zip(batches, stream, strict=True):
                images = images.to(ranks.device, non_blocking=True)
                for network, of_sets in zip(networks, parts, strict=True):
                    of_sets[number].append(network(images).float())
                if heartbeat:
                    heartbeat.count += 1
                shown.update(len(images))
            own = [
                [torch.cat(rows or [_no_rows(network, preprocessing, ranks)]).cpu() for rows in of_sets]
                for network, of_sets in zip(networks, parts, strict=True)
            ]
        except Exception as error:
            failure = error
    raise_reason(failure)
    counts = [[len(part) for part in share] for share in shares]
    return [[_gathered(*one) for one in zip(sets, of_sets, counts, strict=True)] for of_sets in own]


def _gathered(faces: Faces, rows: torch.Tensor, counts: list[int]) -> Matrix:
    embeddings: Matrix = gather_rows(rows, counts).numpy()
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1)).tolist()
    if bad:
        raise InputError(*[f"{faces.path(i)}: its embedding isn't finite" for i in bad[:10]])
    return embeddings


def batch_size_on(device: torch.device, wish: int) -> int:
    """Value of --val_batch_size: `wish`, or for 0 what keeps the device busy."""
    return wish or (256 if device.type == "cuda" else 20)


def with_mirror_image(network: Network, flip_mode: str) -> Network:
    """Combine embeddings with the mirror images': their mean [B, E] ("sum") or concatenated [B, 2E] ("concat").

    With "" the network as it is.
    """

    def combined(images: torch.Tensor) -> torch.Tensor:
        embeddings, mirrored = network(images), network(images.flip(3))
        return torch.cat([embeddings, mirrored], dim=1) if flip_mode == "concat" else (embeddings + mirrored) / 2

    return combined if flip_mode else network


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
