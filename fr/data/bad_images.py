"""Images that can't be used: their replacements, their count over all ranks, and the limit on it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fr.distributed import gather_objects
from fr.errors import InputError


def stand_ins(labels: NDArray[np.int64], index: int) -> Iterator[int]:
    """Candidates to replace sample `index`, itself first: a function of the list only. labels [N].

    First the other images of its identity, cyclically from the next one in the list; then those of the following
    identities, starting at the same offset, so that not all images of an identity are replaced by the same one.
    """
    own, count = int(labels[index]), int(labels.max()) + 1
    place = int((labels[:index] == own).sum())
    for step in range(count):
        rows = np.flatnonzero(labels == (own + step) % count)
        yield from np.roll(rows, -place).tolist()


class BadImages:
    """Bad images found since this run was started or resumed, each counted once over all ranks."""

    def __init__(self, limit: int) -> None:
        """limit: --max_bad_images; the run ends when it is exceeded."""
        self._limit = limit
        self._known: dict[int, str] = {}  # sample → problem; the same on every rank
        self._news: dict[int, str] = {}  # found by this rank, not yet shared

    @property
    def count(self) -> int:
        return len(self._known)

    @property
    def listed(self) -> list[str]:
        """Problems, in the order of the list."""
        return [self._known[index] for index in sorted(self._known)]

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def report(self, index: int, problem: str) -> None:
        """Record a bad sample. InputError if this rank alone exceeds the limit: a lost disk isn't read file by file."""
        if index not in self._known:
            self._news[index] = problem
        if len(self._known) + len(self._news) > self._limit:
            raise InputError(self._verdict(len(self._known) + len(self._news), problem))

    def share(self) -> list[str]:
        """Problems that any rank reported since the last call; all ranks call it together."""
        reported = {index: problem for news in gather_objects(self._news) for index, problem in news.items()}
        new = {index: reported[index] for index in sorted(reported.keys() - self._known.keys())}
        self._known |= new
        self._news.clear()
        return list(new.values())

    def excess(self) -> InputError | None:
        """The error that must end the run, the same on all ranks after `share`; None within the limit."""
        if self.count <= self._limit:
            return None
        return InputError(self._verdict(self.count, list(self._known.values())[-1]))

    def _verdict(self, count: int, last: str) -> str:
        return f"bad images: {count}, and --max_bad_images is {self._limit}; the last: {last}"
