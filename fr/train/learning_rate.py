"""The learning-rate schedule, a pure function of the iteration."""

from collections.abc import Sequence

DROP = 0.1  # factor of the learning rate at every drop
_EARLY = 50  # iterations; before them no network has learned what a lower rate would refine


def lr_at(iteration: int, lr: float, warmup: int, drops: Sequence[int]) -> float:
    """Learning rate of an iteration (from 0): linear warm-up to `lr`, then × 0.1 at each iteration of `drops`.

    The first step of a warm-up of n iterations has lr / n, the last lr.
    """
    return lr * min(1.0, (iteration + 1) / max(1, warmup)) * DROP ** sum(iteration >= drop for drop in drops)


def doubts(lr: float, warmup: int, drops: Sequence[int], last: int) -> list[str]:
    """Reasons why a schedule can't work, a line each. warmup, drops, last (the run's length): in iterations."""
    found = []
    if warmup >= last:
        found.append(f"the warm-up of {warmup:,} iterations is no shorter than the run of {last:,}")
    if late := [drop for drop in drops if drop >= last]:
        found.append(f"{len(late)} of {len(drops)} drops of the learning rate are after the end, iteration {last:,}")
    early = max(_EARLY, warmup)
    if soon := [drop for drop in drops if drop < min(early, last)]:
        found.append(
            f"the learning rate is down to {lr * DROP ** len(soon):g} by iteration {soon[-1]:,}, "
            f"{'within the warm-up' if soon[0] < warmup else 'before much is learned'}: --lr_drops and "
            "--epoch_total_num count epochs, which are short here; give later drops or a smaller --train_batch_size"
        )
    return found
