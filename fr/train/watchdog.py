"""Watchdog: end a run in which a rank hangs, and name the rank and its position in the code.

If a rank hangs, the others wait in a collective. The timeout of the collective would report the failure, but not the
rank that caused it.
"""

import concurrent.futures.thread
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch.distributed as dist
from torch._C import _distributed_c10d

from fr.checkpoint.snapshot_writer import WATCHED_THREAD
from fr.distributed import Heartbeat, Ranks, launched

STATUS = 124  # exit status, as of timeout(1)
_LAST_WAIT_S = 5.0  # longest wait for the watchdog's threads at the end of a run
_BEATS = 8  # reports within the patience
_TRACES = "collectives_"  # prefix of file names, before the rank


@dataclass(frozen=True)
class Post:
    """Last report of a rank. beat: counter of the watchdog's thread, which also runs while the rank waits."""

    beat: int
    count: int
    iteration: int
    where: str


@dataclass
class _Answer:
    """Time at which the store last answered [seconds, of time.monotonic]."""

    at: float


@contextmanager
def watched(ranks: Ranks, patience: float, heartbeat: Heartbeat, folder: Path) -> Iterator[None]:
    """Context that ends the process if `heartbeat` makes no progress for `patience` seconds; 0 = never.

    One rank then names the culprits, and each writes its last collectives to `folder`.
    """
    if not patience:
        yield
        return
    over, answer = threading.Event(), _Answer(time.monotonic())
    store = _open_store(ranks, patience)
    threads = [
        threading.Thread(target=_watch, args=(ranks, patience, heartbeat, folder, store, answer, over), daemon=True),
        threading.Thread(target=_listen, args=(ranks, patience, heartbeat, answer, over), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(min(patience, _LAST_WAIT_S))  # an unreachable store blocks the first thread for longer


def culprits(earlier: dict[int, Post], now: dict[int, Post]) -> list[int]:
    """Ranks that block the others, from two reports of all ranks some beats apart.

    These are the ranks whose watchdog thread has stopped, too, as in a suspended process; or else those with the least
    progress. If one hangs between two collectives of a step, that is all ranks: then only their positions in the code
    tell which.
    """
    frozen = [rank for rank in now if now[rank].beat == earlier[rank].beat]
    least = min(post.count for post in now.values())
    return frozen or [rank for rank in now if now[rank].count == least]


def _watch(
    ranks: Ranks,
    patience: float,
    heartbeat: Heartbeat,
    folder: Path,
    store: dist.Store,
    answer: _Answer,
    over: threading.Event,
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
        except dist.DistError as error:  # the process that hosts the store has ended
            _end([f"rank {ranks.rank}: the other ranks are out of reach: {error}"])
        answer.at = time.monotonic()
        if silent >= patience and earlier:
            over.set()  # this thread ends the process
            named = culprits(earlier, posts)
            others = posts.keys() - named
            traced = _trace(ranks, folder)
            if ranks.rank != min(others or named):
                time.sleep(3)  # torchrun ends the other ranks when one has ended: give the writing rank time
            _end([*(_message(rank, posts[rank], earlier[rank], patience) for rank in named), *traced])
        earlier = earlier or posts


def _listen(ranks: Ranks, patience: float, heartbeat: Heartbeat, answer: _Answer, over: threading.Event) -> None:
    """End the process if the store doesn't answer, as on a host without network, and there is no progress.

    A thread in a request to a torch.distributed.TCPStore then waits 15 minutes, until the kernel closes the connection.
    """
    seen, since = -1, time.monotonic()
    while not over.wait(patience / _BEATS):
        if heartbeat.count != seen:
            seen, since = heartbeat.count, time.monotonic()
        unheard = time.monotonic() - answer.at
        if time.monotonic() - since >= patience and unheard >= patience / 2:
            _end([f"rank {ranks.rank}: the other ranks are out of reach: no answer for {unheard:.0f} s"])


def _message(rank: int, now: Post, earlier: Post, patience: float) -> str:
    symptom = "no sign of life" if now.beat == earlier.beat else f"in {now.where}"
    return f"rank {rank} has hung: {symptom} for {patience:g} s at iteration {now.iteration}"


def _trace(ranks: Ranks, folder: Path) -> list[str]:
    """Write the last collectives of this rank from torch's flight recorder; a line about the file if that succeeds.

    It is done in a thread, since NCCL's recorder may wait for the hanging collective.
    """
    recorder = "_dump_nccl_trace" if ranks.device.type == "cuda" else "_dump_fr_trace"
    path = folder / f"{_TRACES}{ranks.rank}"

    def write() -> None:
        with suppress(Exception):  # torch doesn't document this interface
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(getattr(_distributed_c10d, recorder)())

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(5)
    return [f"the ranks' last collectives, by torch's flight recorder: {folder}/{_TRACES}*"] if path.exists() else []


def _end(lines: list[str]) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    os._exit(STATUS)  # the main thread hangs and would receive neither an exception nor a signal


def _posts(store: dist.Store, world_size: int) -> dict[int, Post]:
    reports = {rank: store.get(str(rank)) for rank in range(world_size) if store.check([str(rank)])}
    return {rank: Post(**json.loads(reports[rank])) if rank in reports else _ABSENT for rank in range(world_size)}


_ABSENT = Post(0, -1, 0, "the set-up before the first iteration")


def _places() -> str:
    """Positions in the code of this rank's main thread, and of its background threads unless idle."""
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
    """Open another connection to the store, since that of the process group may be blocked."""
    if not launched():
        return dist.HashStore()
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=max(10, patience)),
    )
    # The agent's store survives a restart of the ranks.
    return dist.PrefixStore(f"watchdog {ranks.start}", store)
