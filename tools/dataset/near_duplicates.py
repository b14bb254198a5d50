"""Near-duplicate images: perceptual hashes ("signatures") of 256 bits, and the pairs that differ in few bits.

N images. A signature is [4] uint64, its first W words are the lowest frequencies.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fr.progress import tracked

SIDE = 32  # pixels of the square image that is hashed
BITS = 256
_FEW = 10_000  # signatures that are all compared, in a second
_SORTS, _KEY_BITS = 200, 24  # 1 - (1 - C(110, 24) / C(128, 24)) ** 200 = 0.97
_COMPARED = 1 << 22  # pairs of signatures at once: 128 MiB
_ROUNDING = 1e-6  # grey levels; rounding errors of a uniform image are below

Signatures = NDArray[np.uint64]
Rows = NDArray[np.int64]  # one index per image


def signature(grey: NDArray[np.float64]) -> Signatures:
    """Perceptual hash: signs of the lowest frequencies, without the mean, of the DCT of a grey image [32, 32].

    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, but with 256 frequencies:
    aligned faces are too similar in the lowest 64.
    """
    coefficients = _basis() @ (grey - grey.mean()).ravel()
    packed: Signatures = np.packbits(coefficients > _ROUNDING).view(np.uint64)
    return packed


@lru_cache(maxsize=1)
def _basis() -> NDArray[np.float64]:
    """DCT basis [256, 32 · 32] of the lowest frequencies, by their distance from 0."""
    steps = np.arange(SIDE)
    cosines = np.cos(np.pi * steps[:, None] * (steps + 0.5) / SIDE)
    order = sorted((u * u + v * v, u, v) for u in range(SIDE) for v in range(SIDE))[1 : BITS + 1]
    return np.array([np.outer(cosines[u], cosines[v]).ravel() for _, u, v in order])


def near_pairs_within(signatures: Signatures, labels: Rows, radius: int) -> NDArray[np.int64]:
    """Pairs of rows with the same label whose signatures [N, W] differ in at most `radius` bits: [P, 2]."""
    order = np.argsort(labels, kind="stable")
    found = [np.zeros((0, 2), np.int64)]
    identities = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    for rows in (rows for rows in identities if len(rows) > 1):
        block = max(1, _COMPARED // len(rows))
        for first in range(0, len(rows), block):
            some = signatures[rows[first : first + block]]
            near = np.bitwise_count(some[:, None] ^ signatures[rows]).sum(axis=2, dtype=np.int64) <= radius
            places = np.argwhere(np.triu(near, first + 1))
            found.append(rows[places + np.array([first, 0])])
    return np.concatenate(found)


def near_pairs(signatures: Signatures, radius: int) -> NDArray[np.int64]:
    """Pairs of signatures [N, W] that differ in at most `radius` bits: [P, 2], the lower row first.

    Few are all compared. Many are sorted by random choices of their bits, in which near ones are likely to agree and
    then are adjacent (Indyk and Motwani, "Approximate Nearest Neighbors", 1998): of pairs that differ in 18 of 128 bits
    3 in 100 are missed, in 14 1 in 10,000.
    """
    count, bits = len(signatures), 64 * signatures.shape[1]
    if count <= _FEW:
        return near_pairs_within(signatures, np.zeros(count, np.int64), radius)
    odd = _ODD[: signatures.shape[1]]
    pair_codes = np.empty(0, dtype=np.int64)
    for mask in tracked(_masks(bits), "sort", "near-duplicates"):
        # The masked words are hashed to one number, which sorts fast; collisions are resolved by the comparison below.
        keys = ((signatures & mask) * odd).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys)
        keys = keys[order]
        first, gap = np.arange(count - 1), 1
        while len(first):
            first = first[keys[first] == keys[first + gap]]
            pairs = np.sort(np.stack([order[first], order[first + gap]], axis=1), axis=1)
            differing = np.bitwise_count(signatures[pairs[:, 0]] ^ signatures[pairs[:, 1]]).sum(axis=1)
            codes = pairs[differing <= radius] @ [count, 1]
            pair_codes = np.union1d(pair_codes, codes)
            gap += 1
            first = first[first < count - gap]
    return np.stack(np.divmod(pair_codes, max(count, 1)), axis=1)


_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64)


def _masks(bits: int) -> list[Signatures]:
    """Bit masks that signatures agree in with a probability of 1.7 % if 18 of 128 bits differ, 10 % if 11 do."""
    random = np.random.default_rng(0)
    chosen = (random.choice(bits, _KEY_BITS, replace=False) for _ in range(_SORTS))
    return [np.packbits(np.isin(np.arange(bits), key)).view(np.uint64) for key in chosen]


def repeats(nodes: Rows, alike: Mapping[int, Sequence[int]], labels: Rows, rows: list[int]) -> dict[int, int]:
    """Duplicates of an image with the same label: row → the image that stays, the earlier one.

    nodes: content of each image [N]. alike: near-duplicates of each content. rows: the images to check.
    """
    stays: dict[int, dict[int, int]] = defaultdict(dict)  # node → label → row
    duplicates: dict[int, int] = {}
    for row in rows:
        node, label = int(nodes[row]), int(labels[row])
        other = next((stays[same][label] for same in (node, *alike.get(node, ())) if label in stays[same]), None)
        if other is None:
            stays[node][label] = row
        else:
            duplicates[row] = other
    return duplicates


def conflicts(nodes: Rows, alike: Mapping[int, Sequence[int]], labels: Rows, rows: list[int]) -> dict[int, int]:
    """Images that have a duplicate with another label: row → one of them. Arguments as `repeats`."""
    first: dict[int, dict[int, int]] = defaultdict(dict)  # node → label → row
    for row in rows:
        first[int(nodes[row])].setdefault(int(labels[row]), row)
    duplicates: dict[int, int] = {}
    for row in rows:
        node = int(nodes[row])
        for same in (node, *alike.get(node, ())):
            other = next((other for label, other in first[same].items() if label != labels[row]), None)
            if other is not None:
                duplicates[row] = other
                break
    return duplicates
