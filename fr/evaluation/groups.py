"""FMR and FNMR of groups of people at one threshold, their 95 % intervals, and their differentials.

An interval is Clopper and Pearson's for an effective number of independent trials: the number for which the rate has
the variance of its bootstrap replicates with resampled people (`fr/evaluation/bootstrap.py`). Without errors it is the
number of distinct pairs of people (FMR), or of people (FNMR). Percentiles of the replicates would be too narrow where
some people resemble many others, since their distribution is skewed.

Letters: N images, I people with a group, P pairs, G groups, C cells (two groups, or the same people's pairs of one),
R replicates, r of a block.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from fr.data.faces import VerificationFaces
from fr.data.verification_set import VerificationSet
from fr.errors import InputError
from fr.evaluation.all_pairs import highest
from fr.evaluation.bootstrap import redrawn
from fr.evaluation.embedding import compared
from fr.evaluation.group_labels import Labels, labels_of
from fr.evaluation.group_rates import GroupRates, Rate
from fr.evaluation.group_table import read_group_table
from fr.evaluation.intervals import clopper_pearson
from fr.evaluation.verification import ORIGINS, unit_rows
from fr.options.groups import GroupSettings

_MOST = 1 << 26  # accepted pairs that are stored: 1.5 GB
_Counts = NDArray[Any]  # [r, I] times that each person is in a resampled set
_Sum = Callable[[_Counts], NDArray[np.float64]]  # → [r]


@dataclass(frozen=True)
class Groups:
    """Groups of the people in verification sets. labels: by the set's name, for sets with known groups."""

    settings: GroupSettings = field(default_factory=GroupSettings)
    labels: Mapping[str, Labels] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # reasons for which sets have no rates by group

    @classmethod
    def read(cls, options: Namespace, sets: Sequence[VerificationSet], needs_pairs: bool = True) -> Groups:
        """Groups by the options of `GroupSettings`; InputError if the table can't be read, or no set can use it.

        needs_pairs: False = no error, only `notes`, if people are known but no set has enough pairs of them.
        """
        settings = GroupSettings.from_options(options)
        if not settings.groups:
            return cls(settings)
        if not sets:
            raise InputError("--groups: no verification set to measure them on: give --val_data_root or --val_sets")
        table = read_group_table(Path(settings.groups), [name for name in settings.groups_columns.split(",") if name])
        labels = {one.name: labels_of(one.faces, table, one.source) for one in sets}
        why = {one.name: _obstacle(settings, labels[one.name], one) for one in sets}
        if all(why.values()) and (needs_pairs or not any(of_set.names for of_set in labels.values())):
            raise InputError(*why.values())
        known = {name: of_set for name, of_set in labels.items() if not why[name]}
        return cls(settings, known, tuple(filter(None, why.values())))

    def measure(
        self,
        name: str,
        faces: VerificationFaces,
        embeddings: NDArray[np.float32],
        scores: NDArray[np.float64],
        dist: str = "cos",
        center: bool = False,
        count: int = 0,
    ) -> GroupRates | None:
        """Rates on the set of that name; None if its groups aren't known.

        embeddings, scores: [N, E] and [P] of its images and pairs. dist, center: options by which the scores were
        computed. count: bootstrap replicates for the intervals; 0 = no intervals.
        """
        if name not in self.labels:
            return None
        labels, origin = self.labels[name], ORIGINS[dist]
        given = self.settings.groups_threshold
        threshold = None if isinstance(given, str) else origin - given
        if self.settings.groups_pairs == "own":
            compared_pairs = _own_pairs(labels, faces, scores, self.settings.groups_fmr, threshold)
        else:
            known = labels.person >= 0
            rows = unit_rows(compared(embeddings, center)[known].astype(np.float64)).astype(np.float32)
            person = labels.person[known]
            compared_pairs = _all_pairs(labels, rows, person, self.settings.groups_fmr, threshold)
        wanted = self.settings.groups_fmr if threshold is None else None
        return _rates(labels, compared_pairs, origin, wanted, self.settings.groups_pairs, count)


def _obstacle(settings: GroupSettings, labels: Labels, one: VerificationSet) -> str:
    """Reason for which a set has no rates by group; "" if it has."""
    if not labels.names:
        return f"{one.source}: none of its people is in --groups {settings.groups}"
    pairs = int(labels.impostors(one.faces).sum())
    if settings.groups_pairs == "all":
        pairs = int(_within(labels.images)(np.ones((1, len(labels.group))))[0])
    if not pairs or (settings.groups_threshold == "auto" and int(settings.groups_fmr * pairs) < 1):
        more = "" if settings.groups_pairs == "all" else ", --groups_pairs all,"
        return (
            f"{one.source}: {pairs:,} pairs of two people who are in --groups allow no false match at --groups_fmr "
            f"{settings.groups_fmr:g}: give a higher rate{more} or a --groups_threshold"
        )
    return ""


