"""Keys of bb_landmark's tables: image paths below the root without their ending."""

import re
from collections.abc import Iterable

from fr.data.faces import refuse


def key_of(name: str) -> str:
    """Key of an image: `n000002/0001_01.jpg` → `n000002/0001_01`, as in `fr/data/landmark_csv.py`."""
    return re.sub(r"\.[^./]*\Z", "", name)


def refuse_ambiguous(names: Iterable[str]) -> None:
    """Raise InputError for names with line breaks and for names with equal keys."""
    problems = []
    first: dict[str, str] = {}
    for name in names:
        if len(name.splitlines()) > 1:
            problems.append(f"{name!r}: a line break in the name; rename it")
        other = first.setdefault(key_of(name), name)
        if other is not name:
            problems.append(f"{name}: differs from {other} by its ending at most, and tables name both {key_of(name)}")
    refuse(problems)
