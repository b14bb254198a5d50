"""Verification report: ROC and histogram pictures, one self-contained HTML page, and the figures as JSON.

Letters: P pairs, H and W picture height and width.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fr.pair_statistics import Figure, record
from fr.score_plots import SCORE_NAMES, histogram_plot, png, roc_plot
from fr.verification import ORIGINS, Verification, checked_pairs


@dataclass(frozen=True, eq=False)
class WorstPair:
    """A wrongly judged pair to be shown: its names, score, truth, and two uint8 RGB pictures [H, W, 3]."""

    names: tuple[str, str]
    score: float
    same: bool
    images: tuple[NDArray[np.uint8], NDArray[np.uint8]]


def worst_pairs(scores: ArrayLike, same: ArrayLike, threshold: float, count: int) -> NDArray[np.intp]:
    """Indices of the worst errors at one threshold of the score (a pair is judged same when score > threshold).

    First at most `count` false matches, highest score first, then at most `count` false non-matches, lowest
    score first; of equal scores the earlier pair first. scores, same: [P]. Raises ValueError as `checked_pairs`.
    """
    score, is_same = checked_pairs(scores, same)
    false_matches = np.flatnonzero(~is_same & (score > threshold))
    false_non_matches = np.flatnonzero(is_same & (score <= threshold))
    highest = false_matches[np.argsort(-score[false_matches], kind="stable")]
    lowest = false_non_matches[np.argsort(score[false_non_matches], kind="stable")]
    return np.concatenate((highest[: max(count, 0)], lowest[: max(count, 0)]))


def write_report(
    folder: Path,
    verification: Verification,
    scores: ArrayLike,
    same: ArrayLike,
    facts: Mapping[str, str],
    title: str,
    worst: Sequence[WorstPair] = (),
    statistics: Mapping[str, Figure] | None = None,
) -> Path:
    """Write roc.png, histogram.png, report.json and index.html into `folder`, and return the page's path.

    scores, same: the [P] pairs that `verification` was computed from. facts: what a reader must know to
    repeat the result (model, snapshot, preprocessing, data), in the order shown. worst: pairs to be pictured.
    statistics: of `pair_statistics`, for a table of their own.
    The page needs no other file: its pictures are inline. Each file is replaced as a whole, the page last.
    Raises ValueError for pairs that do not fit `verification`, or pictures that are not uint8 [H, W, 3].
    """
    score, is_same = checked_pairs(scores, same)
    if score.size != verification.pairs:
        raise ValueError(f"verification has {verification.pairs} pairs, but there are {score.size} scores")
    roc = png(roc_plot(verification, score, is_same))
    histogram = png(histogram_plot(verification, score, is_same))
    content = {
        "title": title,
        "figures": verification.figures(),
        "statistics": record(statistics or {}),
        "pairs": verification.pairs,
        "fold_accuracies": verification.fold_accuracies,
        "fold_thresholds": verification.fold_thresholds,
        "facts": dict(facts),
    }
    page = _page(verification, int(is_same.sum()), facts, title, roc, histogram, worst, statistics or {})

    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "roc.png", roc)
    replace_file(folder / "histogram.png", histogram)
    replace_file(folder / "report.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    # A file name that is not valid UTF-8 reaches us as lone surrogates; show them escaped rather than fail.
    replace_file(folder / "index.html", page.encode(errors="backslashreplace"))
    return folder / "index.html"


def _picture_png(image: NDArray[np.uint8]) -> bytes:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def replace_file(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then rename: a reader never meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _page(
    verification: Verification,
    same_count: int,
    facts: Mapping[str, str],
    title: str,
    roc: bytes,
    histogram: bytes,
    worst: Sequence[WorstPair],
    statistics: Mapping[str, Figure],
) -> str:
    v = verification
    score_name = SCORE_NAMES[v.dist]
    figures = [
        ("Accuracy", f"{v.accuracy:.4f} ± {v.accuracy_std:.4f}"),
        ("Accuracy on same pairs", f"{v.same_accuracy:.4f}"),
        ("Accuracy on different pairs", f"{v.diff_accuracy:.4f}"),
        ("AUC", f"{v.auc:.4f}"),
        ("Threshold, distance", f"{v.threshold:.4f}"),
        (f"Threshold, {score_name}", f"{v.threshold_score:.4f}"),
        ("Pairs (same / different)", f"{v.pairs} ({same_count} / {v.pairs - same_count})"),
    ]
    folds = "".join(
        f"<tr><td>{i}</td><td>{accuracy:.4f}</td><td>{at:.4f}</td><td>{ORIGINS[v.dist] - at:.4f}</td></tr>\n"
        for i, (accuracy, at) in enumerate(zip(v.fold_accuracies, v.fold_thresholds, strict=True), 1)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<div class="columns">
<section>
<h2>Figures</h2>
<table class="named">{_rows(figures)}</table>
<p class="note">Means over {len(v.fold_accuracies)} folds, ± the population standard deviation. Each fold is
judged at {_RULES[v.protocol]} on all other folds; a pair is judged the same person when its
{score_name} is above the threshold.</p>
</section>
<section>
<h2>Folds</h2>
<table class="folds"><thead><tr><th>Fold</th><th>Accuracy</th><th>Distance</th><th>Score</th></tr></thead>
<tbody>{folds}</tbody></table>
</section>
</div>
<div class="columns">
<figure>{_img(roc, "ROC curve")}<figcaption>TAR against FAR over all pairs. The left end stands for FAR 0:
no false match in {v.pairs - same_count} different pairs.</figcaption></figure>
<figure>{_img(histogram, "Score histogram")}<figcaption>Scores ({score_name}) of same and different pairs,
each in per cent of its kind, and the mean threshold.</figcaption></figure>
</div>
{_statistics_section(statistics)}
<h2>Facts</h2>
<table class="named facts">{_rows(facts.items())}</table>
{_worst_section("Worst false matches", "Two people, judged the same.", [p for p in worst if not p.same])}
{_worst_section("Worst false non-matches", "One person, judged different.", [p for p in worst if p.same])}
</body>
</html>
"""


