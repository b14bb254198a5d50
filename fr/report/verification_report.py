"""Verification report: ROC and histogram plots, one self-contained HTML page, and the metrics as JSON.

Letters: P pairs, H and W image height and width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fr.console import counted
from fr.evaluation.group_rates import GroupRates
from fr.evaluation.pair_statistics import Metric, record
from fr.evaluation.roc import Roc, roc_curve
from fr.evaluation.verification import (
    Verification,
    checked_pairs,
    metric_text,
    printed_threshold,
    threshold_text,
    threshold_unit,
)
from fr.files.durable import write_result
from fr.report.failed_pairs import WrongPair
from fr.report.group_chapter import group_chapter
from fr.report.html_page import card, cards, inline_image, named_rows, page, png_file, table
from fr.report.plots import SCORE_NAMES, det_plot, group_plot, histogram_plot, png, rejection_plot, roc_plot


def write_report(
    folder: Path,
    verification: Verification,
    scores: ArrayLike,
    same: ArrayLike,
    facts: Mapping[str, str],
    title: str,
    worst: Sequence[WrongPair] = (),
    statistics: Mapping[str, Metric] | None = None,
    rejection: Mapping[str, NDArray[np.float64]] | None = None,
    curve: Roc | None = None,
    by_group: GroupRates | None = None,
) -> Path:
    """Write roc.png, det.png, histogram.png, report.json and index.html into `folder`; return the path of index.html.

    scores, same: the [P] pairs that `verification` was computed from. facts: information needed to repeat the result
    (model, snapshot, preprocessing, data), in the order shown. worst: misclassified pairs to show. statistics: from
    `pair_statistics`, for a table. rejection: FNMR by name, from `rejection_curves`, for rejection.png; {} = no curve,
    for which the page gives the reason; None = not about rejection. curve: the ROC curve of the pairs, with its band if
    known; None = computed here. by_group: rates for a chapter and groups.png.
    The page is self-contained. Each file is replaced atomically, the page last.
    Raises ValueError for pairs that do not match `verification`, or images that are not uint8 [H, W, 3]; InputError if
    the folder can't be written.
    """
    score, is_same = checked_pairs(scores, same)
    if score.size != verification.pairs:
        raise ValueError(f"verification has {verification.pairs} pairs, but there are {score.size} scores")
    roc = curve or roc_curve(score, is_same)
    plots = {
        "roc.png": png(roc_plot(verification, score, is_same, roc)),
        "histogram.png": png(histogram_plot(verification, score, is_same)),
        "det.png": png(det_plot({"all pairs": roc})),
    }
    rejected = "" if rejection is None else _NO_REJECTION
    if rejection:
        plots["rejection.png"] = png(rejection_plot(rejection))
        rejected = _rejection_figure(plots["rejection.png"])
    chapter = ""
    if by_group:
        plots["groups.png"] = png(group_plot(by_group))
        chapter = group_chapter(by_group, plots["groups.png"])
    content = {
        "title": title,
        "figures": verification.metrics(),
        "statistics": record(statistics or {}),
        "pairs": verification.pairs,
        "fold_accuracies": verification.fold_accuracies,
        "fold_thresholds": verification.fold_thresholds,
        "facts": dict(facts),
        **({"groups": by_group.record()} if by_group else {}),
    }
    document = _page(verification, int(is_same.sum()), facts, title, plots, worst, statistics or {}, rejected, chapter)

    for name, plot in plots.items():
        write_result(folder / name, plot)
    write_result(folder / "report.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    write_result(folder / "index.html", document)
    return folder / "index.html"


def _page(
    verification: Verification,
    same_count: int,
    facts: Mapping[str, str],
    title: str,
    plots: Mapping[str, bytes],
    worst: Sequence[WrongPair],
    statistics: Mapping[str, Metric],
    rejected: str,
    chapter: str,
) -> bytes:
    v = verification
    score_name, unit = SCORE_NAMES[v.dist], threshold_unit(v.dist)
    metrics = {
        "Accuracy": f"{v.accuracy:.4f} ± {v.accuracy_std:.4f}",
        "Accuracy on same pairs": f"{v.same_accuracy:.4f}",
        "Accuracy on different pairs": f"{v.diff_accuracy:.4f}",
        "AUC": f"{v.auc:.4f}",
        f"Threshold, {unit}": threshold_text(v.threshold),
        f"Threshold, {score_name}": threshold_text(v.threshold_score),  # for similarities this replaces the row above
        "Pairs (same / different)": f"{v.pairs:,} ({same_count:,} / {v.pairs - same_count:,})",
    }
    folds = "".join(
        f"<tr><td>{i}</td><td>{accuracy:.4f}</td><td>{threshold_text(at)}</td>"
        f"<td>{threshold_text(printed_threshold(at, v.dist))}</td></tr>\n"
        for i, (accuracy, at) in enumerate(zip(v.fold_accuracies, v.fold_thresholds, strict=True), 1)
    )
    body = f"""<div class="columns">
