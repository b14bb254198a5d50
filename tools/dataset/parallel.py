"""Parallel map over processes, with ordered results and a progress bar."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from fr.errors import InputError
from fr.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # items per worker submitted and not yet returned: bounds the memory when the caller is slow
_function: Callable[[Any], Any]  # in a worker: sent once, with all that it refers to


def map_in_processes(
    function: Callable[[Item], Result], items: Collection[Item], workers: int, title: str, unit: str = "img"
) -> Iterator[Result]:
    """Yield `function(item)` of every item, in order. workers: processes, 0 = one per core available to this process.

    function: importable by another process, or a functools.partial of such a function. Its exceptions are raised here;
    InputError if a worker is killed. However the iteration ends, including by Ctrl-C, the workers end first; they also
    end if this process is killed.
    """
    if not items:
        return
    count = min(workers or len(os.sched_getaffinity(0)), len(items))
    # spawn: a fork would copy locks held by threads (OpenCV's, torch's) without the threads.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start_worker, (function,))
    ahead: deque[Future[Result]] = deque()
    with progress(len(items), unit, title) as bar:
        try:
            for item in items:
                ahead.append(_submitted(pool, item))
                if len(ahead) == _AHEAD * count:
                    yield ahead.popleft().result()
                    bar.update()
            while ahead:
                yield ahead.popleft().result()
                bar.update()
        except BrokenProcessPool as error:
            raise InputError(f"{title}: a worker was killed; if memory ran out, give fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, item: Any) -> "Future[Any]":
    """Submit an item. This may start a worker, which inherits a signal mask that blocks Ctrl-C.

    A terminal sends Ctrl-C to all processes; this one handles it and ends the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_call, item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)
