"""Thresholds for a required error rate, from the images of a sample of people, with bounds of the true rates.

Verification (1:1): threshold for a false match rate (FMR), the share of accepted pairs of different people.
Identification (1:N): threshold for a false positive identification rate (FPIR), the share of searches of unknown people
that are accepted, in a gallery of a given number of people. Rates are defined by ISO/IEC 19795-1 and NIST IR 8271; a
score is a cosine, and is accepted above the threshold.

The scores of one person are dependent, so the sampling units are people. The effective number of trials is the one for
which the binomial variance equals the variance of the rate, estimated by the jackknife over people (Efron & Stein 1981,
conservative); at most the number of pairs of people, or of people. The threshold is chosen on the same scores, at the
k-th of n: if they are independent, the true rate at it has a beta distribution, whatever their distribution (order
statistics). With effective k and n this gives the upper bound.

Letters: I images, P people, E embedding size, N people in a gallery.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaln

from fr.console import counted
from fr.errors import InputError
from fr.evaluation.all_pairs import Places, Rows, blocks, highest
from fr.evaluation.intervals import ENOUGH, LEVEL, Interval, clopper_pearson

LOOSE = 1.5  # a bound is called close up to so many times the rate
_MOST = 1 << 30  # entries of a table of scores: 4 GB


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and the rates at it.

    threshold: cosine distance, 1 - score. wanted: the required rate. measured: the highest measured rate that doesn't
    exceed it. bound: upper 95 % bound of the true rate. misses: share of the pairs of one person that aren't accepted
    (FNMR), or of the searches of people in the gallery (FNIR), and its 95 % interval; None without such pairs or
    searches. people: P. needed: number of similar people for a bound of LOOSE times the required rate.
    """

    threshold: float
    wanted: float
    measured: float
    bound: float
    misses: float | None
    misses_interval: Interval | None
    people: int
    needed: int


def check_fmr(people: int, fmr: float) -> None:
    """Raise InputError if there are too few people to measure a false match rate."""
    if people * (people - 1) / 2 * fmr < ENOUGH:
        needed = math.ceil((1 + math.sqrt(1 + 8 * ENOUGH / fmr)) / 2)
        raise InputError(
            f"{counted(people, 'person', 'people')}, {counted(people * (people - 1) // 2, 'pair')} of people: a false "
            f"match rate of {fmr:g} needs at least {ENOUGH / fmr:,.0f}, which {needed:,} people form"
        )


def check_fpir(people: int, fpir: float, gallery: int) -> None:
    """Raise InputError if there are too few people for the gallery, or to measure the rate."""
    if gallery > people - 1:
        wanted = counted(gallery, "person", "people")
        raise InputError(f"a gallery of {wanted} needs {gallery + 1:,} at least, and there are {people:,}")
    if people * fpir < ENOUGH:
        needed = f"needs {math.ceil(ENOUGH / fpir):,} at least"
        raise InputError(f"{counted(people, 'person', 'people')}: a false positive rate of {fpir:g} {needed}")


def verification_point(rows: Rows, person: Places, fmr: float) -> OperatingPoint:
    """Threshold for a false match rate.

    rows: [I, E] of norm 1. person: [I] from 0 to P - 1, none without an image. InputError as `check_fmr`.
    """
    images = np.bincount(person).astype(np.float64)  # [P]
    people = len(images)
    check_fmr(people, fmr)
    per_person = images * (len(rows) - images)  # pairs with others
    pairs = per_person.sum() / 2
    scores, pair = highest(rows, person, int(fmr * pairs) + 1)
    score = float(scores.min())  # the highest score that must not be accepted
    accepted = np.bincount(person[pair[scores > score]].ravel(), minlength=people)
    measured = float(accepted.sum() / 2 / pairs)
    without = _without(accepted.sum() / 2, pairs, accepted, per_person)
    trials = _effective(measured, without, people * (people - 1) / 2)
    misses, interval = _false_non_matches(rows, person, score)
    return _point(score, fmr, measured, trials, misses, interval, people)


def identification_point(rows: Rows, person: Places, fpir: float, gallery: int) -> OperatingPoint:
    """Threshold for a false positive identification rate in a gallery of `gallery` people, with all their images.

    For the FPIR each image is searched as that of an unknown person: the mean over all galleries of that many of the
    other people is computed exactly, by combinatorics. For the FNIR the gallery holds the person's other images.
    rows, person: as in `verification_point`. InputError as `check_fpir`, or for too many scores.
    """
    people = int(person.max()) + 1
    check_fpir(people, fpir, gallery)
    best, own = _best_of_people(rows, person, people)
    admitted, score = -1.0, 1.0  # bisection: the rate at `admitted` is too high, that at `score` isn't
    while score - admitted > 1e-7:
        middle = (admitted + score) / 2
        if _false_positives(best, middle, people, gallery).mean() > fpir:
            admitted = middle
        else:
            score = middle
    positive = _false_positives(best, score, people, gallery)
    trials = _effective(float(positive.mean()), _without_each(best, person, score, people, gallery), people)
    known = own > -np.inf
    if not known.any():
        return _point(score, fpir, float(positive.mean()), trials, None, None, people)
    first = _no_better(np.count_nonzero(best[known] < own[known, None], axis=1) - 1, people - 1, gallery - 1)
    missed = 1 - first * (own[known] > score)
    misses = float(missed.mean())
    counts = np.bincount(person[known])
    there = counts > 0
    without = _without(missed.sum(), len(missed), np.bincount(person[known], missed)[there], counts[there])
    interval = clopper_pearson(misses, _effective(misses, without, people))
    return _point(score, fpir, float(positive.mean()), trials, misses, interval, people)


