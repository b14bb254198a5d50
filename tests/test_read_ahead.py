"""Reading in threads: the results of reading one image after another, threads that end, buffers that live."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def

from fr.data.bad_images import BadImages, stand_ins
from fr.data.faces import Faces, LabelledFaces
from fr.data.graph import as_tensors
from fr.data.pipeline import FaceStream, plain_stream
from fr.data.reading import BATCHES, READERS, Content, ReadAhead
from fr.data.samples import SampleBatch, plain_batches
from fr.data.usable import usable_batches
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.untrusted import OutsideRoot
from tests.builders.damaged_images import (
    CPU,
    SMALL,
    UNUSABLE,
    as_if_listed,
    assert_equal,
    batches,
    faces,
    reported,
    stream,
)

__all__ = ["faces"]  # a fixture

ROOT = Path(__file__).parent.parent
PATIENCE = 60  # seconds after which what should end is taken for hanging


@dataclass(frozen=True)
class MadeFaces(Faces):
    """Faces whose images are made by a function."""

    make: Callable[[int], bytes] = field(kw_only=True)

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.frombuffer(self.make(index), dtype=np.uint8)


def made(make: Callable[[int], bytes], size: int = 1_000) -> MadeFaces:
    names = pa.array([str(index) for index in range(size)])
    return MadeFaces(DataRoot(Path("root")), names, np.zeros((size, 0, 2)), make=make)


def in_bytes(contents: list[Content]) -> list[bytes | str]:
    return [str(content) if isinstance(content, InputError) else content.tobytes() for content in contents]


def paired(batch: SampleBatch, contents: list[Content]) -> tuple[list[int], list[bytes | str]]:
    return batch.indices.tolist(), in_bytes(contents)


def of_size(size: int, make: Callable[[int], bytes] = lambda index: b"%d" % index) -> Iterator[SampleBatch]:
    """Endless batches of the first images, as a function makes them."""
    faces = made(make)
    return (SampleBatch(faces, np.arange(size)) for _ in count())


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read-ahead", "reader"))]


def wait_until_no_thread_reads() -> None:
    until = time.monotonic() + PATIENCE
    while reading_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert reading_threads() == []


# --- the same as one after another ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 99), max_size=70), max_size=12),
    st.sets(st.integers(0, 99), max_size=30),
    st.sets(st.integers(0, 99), max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_contents_and_errors_are_those_of_reading_one_after_another(
    rows: list[list[int]], missing: set[int], outside: set[int], seed: int
) -> None:
    delays = np.random.default_rng(seed).exponential(5e-4, 100)

    def make(index: int) -> bytes:
        time.sleep(delays[index])
        if index in missing:
            raise FileNotFoundError(2, "No such file or directory")
        if index in outside:
            raise OutsideRoot(f"{index} leads out")
        return b"%d" % index

    def expected(index: int) -> bytes | str:
        if index in missing:
            return f"root/{index}: can't be read: No such file or directory"
        return f"{index} leads out" if index in outside else b"%d" % index

    found = list(ReadAhead((SampleBatch(made(make), np.array(row, dtype=np.int64)) for row in rows), paired))
    assert found == [(row, list(map(expected, row))) for row in rows]


@pytest.mark.parametrize("seed", range(6))
def test_a_training_over_a_slow_disk_with_bad_images_is_as_if_the_list_had_said_so(
    seed: int, faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    bad = set(rng.choice(len(faces), rng.integers(1, 6), replace=False).tolist())
    instead = {index: next(one for one in stand_ins(faces.labels, index) if one not in bad) for index in bad}
    expected = batches(as_if_listed(faces, instead))
    for index in bad:
        path, kind = Path(faces.path(index)), rng.choice(["missing", *UNUSABLE])
        path.unlink() if kind == "missing" else path.write_bytes(UNUSABLE[kind])
    slow_down(monkeypatch, rng.exponential(2e-3, len(faces)))
    found = BadImages(len(bad))
    assert_equal(batches(faces, found), expected)
    assert [line.partition(": ")[0] for line in reported(found)] == [faces.path(index) for index in sorted(bad)]


@pytest.mark.parametrize("seed", range(4))
def test_usable_batches_over_a_slow_disk_lose_the_bad_images_alone(
    seed: int, faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    intact = np.concatenate(list(plain_stream(faces, np.arange(16), 4, SMALL, CPU)))
    bad = sorted(rng.choice(len(faces), 4, replace=False).tolist())
    for index, kind in zip(bad, ("missing", "garbage", "empty", "GIF"), strict=True):
        path = Path(faces.path(index))
        path.unlink() if kind == "missing" else path.write_bytes(UNUSABLE[kind])
    slow_down(monkeypatch, rng.exponential(2e-3, len(faces)))
    found = list(usable_batches(plain_batches(faces, np.arange(16), 4), 4, SMALL, CPU))
    good = [index for index in range(16) if index not in bad]
    assert [index for _, indices, _ in found for index in indices.tolist()] == good
    np.testing.assert_array_equal(np.concatenate([images for images, _, _ in found]), intact[good])
    assert sorted(index for _, _, problems in found for index in problems) == bad


def slow_down(monkeypatch: pytest.MonkeyPatch, delays: NDArray[np.float64]) -> None:
    read = Faces.read

    def slow(faces: Faces, index: int) -> NDArray[np.uint8]:
        time.sleep(delays[index])
        return read(faces, index)

    monkeypatch.setattr(Faces, "read", slow)


def test_an_exception_of_the_batches_comes_after_those_before_it_and_ends_the_iteration() -> None:
    def failing() -> Iterator[SampleBatch]:
        yield from islice(of_size(3), 5)
        raise ZeroDivisionError("the sixth")

    ahead = ReadAhead(failing(), paired)
    assert [next(ahead) for _ in range(5)] == [([0, 1, 2], [b"0", b"1", b"2"])] * 5
    with pytest.raises(ZeroDivisionError, match="the sixth"):
        next(ahead)
    assert list(ahead) == []


@pytest.mark.parametrize("place", ["read", "prepare"])
def test_an_exception_of_reading_or_preparing_is_raised_in_the_place_of_its_batch(place: str) -> None:
    def make(index: int) -> bytes:
        if place == "read" and index == 7:
            raise ZeroDivisionError
        return b"%d" % index

    def prepare(batch: SampleBatch, contents: list[Content]) -> list[int]:
        if place == "prepare" and 7 in batch.indices:
            raise ZeroDivisionError
        return batch.indices.tolist()

    ahead = ReadAhead(plain_batches(made(make), np.arange(20), 2), prepare)
    assert [next(ahead) for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert list(ahead) == []


# --- ahead, but not farther -------------------------------------------------------------------------------------------


def test_so_many_reads_happen_at_a_time() -> None:
    together = threading.Barrier(READERS)

    def make(index: int) -> bytes:
        together.wait(PATIENCE)  # a broken barrier where fewer come
        return b""

    rows = READERS // BATCHES
    assert list(islice(ReadAhead(islice(of_size(rows, make), BATCHES), paired), BATCHES))


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_a_batch_is_read_by_one_thread_where_reads_are_quick_and_by_more_where_they_are_slow(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = threading.local()  # the time of a thread, in which nothing takes any but reads
    monkeypatch.setattr(time, "perf_counter", lambda: getattr(clock, "now", 0.0))
    parts = READERS // BATCHES
    together = threading.Barrier(parts)  # more than the batches in progress
    rows = np.arange(20 * parts).reshape(20, parts)
    threads: list[set[int]] = [set() for _ in rows]

    def make(index: int) -> bytes:
        clock.now = getattr(clock, "now", 0.0) + seconds
        threads[index // parts].add(threading.get_ident())
        if seconds and index // parts >= 10:
            together.wait(PATIENCE)  # a broken barrier where fewer come
        return b""

    assert len(list(ReadAhead((SampleBatch(made(make), row) for row in rows), paired))) == 20
    assert seconds or [len(one) for one in threads[10:]] == [1] * 10


def test_no_more_batches_are_drawn_ahead_than_documented() -> None:
    drawn: list[int] = []

    def noted() -> Iterator[SampleBatch]:
        for batch in islice(of_size(4), 60):
            drawn.append(1)
            yield batch

    ahead = ReadAhead(noted(), paired)
    for taken in range(60):
        if taken % 10 == 0:
            time.sleep(0.02)  # enough for those that may be drawn
        assert len(drawn) <= taken + BATCHES
        next(ahead)


@pytest.mark.parametrize("depth", [1, 2])
def test_only_a_stream_without_prefetching_draws_and_reads_in_the_thread_that_asks(
    depth: int, faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[threading.Thread] = []
    read = Faces.read

    def noted_read(faces: Faces, index: int) -> NDArray[np.uint8]:
        seen.append(threading.current_thread())
        return read(faces, index)

    def noted_batches() -> Iterator[SampleBatch]:
        for first in (0, 4, 8):
            seen.append(threading.current_thread())
            yield SampleBatch(faces, np.arange(first, first + 4))

    monkeypatch.setattr(Faces, "read", noted_read)
    shown = FaceStream(noted_batches(), 4, SMALL, CPU, ahead=depth)
    if depth == 1:
        assert seen == []
        next(shown)
        assert len(seen) == 1 + 4
    assert len(list(shown)) == 3 - (depth == 1)
    here = threading.current_thread()
    assert all(thread is here for thread in seen) if depth == 1 else here not in seen


# --- threads end ------------------------------------------------------------------------------------------------------


def endless(delay_s: float = 0.0) -> ReadAhead[Any]:
    def make(index: int) -> bytes:
        time.sleep(delay_s)
        return b"%d" % index

    return ReadAhead(of_size(READERS, make), paired)


def test_threads_end_when_their_stream_is_dropped_closed_or_at_its_end(faces: LabelledFaces) -> None:
    gc.collect()
    wait_until_no_thread_reads()
    gc.disable()  # from here on they must not wait for it
    try:
        for _ in range(20):
            ahead = endless()
            next(ahead)
            assert reading_threads()
            del ahead
            wait_until_no_thread_reads()
            ahead = endless()
            ahead.close()
            assert reading_threads() == []
            assert list(ahead) == []
        for _ in range(3):
            running = stream(faces, BadImages(0), range(1_000))
            next(running)
            assert reading_threads()
            del running
            wait_until_no_thread_reads()
            assert len(list(plain_stream(faces, np.arange(16), 4, SMALL, CPU))) == 4
            assert reading_threads() == []
    finally:
        gc.enable()


def test_threads_end_when_another_thread_collects_their_stream() -> None:
    ahead = endless(delay_s=1e-3)
    next(ahead)
    cycle: list[Any] = [ahead]
    cycle.append(cycle)
    del ahead, cycle
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join(PATIENCE)
    assert not collector.is_alive()
    wait_until_no_thread_reads()


def test_threads_end_after_an_exception() -> None:
    def failing() -> Iterator[SampleBatch]:
        yield from islice(of_size(READERS), 1)
        raise ZeroDivisionError

    ahead = ReadAhead(failing(), paired)
    next(ahead)
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    wait_until_no_thread_reads()


SCRIPT = """
import os, signal, sys
from tests.test_read_ahead import endless
ahead = endless(delay_s=0.02)
next(ahead)
print("reading", flush=True)
{end}
"""
ENDS = {
    "the script's": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise ZeroDivisionError", 1),
    "Ctrl-C": ("for _ in ahead: os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
    "SIGTERM": ("for _ in ahead: os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "dropped amid a lock that its threads wait for": (
        "import time, concurrent.futures.thread as threads\n"
        "with threads._global_shutdown_lock: time.sleep(0.2); del ahead",
        0,
    ),
    "a cycle": ("cycle = [ahead]; cycle.append(cycle); del ahead, cycle", 0),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_interpreter_exits_while_threads_read(name: str) -> None:
    end, status = ENDS[name]
    command, environment = [sys.executable, "-c", SCRIPT.format(end=end)], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (status, "reading\n"), done.stderr
    assert "Fatal" not in done.stderr and done.stderr.count("Traceback") == (name in ("an exception", "Ctrl-C"))


def test_a_signal_is_handled_while_the_main_thread_waits_for_a_read() -> None:
    release, handled = threading.Event(), []

    def make(index: int) -> bytes:
        until = time.monotonic() + PATIENCE
        while not release.wait(0.05) and time.monotonic() < until:  # one may come just before the main thread waits
            os.kill(os.getpid(), signal.SIGUSR1)
        return b"%d" % index if release.is_set() else b"not handled in time"

    def handler(*_: object) -> None:
        handled.append(1)
        release.set()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        assert next(ReadAhead(of_size(1, make), paired)) == ([0], [b"0"])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled


# --- without a copy ---------------------------------------------------------------------------------------------------


def test_tensors_share_the_memory_of_the_arrays_and_keep_it() -> None:
    encoded = [np.frombuffer(bytes([number]) * 1_000, dtype=np.uint8) for number in range(8)]
    corners = np.arange(16, dtype=np.float32).reshape(8, 2)
    places = [one.ctypes.data for one in encoded]
    alive = [weakref.ref(one) for one in (*encoded, corners)]
    tensors = as_tensors({"encoded": encoded, "low": corners})
    assert [one.data_ptr() for one in tensors["encoded"]] == places
    assert tensors["low"].data_ptr() == corners.ctypes.data
    del encoded, corners
    assert all(one() is not None for one in alive)
    assert [bytes(np.asarray(one)[:1])[0] for one in tensors["encoded"]] == list(range(8))
    del tensors
    assert all(one() is None for one in alive)


def test_a_buffer_lives_until_dali_has_read_it() -> None:
    """A later operator of the graph reads it, held up here until all memory that could be free was overwritten."""
    go_on = threading.Event()
    rng = np.random.default_rng(0)
    expected = [[rng.integers(0, 256, 5_000, dtype=np.uint8) for _ in range(4)] for _ in range(6)]
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def fresh() -> Iterator[tuple[Any]]:
        for batch in expected:
            arrays = [np.frombuffer(one.tobytes(), dtype=np.uint8) for one in batch]
            alive.extend(map(weakref.ref, arrays))
            tensors = as_tensors({"encoded": arrays})
            del arrays
            yield (tensors.pop("encoded"),)

    def copied(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        go_on.wait(PATIENCE)
        return array.copy()

    @pipeline_def(exec_dynamic=True)
    def graph() -> Any:
        (encoded,) = fn.external_source(source=fresh(), num_outputs=1, batch=True, no_copy=True)
        return fn.python_function(encoded, function=copied)

    built = graph(batch_size=4, num_threads=1, device_id=None, prefetch_queue_depth=2)
    built.schedule_run()  # returns while the graph works
    gc.collect()
    assert len(alive) == 8 and all(one() is not None for one in alive)
    overwritten = [b"\xaa" * 5_000 for _ in range(2_000)]
    go_on.set()
    found = []
    for number in range(len(expected)):
        if number:
            built.schedule_run()
        (output,) = built.outputs()
        found.append([np.array(output.at(row)) for row in range(4)])
    assert len(overwritten) == 2_000
    for batch, wanted in zip(found, expected, strict=True):
        for one, other in zip(batch, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    del built
    gc.collect()
    assert all(one() is None for one in alive)


def test_images_read_ahead_are_freed_once_they_are_shown_or_dropped(faces: LabelledFaces) -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    @dataclass(frozen=True)
    class Noted(LabelledFaces):
        def read(self, index: int) -> NDArray[np.uint8]:
            array = super().read(index)
            alive.append(weakref.ref(array))
            return array

    noted = Noted(faces.root, faces.names, faces.landmarks, faces.labels, faces.identities)
    running = stream(noted, BadImages(0), range(60))
    most = 0
    for _ in running:
        most = max(most, sum(one() is not None for one in alive))
    # Read ahead, one being taken, in the graph's queue of two and its source's last; 8 images each.
    assert most <= (BATCHES + 1 + 2 + 1) * 8
    assert len(alive) == 60 * 8
    del running
    gc.collect()
    assert sum(one() is not None for one in alive) == 0
