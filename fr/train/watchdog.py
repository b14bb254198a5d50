"""Watchdog: end a run in which a rank hangs, and name the rank and its place in the code (C11).

A rank that hangs leaves the others waiting in a collective. Its timeout would say that the collective failed, and not
which rank it waited for.
"""

import concurrent.futures.thread
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch.distributed as dist

from fr.checkpoint.snapshot_writer import WATCHED_THREAD
from fr.distributed import Heartbeat, Ranks, launched

STATUS = 124  # as timeout(1) has it
_BEATS = 8  # in the time that a rank may be silent


@dataclass(frozen=True)
class Post:
    """Last report of a rank. beat: counted by the watchdog's thread, also while the rank itself waits."""

    beat: int
    count: int
    iteration: int
    where: str


@contextmanager
def watched(ranks: Ranks, patience: float, heartbeat: Heartbeat) -> Iterator[None]:
    """In here, end the process when `heartbeat` has not counted for `patience` seconds; 0 = never.

    One rank then names the culprits.
    """
    if not patience:
        yield
        return
    over = threading.Event()
    arguments = (ranks, patience, heartbeat, _open_store(ranks, patience), over)
    thread = threading.Thread(target=_watch, args=arguments, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def culprits(earlier: dict[int, Post], now: dict[int, Post]) -> list[int]:
    """Ranks that hold the others up, from two reports of all ranks some beats apart.

    Those whose thread has stopped, too, as in a suspended process; else those that have done least. That is all of
    them when one hangs between two collectives of a step: then only their places in the code tell which.
    """
    frozen = [rank for rank in now if now[rank].beat == earlier[rank].beat]
    least = min(post.count for post in now.values())
    return frozen or [rank for rank in now if now[rank].count == least]


def _watch(
    ranks: Ranks, patience: float, heartbeat: Heartbeat, store: dist.Store, over: threading.Event
) -> None:
    beat, seen, since = 0, -1, time.monotonic()
    earlier: dict[int, Post] = {}
    while not over.wait(patience / _BEATS):
        beat += 1
        own = Post(beat, heartbeat.count, heartbeat.iteration, _places())
        if own.count != seen:
            seen, since, earlier = own.count, time.monotonic(), {}
        silent = time.monotonic() - since
        try:
            store.set(str(ranks.rank), json.dumps(asdict(own)))
            posts = _posts(store, ranks.world_size) if silent >= patience / 2 else {}
        except dist.DistError as error:  # the process that kept the store has ended
            _end([f"rank {ranks.rank}: the other ranks are out of reach: {error}"])
        if silent >= patience and earlier:
            named = culprits(earlier, posts)
            others = posts.keys() - named
            if ranks.rank != min(others or named):
                time.sleep(3)  # torchrun ends the others when one has ended: give that one time to write
            _end([_message(rank, posts[rank], earlier[rank], patience) for rank in named])
        earlier = earlier or posts


def _message(rank: int, now: Post, earlier: Post, patience: float) -> str:
    symptom = "no sign of life" if now.beat == earlier.beat else f"in {now.where}"
    return f"rank {rank} has hung: {symptom} for {patience:g} s at iteration {now.iteration}"


def _end(lines: list[str]) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    os._exit(STATUS)  # the main thread won't see an exception, nor a signal


def _posts(store: dist.Store, world_size: int) -> dict[int, Post]:
    reports = {rank: store.get(str(rank)) for rank in range(world_size) if store.check([str(rank)])}
    return {rank: Post(**json.loads(reports[rank])) if rank in reports else _ABSENT for rank in range(world_size)}


_ABSENT = Post(0, -1, 0, "the set-up before the first iteration")


def _places() -> str:
    """Places in the code of this rank: its main thread, and its background threads unless idle."""
    frames, main = sys._current_frames(), threading.main_thread()
    background = [thread for thread in threading.enumerate() if thread.name.startswith(WATCHED_THREAD)]
    places = {thread.name: _place(frames.get(thread.ident or 0)) for thread in [main, *background]}
    named = [f"its thread {name} in {places[name]}" for name in places if name != main.name and places[name] != _IDLE]
    return ", ".join([places[main.name], *named])


def _place(frame: FrameType | None) -> str:
    if not frame:
        return "no Python code"
    code = frame.f_code
    if code.co_filename == concurrent.futures.thread.__file__:
        return _IDLE
    return f"{Path(code.co_filename).name}:{frame.f_lineno} ({code.co_name})"


_IDLE = "a pool without work"


def _open_store(ranks: Ranks, patience: float) -> dist.Store:
    """Connect to the store anew, since the process group's connection may be waiting."""
    if not launched():
        return dist.HashStore()
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=max(10, patience)),
    )
    # The agent's store lives on when it starts the ranks again.
    return dist.PrefixStore(f"watchdog {ranks.start}", store)
