"""Progress: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} so far, {remaining} left, {rate_fmt}{postfix}"
_EARLY = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} so far{postfix}"
_FEW = 5  # items: before, the rate is mostly that of the first one, which waits for files and kernels
_SECONDS = 10.0  # between lines
_UP = "\x1b[A"  # tqdm's escape sequence that moves to the line of an enclosing bar


class _Lines:
    """Standard error for tqdm where it is no terminal: each state of the bar becomes a line."""

    def write(self, text: str) -> int:
        if line := text.replace(_UP, "").strip():
            sys.stderr.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Bar(tqdm):  # type: ignore[type-arg]
    """Bar of tqdm that estimates neither rate nor end before a few items are done."""

    @property
    def format_dict(self) -> dict[str, Any]:
        facts = dict(super().format_dict)
        if self.n - self.initial < _FEW and self.n != self.total:
            facts["rate"] = 0  # "?" in a bar
            facts["bar_format"] = facts["bar_format"] and _EARLY
        return facts


def progress(total: int | None, unit: str, what: str, first: int = 0, shown: bool = True) -> "tqdm[Any]":
    """Progress bar; lines where standard error is no terminal, and no line for work that takes under ten seconds."""
    return _Bar(total=total, initial=first, unit=unit, desc=what, disable=not shown, **_form())


def tracked(items: Iterable[T], unit: str, what: str, total: int | None = None, shown: bool = True) -> "tqdm[T]":
    """Iterate over items with a `progress` bar. total: number of items, if they have no length."""
    return _Bar(items, total=total, unit=unit, desc=what, disable=not shown, **{"delay": 1.0} | _form())


def _form() -> dict[str, Any]:
    if sys.stderr.isatty():
        return {"mininterval": 0.2}
    return {"mininterval": _SECONDS, "delay": _SECONDS, "bar_format": _LINE, "file": _Lines()}
