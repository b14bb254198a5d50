"""1:N identification metrics: rank-k, CMC, and TPIR at fixed FPIRs.

As defined by NIST's FRVT and FRTE 1:N (NIST IR 8271), with candidate lists of one: TPIR = 1 - FNIR(N, R = 1, T). A
probe is mated if its identity is in the gallery. TPIR(T): share of the mated probes whose identity comes first, with a
score above T. FPIR(T): share of the other probes for which any identity has a score above T. A mated probe without a
face, or whose identity has no usable image in the gallery, is a miss.

Letters: N identities in the gallery, Q probes, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.all_pairs import Places, Rows, blocks
from fr.evaluation.roc import false_matches
from fr.recognition.gallery import Gallery

RANKS = (1, 5)
FPIRS = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True)
class Searches:
    """Search results of Q probes.

    mated: [Q]. rank: [Q] of the probe's own identity, 1 = first, 0 = not found; ties count against it. top: [Q]
    highest score, a cosine; -1 for a probe without a face.
    """

    mated: NDArray[np.bool_]
    rank: Places
    top: NDArray[np.float64]


def search(gallery: Gallery, probes: Rows, person: Places, searched: NDArray[np.bool_]) -> Searches:
    """Search probes in a gallery.

    person: [Q] row of gallery.people, -1 = not in the gallery. searched: [Q], True if a probe has a face. probes:
    [searched.sum(), E] of norm 1.
    """
    rank = np.zeros(len(person), dtype=np.int64)
    top = np.full(len(person), -1.0)
    places = np.flatnonzero(searched)
    present, starts = np.unique(gallery.person, return_index=True)
    for part in blocks(len(probes), len(gallery.rows)):
        at = places[part]
        best = np.full((len(at), len(gallery.people)), -np.inf, dtype=np.float32)
        best[:, present] = np.maximum.reduceat(probes[part] @ gallery.rows.T, starts, axis=1)
        own = best[np.arange(len(at)), person[at]]  # for -1 the last identity's, unused
        comparable = (person[at] >= 0) & (own > -np.inf)
        rank[at] = np.where(comparable, np.count_nonzero(best >= own[:, None], axis=1), 0)
        top[at] = best.max(axis=1)
    return Searches(person >= 0, rank, top)


def template_identification(
    templates: Rows, gallery: Places, subject: Places, probes: Places, probe_subject: Places
) -> Searches:
    """Search probe templates in a gallery of templates, as on IJB.

    templates: [T, E] of norm 1. gallery, subject: [G] rows of templates and their subjects; probes, probe_subject: [Q].
    """
    people, person = np.unique(subject, return_inverse=True)
    order = np.argsort(person, kind="stable")
    known = Gallery([str(one) for one in people], person[order].astype(np.int64), templates[gallery[order]])
    place = np.minimum(np.searchsorted(people, probe_subject), len(people) - 1)
    mated = people[place] == probe_subject
    return search(known, templates[probes], np.where(mated, place, -1), np.ones(len(probes), dtype=np.bool_))


def cmc(searches: Searches, people: int) -> NDArray[np.float64]:
    """Cumulative match characteristic: share of the mated probes whose rank is at most 1 … `people`."""
    rank = searches.rank[searches.mated]
    counts = np.bincount(rank, minlength=people + 1)[1:]
    curve: NDArray[np.float64] = np.cumsum(counts) / len(rank)
    return curve


def identification_metrics(
    searches: Searches, ranks: Sequence[int] = RANKS, fpirs: Sequence[float] = FPIRS
) -> dict[str, float | None]:
    """Rank-k, TPIR at each FPIR, and its threshold as a cosine distance.

    None if it can't be measured: there are no mated probes, or too few others for a single false positive.
    """
    rank = searches.rank[searches.mated]
    metrics: dict[str, float | None] = {f"rank{k}": _share((rank >= 1) & (rank <= k)) for k in ranks}
    strangers = np.sort(searches.top[~searches.mated])[::-1]
    for fpir in fpirs:
        allowed = false_matches(fpir, len(strangers))
        score = float(strangers[allowed]) if allowed else None
        metrics[f"tpir@fpir={fpir:.0e}"] = None if score is None else tpir(searches, score)
        metrics[f"threshold@fpir={fpir:.0e}"] = None if score is None else 1 - score
    return metrics


def tpir(searches: Searches, score: float) -> float | None:
    """Share of the mated probes whose own identity comes first above a score; None without mated probes."""
    return _share((searches.rank == 1)[searches.mated] & (searches.top > score)[searches.mated])


def fpir(searches: Searches, score: float) -> float | None:
    """Share of the unmated probes with any score above `score`; None without unmated probes."""
    return _share((searches.top > score)[~searches.mated])


def _share(mask: NDArray[np.bool_]) -> float | None:
    return float(mask.mean()) if len(mask) else None
