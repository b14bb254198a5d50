"""The learning-rate schedule, a pure function of the iteration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

DROP = 0.1  # factor of the learning rate at every drop
_EARLY = 50  # iterations; a drop before them is too early


@dataclass(frozen=True)
class Schedule:
    """Learning rate of an iteration (from 0): linear warm-up to `lr`, then by `shape`.

    shape: one of `fr.options.names.SCHEDULES`. warmup, drops, last (length of the training): iterations. step: × 0.1 at
    each of `drops`, also within the warm-up. With p from 0 at the end of the warm-up to 1 at `last`, poly: end +
    (lr - end) (1 - p)^power, insightface's with power 2 and end 0; cosine: end + (lr - end) (1 + cos πp) / 2
    (arXiv:1608.03983, eq. 5).
    """

    lr: float
    warmup: int = 0
    drops: Sequence[int] = ()
    last: int = 0
    shape: str = "step"
    end: float = 0.0
    power: float = 2.0

    def __call__(self, iteration: int) -> float:
        """Learning rate of an iteration; a warm-up of n iterations goes from lr / n to lr."""
        warm = self.lr * min(1.0, (iteration + 1) / max(1, self.warmup))
        if self.shape == "step":
            return warm * DROP ** sum(iteration >= drop for drop in self.drops)
        if self.shape == "constant" or iteration < self.warmup:
            return warm
        progress = min(1.0, (iteration - self.warmup) / max(1, self.last - self.warmup))
        share = (1 - progress) ** self.power if self.shape == "poly" else (1 + math.cos(math.pi * progress)) / 2
        return self.end + (self.lr - self.end) * share

    def warnings(self, last: int = 0) -> list[str]:
        """Warnings about a schedule that can't train well, one line each. last: end of the run; 0 = as planned."""
        last = last or self.last
        found = []
        if self.warmup >= last:
            found.append(f"the warm-up of {self.warmup:,} iterations is no shorter than the run of {last:,}")
        drops = self.drops if self.shape == "step" else ()
        if late := [drop for drop in drops if drop >= last]:
            found.append(
                f"{len(late)} of {len(drops)} drops of the learning rate are after the end, iteration {last:,}"
            )
        early = max(_EARLY, self.warmup)
        if soon := [drop for drop in drops if drop < min(early, last)]:
            found.append(
                f"the learning rate is down to {self.lr * DROP ** len(soon):g} by iteration {soon[-1]:,}, "
                f"{'within the warm-up' if soon[0] < self.warmup else 'before much is learned'}: --lr_drops and "
                "--epoch_total_num count epochs, which are short here; give later drops or a smaller "
                "--train_batch_size"
            )
        return found
