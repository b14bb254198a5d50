"""Bootstrap replicates of verification metrics, resampling identities; `fr/evaluation/intervals.py` forms intervals.

Pairs that share an identity aren't independent. Identities are drawn with replacement; a pair of two identities is
weighted by the product of their counts, a pair of one by its count. Source: Owen, The pigeonhole bootstrap (2007),
https://arxiv.org/abs/0712.1111. It shows that the intervals are conservative: up to √3 times too wide where few
identities occur in more than one different pair.

Letters: P pairs, I identities, R replicates, r replicates of a block, N points of a ROC curve.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.roc import area, equal_error_rate, falling, rates, tar_at
from fr.evaluation.verification import Verification, mean_of_cells

Replicates = dict[str, NDArray[np.float64]]
BLOCK = 2**20  # weights per block, 8 MB: cache locality matters more than the number of blocks


def replicates(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    verification: Verification,
    people: NDArray[np.int64],
    count: int,
    fars: tuple[float, ...] = (),
    seed: int = 0,
) -> Replicates:
    """Metrics of `count` resampled sets: accuracy, auc, eer, and `tar_name` of each FAR, R values each.

    scores, same: the [P] pairs of `verification`, whose accuracy is resampled at the fixed thresholds of the folds, and
    averaged over folds and kinds as its protocol does. people: [P, 2] numbers of each pair's identities. Resampled sets
    without same or different pairs are left out, so R may be less than `count`. Equal seeds and identities give equal
    draws, so metrics of two models on one set are paired.
    """
    order, ends = falling(scores)
    same, people, right, cell = same[order], people[order], verification.right[order], verification.cell[order]
    blocks = []
    for weights in draws(people, count, seed):
        weights = weights[weights[:, same].any(axis=1) & weights[:, ~same].any(axis=1)]
        far, tar = rates(weights, same, ends)
        metrics = {
            "accuracy": mean_of_cells(weights, right, cell),
            "auc": area(far, tar),
            "eer": equal_error_rate(far, tar),
        }
        blocks.append(metrics | {tar_name(max_far): tar_at(far, tar, max_far) for max_far in fars})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def draws(people: NDArray[np.int64], count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Weight of each pair in each resampled set: blocks [r, P], `count` sets in all. people: [P, 2]."""
    identities, code = np.unique(people, return_inverse=True)
    first, second = code.reshape(people.shape).T
    for counts in redrawn(identities.size, count, seed, len(people)):
        yield counts[:, first] * np.where(first == second, 1, counts[:, second])


def redrawn(identities: int, count: int, seed: int, width: int = 0) -> Iterator[NDArray[np.int64]]:
    """Number of times that each of I identities is in each resampled set: blocks [r, I], `count` sets in all.

    width: values per set that the caller stores, if more than I; it limits the block size, not the draws.
    """
    generator = np.random.default_rng(seed)
    at_once = max(1, BLOCK // max(width, identities))
    for start in range(0, count, at_once):
        rows = min(at_once, count - start)
        offsets = identities * np.arange(rows)[:, None]
        drawn = generator.integers(identities, size=(rows, identities)) + offsets
        yield np.bincount(drawn.ravel(), minlength=rows * identities).reshape(rows, identities)


def tar_name(far: float) -> str:
    """Name of a TAR at a FAR, such as `tar@far=1e-03`."""
    return f"tar@far={far:.0e}"