_RULES = {
    "standard": "the threshold that is most accurate",
    "histogram": "the threshold where the histograms of same and different pairs cross",
}


def _statistics_section(statistics: Mapping[str, Figure]) -> str:
    if not statistics:
        return ""
    rows = "".join(
        f"<tr><td>{escape(of.title)}</td><td>{'–' if of.value is None else f'{of.value:.4f}'}</td>"
        f"<td>{'–'.join(f'{end:.4f}' for end in of.interval or ())}</td><td>{escape(of.note)}</td></tr>\n"
        for of in statistics.values()
    )
    return f"""<h2>Certainty</h2>
<table class="folds"><thead><tr><th>Figure</th><th>Value</th><th>95 % interval</th><th></th></tr></thead>
<tbody>{rows}</tbody></table>
<p class="note">From the exact ROC of all pairs. Intervals come from redrawing the people, not the pairs; where people
occur in few pairs they are rather too wide.</p>"""


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>\n" for name, value in rows)


def _img(png: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _worst_section(heading: str, meaning: str, pairs: Sequence[WorstPair]) -> str:
    if not pairs:
        return ""
    cards = ""
    for pair in pairs:
        faces = (_img(_picture_png(image), name) for image, name in zip(pair.images, pair.names, strict=True))
        names = "<br>".join(escape(name) for name in pair.names)
        shown = f'<div class="faces">{"".join(faces)}</div><b>{pair.score:.4f}</b><br>{names}'
        cards += f'<div class="pair">{shown}</div>\n'
    note = f"{meaning} The number is the score."
    return f'<h2>{heading}</h2>\n<p class="note">{note}</p>\n<div class="pairs">{cards}</div>'


STYLE = """
body { font: 15px/1.45 Georgia, "Times New Roman", serif; color: #222; background: #fff; max-width: 960px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.4rem 0 .4rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; border: solid #222; border-width: 1.5px 0; }
th, td { text-align: left; vertical-align: top; padding: .18rem .5rem; border-bottom: 1px solid #e4e4e4; }
.named th { font-weight: normal; color: #555; } .named td { overflow-wrap: anywhere; }
.facts th { width: 22%; } .folds th, .folds td { text-align: right; font-variant-numeric: tabular-nums; }
.note, figcaption { color: #555; font-size: .87rem; margin: .4rem 0; }
figure { margin: 1.2rem 0 0; } figure img { width: 100%; height: auto; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(216px, 1fr)); gap: 1rem; }
.pair { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; break-inside: avoid; }
.faces { display: flex; gap: 4px; margin-bottom: .2rem; }
.faces img { width: calc(50% - 2px); aspect-ratio: 1; object-fit: contain; background: #f2f2f2; }
"""