def upper_bound(rate: float, trials: float) -> float:
    """Upper 95 % bound of the true rate at a score that was chosen for `rate` in so many independent trials."""
    return float(betaincinv(rate * trials + 1, (1 - rate) * trials, LEVEL)) if rate < 1 else 1.0


def _point(
    score: float,
    wanted: float,
    measured: float,
    trials: float,
    misses: float | None,
    interval: Interval | None,
    people: int,
) -> OperatingPoint:
    close = ENOUGH / wanted
    while upper_bound(wanted, close) > LOOSE * wanted:
        close *= 1.05
    needed = math.ceil(people * max(1.0, close / trials))  # assumes a variance inverse to people, not to their pairs
    bound = upper_bound(measured, trials)
    return OperatingPoint(1 - score, wanted, measured, bound, misses, interval, people, needed)


def _effective(rate: float, without: NDArray[np.float64], most: float) -> float:
    """Effective number of trials of a rate. without: [P] the rate without each of the people."""
    count = len(without)
    variance = float((count - 1) / count * ((without - without.mean()) ** 2).sum())
    return min(most, rate * (1 - rate) / variance) if variance > 0 else most


def _without(events: float, trials: float, own_events: NDArray[Any], own_trials: NDArray[Any]) -> NDArray[np.float64]:
    """Rate [P] without each of the people. own_events, own_trials: numbers [P] that are left out with a person."""
    return (events - own_events) / np.maximum(trials - own_trials, 1)


def _false_non_matches(rows: Rows, person: Places, score: float) -> tuple[float | None, Interval | None]:
    """Share of a person's pairs that aren't accepted, over all pairs, and its interval."""
    counts = []  # rejected and all pairs of each person with two images or more
    for one in range(int(person.max()) + 1):
        mine = rows[person == one]
        if len(mine) > 1:
            pairs = (mine @ mine.T)[np.triu_indices(len(mine), 1)]
            counts.append((np.count_nonzero(pairs <= score), len(pairs)))
    if not counts:
        return None, None
    rejected, pairs = np.array(counts, dtype=np.float64).T
    rate = float(rejected.sum() / pairs.sum())
    if len(counts) == 1:
        return rate, None
    without = _without(rejected.sum(), pairs.sum(), rejected, pairs)
    return rate, clopper_pearson(rate, _effective(rate, without, len(counts)))


def _best_of_people(rows: Rows, person: Places, people: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Best score of each image with each other person [I, P], -inf for its own; and with its own person [I]."""
    if len(rows) * people > _MOST:
        raise InputError(f"{len(rows):,} images of {people:,} people are too many: {_MOST:,} scores; leave some out")
    order = np.argsort(person, kind="stable")
    starts = np.searchsorted(person[order], np.arange(people))
    best = np.empty((len(rows), people), dtype=np.float32)
    for part in blocks(len(rows), len(rows)):
        products = rows[part] @ rows[order].T
        products[order == np.arange(len(rows))[part][:, None]] = -np.inf  # an image with itself
        best[part] = np.maximum.reduceat(products, starts, axis=1)
    here = np.arange(len(rows))
    own = best[here, person].copy()
    best[here, person] = -np.inf
    return best, own


def _no_better(worse: NDArray[np.int64], others: int, drawn: int) -> NDArray[np.float64]:
    """Probability that all `drawn` of the `others` are among the `worse`: C(worse, drawn) / C(others, drawn)."""

    def log_ways(people: NDArray[np.int64]) -> NDArray[np.float64]:
        return gammaln(people + 1.0) - gammaln(np.maximum(people - drawn, 0) + 1.0)

    return np.where(worse >= drawn, np.exp(log_ways(worse) - log_ways(np.array(others))), 0.0)


def _false_positives(best: NDArray[np.float32], score: float, people: int, gallery: int) -> NDArray[np.float64]:
    """Probability [I] that an image, as one of an unknown person, is accepted by a gallery of the other people."""
    worse = np.count_nonzero(best <= score, axis=1) - 1  # without the own column
    return 1 - _no_better(worse, people - 1, gallery)


def _without_each(
    best: NDArray[np.float32], person: Places, score: float, people: int, gallery: int
) -> NDArray[np.float64]:
    """Mean of `_false_positives` [P] without each of the people, both as unknown people and in the galleries."""
    drawn = min(gallery, people - 2)
    worse = np.count_nonzero(best <= score, axis=1) - 1
    if_worse, if_better = (1 - _no_better(count, people - 2, drawn) for count in (worse - 1, worse))
    without = np.empty(people)
    for one in range(people):
        others = person != one
        chances = np.where(best[others, one] <= score, if_worse[others], if_better[others])
        without[one] = chances.mean()
    return without
