"""Limits of time and memory for readers of files that ask for more."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

MEGABYTES = 200
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # Linux, Documentation/filesystems/proc.rst


@contextmanager
def bounded(seconds: int = 20, megabytes: float = MEGABYTES) -> Iterator[None]:
    """Fails what takes more memory at any time, or longer: the alarm also interrupts a call that blocks."""

    def ring(*_: object) -> None:
        raise AssertionError(f"takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    _CLEAR.write_text(_RESET_PEAK)
    start = _memory("VmRSS")
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    grown = (_memory("VmHWM") - start) / 1024
    assert grown <= megabytes, f"takes {grown:.0f} MB"


def _memory(name: str) -> int:
    """In kB: resident now, or at most since the last reset."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def peak_of_tensors(act: Callable[[], object]) -> int:
    """The most bytes that the CPU tensors of `act` hold at a time, beside what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        act()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
