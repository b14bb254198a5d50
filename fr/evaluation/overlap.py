"""Find people of a verification set who are in the training set: their nearest class centre is closer than by chance.

A person who isn't in the training set has a nearest centre, too: the maximum of C scores of different people. The
threshold is the similarity that this maximum exceeds with a given probability. It is estimated from the scores of the
set's own people, without scores that may be of the same person, so it is valid for people outside the training set, and
for any number of people in both sets. Above the (r + 1)-th greatest, a person's scores with others, as Fisher's z, are
modelled by an exponential tail (Weissman 1978, https://doi.org/10.1080/01621459.1978.10480104) with a common scale and
a location for each person, since some people resemble many others. Normally distributed scores have lighter tails, for
which the threshold is too high rather than too low.

Letters: T people of the verification set, C classes, E embedding size, r = RANKS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from fr.console import counted
from fr.errors import InputError
from fr.evaluation.verification import unit_rows

RANKS = 6  # more would use lower scores, outside the tail; fewer give a noisier estimate
_MOST = 1 << 24  # scores at a time: 128 MB
_NEARLY_1 = 1 - 1e-9  # the greatest cosine for which Fisher's z is computed

Rows = NDArray[np.float64]
Numbers = NDArray[np.int64]


def sums_by(embeddings: NDArray[np.float32], labels: Numbers, count: int) -> Rows:
    """Sum [count, E] of the embeddings of each label, each scaled to norm 1. embeddings [N, E], labels [N]."""
    sums = np.zeros((count, embeddings.shape[1]))
    np.add.at(sums, labels, unit_rows(embeddings.astype(np.float64)))
    return sums


@dataclass(frozen=True)
class Overlap:
    """M matches of a person and a class, the most similar first; at least one for each person.

    similarity [M]: cosine. listed [M]: True if it is above the threshold, also a cosine. false_share: expected share of
    listed people among those who aren't in the training set. fmr: of single comparisons.
    """

    person: Numbers
    label: Numbers
    similarity: Rows
    listed: NDArray[np.bool_]
    threshold: float
    false_share: float
    fmr: float


def find_overlap(people: Rows, classes: Rows, false_share: float, threshold: float | None = None) -> Overlap:
    """Match people with classes of a similarity above `threshold`; None = the one that `false_share` of others exceed.

    Of the r + 1 nearest classes, each person is matched with the nearest one and all above the threshold. people
    [T, E], classes [C, E]: of any norm; a class without images is 0. InputError for fewer than r + 1 classes.
    """
    labels, scores = _nearest(people, classes)
    chance = of_chance(scores, false_share)
    if threshold is None:
        threshold = chance.threshold(false_share)
    wanted = (scores > threshold) | (np.arange(RANKS + 1) == 0)
    order = np.argsort(-scores[wanted], kind="stable")
    person, label, similarity = np.nonzero(wanted)[0][order], labels[wanted][order], scores[wanted][order]
    share = chance.exceeded(threshold)
    # FMR of a comparison for which at least one of C independent comparisons is a match with the given probability.
    with np.errstate(divide="ignore"):  # for a share of 1
        fmr = -np.expm1(np.log1p(-share) / np.count_nonzero(classes.any(axis=1)))
    return Overlap(person, label, similarity, similarity > threshold, threshold, share, float(fmr))


def _nearest(people: Rows, classes: Rows) -> tuple[Numbers, Rows]:
    """The r + 1 nearest classes of each person, the most similar first, and their cosines: [T, r + 1] each."""
    there = np.flatnonzero(classes.any(axis=1))
    if len(there) <= RANKS:
        trained = counted(len(there), "identity")
        raise InputError(f"{trained} in the training set: the estimate needs at least {RANKS + 1}")
    probes, unit = unit_rows(people), unit_rows(classes[there])
    labels, scores = np.zeros((2, len(probes), RANKS + 1))
    step = max(1, _MOST // len(there))
    for first in range(0, len(probes), step):
        part = slice(first, first + step)
        cosines = probes[part] @ unit.T
        best = np.argpartition(-cosines, RANKS, axis=1)[:, : RANKS + 1]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(cosines, best, 1), axis=1, kind="stable"), 1)
        labels[part], scores[part] = there[best], np.take_along_axis(cosines, best, 1)
    return labels.astype(np.int64), scores


@dataclass(frozen=True)
class Chance:
    """Distribution of the similarity of the nearest centre of a person who isn't in the training set.

    location [T]: similarity that on average one centre exceeds. scale: of the tail. Both as Fisher's z.
    """

    location: Rows
    scale: float

    def exceeded(self, similarity: float) -> float:
        """Probability that the nearest centre is more similar than a cosine, on average over the people."""
        return self._exceeded(float(np.arctanh(similarity)))

    def threshold(self, probability: float) -> float:
        """Cosine that is exceeded with this probability."""
        low = float(self.location.min()) - 10 * self.scale  # exceeded with probability 1
        high = float(self.location.max()) - self.scale * np.log(probability)
        return float(np.tanh(brentq(lambda z: self._exceeded(z) - probability, low, high)))

    def _exceeded(self, z: float) -> float:
        with np.errstate(over="ignore"):  # far below all locations, where the probability is 1
            return float(-np.expm1(-np.exp((self.location - z) / self.scale)).mean())


def of_chance(scores: Rows, probability: float) -> Chance:
    """Fit to the greatest cosines [T, r + 1] of each person, in descending order, without those of the same person.

    It isn't known which scores are of the same person. At first the greatest of each person is left out; then the
    scores above the threshold of `probability`, repeatedly, until the threshold, which decreases, stays the same.
    """
    z = np.arctanh(np.clip(scores, -_NEARLY_1, _NEARLY_1))
    same = np.zeros(len(z), dtype=np.int64)
    while True:
        chance = _fit(z, same)
        above = (scores > chance.threshold(probability)).sum(axis=1)
        now = np.maximum(same, np.minimum(above, RANKS - 1))
        if np.array_equal(now, same):
            return chance
        same = now


def _fit(z: Rows, same: Numbers) -> Chance:
    """Fit to z [T, r + 1] in descending order, of which the first `same` [T] are taken to be of the same person.

    A greatest one that may be of the same person isn't used, but counted among those of different people.
    """
    column = np.arange(RANKS)
    rank = column + 1 - same[:, None]  # [T, r] among the scores of different people
    # k times the k-th spacing has an exponential distribution with this scale as its mean (Rényi 1953). The median is
    # robust to people with several centres in the training set.
    differences = (rank * -np.diff(z, axis=1))[column >= np.maximum(same, 1)[:, None]]
    scale = max(float(np.median(differences) / np.log(2)), 1e-9)
    # The last has rank k + 1: unbiased, k e^((last - z) / scale) scores are to be expected above z.
    return Chance(z[:, -1] + scale * np.log(RANKS - same), scale)
