"""Streams and signals of a command: output that can't be written never ends it, Ctrl-C ends it plainly."""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

_NAMES = {1: "standard output", 2: "standard error"}


class SafeOutput(io.FileIO):
    """File of a standard stream. A write that fails is dropped and noted in `failure`; the other stream says so once.

    Each write is tried: a disk that was full, or a terminal that is back, gets what follows.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # the descriptor doesn't block, and its reader is slow
                select.select([], [self], [])
            return written
        except OSError as error:
            if self.failure is None:
                self.failure = error
                self._say(error)
            return memoryview(data).nbytes

    def _say(self, error: OSError) -> None:
        own = self.fileno()
        line = f"{_NAMES[own]} can't be written to: {error.strerror}; going on without it\n"
        with suppress(OSError):
            os.write(1 if own == 2 else 2, line.encode())


def begin() -> None:
    """Prepare the streams and signals of a command, before the imports that take seconds.

    Closed streams become /dev/null: else the next file that is opened gets their number, and what is printed. Until
    `fr.errors.run_plainly` Ctrl-C ends the process without a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
    sys.stdout, sys.stderr = _safe(1, sys.stdout), _safe(2, sys.stderr)


def lost_output() -> OSError | None:
    """The error that left standard output incomplete; None = there was none, or its reader ended (`| head`)."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, SafeOutput) else None
    return failure if failure and failure.errno != errno.EPIPE else None


def _safe(number: int, before: Any) -> io.TextIOWrapper:
    """A stream that also replaces what its encoding can't show."""
    raw = SafeOutput(number, "w", closefd=False)
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True)


@dataclass
class Received:
    """Last signal that asked this process to end; 0 = none."""

    number: int = 0


# SIGUSR1 is what Slurm is asked to warn with, SIGHUP comes when the terminal closes.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


@contextmanager
def caught_signals() -> Iterator[Received]:
    """In here, note signals for the loop to act on; a second one ends the process as usual.

    SIGHUP stays ignored where it is, as by `nohup`.
    """
    received = Received()
    before = {number: signal.getsignal(number) for number in _ENDING}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def note(number: int, _frame: FrameType | None) -> None:
        received.number = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
