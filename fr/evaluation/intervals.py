"""95 % intervals: the wider ends of the bootstrap interval and the interval for independent pairs.

Without errors all replicates are equal, so the bootstrap interval has length 0, however few pairs there are. But pairs
that share people hold no more information than independent pairs. So no end of an interval is closer to the value than
that for independent pairs: of Clopper & Pearson (1934, https://doi.org/10.1093/biomet/26.4.404) for proportions, and
for the area under a ROC curve of Newcombe's score interval (2006, https://doi.org/10.1002/sim.2324, method 5), which is
Wilson's (1927, https://doi.org/10.1080/01621459.1927.10502953) with the variance of a rank statistic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtri

Interval = tuple[float, float]
LEVEL = 0.95
ENOUGH = 3  # expected errors needed for a rate: with 3, none occurs in e⁻³ = 5 % of samples (the "rule of three")
_TAIL = (1 - LEVEL) / 2
_CERTAIN = 1e-12  # areas this close to 0 or 1 are excluded from the search: the equation holds trivially there


def percentile(values: NDArray[np.float64]) -> Interval | None:
    """Central 95 % of the replicates [R]; None without replicates."""
    if not values.size:
        return None
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def wider(of_replicates: Interval | None, of_pairs: Interval) -> Interval | None:
    """The lower of both lower ends and the higher of both upper ends; None without replicates."""
    if of_replicates is None:
        return None
    return min(of_replicates[0], of_pairs[0]), max(of_replicates[1], of_pairs[1])


def clopper_pearson(share: float, count: float) -> Interval:
    """Exact interval of a proportion `share` of `count` independent trials; the product may be a fraction."""
    hits, misses = share * count, (1 - share) * count
    low = float(betaincinv(hits, misses + 1, _TAIL)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - _TAIL)) if misses > 0 else 1.0
    return low, high


def newcombe(area: float, same: int, different: int) -> Interval:
    """Score interval of the area under a ROC curve of independent pairs.

    Its ends are the areas θ for which (θ - area)² is z² times Hanley & McNeil's variance, with N = (m + n) / 2 - 1:
    θ (1 - θ) (1 + N (1 - θ) / (2 - θ) + N θ / (1 + θ)) / m n.
    """
    z, more = float(ndtri(1 - _TAIL)), (same + different) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + more * (1 - theta) / (2 - theta) + more * theta / (1 + theta)
        return (theta - area) ** 2 - z**2 * theta * (1 - theta) * spread / (same * different)

    inside = min(max(area, _CERTAIN), 1 - _CERTAIN)
    low = float(brentq(excess, 0.0, inside)) if area > _CERTAIN else 0.0
    high = float(brentq(excess, inside, 1.0)) if area < 1 - _CERTAIN else 1.0
    return low, high


def paired_difference(gains: NDArray[np.float64]) -> Interval:
    """Interval of the sum of independent pairs' gains [P] from one model to another; 0 if both are right or both wrong.

    Given the absolute gains, the number of positive ones is binomial: for equal gains the interval excludes 0 if and
    only if McNemar's exact test (1947) gives p < 5 %.
    """
    sizes = np.abs(gains)
    total = float(sizes.sum())
    if not total:
        return 0.0, 0.0
    count = total**2 / float((sizes**2).sum())  # Kish's effective number; the number of gains if they are equal
    low, high = clopper_pearson(float(gains[gains > 0].sum()) / total, count)
    return (2 * low - 1) * total, (2 * high - 1) * total