@dataclass(frozen=True, eq=False)
class _Compared:
    """Comparisons of people at a threshold `score`; higher scores are accepted.

    impostors: for each pair of groups a <= b, the number of accepted and of all pairs of two people, both as functions
    of the counts of people, and the number of distinct pairs of people. rejected, genuine: pairs of each person, [I].
    """

    score: float
    impostors: dict[tuple[int, int], tuple[_Sum, _Sum, int]]
    rejected: NDArray[np.int64]
    genuine: NDArray[np.int64]


def _own_pairs(
    labels: Labels, faces: VerificationFaces, scores: NDArray[np.float64], fmr: float, threshold: float | None
) -> _Compared:
    """Comparisons of the set's own pairs. threshold: a score; None = that of the FMR `fmr`."""
    different = labels.impostors(faces)
    first, second = np.sort(labels.person[faces.pairs[different]], axis=1).T
    of_different = scores[different]
    if threshold is None:
        threshold = float(np.sort(of_different)[::-1][int(fmr * len(of_different))])  # the highest one not accepted
    cells = {}
    people = len(labels.group)
    for place, mask in _by_groups(labels, first, second).items():
        accepted = mask & (of_different > threshold)
        errors, all_pairs = (_of_pairs(first[kept], second[kept], people) for kept in (accepted, mask))
        cells[place] = errors, all_pairs, len(np.unique(first[mask] * people + second[mask]))
    same = labels.genuine(faces)
    owner = labels.person[faces.pairs[same, 0]]
    rejected = np.bincount(owner[scores[same] <= threshold], minlength=people)
    return _Compared(threshold, cells, rejected, np.bincount(owner, minlength=people))


