"""Plots: ROC, DET and rejection curves and score histogram of pairs, CMC curve of searches.

Letters: P pairs, R shares.
"""

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from scipy.special import ndtri

from fr.evaluation.group_rates import GroupRates
from fr.evaluation.rejection import SHARES
from fr.evaluation.roc import Rates, Roc, area
from fr.evaluation.verification import Verification

SAME, DIFF, NEUTRAL = "#1f6f9f", "#c4572c", "#444444"
COLORS = (SAME, DIFF, "#3d8b57", "#7a5195", "#a07a00", NEUTRAL)
STYLES = ("-", "--", "-.", ":")  # where there are more curves than colours
BINS = 60
_LEGEND = 60  # letters that fit beside each other above a small plot
_MARKED = 60  # points of a curve that are marked one by one
_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)  # of a DET curve
_LONGEST_NAME = 24  # letters of a group's name
_LEAST = 1e-9
SIZE, DPI = (6.0, 4.2), 150  # inches, dots an inch: 900 x 630 pixels
SMALL_SIZE = (4.8, 3.4)  # of plots that stand beside many others
SCORE_NAMES = {"cos": "cosine", "l2": "L2 distance, negated", "distance": "distance, negated", "similarity": "score"}


def roc_plot(
    verification: Verification, score: NDArray[np.float64], same: NDArray[np.bool_], roc: Roc
) -> Figure:
    """ROC curve of the [P] pairs, with the point of the mean threshold. roc: theirs."""
    threshold = verification.threshold_score
    far_at, tar_at = float((score[~same] > threshold).mean()), float((score[same] > threshold).mean())
    # Of this curve: the histogram protocol's AUC is of another one.
    figure, axes, floor = _roc_axes({f"ROC, AUC {float(area(roc.far, roc.tar)):.4f}": roc}, tar_at)
    axes.plot(
        [max(far_at, floor)], [tar_at], "o", color=DIFF, markersize=6, clip_on=False, zorder=3,
        label=f"mean threshold, {SCORE_NAMES[verification.dist]} {threshold:.4f}",
    )  # fmt: skip
    axes.legend(loc="lower right", frameon=True, framealpha=0.9)
    return figure


def roc_overlay(curves: Mapping[str, Roc]) -> Figure:
    """ROC curves by name in one plot, with their bands where they are known."""
    named = {f"{name}, AUC {float(area(roc.far, roc.tar)):.4f}": roc for name, roc in curves.items()}
    figure, axes, _ = _roc_axes(named, 1.0)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, fontsize="small")
    return figure


def _roc_axes(curves: Mapping[str, Roc], lowest: float) -> tuple[Figure, Axes, float]:
    """Plot TAR over FAR, at least down to TAR `lowest`; also return the FAR at which the axis starts.

    Step curves: between two measured FARs only the lower one's TAR is known to be reached.
    """
    # FAR 0, which a log axis lacks, is drawn at half of the smallest FAR above 0.
    floor = min(float(roc.far[roc.far > 0].min()) for roc in curves.values()) / 2
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, roc) in enumerate(curves.items()):
        start = int(np.flatnonzero(roc.far == roc.far[0])[-1])
        axes.plot(
            np.maximum(roc.far[start:], floor), roc.tar[start:], drawstyle="steps-post",
            color=COLORS[index % len(COLORS)], linewidth=1.8, label=plain_label(name),
        )  # fmt: skip
        if roc.band is not None:
            _fill(axes, np.maximum(roc.far, floor), roc.band, index)
        lowest = min(lowest, float(roc.tar[start]), 0.99)  # a perfect curve still gets a range of one per cent
    axes.set_xscale("log")
    axes.set_xlim(floor, 1.0)
    axes.set_ylim(lowest - 0.05 * (1 - lowest), 1 + 0.05 * (1 - lowest))
    axes.set_xlabel("FAR (false accept rate)")
    axes.set_ylabel("TAR (true accept rate)")
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    return _plain(figure), axes, floor


def det_plot(curves: Mapping[str, Roc]) -> Figure:
    """DET curves by name: FNMR over FMR, both on the scale of normal deviates (Martin et al., Eurospeech 1997).

    Scores of two normal distributions give a straight line. Rates of 0 aren't shown. With bands where they are known.
    """
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    shown = {name: (roc.far > 0) & (roc.tar < 1) for name, roc in curves.items()}
    rates = [rate[shown[name]] for name, roc in curves.items() for rate in (roc.far, 1 - roc.tar)]
    lowest = min([_TICKS[-2], *(float(rate.min()) for rate in rates if rate.size)])
    for index, (name, roc) in enumerate(curves.items()):
        far, missed = roc.far[shown[name]], 1 - roc.tar[shown[name]]
        axes.plot(
            ndtri(far), ndtri(missed), drawstyle="steps-post", color=COLORS[index % len(COLORS)], linewidth=1.8,
            label=plain_label(name),
        )  # fmt: skip
        if roc.band is not None:
            _fill(axes, _deviate(roc.far), _deviate(1 - roc.band), index)
    ticks = [tick for tick in _TICKS if tick >= lowest / 2]
    for axis, limit in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        axis.set_ticks(ndtri(ticks), [f"{tick:g}" for tick in ticks])
        limit(ndtri(lowest / 2), ndtri(_TICKS[-1]))
    axes.set_xlabel("FMR (false match rate)")
    axes.set_ylabel("FNMR (false non-match rate)")
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.legend(loc="upper right", frameon=True, framealpha=0.9, fontsize="small")
    return _plain(figure)


