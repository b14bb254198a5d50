"""The exception for unusable options or files of the user, and the exit of a command that raises it."""

import difflib
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from fr.console import begin, lost_output

USAGE_STATUS = 2
_QUOTED = 500  # characters
_LONGEST = 4_000  # characters of a printed problem; it may quote a very long line of a file


class InputError(Exception):
    """One or more problems with the user's options or files. Entry points print it and exit with status 2."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


@contextmanager
def os_error_as(problem: str) -> Iterator[None]:
    """Context that raises an OSError as an InputError: `problem`, such as `FILE: can't be read`, and its reason."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{problem}: {error.strerror or error}") from error


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Message for an unknown name, with the three closest known ones."""
    closest = difflib.get_close_matches(name[:100], list(known), n=3, cutoff=0)
    return f"unknown {kind} {name!r}; the closest: {', '.join(closest)}"


def in_short(error: BaseException) -> str:
    """Message of another library's exception as one printable line of limited length."""
    return " ".join(str(error).split())[:_QUOTED].encode(errors="backslashreplace").decode()


def start(program: str, options: str = "") -> None:
    """Begin a command and read its options before its slow imports, so that a wrong option, or --help, ends it at once.

    options: `module:function` that reads them; "" = the command reads them later, since it has no slow imports.
    """
    begin()
    try:
        if options:
            pkgutil.resolve_name(options)(sys.argv[1:])
    except InputError as error:
        sys.exit(_say(program, error))


def run_plainly(program: str, main: Callable[[list[str]], int], prints_results: bool = True) -> None:
    """Run `main` on the command line's arguments and exit with its status; an InputError is shown without traceback.

    prints_results: a successful command exits with 1 if its standard output couldn't be written.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of `fr.console.begin`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main(sys.argv[1:])
    except InputError as error:
        status = _say(program, error)
    except KeyboardInterrupt:
        status = 130
    if status == 0 and prints_results and (lost := lost_output()):
        print(f"{program}: standard output is incomplete: {lost.strerror}", file=sys.stderr, flush=True)
        status = 1
    sys.exit(status)


def _say(program: str, error: InputError) -> int:
    """Print the problems; return the exit status."""
    # Most problems occur on every rank: the first one prints them at once, the others only after a wait, in which
    # torchrun usually ends them.
    if os.environ.get("LOCAL_RANK", "0") not in ("", "0"):
        time.sleep(3)
    for problem in error.problems:
        print(f"{program}: {problem[:_LONGEST]}", file=sys.stderr, flush=True)
    return USAGE_STATUS
