"""Standard streams and signals of a command: it survives failed writes, and Ctrl-C ends it without a traceback.

`counted`, `print_lines` and `warn` are for the messages in them.
"""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

_NAMES = {1: "standard output", 2: "standard error"}


def counted(number: int, noun: str, several: str = "") -> str:
    """`1 image`, `1,200 images`, `2 identities`, `2 classes`. several: the plural of an irregular noun."""
    regular = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else several or regular}"


def print_lines(lines: Iterable[str]) -> None:
    """Print each line at once; nothing if there are none."""
    for line in lines:
        print(line, flush=True)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


class SafeOutput(io.FileIO):
    """File of a standard stream. A failed write is dropped and kept in `failure`; the other stream reports it once.

    Later writes are still tried, since a full disk may have space again, or a terminal may be back.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # a non-blocking descriptor whose reader is slow
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
    """Prepare the streams and signals of a command; called before the slow imports.

    Closed standard streams are opened on /dev/null: otherwise the next file opened would get their descriptor, and the
    printed text. Ctrl-C ends the process without a traceback until `fr.errors.run_plainly` handles it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is this one
    sys.stdout, sys.stderr = _safe(1, sys.stdout), _safe(2, sys.stderr)


def lost_output() -> OSError | None:
    """The error that left standard output incomplete; None if no write failed, or the reader ended (`| head`)."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, SafeOutput) else None
    return failure if failure and failure.errno != errno.EPIPE else None


def _safe(number: int, before: Any) -> io.TextIOWrapper:
    """Return a text stream that replaces characters that its encoding can't represent."""
    raw = SafeOutput(number, "w", closefd=False)
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True)


@dataclass
class Received:
    """Number of the last signal that asked this process to end; 0 = none."""

    number: int = 0


# launch/slurm.sh has Slurm send SIGUSR1 before the time limit; SIGHUP is sent when the terminal closes.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


@contextmanager
def caught_signals() -> Iterator[Received]:
    """Context in which signals are recorded for the loop to act on; a second signal ends the process as usual.

    SIGHUP stays ignored if it is already ignored, as under `nohup`.
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
