"""The learning-rate schedule, a pure function of the iteration."""

from collections.abc import Sequence

DROP = 0.1  # factor of the learning rate at every drop


def lr_at(iteration: int, lr: float, warmup: int, drops: Sequence[int]) -> float:
    """Learning rate of an iteration (from 0): linear warm-up to `lr`, then × 0.1 at each iteration of `drops`.

    The first step of a warm-up of n iterations has lr / n, the last lr.
    """
    return lr * min(1.0, (iteration + 1) / max(1, warmup)) * DROP ** sum(iteration >= drop for drop in drops)