def _all_pairs(
    labels: Labels, rows: NDArray[np.float32], person: NDArray[np.int64], fmr: float, threshold: float | None
) -> _Compared:
    """Comparisons of all pairs of images, by embeddings `rows` [n, E] of norm 1 and their people [n]."""
    images, people = labels.images, len(labels.group)
    if threshold is None:
        pairs = int(_within(images)(np.ones((1, people)))[0])
        scores, accepted = highest(rows, person, int(fmr * pairs) + 1)
        threshold = float(scores.min())
        accepted = accepted[scores > threshold]
    else:
        _, accepted = highest(rows, person, _MOST, threshold)
        if len(accepted) == _MOST:
            raise InputError(f"--groups_threshold: it accepts more than {_MOST:,} pairs of different people")
    first, second = np.sort(person[accepted], axis=1).T
    cells = {}
    for (a, b), mask in _by_groups(labels, first, second).items():
        of_a, of_b = (np.where(labels.group == one, images, 0) for one in (a, b))
        trials, distinct = (
            _within(mine) if a == b else _between(mine, others) for mine, others in ((of_a, of_b), (of_a > 0, of_b > 0))
        )
        number = int(distinct(np.ones((1, people)))[0])
        cells[a, b] = _of_pairs(first[mask], second[mask], people), trials, number
    rejected = np.zeros(people, dtype=np.int64)
    order = np.argsort(person, kind="stable")
    for one, mine in enumerate(np.split(order, np.cumsum(images)[:-1])):
        cosines = (rows[mine] @ rows[mine].T)[np.triu_indices(len(mine), 1)]
        rejected[one] = np.count_nonzero(cosines <= threshold)
    return _Compared(threshold, cells, rejected, images * (images - 1) // 2)


def _by_groups(
    labels: Labels, first: NDArray[np.int64], second: NDArray[np.int64]
) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """For each two groups a <= b, the mask of the pairs with one person in each of them."""
    low, high = np.sort(labels.group[np.stack([first, second])], axis=0)
    return {(a, b): (low == a) & (high == b) for a, b in combinations_with_replacement(range(len(labels.names)), 2)}


def _of_pairs(first: NDArray[np.int64], second: NDArray[np.int64], people: int) -> _Sum:
    """Number of these pairs, each weighted by the product of its people's counts."""
    pairs = coo_array((np.ones(len(first)), (first, second)), shape=(people, people)).tocsr()
    return lambda counts: ((counts @ pairs) * counts).sum(axis=1)


def _within(images: NDArray[Any]) -> _Sum:
    """Number of pairs of images of two people of one group. images: number of each person, [I]; 0 in other groups."""

    def pairs(counts: _Counts) -> NDArray[np.float64]:
        copies = counts * images.astype(np.float64)
        total: NDArray[np.float64] = (copies.sum(axis=1) ** 2 - (copies**2).sum(axis=1)) / 2
        return total

    return pairs


def _between(images: NDArray[Any], others: NDArray[Any]) -> _Sum:
    """Number of pairs of images of two groups. images, others: as `images` of `_within`, for each group."""
    return lambda counts: (counts @ images.astype(np.float64)) * (counts @ others.astype(np.float64))


def _rates(labels: Labels, pairs: _Compared, origin: float, wanted: float | None, kind: str, count: int) -> GroupRates:
    names, people = labels.names, len(labels.group)
    members = [labels.group == one for one in range(len(names))]
    cells = list(pairs.impostors)
    fmr = _Kind(
        [events for events, _, _ in pairs.impostors.values()],
        [trials for _, trials, _ in pairs.impostors.values()],
        np.array([distinct for _, _, distinct in pairs.impostors.values()]),
    )
    fnmr = _Kind(
        [_of_people(pairs.rejected * mine) for mine in members],
        [_of_people(pairs.genuine * mine) for mine in members],
        np.array([np.count_nonzero(pairs.genuine[mine]) for mine in members]),
    )
    drawn = list(redrawn(people, count, 0)) if count else []
    of_fmr = fmr.rates([[cells.index((one, one))] for one in range(len(names))], people, drawn)
    differing = [(a, b) for a, b in cells if a != b]
    between = fmr.rates([[cells.index(cell)] for cell in differing], people, drawn)
    within = [place for place, (a, b) in enumerate(cells) if a == b]
    across = [place for place, (a, b) in enumerate(cells) if a != b]
    of_all = fmr.rates([list(range(len(cells))), within, across], people, drawn)
    *of_fnmr, all_fnmr = fnmr.rates([*([one] for one in range(len(names))), list(range(len(names)))], people, drawn)
    return GroupRates(
        distance=origin - pairs.score,
        wanted=wanted,
        pairs=kind,
        people={name: int(np.count_nonzero(mine)) for name, mine in zip(names, members, strict=True)},
        unknown=int(np.count_nonzero(labels.person < 0)),
        fmr=dict(zip(names, of_fmr, strict=True)),
        fnmr=dict(zip(names, of_fnmr, strict=True)),
        between={(names[a], names[b]): rate for (a, b), rate in zip(differing, between, strict=True)},
        overall_fmr=of_all[0],
        within=of_all[1],
        across=of_all[2],
        overall_fnmr=all_fnmr,
        redrawn=count,
    )


def _of_people(numbers: NDArray[np.int64]) -> _Sum:
    return lambda counts: counts @ numbers.astype(np.float64)


@dataclass(frozen=True)
class _Kind:
    """One kind of error in C cells. events: errors. trials: pairs. independent: distinct pairs of people, or people."""

    events: list[_Sum]
    trials: list[_Sum]
    independent: NDArray[np.int64]

    def rates(self, chosen: list[list[int]], people: int, drawn: list[_Counts]) -> list[Rate]:
        """A rate for each list of chosen cells, over these cells together."""
        ones = np.ones((1, people))
        events, trials = (np.stack([of_cell(ones)[0] for of_cell in sums]) for sums in (self.events, self.trials))
        blocks = [
            [np.stack([of_cell(counts) for of_cell in sums], axis=1) for sums in (self.events, self.trials)]
            for counts in drawn
        ]
        rates = []
        for cells in chosen:
            errors, number = int(events[cells].sum()), int(trials[cells].sum())
            independent = int(self.independent[cells].sum())
            interval = None
            if blocks and number:
                wrong, of_all = (np.concatenate([both[i][:, cells].sum(axis=1) for both in blocks]) for i in (0, 1))
                again = wrong[of_all > 0] / of_all[of_all > 0]
                interval = clopper_pearson(errors / number, _effective(errors / number, again, number, independent))
            rates.append(Rate(errors, number, independent, interval))
        return rates


def _effective(rate: float, replicates: NDArray[np.float64], pairs: int, independent: int) -> float:
    """Number of independent trials for which a rate has the variance of its replicates [R]; at most `pairs`.

    Without variance, as without errors, it is `independent`, since errors of one person may be correlated.
    """
    variance = float(replicates.var()) if replicates.size else 0.0
    return min(pairs, rate * (1 - rate) / variance) if variance > 0 else independent
