"""Pair statistics: EER, TAR at fixed FARs, and confidence intervals of all metrics, for any matcher's scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fr.console import counted
from fr.data.verification_set import VerificationSet
from fr.evaluation.bootstrap import replicates, tar_name
from fr.evaluation.intervals import Interval, clopper_pearson, newcombe, percentile, wider
from fr.evaluation.roc import ENOUGH_MATCHES, FARS, area, equal_error_rate, false_matches, roc_curve, score_at, tar_at
from fr.evaluation.verification import (
    Verification,
    metric_text,
    printed_threshold,
    shares_of_pairs,
    threshold_text,
    threshold_unit,
)

# Least number of false matches for an interval of a TAR. Resampling underestimates the variance of a threshold at the
# highest score of different pairs: 95 % intervals at one false match contain the true TAR in 76 % of independent sets,
# at two in 94 % (LOG.md).
_LEAST_MATCHES = 2
_TITLES = {"accuracy": "Accuracy", "auc": "AUC", "auc_exact": "AUC of all pairs", "eer": "EER"}


@dataclass(frozen=True)
class Metric:
    """Metric as a fraction in [0, 1] with its 95 % interval.

    value: None if there are too few pairs. interval: None without a bootstrap. note: remark for the reader. threshold:
    largest distance, or lowest score, of accepted pairs; None for metrics without a single threshold. unit: "distance"
    or "score".
    """

    title: str
    value: float | None
    interval: Interval | None = None
    note: str = ""
    threshold: float | None = None
    unit: str = "distance"

    def text(self) -> str:
        """Format as `0.9731 [0.9650, 0.9802], at distance 0.4210, rests on 3 false matches`, without missing parts."""
        between = f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]" if self.interval else ""
        place = "" if self.threshold is None else f", at {self.unit} {threshold_text(self.threshold)}"
        return metric_text(self.value) + between + place + (f", {self.note}" if self.note else "")


@dataclass(frozen=True)
class ScoredPairs:
    """Scores [P] of a set's pairs in the validation after `iteration` iterations. averaged: with the averaged weights.

    by_group: metrics by group.
    """

    pair_set: VerificationSet
    averaged: bool
    iteration: int
    verification: Verification
    scores: NDArray[np.float64]
    by_group: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairResult:
    """Result of scored pairs: statistics, output lines, and metrics for JSON; people [P, 2]: resampled identities."""

    statistics: dict[str, Metric]
    lines: list[str]
    figures: dict[str, float | None]
    people: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        scores: NDArray[np.float64],
        same: NDArray[np.bool_],
        verification: Verification,
        people: NDArray[np.int64] | None,
        bootstrap: int,
    ) -> PairResult:
        """Arguments as for `pair_statistics`. people: None = unknown; pairs are then treated as independent."""
        redrawn = counted(same.size, "pair") if people is None else counted(np.unique(people).size, "person", "people")
        drawn = np.repeat(np.arange(same.size)[:, None], 2, axis=1) if people is None else people
        statistics = pair_statistics(scores, same, verification, drawn, bootstrap)
        printed = [*verification.lines(), *lines(statistics, redrawn, bootstrap)]
        return cls(statistics, printed, {**record(statistics), **verification.metrics()}, drawn)


def pair_statistics(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    verification: Verification,
    people: NDArray[np.int64],
    count: int,
    seed: int = 0,
) -> dict[str, Metric]:
    """Accuracy, AUC, EER and TAR at each of FARS, by name, from the exact ROC of all pairs.

    scores, same: the [P] pairs of `verification`. people: identities [P, 2]. count: bootstrap replicates, 0 = none. A
    FAR that allows no false match has no TAR; one that allows fewer than ENOUGH_MATCHES has a note, and at one match no
    interval. The AUC is named `auc_exact` under the histogram protocol, whose own AUC is another.
    """
    roc = roc_curve(scores, same)
    positive = int(np.count_nonzero(same))
    different = same.size - positive
    measurable = tuple(far for far in FARS if false_matches(far, different))
    resampled = replicates(scores, same, verification, people, count, measurable, seed) if count else {}
    values = {
        "accuracy": verification.accuracy,
        "auc": float(area(roc.far, roc.tar)),
        "eer": float(equal_error_rate(roc.far, roc.tar)),
    } | {tar_name(far): float(tar_at(roc.far, roc.tar, far)) for far in measurable}
    # Number of independent pairs with the same variance: for unequal weights (Kish 1965), or of the rarer kind.
    pairs = dict.fromkeys(values, float(positive)) | {
        "accuracy": 1 / float((shares_of_pairs(verification.cell) ** 2).sum()),
        "eer": float(min(positive, different)),
    }
    uncertain = {tar_name(far) for far in measurable if false_matches(far, different) < _LEAST_MATCHES}
    intervals = {
        name: wider(
            percentile(resampled[name]),
            newcombe(value, positive, different) if name == "auc" else clopper_pearson(value, pairs[name]),
        )
        for name, value in values.items()
        if count and name not in uncertain
    }
    notes = {tar_name(far): _note(far, different) for far in FARS}
    places = {tar_name(far): score_at(roc, far) for far in measurable}
    dist = verification.dist
    thresholds = {name: printed_threshold(place, dist) for name, place in places.items() if np.isfinite(place)}
    metrics = {}
    for name in ("accuracy", "auc", "eer", *notes):
        key = "auc_exact" if name == "auc" and verification.protocol == "histogram" else name
        title = _TITLES.get(key, key.upper().replace("E-", "e-"))
        found = values.get(name), intervals.get(name), notes.get(name, ""), thresholds.get(name)
        metrics[key] = Metric(title, *found, threshold_unit(dist))
    return metrics


def lines(statistics: Mapping[str, Metric], redrawn: str, count: int) -> list[str]:
    """Output lines after those of `Verification.lines`: EER and TARs; with a bootstrap, the intervals.

    redrawn: the resampled units, such as `80 people`.
    """
    rows = [
        f"{metric.title}: {metric.text()}"
        for name, metric in statistics.items()
        if metric.value is not None and name not in ("accuracy", "auc")
    ]
    if missing := [metric for metric in statistics.values() if metric.value is None]:
        fars = ", ".join(metric.title.partition("=")[2] for metric in missing)
        rows.append(f"TAR@FAR={fars}: –, {missing[0].note}")
    if not count:
        return rows
    between = [
        f"{metric.title} {metric.interval[0]:.4f} to {metric.interval[1]:.4f}"
        for name in ("accuracy", "auc")
        if (metric := statistics.get(name)) and metric.interval
    ]
    return [
        *rows,
        f"95 % intervals: {', '.join(between)}; {redrawn} resampled {counted(count, 'time')}, "
        "at least as wide as for independent pairs",
    ]


def record(statistics: Mapping[str, Metric]) -> dict[str, float | None]:
    """Metrics by name for JSON, their intervals as `<name>_low` and `<name>_high`; None = too few pairs.

    Thresholds are `threshold@…` for `tar@…`.
    """
    flat: dict[str, float | None] = {}
    for name, metric in statistics.items():
        flat[name] = metric.value
        if metric.interval:
            flat[f"{name}_low"], flat[f"{name}_high"] = metric.interval
        if metric.threshold is not None:
            flat[name.replace("tar@", "threshold@")] = metric.threshold
    return flat


def _note(far: float, different: int) -> str:
    matches = false_matches(far, different)
    if matches == 0:
        return f"{different:,} different pairs are too few"
    if matches < ENOUGH_MATCHES:
        return f"rests on {counted(matches, 'false match', 'false matches')}"
    return ""
