"""Results by group: rates, differentials between groups, and their forms as text, JSON and metrics.

Letters: n groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fr.console import counted
from fr.evaluation.intervals import ENOUGH, Interval
from fr.evaluation.verification import metric_text, threshold_text


@dataclass(frozen=True)
class Rate:
    """Share of errors in a number of pairs.

    independent: number of distinct pairs of people (FMR), or of people (FNMR), in these pairs. interval: 95 %; None
    without bootstrap or pairs.
    """

    errors: int
    pairs: int
    independent: int
    interval: Interval | None = None

    @property
    def value(self) -> float | None:
        return self.errors / self.pairs if self.pairs else None

    def text(self) -> str:
        """Format as `0.0123 [0.0101, 0.0150]`, without missing parts."""
        between = f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]" if self.interval else ""
        return metric_text(self.value) + between

    def record(self) -> dict[str, Any]:
        ends = {"low": self.interval[0], "high": self.interval[1]} if self.interval else {}
        return {"value": self.value, **ends, "errors": self.errors, "pairs": self.pairs}


@dataclass(frozen=True)
class Differentials:
    """Differences of a rate between the groups that have enough pairs; None if they can't be computed.

    groups: names of those groups. max_over_mean: `max_over_geometric_mean` of their rates. gini: `gini` of these.
    """

    groups: tuple[str, ...]
    max_over_mean: float | None
    gini: float | None

    def text(self) -> str:
        values = ("–" if value is None else f"{value:.3f}" for value in (self.max_over_mean, self.gini))
        return "maximum over geometric mean {}, Gini coefficient {}".format(*values)


@dataclass(frozen=True)
class GroupRates:
    """FMR and FNMR by group at one threshold.

    distance: threshold; closer pairs are accepted. wanted: FMR over all groups for which it was chosen; None = the
    threshold was given. pairs: `own` or `all`. people: number in each group. unknown: images without a group, which are
    left out. fmr: for pairs of two people of one group. between: FMR for pairs of two groups. within, across,
    overall_fmr: FMR of all pairs within groups, across groups, and together. redrawn: number of bootstrap replicates.
    """

    distance: float
    wanted: float | None
    pairs: str
    people: dict[str, int]
    unknown: int
    fmr: dict[str, Rate]
    fnmr: dict[str, Rate]
    between: dict[tuple[str, str], Rate]
    within: Rate
    across: Rate
    overall_fmr: Rate
    overall_fnmr: Rate
    redrawn: int = 0

    @property
    def differentials(self) -> dict[str, Differentials]:
        """Differentials of the FMR within groups, and of the FNMR."""
        return {"fmr": _differentials(self.fmr, self.overall_fmr), "fnmr": _differentials(self.fnmr, self.overall_fnmr)}

    @property
    def warnings(self) -> list[str]:
        """Groups with too few pairs for a rate, one line each."""
        kinds = (
            ("FMR", "pairs of people", "false matches", self.fmr, self.overall_fmr),
            ("FNMR", "people with pairs", "false non-matches", self.fnmr, self.overall_fnmr),
        )
        return [
            f"group {name}: {rate.independent:,} {who} are too few for its {kind}: at the rate of all groups "
            f"{_expected(rate, overall):.1f} {what} are expected; {ENOUGH} are needed"
            for kind, who, what, rates, overall in kinds
            for name, rate in rates.items()
            if not _is_enough(rate, overall)
        ]

    def heading(self) -> str:
        """Heading of a report: the pairs that are compared, and the threshold."""
        kind = "the set's own pairs" if self.pairs == "own" else "every two images"
        chosen = "as given" if self.wanted is None else f"of FMR {self.wanted:g} over all groups"
        left_out = f" ({counted(self.unknown, 'image')} without a group left out)" if self.unknown else ""
        people, groups = counted(sum(self.people.values()), "person", "people"), counted(len(self.people), "group")
        return f"{people} in {groups}{left_out}, {kind}, at distance {threshold_text(self.distance)}, {chosen}"

    def rows(self) -> list[tuple[str, str, Rate | None, Rate | None]]:
        """Rows of a table: group or groups, number of people, FMR and FNMR; all groups together at the end."""
        everyone = f"{sum(self.people.values()):,}"
        return [
            *((name, f"{number:,}", self.fmr[name], self.fnmr[name]) for name, number in self.people.items()),
            *((f"{first} – {second}", "", rate, None) for (first, second), rate in self.between.items()),
            ("within groups", "", self.within, None),
            ("across groups", "", self.across, None),
            ("all", everyone, self.overall_fmr, self.overall_fnmr),
        ]

    def lines(self) -> list[str]:
        """Output lines: a table and the differentials."""
        cells = [
            (name, people, *(part for rate in rates for part in _cells(rate))) for name, people, *rates in self.rows()
        ]
        table = [("group", "people", "FMR", "false matches", "FNMR", "false non-matches"), *cells]
        widths = [max(len(row[column]) for row in table) for column in range(6)]
        between = f" (95 % intervals: people resampled {counted(self.redrawn, 'time')})" if self.redrawn else ""
        return [
            f"By group: {self.heading()}{between}",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table),
            *(f"{kind.upper()}: {of.text()}" for kind, of in self.differentials.items()),
        ]

    def record(self) -> dict[str, Any]:
        """All fields for JSON."""
        return {
            "threshold": self.distance,
            "wanted_fmr": self.wanted,
            "pairs": self.pairs,
            "images_without_a_group": self.unknown,
            "groups": {
                name: {"people": number, "fmr": self.fmr[name].record(), "fnmr": self.fnmr[name].record()}
                for name, number in self.people.items()
            },
            "between": [{"groups": list(pair), "fmr": rate.record()} for pair, rate in self.between.items()],
            "within_groups": {"fmr": self.within.record()},
            "across_groups": {"fmr": self.across.record()},
            "all": {"fmr": self.overall_fmr.record(), "fnmr": self.overall_fnmr.record()},
            "differentials": {
                kind: {"groups": list(of.groups), "max_over_geometric_mean": of.max_over_mean, "gini": of.gini}
                for kind, of in self.differentials.items()
            },
            "warnings": self.warnings,
        }

    def metrics(self) -> dict[str, float]:
        """Scalar metrics by name, for logs; metrics without a value are left out."""
        rates = {f"group_fmr/{name}": rate.value for name, rate in self.fmr.items()}
        rates |= {f"group_fnmr/{name}": rate.value for name, rate in self.fnmr.items()}
        rates |= {"group_fmr": self.overall_fmr.value, "group_fnmr": self.overall_fnmr.value}
        rates |= {"group_fmr_across": self.across.value, "group_threshold": self.distance}
        for kind, of in self.differentials.items():
            rates |= {f"group_{kind}_max_over_mean": of.max_over_mean, f"group_{kind}_gini": of.gini}
        return {name: value for name, value in rates.items() if value is not None}


def max_over_geometric_mean(rates: Sequence[float]) -> float | None:
    """Highest of n rates divided by their geometric mean, 1 if equal; None for fewer than two rates or one of 0.

    Source: NIST IR 8429, FRVT (now FRTE) part 8, Summarizing demographic differentials (2022,
    https://doi.org/10.6028/NIST.IR.8429). ISO/IEC 19795-10:2024, whose text isn't free, requires such summaries.
    """
    if len(rates) < 2 or min(rates) <= 0:
        return None
    return float(max(rates) / np.exp(np.mean(np.log(rates))))


def gini(rates: Sequence[float]) -> float | None:
    """Gini coefficient of n rates: n / (n - 1) · Σᵢ Σⱼ |xᵢ - xⱼ| / (2 n² x̄), from 0 for equal ones to 1.

    Source: Howard et al. (2022, https://arxiv.org/abs/2203.05051), whose GARBE combines the coefficients of FMR and
    FNMR; NIST IR 8429 compares it with other measures. None for fewer than two rates, or if all are 0.
    """
    x = np.asarray(rates, dtype=np.float64)
    if len(x) < 2 or not x.any():
        return None
    return float(np.abs(x[:, None] - x).sum() / (2 * len(x) * (len(x) - 1) * x.mean()))


def _differentials(rates: Mapping[str, Rate], overall: Rate) -> Differentials:
    known = {name: rate.value for name, rate in rates.items() if rate.value is not None and _is_enough(rate, overall)}
    values = list(known.values())
    return Differentials(tuple(known), max_over_geometric_mean(values), gini(values))


def _expected(rate: Rate, overall: Rate) -> float:
    """Expected number of errors in as many independent trials, at the rate of all groups."""
    return rate.independent * (overall.value or 0.0)


def _is_enough(rate: Rate, overall: Rate) -> bool:
    return _expected(rate, overall) >= ENOUGH


def _cells(rate: Rate | None) -> tuple[str, str]:
    return (rate.text(), f"{rate.errors:,} / {rate.pairs:,}") if rate else ("", "")
