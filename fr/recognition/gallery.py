"""Gallery of known identities for face search, by an exact matrix product.

Letters: N identities ("people"), G images of them, E embedding size, Q probes. The score of an identity is the maximum
over its images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fr.evaluation.all_pairs import Places, Rows, blocks
from fr.evaluation.verification import unit_rows


@dataclass(frozen=True)
class Gallery:
    """Gallery of N people. people: [N] names. person: [G] rows of `people`, ascending. rows: [G, E] of norm 1.

    A person may have no image.
    """

    people: list[str]
    person: Places
    rows: Rows

    def best(self, probes: Rows) -> tuple[Places, NDArray[np.float32]]:
        """Best match of each probe [Q, E] of norm 1: row of `people` and cosine, [Q] each."""
        rows = np.empty(len(probes), dtype=np.int64)
        scores = np.empty(len(probes), dtype=np.float32)
        for part in blocks(len(probes), len(self.rows)):
            cosines = probes[part] @ self.rows.T
            rows[part] = cosines.argmax(axis=1)
            scores[part] = cosines.max(axis=1)
        return self.person[rows], scores


def new_gallery(people: list[str], names: list[str], embeddings: Rows) -> Gallery:
    """Build a gallery. people: [N] in any order. names: [G], each image's identity. embeddings: [G, E] of any norm."""
    number = {name: row for row, name in enumerate(people)}
    person = np.array([number[name] for name in names], dtype=np.int64)
    order = np.argsort(person, kind="stable")
    return Gallery(people, person[order], normalised_rows(embeddings[order]))


def normalised_rows(embeddings: Rows) -> Rows:
    """Normalise rows [Q, E] to norm 1; zero rows stay zero."""
    return unit_rows(embeddings.astype(np.float64)).astype(np.float32)
