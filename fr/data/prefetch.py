"""Prefetching of the files of a store: those of the current and the next window are downloaded in threads."""

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from fr.data import row_groups
from fr.data.faces import LabelledFaces
from fr.data.order import Order
from fr.data.storage import ParquetRows, RemoteShards, TarShards, close_unused
from fr.errors import InputError

DOWNLOADS = 4  # at a time on each rank; the ranks of a host download different files


def files_of(faces: LabelledFaces) -> NDArray[np.int64] | None:
    """Number of the tar file or row group that each image is read with, [N]; None if each is read separately."""
    match faces.storage:
        case TarShards():
            return faces.storage.shard.astype(np.int64)
        case ParquetRows():
            places = faces.storage.shard.astype(np.int64) << 32 | faces.storage.group
            files: NDArray[np.int64] = np.unique(places, return_inverse=True)[1].astype(np.int64)
            return files
    return None


class Prefetch:
    """Prefetcher, called with each iteration before it is read; downloads the files of its window and of the next.

    A file that can't be downloaded raises where it is read. Does nothing for local data. InputError if the cache has
    no space for two windows.
    """

    def __init__(self, faces: LabelledFaces, order: Order) -> None:
        self._faces, self._order = faces, order
        self._storage = faces.storage if isinstance(faces.storage, RemoteShards) and order.windows else None
        self._wanted: deque[int] = deque()
        self._files: list[int] = []
        self._news = threading.Condition()
        if self._storage and order.windows:
            _check_room(self._storage, order.windows.files)
            for _ in range(DOWNLOADS):
                # Daemons: a download may take minutes, and a later run continues an unfinished one.
                threading.Thread(target=self._download, name="prefetch", daemon=True).start()

    def __call__(self, iteration: int) -> None:
        if not self._storage or (files := self._order.files_from(iteration)) == self._files:
            return
        self._files = files
        for file in reversed(files):  # the one needed first is touched last, and so removed last
            self._storage.touch(self._faces.root, file)
        close_unused()
        with self._news:
            self._wanted = deque(files)
            self._news.notify_all()

    def _download(self) -> None:
        assert self._storage
        while True:
            with self._news:
                while not self._wanted:
                    self._news.wait()
                file = self._wanted.popleft()
            try:
                self._storage.fetch_ahead(self._faces.root, file)
            except InputError:  # reading the file tries again, and reports the failure
                continue


def _check_room(storage: RemoteShards, files: int) -> None:
    needed = int(np.sort(storage.bytes)[-2 * files :].sum())
    if needed > storage.most:
        raise InputError(
            f"--shard_cache_gb {storage.most / 1e9:g}: the current and the next window of {files} shards take up to "
            f"{needed / 1e9:.1f} GB: give as much, or a smaller --shuffle_window"
        )


def window_warnings(faces: LabelledFaces, order: Order) -> list[str]:
    """Warning if the row groups of a window exceed the decoded ones that a process keeps; [] if they don't."""
    if not isinstance(faces.storage, ParquetRows):
        return []
    sizes = np.sort(faces.storage.group_bytes)[::-1].cumsum()  # of the largest group, the two largest …
    files = min(order.windows.files, len(sizes)) if order.windows else len(sizes)
    if sizes[files - 1] <= row_groups.KEPT:
        return []
    window, but = f"--shuffle_window {order.windows.files}" if order.windows else "no --shuffle_window", ""
    if order.balance:
        but = ", without --weighted and --images_per_identity"
    return [
        f"{window}: {files:,} row groups are in use at a time, {sizes[files - 1] / 1e9:.1f} GB decoded, but a process "
        f"keeps {row_groups.KEPT / 1e9:.1f} GB: they are decoded again and again. Give --shuffle_window "
        f"{np.searchsorted(sizes, row_groups.KEPT, side='right')} or less{but}"
    ]
