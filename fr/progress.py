"""Progress: a bar on a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} so far, {remaining} left, {rate_fmt}{postfix}"
_SECONDS = 10.0  # between lines
_UP = "\x1b[A"  # tqdm's, to the line of a bar that is open around this one


class _Lines:
    """Standard error for a bar of tqdm: each time it is drawn is a line."""

    def write(self, text: str) -> int:
        if line := text.replace(_UP, "").strip():
            sys.stderr.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


def progress(total: int | None, unit: str, what: str, first: int = 0, shown: bool = True) -> "tqdm[Any]":
    """A progress bar; where standard error is no terminal, lines, and none of what takes less than ten seconds."""
    return tqdm(total=total, initial=first, unit=unit, desc=what, disable=not shown, **_form())


def tracked(items: Iterable[T], unit: str, what: str, total: int | None = None, shown: bool = True) -> "tqdm[T]":
    """Items, and `progress` through them, for what may be done at once. total: how many, unless they have a length."""
    return tqdm(items, total=total, unit=unit, desc=what, disable=not shown, **{"delay": 1.0} | _form())


def _form() -> dict[str, Any]:
    if sys.stderr.isatty():
        return {"mininterval": 0.2}
    return {"mininterval": _SECONDS, "delay": _SECONDS, "bar_format": _LINE, "file": _Lines()}
