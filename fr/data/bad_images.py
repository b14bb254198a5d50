"""Photographs that can't be used: who stands in for them, which were found, and when they are too many (C9)."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fr.distributed import gather_objects
from fr.errors import InputError


def stand_ins(labels: NDArray[np.int64], index: int) -> Iterator[int]:
    """The samples to try for sample `index`, itself first: a function of the list alone (C2). labels [N].

    First the others of its identity, from the next one of the list on and round to its first; then those of the
    following identities, entered at the same place, so that not all of an identity fall upon one photograph.
    """
    own, count = int(labels[index]), int(labels.max()) + 1
    place = int((labels[:index] == own).sum())
    for step in range(count):
        rows = np.flatnonzero(labels == (own + step) % count)
        yield from np.roll(rows, -place).tolist()


class BadImages:
    """The photographs found bad since the start of this run (or its resume), each counted once over all ranks."""

    def __init__(self, limit: int) -> None:
        """limit: --max_bad_images; one more ends the run."""
        self._limit = limit
        self._known: dict[int, str] = {}  # sample → what is wrong with it; the same on every rank
        self._news: dict[int, str] = {}  # found by this rank, and not yet shared

    @property
    def count(self) -> int:
        return len(self._known)

    @property
    def listed(self) -> list[str]:
        """What is wrong with each, in the order of the list."""
        return [self._known[index] for index in sorted(self._known)]

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def report(self, index: int, problem: str) -> None:
        """Note a sample found bad. InputError if this rank alone knows of too many: a lost disk isn't tried file by
        file."""
        if index not in self._known:
            self._news[index] = problem
        if len(self._known) + len(self._news) > self._limit:
            raise InputError(self._verdict(len(self._known) + len(self._news), problem))

    def share(self) -> list[str]:
        """What is wrong with the samples that any rank found since the last time; all ranks call it together."""
        found = {index: text for news in gather_objects(self._news) for index, text in news.items()}
        new = {index: found[index] for index in sorted(found.keys() - self._known.keys())}
        self._known |= new
        self._news.clear()
        return list(new.values())

    def excess(self) -> InputError | None:
        """Why the run must end, on all ranks alike after `share`; or None."""
        if self.count <= self._limit:
            return None
        return InputError(self._verdict(self.count, list(self._known.values())[-1]))

    def _verdict(self, count: int, last: str) -> str:
        return f"bad photographs: {count}, and --max_bad_images is {self._limit}; the last: {last}"
