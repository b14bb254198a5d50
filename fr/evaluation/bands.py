"""95 % band of a ROC curve: at each FAR the interval of the TAR, computed as in `fr/evaluation/pair_statistics.py`.

The band is pointwise: at a given FAR the true TAR is inside in 95 of 100 sets; the whole true curve is inside in fewer.
Ends are percentiles of bootstrap replicates with resampled people, and at least as far apart as for independent pairs.

Letters: P pairs, N points of the curve, F FARs, R replicates.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.bootstrap import draws
from fr.evaluation.intervals import clopper_pearson, percentile, wider
from fr.evaluation.roc import ENOUGH_MATCHES, Rates, Roc, falling, rates, roc_curve

MOST = 500  # FARs with an interval of their own; more wouldn't be visible in a plot


def banded_curve(
    scores: NDArray[np.float64], same: NDArray[np.bool_], people: NDArray[np.int64], count: int, seed: int = 0
) -> Roc:
    """ROC curve of [P] pairs with its band, from `count` replicates; without replicates there is no band.

    people: [P, 2] numbers of each pair's identities. At FARs that allow fewer than ENOUGH_MATCHES false matches the
    band is NaN: resampling the few highest scores tells little about those of another sample. Of more than MOST other
    FARs those in equal steps on a log scale have an interval; between two of them, the band reaches from the lower end
    of the lower FAR to the upper end of the higher one.
    """
    roc = roc_curve(scores, same)
    positive = int(np.count_nonzero(same))
    fars = thinned(np.unique(roc.far[roc.far * (same.size - positive) > ENOUGH_MATCHES - 0.5]))
    replicates = tar_replicates(scores, same, people, fars, count, seed)
    if not replicates.size:
        return roc
    at = np.searchsorted(roc.far, fars, side="right") - 1
    ends = [
        wider(percentile(of_far), clopper_pearson(tar, positive))
        for of_far, tar in zip(replicates.T, roc.tar[at].tolist(), strict=True)
    ]
    low, high = np.array(ends, dtype=np.float64).T
    below = np.searchsorted(fars, roc.far, side="right") - 1  # -1 = none
    above = np.searchsorted(fars, roc.far, side="left")
    return replace(roc, band=np.where(below < 0, np.nan, [low[below], high[above]]))


def thinned(fars: Rates) -> Rates:
    """Select at most MOST of these ascending FARs above 0, in equal steps on a log scale, with the first and last."""
    if len(fars) <= MOST:
        return fars
    wanted = np.geomspace(fars[0], fars[-1], MOST)[1:-1]
    return np.unique(np.concatenate([fars[[0, -1]], fars[np.searchsorted(fars, wanted)]]))


def tar_replicates(
    scores: NDArray[np.float64], same: NDArray[np.bool_], people: NDArray[np.int64], fars: Rates, count: int, seed: int
) -> Rates:
    """TAR at each FAR, as in `tar_at`, of resampled sets: [R, F]; sets without same or different pairs are left out."""
    order, ends = falling(scores)
    same, people = same[order], people[order]
    found = [np.zeros((0, len(fars)))]
    for weights in draws(people, count, seed):
        usable = weights[weights[:, same].any(axis=1) & weights[:, ~same].any(axis=1)]
        for far, tar in zip(*rates(usable, same, ends), strict=True):
            found.append(tar[None, np.searchsorted(far, fars, side="right") - 1])
    return np.concatenate(found)
