"""Order of the training samples: a pure function of the seed and the iteration.

A plain epoch is one random permutation of the list, cut into batches of the global size; the remainder (fewer samples
than a batch) is not shown in that epoch. The permutation differs by epoch, so over many epochs all samples are left out
equally often. A balanced epoch has the same number of batches, and shows all identities equally often. A windowed epoch
shows the files of the data a few at a time, so that the samples of a file are close together.
"""

import argparse
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from fr.console import counted
from fr.errors import InputError
from fr.randomness import Purpose, generator

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Balance:
    """Identity-balanced (PK) sampling: `images` of each identity in a batch.

    Each round shows every identity once, in random order. With 2 images or more no batch holds an identity twice: the
    identities that don't fill a whole batch (different ones each round) are left out of the round. The images of an
    identity are shown cyclically, round after round, in an order that differs by epoch; those of a round that leaves
    it out are skipped.
    """

    labels: Indices  # [count] 0 … identities - 1, none unused
    images: int


@dataclass(frozen=True, eq=False)
class Windows:
    """Two-level shuffle: the files are taken in random order, `files` at a time, and the samples of these shuffled.

    file: number of the file of each sample, [count]; numbers without samples are skipped.
    """

    file: Indices
    files: int

    @cached_property
    def counts(self) -> Indices:
        """Samples of each file."""
        return np.bincount(self.file)

    def turns(self, random: np.random.Generator) -> Indices:
        """The numbers of the files in their order in an epoch, drawn first; each `files` of them are a window."""
        return random.permutation(np.flatnonzero(self.counts))


@dataclass(frozen=True)
class Share:
    """One rank's part of a batch: positions `first` … `first + count - 1` of an epoch, and their samples."""

    epoch: int
    first: int
    indices: Indices


@dataclass(frozen=True)
class Order:
    """Order of a training run: `count` samples, `batch_size` of them an iteration over all ranks.

    InputError if the samples or identities don't fill a batch.
    """

    count: int
    batch_size: int
    seed: int
    balance: Balance | None = None
    windows: Windows | None = None

    def __post_init__(self) -> None:
        if self.batch_size > self.count:
            raise InputError(
                f"--train_batch_size {self.batch_size} is more than the {counted(self.count, 'image')} of the list: "
                f"choose {self.count} or less"
            )
        if self.balance and self.balance.images > 1:
            needed, available = self.batch_size // self.balance.images, int(self.balance.labels.max()) + 1
            if needed > available:
                raise InputError(
                    f"--train_batch_size {self.batch_size} with --images_per_identity {self.balance.images} needs "
                    f"{counted(needed, 'identity')}, and there are {available:,}"
                )

    @property
    def iterations_per_epoch(self) -> int:
        return self.count // self.batch_size

    def share(self, iteration: int, part: int, parts: int) -> Share:
        """Part `part` of `parts` equal, contiguous ones of the batch of `iteration` (from 0).

        The batch is the concatenation of its parts, so it holds the same samples at the same positions for any number
        of ranks and micro-batches. From the middle of an epoch on, the next one is drawn in another thread, so that
        the training doesn't wait for it: a permutation of 42 million samples takes four seconds.
        """
        epoch, batch = divmod(iteration, self.iterations_per_epoch)
        size = self.batch_size // parts
        first = batch * self.batch_size + part * size
        drawn = _epoch(self, epoch)
        if batch >= self.iterations_per_epoch // 2:
            _epoch(self, epoch + 1)
        return Share(epoch, first, drawn.result()[first : first + size])

    def files_from(self, iteration: int) -> list[int]:
        """Numbers of the files of the window that a batch begins in, and of the next window, in order of need."""
        assert self.windows
        epoch, batch = divmod(iteration, self.iterations_per_epoch)
        turns, following = (self.windows.turns(generator(self.seed, Purpose.ORDER, epoch + i)) for i in (0, 1))
        size, ends = self.windows.files, self.windows.counts[turns].cumsum()
        first = int(np.searchsorted(ends, batch * self.batch_size, side="right")) // size * size
        files = turns[first : first + 2 * size]
        if first + size >= len(turns):
            files = np.concatenate([files, following[:size]])
        return list(dict.fromkeys(files.tolist()))


def training_order(options: argparse.Namespace, labels: Indices, files: Indices | None = None) -> Order:
    """Order by train.py's options; labels, files: of all samples, [count]. InputError as `Order`."""
    images = options.images_per_identity or int(options.weighted)
    balance = Balance(labels, images) if images else None
    windows = Windows(files, options.shuffle_window) if options.shuffle_window and files is not None else None
    return Order(len(labels), options.train_batch_size, options.seed, balance, windows)


@lru_cache(maxsize=2)  # prefetching reads across the boundary of two epochs
def _epoch(order: Order, epoch: int) -> Future[Indices]:
    """The samples of an epoch, drawn in a thread of its own. NumPy shuffles without holding the GIL."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="order")
    drawn = pool.submit(_draw_epoch, order, epoch)
    pool.shutdown(wait=False)
    return drawn


def _draw_epoch(order: Order, epoch: int) -> Indices:
    if order.windows:
        return windowed_epoch(order.windows, order.seed, epoch)
    if order.balance is None:
        return epoch_permutation(order.count, order.seed, epoch)
    groups = order.batch_size // order.balance.images
    return balanced_epoch(order.balance, groups, order.iterations_per_epoch, order.seed, epoch)


def epoch_permutation(count: int, seed: int, epoch: int) -> Indices:
    """The order of `count` samples in an epoch: [count] indices, each once."""
    return generator(seed, Purpose.ORDER, epoch).permutation(count)


def windowed_epoch(windows: Windows, seed: int, epoch: int) -> Indices:
    """The order of all samples in an epoch, window by window: [count] indices, each once."""
    random = generator(seed, Purpose.ORDER, epoch)
    turns = windows.turns(random)
    window = np.zeros(len(windows.counts), dtype=np.int64)
    window[turns] = np.arange(len(turns)) // windows.files
    shuffled = random.permutation(windows.file.size)
    return shuffled[window[windows.file[shuffled]].argsort(kind="stable")]


def balanced_epoch(balance: Balance, groups: int, batches: int, seed: int, epoch: int) -> Indices:
    """The samples of `batches` batches of `groups` identities each: [batches · groups · images] indices."""
    random = generator(seed, Purpose.ORDER, epoch)
    of_identity = np.bincount(balance.labels)
    per_round = len(of_identity) if balance.images == 1 else len(of_identity) // groups * groups
    rounds = -(-batches * groups // per_round)
    turns = random.random((rounds, len(of_identity))).argsort(axis=1)[:, :per_round].ravel()[: batches * groups]
    shuffled = random.permutation(balance.labels.size)
    by_identity = shuffled[balance.labels[shuffled].argsort(kind="stable")]
    first = np.cumsum(of_identity) - of_identity
    shown_before = np.arange(len(turns)) // per_round * balance.images
    which = (shown_before[:, None] + np.arange(balance.images)) % of_identity[turns][:, None]
    return by_identity[first[turns][:, None] + which].ravel()