def _fill(axes: Axes, far: Rates, ends: Rates, index: int) -> None:
    """Fill a curve's band between two ends [2, N], with steps as the curve's."""
    color = COLORS[index % len(COLORS)]
    axes.fill_between(far, ends[0], ends[1], step="post", color=color, alpha=0.18, linewidth=0)


def _deviate(rates: Rates) -> Rates:
    """Normal deviates of rates; those of 0 and 1 are outside of the plot, but not at infinity."""
    deviates: Rates = ndtri(np.clip(rates, _LEAST, 1 - _LEAST))
    return deviates


def rejection_plot(curves: Mapping[str, NDArray[np.float64]]) -> Figure:
    """FNMR [R] over the rejected share of the pairs, `fr.evaluation.rejection.SHARES`, by name."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, missed) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        axes.plot(SHARES, missed, color=color, linewidth=1.8, label=plain_label(name))
        axes.axhline(missed[0], color=color, linewidth=1, linestyle=":")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, SHARES[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the pairs rejected")
    axes.set_ylabel("FNMR (false non-match rate)")
    axes.grid(color="#dddddd", linewidth=0.7)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return _plain(figure)


def histogram_plot(verification: Verification, score: NDArray[np.float64], same: NDArray[np.bool_]) -> Figure:
    """Score histograms of same and different pairs, normalised per kind."""
    low, high = float(score.min()), float(score.max())
    pad = max(0.0, 1e-3 - (high - low)) / 2  # the range of a collapsed model's cosines is too small for bins
    edges = np.linspace(low - pad, high + pad, BINS + 1)
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for kind, color, name in ((~same, DIFF, "different"), (same, SAME, "same")):
        count = int(kind.sum())
        share = np.histogram(score[kind], bins=edges)[0] / count
        axes.stairs(share, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(share, edges, color=color, linewidth=1.2, label=f"{name}, {count} pairs")
    threshold = verification.threshold_score
    axes.axvline(threshold, color=NEUTRAL, linestyle="--", linewidth=1.3, label=f"mean threshold {threshold:.4f}")
    axes.set_xlabel(f"{SCORE_NAMES[verification.dist]} of the pair")
    axes.set_ylabel("share of pairs of the kind")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return _plain(figure)


def group_plot(rates: GroupRates) -> Figure:
    """FMR within each group and FNMR, with 95 % intervals and the rate of all groups as a dashed line."""
    names = list(rates.people)
    height = max(SIZE[1] / 2, 0.35 * len(names) + 0.8)
    figure = Figure(figsize=(SIZE[0], height), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, of_groups, overall, color in (
        (left, "FMR within the group", rates.fmr, rates.overall_fmr, DIFF),
        (right, "FNMR", rates.fnmr, rates.overall_fnmr, SAME),
    ):
        for place, name in enumerate(names):
            value, interval = of_groups[name].value, of_groups[name].interval
            if value is not None:
                axes.plot(value, place, "o", color=color, markersize=5, clip_on=False)
            if interval:
                axes.plot(interval, (place, place), color=color, linewidth=1.8)
        if overall.value is not None:
            axes.axvline(overall.value, color=NEUTRAL, linestyle="--", linewidth=1)
        axes.set_xlabel(title)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    short = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
    left.set_yticks(range(len(names)), short, parse_math=False)
    left.set_ylim(len(names) - 0.5, -0.5)
    return _plain(figure)


def curves_plot(curves: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]], ylabel: str) -> Figure:
    """Values over iterations by name; NaN is a gap, points are marked where all are few."""
    figure = Figure(figsize=SMALL_SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    few = max(len(iterations) for iterations, _ in curves.values()) <= _MARKED
    for index, (name, (iterations, values)) in enumerate(curves.items()):
        style = STYLES[index // len(COLORS) % len(STYLES)]
        color = COLORS[index % len(COLORS)]
        axes.plot(
            iterations, values, style, color=color, marker="o" if few else "", markersize=3.5, linewidth=1.2,
            label=plain_label(name),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("iteration")
    axes.set_ylabel(plain_label(ylabel))
    axes.grid(color="#dddddd", linewidth=0.7)
    columns = max(1, min(len(curves), _LEGEND // (max(map(len, curves)) + 6)))  # 6: of the line
    figure.legend(loc="outside upper center", ncols=columns, fontsize="small", frameon=False)
    return _plain(figure)


def plain_label(name: str) -> str:
    """A name as the label of a curve: neither parsed as a formula nor, with a leading _, left out of the legend."""
    return ("\N{ZERO WIDTH SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")


def cmc_plot(curve: NDArray[np.float64]) -> Figure:
    """CMC curve [R] at ranks 1 … R."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(np.arange(1, len(curve) + 1), curve, "o-", color=SAME, markersize=4, linewidth=1.8, clip_on=False)
    lowest = min(float(curve.min()), 0.99)  # a perfect curve still gets a range of one per cent
    axes.set_ylim(lowest - 0.05 * (1 - lowest), 1 + 0.05 * (1 - lowest))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank")
    axes.set_ylabel("share of mated probes found up to this rank")
    axes.grid(color="#dddddd", linewidth=0.7)
    return _plain(figure)


def png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)  # sets the Agg canvas, independent of the user's configured backend
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
