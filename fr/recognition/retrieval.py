"""Retrieval metrics of probes in a gallery of single images: rank-k and mean average precision, as on TinyFace.

Unlike `fr/recognition/identification.py` an image is ranked, not an identity. Letters: Q probes, G images of the
gallery, E embedding size.
"""

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.all_pairs import Places, Rows, blocks


def retrieve(probes: Rows, person: Places, gallery: Rows, gallery_person: Places) -> tuple[Places, NDArray[np.float64]]:
    """Rank [Q] of the first image of a probe's own person, 1 = first, and average precision [Q].

    probes: [Q, E], gallery: [G, E], of norm 1; person: [Q] and gallery_person: [G]; each probe's own person is in the
    gallery. Ties count against the own person. The average precision is that of TinyFace's compute_AP.m: the area
    under the curve of precision over recall by trapezoids, from precision 1.
    """
    rank = np.zeros(len(probes), dtype=np.int64)
    precision = np.zeros(len(probes))
    for part in blocks(len(probes), len(gallery)):
        for row, scores in enumerate(probes[part] @ gallery.T, start=part.start):
            own = gallery_person == person[row]
            others, best = np.sort(scores[~own]), np.sort(scores[own])[::-1]
            found = np.arange(1, len(best) + 1)
            place = found + len(others) - np.searchsorted(others, best, side="left")  # of each own image
            before = np.where(place > 1, (found - 1) / np.maximum(place - 1, 1), 1.0)  # precision one place earlier
            rank[row] = place[0]
            precision[row] = np.mean((before + found / place) / 2)
    return rank, precision


def retrieval_metrics(rank: Places, precision: NDArray[np.float64], ranks: tuple[int, ...]) -> dict[str, float]:
    """Share of the probes whose rank is at most k, for each k, and the mean average precision."""
    return {f"rank{k}": float(np.mean(rank <= k)) for k in ranks} | {"map": float(np.mean(precision))}
