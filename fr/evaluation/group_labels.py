"""Groups of the people in verification sets, from a table of identities (`fr/evaluation/group_table.py`).

Letters: N images, I people with a group, G groups.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fr.data.faces import VerificationFaces, refuse
from fr.evaluation.people import numbers_of_names


@dataclass(frozen=True, eq=False)
class Labels:
    """People of a set and their groups.

    names: [G]. person: [N] from 0 to I - 1; -1 for those without a group. group: [I] row of `names`.
    """

    names: list[str]
    person: NDArray[np.int64]
    group: NDArray[np.int64]

    @property
    def images(self) -> NDArray[np.int64]:
        """Images of each person, [I]."""
        return np.bincount(self.person[self.person >= 0], minlength=len(self.group))

    def impostors(self, faces: VerificationFaces) -> NDArray[np.bool_]:
        """Mask [P] of the set's pairs of two people who both have a group."""
        first, second = self.person[faces.pairs].T
        two_known: NDArray[np.bool_] = (first >= 0) & (second >= 0) & (first != second)
        return ~faces.same & two_known

    def genuine(self, faces: VerificationFaces) -> NDArray[np.bool_]:
        """Mask [P] of the set's pairs of a person who has a group."""
        known: NDArray[np.bool_] = self.person[faces.pairs[:, 0]] >= 0
        return faces.same & known


def labels_of(faces: VerificationFaces, table: Mapping[str, str], source: str) -> Labels:
    """Find the people of a set in a table of groups.

    Images are of one person if the set says so (`numbers_of_names`), or if they have one identity in the table.
    InputError, about `source`, for a person in two groups.
    """
    names = faces.names.to_pylist()
    keys = [_identity_in(table, name) for name in names]
    known = np.array([key is not None for key in keys], dtype=bool)
    identities = [key for key in keys if key is not None]
    number = {key: row for row, key in enumerate(dict.fromkeys(identities))}
    people = numbers_of_names(faces.names, faces.pairs, faces.same)
    count = int(people.max()) + 1
    links = (np.ones(len(identities)), (people[known], [count + number[key] for key in identities]))
    size = count + len(number)
    _, merged = connected_components(coo_array(links, shape=(size, size)), directed=False)
    numbers, first = np.unique(merged[people[known]], return_index=True)
    rows = np.flatnonzero(known)
    groups = [table[identities[row]] for row in first.tolist()]
    person = np.searchsorted(numbers, merged[people])
    person = np.where(np.isin(merged[people], numbers), person, -1)
    refuse([
        f"{source}: {names[rows[first[one]]]} and {names[row]} are one person, whom --groups has in {groups[one]} and "
        f"in {table[key]}"
        for row, one, key in zip(rows.tolist(), person[known].tolist(), identities, strict=True)
        if table[key] != groups[one]
    ])
    ordered = sorted({*groups})
    return Labels(ordered, person, np.array([ordered.index(group) for group in groups], dtype=np.int64))


def _identity_in(table: Mapping[str, str], image: str) -> str | None:
    """Identity of an image in the table: one of its folders, the innermost first, or its name; None if not found."""
    path = PurePosixPath(image)
    folders = [part for part in reversed(path.parent.parts) if part]
    numbered = path.stem.isdecimal() and not folders  # a position in a pack of images, not a person's name
    candidates = () if numbered else (*folders, path.stem, re.sub(r"_[0-9]+$", "", path.stem))
    return next((name for name in candidates if name in table), None)
