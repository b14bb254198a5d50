"""1:N identification: probes searched in a gallery → rank-k, CMC and TPIR at fixed FPIRs.

As NIST's FRVT and FRTE 1:N define them (NIST IR 8271), with candidate lists of one: TPIR = 1 - FNIR(N, R = 1, T). A
probe is mated if its person is in the gallery. TPIR(T): share of the mated probes whose person comes first, with a
score above T. FPIR(T): share of the other probes for which anybody has a score above T. A probe without a face is
searched in vain; so is one whose person has no picture of use in the gallery: for mated probes that is a miss.

Letters: N people in the gallery, Q probes, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.roc import false_matches
from fr.recognition.gallery import Gallery, Places, Rows, blocks

RANKS = (1, 5)
FPIRS = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True)
class Searches:
    """What came of Q probes.

    mated: [Q]. rank: [Q] of the probe's own person, 1 = first; 0 = not found at all. Whoever has the same score comes
    before. top: [Q] the highest score, a cosine; -1 of a probe without a face.
    """

    mated: NDArray[np.bool_]
    rank: Places
    top: NDArray[np.float64]


def search(gallery: Gallery, probes: Rows, person: Places, searched: NDArray[np.bool_]) -> Searches:
    """person: [Q] row of gallery.people, -1 = a stranger. searched: [Q], whether a probe has a face.
    probes: [number of those that have, E] of length 1."""
    rank = np.zeros(len(person), dtype=np.int64)
    top = np.full(len(person), -1.0)
    places = np.flatnonzero(searched)
    present, starts = np.unique(gallery.person, return_index=True)
    for part in blocks(len(probes), len(gallery.rows)):
        at = places[part]
        best = np.full((len(at), len(gallery.people)), -np.inf, dtype=np.float32)
        best[:, present] = np.maximum.reduceat(probes[part] @ gallery.rows.T, starts, axis=1)
        own = best[np.arange(len(at)), person[at]]  # the last one's for a stranger, which isn't used
        found = (person[at] >= 0) & (own > -np.inf)
        rank[at] = np.where(found, np.count_nonzero(best >= own[:, None], axis=1), 0)
        top[at] = best.max(axis=1)
    return Searches(person >= 0, rank, top)


def cmc(searches: Searches, people: int) -> NDArray[np.float64]:
    """The cumulative match characteristic: share of the mated probes whose person is among the first 1 … people."""
    rank = searches.rank[searches.mated]
    counts = np.bincount(rank, minlength=people + 1)[1:]
    curve: NDArray[np.float64] = np.cumsum(counts) / len(rank)
    return curve


def identification_figures(searches: Searches) -> dict[str, float | None]:
    """Rank-k and TPIR at FPIR, with the threshold that gives it as a cosine distance.

    None where there is nothing to measure: no mated probes, or so few others that the FPIR allows not one of them.
    """
    rank = searches.rank[searches.mated]
    figures: dict[str, float | None] = {f"rank{k}": _share((rank >= 1) & (rank <= k)) for k in RANKS}
    strangers = np.sort(searches.top[~searches.mated])[::-1]
    for fpir in FPIRS:
        allowed = false_matches(fpir, len(strangers))
        score = float(strangers[allowed]) if allowed else None
        figures[f"tpir@fpir={fpir:.0e}"] = None if score is None else tpir(searches, score)
        figures[f"threshold@fpir={fpir:.0e}"] = None if score is None else 1 - score
    return figures


def tpir(searches: Searches, score: float) -> float | None:
    """Share of the mated probes that get their name above a score; None without any."""
    return _share((searches.rank == 1)[searches.mated] & (searches.top > score)[searches.mated])


def fpir(searches: Searches, score: float) -> float | None:
    """Share of the strangers that get a name above a score; None without any."""
    return _share((searches.top > score)[~searches.mated])


def _share(of: NDArray[np.bool_]) -> float | None:
    return float(of.mean()) if len(of) else None
