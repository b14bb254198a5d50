"""Gallery of people to identify faces by: the nearest person, by an exact matrix product.

Letters: N people, G pictures of them, E embedding size, Q probes. A person's score is that of the picture of theirs
that is most like the probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.verification import unit_rows

Rows = NDArray[np.float32]
Places = NDArray[np.int64]

_SCORES = 1 << 24  # at a time: 64 MB


@dataclass(frozen=True)
class Gallery:
    """people: [N] names. person: [G] rows of `people`, ascending; one may have none. rows: [G, E] of length 1."""

    people: list[str]
    person: Places
    rows: Rows

    def best(self, probes: Rows) -> tuple[Places, NDArray[np.float32]]:
        """The person most like each probe [Q, E] of length 1, and the cosine: [Q] each."""
        found = np.empty(len(probes), dtype=np.int64)
        scores = np.empty(len(probes), dtype=np.float32)
        for part in blocks(len(probes), len(self.rows)):
            cosines = probes[part] @ self.rows.T
            found[part] = cosines.argmax(axis=1)
            scores[part] = cosines.max(axis=1)
        return self.person[found], scores


def new_gallery(people: list[str], names: list[str], embeddings: Rows) -> Gallery:
    """people: [N] in any order. names: [G], whose picture each is. embeddings: [G, E] as the network gives them."""
    number = {name: row for row, name in enumerate(people)}
    person = np.array([number[name] for name in names], dtype=np.int64)
    order = np.argsort(person, kind="stable")
    return Gallery(people, person[order], of_length_1(embeddings[order]))


def of_length_1(embeddings: Rows) -> Rows:
    """[Q, E] scaled to length 1, in which zeros stay zeros."""
    return unit_rows(embeddings.astype(np.float64)).astype(np.float32)


def blocks(probes: int, pictures: int) -> list[slice]:
    """Rows of the probes whose scores with all pictures fit into memory together."""
    rows = max(1, _SCORES // max(1, pictures))
    return [slice(first, first + rows) for first in range(0, probes, rows)]
