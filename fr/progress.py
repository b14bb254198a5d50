"""Progress bars."""

import sys
from typing import Any

from tqdm import tqdm


def progress(total: int, unit: str, what: str, first: int = 0, shown: bool = True) -> "tqdm[Any]":
    """A progress bar; where no terminal is, a line every few seconds."""
    interval = 0.2 if sys.stderr.isatty() else 5.0
    return tqdm(total=total, initial=first, unit=unit, desc=what, disable=not shown, mininterval=interval)
