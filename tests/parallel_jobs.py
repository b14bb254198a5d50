"""Jobs of the workers of test_parallel.py, in a module that a new process imports quickly."""

import os
import signal
import time
from pathlib import Path

from fr.errors import InputError


def power(exponent: int, base: int) -> int:
    return int(base**exponent)


def fail_at(bad: int, number: int) -> int:
    if number == bad:
        raise InputError(f"{number} is bad", "in two ways")
    return number


def die_at(bad: int, number: int) -> int:
    if number == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def note(folder: Path, number: int) -> int:
    (folder / f"{number}").write_text(str(os.getpid()))
    time.sleep(0.05)
    return number
