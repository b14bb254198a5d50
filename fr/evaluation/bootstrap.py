"""Confidence intervals of verification figures: people are resampled, since pairs that share one aren't independent.

People are drawn with replacement, and a pair counts as often as all
the people in it were drawn: a pair of two people by the product of their counts, a pair of one person by that
person's. Source: Owen, The pigeonhole bootstrap (2007), https://arxiv.org/abs/0712.1111; there, why intervals are
rather too wide than too narrow: up to √3 times, where the people of different pairs hardly occur twice.

Letters: P pairs, I people, R replicates, r replicates of a block, N points of a ROC curve.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.roc import area, equal_error_rate, falling, rates, tar_at

Replicates = dict[str, NDArray[np.float64]]
BLOCK = 2**20  # weights at a time, 8 MB an array: the processor's cache matters more than the number of blocks
LEVEL = 0.95


def replicates(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    right: NDArray[np.bool_],
    people: NDArray[np.int64],
    count: int,
    fars: tuple[float, ...] = (),
    seed: int = 0,
) -> Replicates:
    """Figures of `count` resampled sets: accuracy, auc, eer, and `tar_name` of each FAR, R values each.

    scores, same, right: [P]; right is whether a pair is judged rightly, at thresholds that stay those of the folds.
    people: [P, 2] numbers of the people in each pair. Sets without a pair of some kind are left out, so R may be
    less than `count`. Equal seeds and people give equal draws: figures of two models on one set then are pairs.
    """
    order, ends = falling(scores)
    same, right, people = same[order], right[order], people[order]
    blocks = []
    for weights in draws(people, count, seed):
        weights = weights[weights[:, same].any(axis=1) & weights[:, ~same].any(axis=1)]
        far, tar = rates(weights, same, ends)
        figures = {
            "accuracy": weights @ right.astype(np.float64) / weights.sum(axis=1),
            "auc": area(far, tar),
            "eer": equal_error_rate(far, tar),
        }
        blocks.append(figures | {tar_name(most): tar_at(far, tar, most) for most in fars})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def draws(people: NDArray[np.int64], count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each pair counts in each resampled set: blocks [r, P], `count` sets in all. people: [P, 2]."""
    known, code = np.unique(people, return_inverse=True)
    first, second = code.reshape(people.shape).T
    generator = np.random.default_rng(seed)
    at_once = max(1, BLOCK // max(len(people), known.size))
    for start in range(0, count, at_once):
        rows = min(at_once, count - start)
        drawn = generator.integers(known.size, size=(rows, known.size)) + known.size * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * known.size).reshape(rows, known.size)
        yield counts[:, first] * np.where(first == second, 1, counts[:, second])


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The middle 95 % of the replicates [R] (percentile method); None of none."""
    if not values.size:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def tar_name(far: float) -> str:
    """`tar@far=1e-03`"""
    return f"tar@far={far:.0e}"
