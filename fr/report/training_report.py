"""Page that compares trainings: different options, curves of the logs, last and best metrics, paired scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from fr.evaluation.paired import Comparison, Difference
from fr.evaluation.roc import Roc
from fr.report.html_page import inline_image, page, table
from fr.report.plots import curves_plot, png, roc_overlay
from fr.report.run_logs import Record, curve, validation_keys

Point = tuple[int, float]  # iteration, value
# Options for the output paths of a run: they always differ, and are in the table of runs.
_PLACES = ("snap_folder", "snap_prefix", "log_folder")


@dataclass(frozen=True)
class Training:
    """Options and logs of a run.

    options: text of each value. log, validation: records of `log.jsonl` and `validation.jsonl` by iteration. facts:
    paths and state of the run, in the order shown; the same names for each run.
    """

    name: str
    options: Mapping[str, str]
    log: Mapping[int, Record]
    validation: Mapping[int, Record]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class ScoredSet:
    """Verification set with the ROC curve of each training's snapshot, and comparisons of the first with the others."""

    title: str
    curves: Mapping[str, Roc]
    comparisons: Mapping[str, Comparison]


def training_page(trainings: Sequence[Training], scored: Sequence[ScoredSet] = ()) -> bytes:
    """Self-contained HTML page, UTF-8. trainings: with different names; the others are compared with the first."""
    names = [one.name for one in trainings]
    facts = [(name, *(one.facts[name] for one in trainings)) for name in trainings[0].facts]
    options = differing_options(trainings)
    logs, validations = [one.log for one in trainings], [one.validation for one in trainings]
    parts = [
        "<h2>Runs</h2>",
        table(["", *names], facts),
        "<h2>Options that differ</h2>",
        table(["Option", *names], options) if options else '<p class="note">None, beside folders and names.</p>',
        "<h2>Training</h2>",
        _figures(logs, names, training_keys(logs)),
    ]
    if keys := validation_keys(validations):
        note = "Value at iteration: of the last validation, and the highest of all, which chance favours."
        parts += [
            "<h2>Validation</h2>",
            _figures(validations, names, keys),
            "<h2>Last and best validation</h2>",
            table(["Metric", "Run", "Last", "Best"], _last_and_best_rows(validations, names, keys)),
            f'<p class="note">{note}</p>',
        ]
    parts += [_scores(one, names[0]) for one in scored]
    return page(f"Trainings compared: {', '.join(names)}", "\n".join(parts))


def differing_options(trainings: Sequence[Training]) -> list[tuple[str, ...]]:
    """Rows of the options that differ: name, and value in each run; "–" if a run has no such option."""
    names = dict.fromkeys(name for one in trainings for name in one.options if name not in _PLACES)
    rows = [(name, *(one.options.get(name, "–") or "empty" for one in trainings)) for name in names]
    return [row for row in rows if len({*row[1:]}) > 1]


def training_keys(logs: Sequence[Mapping[int, Record]]) -> list[str]:
    """Keys of `log.jsonl` to draw: losses, learning rate."""
    keys = dict.fromkeys(key for log in logs for record in log.values() for key in record)
    return [key for key in keys if key in ("loss", "lr") or key.endswith("_loss")]


def points(records: Mapping[int, Record], key: str) -> list[Point]:
    """The finite values of a curve."""
    return [(int(at), float(value)) for at, value in zip(*curve(records, key), strict=True) if np.isfinite(value)]


def last_and_best(records: Mapping[int, Record], key: str) -> tuple[Point, Point] | None:
    """Last and highest value of a metric (the latest of equal ones, as for snapshots); None without a finite one."""
    known = points(records, key)
    return (known[-1], max(known, key=lambda point: (point[1], point[0]))) if known else None


def _figures(logs: Sequence[Mapping[int, Record]], names: Sequence[str], keys: Sequence[str]) -> str:
    figures = []
    for key in keys:
        plot = curves_plot({name: curve(log, key) for name, log in zip(names, logs, strict=True)}, key)
        figures.append((png(plot), key, f"{key} over the iteration"))
    return _columns(figures)


def _columns(figures: Iterable[tuple[bytes, str, str]]) -> str:
    """HTML of figures in as many columns as fit. figures: PNG, alternative text and caption of each."""
    parts = (
        f"<figure>{inline_image(image, alt)}<figcaption>{escape(caption)}</figcaption></figure>"
        for image, alt, caption in figures
    )
    return f'<div class="columns">{"".join(parts)}</div>'


def _last_and_best_rows(
    logs: Sequence[Mapping[int, Record]], names: Sequence[str], keys: Sequence[str]
) -> list[tuple[str, ...]]:
    rows = []
    for key in keys:
        for index, (name, log) in enumerate(zip(names, logs, strict=True)):
            both = last_and_best(log, key)
            values = [f"{value:.4f} at {at:,}" for at, value in both] if both else ["–", "–"]
            rows.append((key if index == 0 else "", name, *values))
    return rows


def _scores(scored: ScoredSet, first: str) -> str:
    plot = roc_overlay(scored.curves)
    caption = "TAR against FAR over all pairs."
    parts = [
        f"<h2>Scores on {escape(scored.title)}</h2>",
        _columns([(png(plot), "ROC curves", caption)]),
    ]
    for name, comparison in scored.comparisons.items():
        differences = comparison.differences
        rows = [
            (first, *(f"{one.a:.4f}" for one in differences)),
            (name, *(f"{one.b:.4f}" for one in differences)),
            ("difference", *(f"{one.b - one.a:+.4f}" for one in differences)),
            ("95 % interval", *map(_interval, differences)),
        ]
        parts += [
            f"<h3>{escape(name)} compared with {escape(first)}</h3>",
            table(["", *(one.name for one in differences)], rows),
            f'<p class="note">{escape(comparison.disagreement(first, name))}</p>',
        ]
    return "\n".join(parts)


def _interval(difference: Difference) -> str:
    ends = difference.interval
    return f"{ends[0]:+.4f} to {ends[1]:+.4f}: {difference.verdict}" if ends else "–"