<section>
<h2>Metrics</h2>
<table class="named">{named_rows(metrics.items())}</table>
<p class="note">Means over {len(v.fold_accuracies)} folds, ± the population standard deviation. Each fold is
classified at {_RULES[v.protocol]} on all other folds; a pair is classified as the same person when its
{score_name} is above the threshold.</p>
</section>
<section>
<h2>Folds</h2>
<table class="folds"><thead><tr><th>Fold</th><th>Accuracy</th><th>{unit.capitalize()}</th><th>Score</th></tr></thead>
<tbody>{folds}</tbody></table>
</section>
</div>
<div class="columns">
<figure>{inline_image(plots["roc.png"], "ROC curve")}<figcaption>TAR against FAR over all pairs. The left end is FAR 0:
no false match in {counted(v.pairs - same_count, 'different pair')}. A band is the 95 % interval at each FAR, from ten
false matches on.</figcaption></figure>
<figure>{inline_image(plots["histogram.png"], "Score histogram")}<figcaption>Scores ({score_name}) of same and
different pairs, each in per cent of its kind, and the mean threshold.</figcaption></figure>
<figure>{inline_image(plots["det.png"], "DET curve")}<figcaption>Detection error trade-off: FNMR against FMR, on the
scale of normal deviates. Without errors of a kind there is no curve.</figcaption></figure>
{rejected}
</div>
{_statistics_section(statistics)}
{chapter}
<h2>Facts</h2>
<table class="named facts">{named_rows(facts.items())}</table>
{_worst_section("Worst false matches", "Two people, classified as the same", [p for p in worst if not p.same])}
{_worst_section("Worst false non-matches", "One person, classified as different", [p for p in worst if p.same])}"""
    return page(title, body)


_RULES = {
    "standard": "the threshold that is most accurate",
    "histogram": "the threshold where the histograms of same and different pairs cross",
}


_NO_REJECTION = """<p class="note">No errors against rejection: they need a quality of each image (the length of its
embedding where the model keeps it, or --quality), and ten false non-matches at a threshold of FMR 0.1, 0.01 or
0.001.</p>"""


def _rejection_figure(plot: bytes) -> str:
    image = inline_image(plot, "Errors against rejection")
    return f"""<figure>{image}<figcaption>FNMR where the pairs of the images of the lowest quality are rejected, at
thresholds that stay. The dotted lines are rejection at random. Thresholds with fewer than ten false non-matches are
left out.</figcaption></figure>"""


def _statistics_section(statistics: Mapping[str, Metric]) -> str:
    if not statistics:
        return ""
    rows = [
        (
            metric.title,
            metric_text(metric.value),
            "–".join(f"{end:.4f}" for end in metric.interval or ()),
            "" if metric.threshold is None else threshold_text(metric.threshold),
            metric.note,
        )
        for metric in statistics.values()
    ]
    return f"""<h2>Confidence intervals</h2>
{table(["Metric", "Value", "95 % interval", "Threshold", ""], rows)}
<p class="note">From the exact ROC of all pairs. Bootstrap intervals resample people (pairs, if their people aren't
known), and are at least as wide as for independent pairs; where people occur in few pairs, they are too wide rather
than too narrow.</p>"""


def _worst_section(heading: str, meaning: str, pairs: Sequence[WrongPair]) -> str:
    if not pairs:
        return ""
    content = []
    for pair in pairs:
        faces = (inline_image(png_file(image), name) for image, name in zip(pair.images, pair.names, strict=True))
        names = "<br>".join(escape(name) for name in pair.names)
        content.append(card(faces, f"<b>{pair.score:.4f}</b><br>{names}"))
    return cards(heading, f"{meaning} at the threshold of their fold. The number is the score.", content)
