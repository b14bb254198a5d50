"""Names of photographs as the keys of bb_landmark's tables: paths below a root without their ending."""

import re
from collections.abc import Iterable

from fr.data.faces import refuse


def key_of(name: str) -> str:
    """`n000002/0001_01.jpg` → `n000002/0001_01`, as `fr/data/landmark_csv.py` joins them."""
    return re.sub(r"\.[^./]*\Z", "", name)


def refuse_ambiguous(names: Iterable[str]) -> None:
    """InputError for names that can't stand in a line, and for those whose keys are the same."""
    problems = []
    first: dict[str, str] = {}
    for name in names:
        if len(name.splitlines()) > 1:
            problems.append(f"{name!r}: a line break in the name; rename it")
        other = first.setdefault(key_of(name), name)
        if other is not name:
            problems.append(f"{name}: differs from {other} by its ending at most, and tables name both {key_of(name)}")
    refuse(problems)
