"""Read the images of the next batches in threads, so that a slow file system doesn't hold up the training.

One thread draws the batches in their order and prepares the inputs of DALI's graph; a pool of others reads the files.
The order of the results is that of the batches, whichever file is read first.
"""

import atexit
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fr.data.faces import Faces
from fr.data.samples import SampleBatch
from fr.errors import InputError
from fr.files.untrusted import OutsideRoot

READERS = 32  # threads of a stream: so many reads at a time, if the file system is slow
BATCHES = 4  # ahead of the one taken last: bounds the memory to the encoded images of so many
_QUICK = 0.25e-3  # seconds of a read per thread of a batch: any slower file system gives 16,000 images/s, up to 2 ms

Content = NDArray[np.uint8] | InputError  # an encoded image, or why it can't be read
Prepared = TypeVar("Prepared")


class ReadAhead(Generic[Prepared]):
    """Results of `prepare(batch, contents)` for each of the batches; contents [N]: of each row as of `read_row`.

    An exception of the batches, of reading or of preparing is raised in the place of its batch and ends the iteration.
    The threads end after the last batch, by `close`, soon after this object was collected, or when the interpreter
    exits.
    `batches` and `prepare` are called in another thread and must not refer to this object.
    """

    def __init__(
        self,
        batches: Iterator[SampleBatch],
        prepare: Callable[[SampleBatch, list[Content]], Prepared],
    ) -> None:
        self._ended = False
        self._work = _Work(batches, prepare)
        # A daemon, since the interpreter waits for other threads before `_end_all`.
        self._thread = threading.Thread(target=self._work.run, name="read-ahead", daemon=True)
        # The garbage collector may call this anywhere, also amid a lock that the threads wait for: it doesn't wait.
        weakref.finalize(self, self._work.stop).atexit = False
        _RUNNING[self._thread] = self._work
        self._thread.start()

    def __iter__(self) -> "ReadAhead[Prepared]":
        return self

    def __next__(self) -> Prepared:
        if self._ended:
            raise StopIteration
        result = self._work.ready.get()
        if isinstance(result, BaseException):
            self._ended = True
            try:
                raise result
            finally:
                del result  # its traceback refers to this frame: a cycle
        self._work.room.put(None)
        return result

    def close(self) -> None:
        """End the threads, after the reads in progress. What was read ahead is dropped."""
        self._ended = True
        self._work.stop()
        self._thread.join()


class _Work(Generic[Prepared]):
    """State that the threads share with their ReadAhead, to which it doesn't refer."""

    def __init__(
        self,
        batches: Iterator[SampleBatch],
        prepare: Callable[[SampleBatch, list[Content]], Prepared],
    ) -> None:
        self.ready: SimpleQueue[Prepared | BaseException] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()  # one for each batch that may be begun; safe in a finalizer
        for _ in range(BATCHES):
            self.room.put(None)
        self.stopped = False
        self._batches = batches
        self._prepare = prepare
        self._read_s = math.inf  # seconds that a read took of late

    def stop(self) -> None:
        """Have the threads end after the reads in progress."""
        self.stopped = True
        self.room.put(None)

    def run(self) -> None:
        with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as pool:
            try:
                self._prepare_all(pool)
            except BaseException as error:
                self.ready.put(error)
            self.stopped = True  # nothing more is read

    def _prepare_all(self, pool: ThreadPoolExecutor) -> None:
        reading: deque[tuple[SampleBatch, list[Future[list[Content]]]]] = deque()
        end: BaseException | None = None
        while (reading or not end) and not self.stopped:
            # Where there is room the next batch is begun, so that the pool has work; else the oldest is finished.
            if not end and self._has_room(wait=not reading):
                try:
                    batch = next(self._batches)
                except BaseException as error:  # StopIteration, too: raised after the batches before it
                    end = error
                else:
                    reading.append((batch, self._begin(pool, batch)))
            else:
                batch, parts = reading.popleft()
                contents = [content for part in parts for content in part.result()]
                if not self.stopped:
                    self.ready.put(self._prepare(batch, contents))
        if end:
            self.ready.put(end)

    def _has_room(self, wait: bool) -> bool:
        try:
            self.room.get(block=wait)
        except Empty:
            return False
        return True

    def _begin(self, pool: ThreadPoolExecutor, batch: SampleBatch) -> list[Future[list[Content]]]:
        """Submit the rows in as many parts as the last reads were slow; BATCHES with the most parts busy all readers.

        Threads that need no waiting would only take Python's lock from each other.
        """
        parts = min(READERS // BATCHES, 1 + self._read_s / _QUICK)
        faces, indices = batch.faces, batch.indices
        each = max(1, -(-len(indices) // int(parts)))  # a batch may be empty
        firsts = range(0, len(indices), each)
        return [pool.submit(self._read, faces, indices[first : first + each]) for first in firsts]

    def _read(self, faces: Faces, indices: NDArray[np.int64]) -> list[Content]:
        start = time.perf_counter()
        contents = [read_row(faces, index) for index in indices.tolist() if not self.stopped]
        self._read_s = (time.perf_counter() - start) / len(indices)
        return contents


_RUNNING: "weakref.WeakKeyDictionary[threading.Thread, _Work[Any]]" = weakref.WeakKeyDictionary()


@atexit.register
def _end_all() -> None:
    """End the threads that still run: the interpreter's end must not come amid their work."""
    for thread, work in list(_RUNNING.items()):
        work.stop()
        thread.join()


def read_row(faces: Faces, index: int) -> Content:
    """The encoded image; InputError if it can't be read, OutsideRoot."""
    try:
        return faces.read(index)
    except OSError as error:
        return InputError(unreadable(faces, index, error))
    except OutsideRoot as error:
        return error


def unreadable(faces: Faces, index: int, error: OSError) -> str:
    """Message about an image that can't be read."""
    return f"{faces.path(index)}: can't be read: {error.strerror}"
