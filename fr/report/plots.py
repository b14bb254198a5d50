"""Plots: ROC, DET and rejection curves and score histogram of pairs, CMC curve of searches.

Letters: P pairs, R shares.
"""

import io
from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from scipy.special import ndtri

from fr.console import counted
from fr.evaluation.group_rates import GroupRates
from fr.evaluation.rejection import SHARES
from fr.evaluation.roc import Rates, Roc, area
from fr.evaluation.verification import Verification, threshold_text

SAME, DIFF, NEUTRAL = "#1f6f9f", "#c4572c", "#444444"
COLORS = (SAME, DIFF, "#3d8b57", "#7a5195", "#a07a00", NEUTRAL)
STYLES = ("-", "--", "-.", ":")  # cycled when there are more curves than colours
BINS = 60
_LEGEND = 60  # letters that fit into a line above a small plot
_MARKED = 60  # points of a curve that are marked one by one
_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)  # of a DET plot
_DET_RANGE = (0.2, 0.5)  # rates that a DET plot shows at least
_LONGEST_NAME = 24  # letters of a group's name that are shown
_LEAST = 1e-9
SIZE, DPI = (6.0, 4.2), 150  # inches, dots an inch: 900 x 630 pixels
SMALL_SIZE = (4.8, 3.4)  # of plots that are shown beside others
SCORE_NAMES = {"cos": "cosine", "l2": "L2 distance, negated", "distance": "distance, negated", "similarity": "score"}


def roc_plot(verification: Verification, score: NDArray[np.float64], same: NDArray[np.bool_], roc: Roc) -> Figure:
    """Plot the ROC curve of the [P] pairs, with the point of the mean threshold. roc: the curve."""
    threshold = verification.threshold_score
    far_at, tar_at = float((score[~same] > threshold).mean()), float((score[same] > threshold).mean())
    # The AUC of this curve: that of the histogram protocol belongs to another one.
    figure, axes, floor = _roc_axes({f"ROC, AUC {float(area(roc.far, roc.tar)):.4f}": roc}, tar_at)
    axes.plot(
        [max(far_at, floor)], [tar_at], "o", color=DIFF, markersize=6, clip_on=False, zorder=3,
        label=f"mean threshold, {SCORE_NAMES[verification.dist]} {threshold_text(threshold)}",
    )  # fmt: skip
    axes.legend(loc="lower right", frameon=True, framealpha=0.9)
    return figure


def roc_overlay(curves: Mapping[str, Roc]) -> Figure:
    """Plot ROC curves by name, with their bands if known."""
    named = {f"{name}, AUC {float(area(roc.far, roc.tar)):.4f}": roc for name, roc in curves.items()}
    figure, axes, _ = _roc_axes(named, 1.0)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, fontsize="small")
    return figure


def _roc_axes(curves: Mapping[str, Roc], lowest: float) -> tuple[Figure, Axes, float]:
    """Plot TAR over FAR, at least down to TAR `lowest`; also return the FAR at which the axis starts.

    Curves are steps: between two measured FARs, only the TAR of the lower one is known to be reached.
    """
    # FAR 0, which a log axis can't show, is drawn at half of the smallest FAR above 0.
    floor = min(float(roc.far[roc.far > 0].min()) for roc in curves.values()) / 2
    figure, axes = _one_plot("FAR (false accept rate)", "TAR (true accept rate)")
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
    return figure, axes, floor


def det_plot(curves: Mapping[str, Roc]) -> Figure:
    """Plot DET curves by name: FNMR over FMR, both on a normal deviate scale (Martin et al., Eurospeech 1997).

    Normally distributed scores give a straight line. Rates of 0 and 1 aren't shown. Bands are drawn if known.
    """
    figure, axes = _one_plot("FMR (false match rate)", "FNMR (false non-match rate)")
    shown = {name: (roc.far > 0) & (roc.far < 1) & (roc.tar > 0) & (roc.tar < 1) for name, roc in curves.items()}
    rates = [rate[shown[name]] for name, roc in curves.items() for rate in (roc.far, 1 - roc.tar)]
    every = np.concatenate([_DET_RANGE, *rates])
    low, high = float(every.min()) / 2, min(float(every.max()), _TICKS[-1])
    for index, (name, roc) in enumerate(curves.items()):
        far, missed = roc.far[shown[name]], 1 - roc.tar[shown[name]]
        axes.plot(
            ndtri(far), ndtri(missed), drawstyle="steps-post", color=COLORS[index % len(COLORS)], linewidth=1.8,
            label=plain_label(name),
        )  # fmt: skip
        if roc.band is not None:
            _fill(axes, _deviate(roc.far), _deviate(1 - roc.band), index)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    for axis, limit in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        axis.set_ticks(ndtri(ticks), [f"{tick:g}" for tick in ticks])
        limit(ndtri(low), ndtri(high))
    _legend_above(figure, curves)
    return figure


def _fill(axes: Axes, far: Rates, ends: Rates, index: int) -> None:
    """Fill a curve's band between its two ends [2, N], with the curve's steps."""
    color = COLORS[index % len(COLORS)]
    axes.fill_between(far, ends[0], ends[1], step="post", color=color, alpha=0.18, linewidth=0)


def _deviate(rates: Rates) -> Rates:
    """Normal deviates of rates; those of 0 and 1 are finite, but outside the plot."""
    return ndtri(np.clip(rates, _LEAST, 1 - _LEAST))


def rejection_plot(curves: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Plot FNMR [R] over the rejected share of the pairs, `fr.evaluation.rejection.SHARES`, by name."""
    figure, axes = _one_plot("share of the pairs rejected", "FNMR (false non-match rate)")
    for index, (name, missed) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        axes.plot(SHARES, missed, color=color, linewidth=1.8, label=plain_label(name))
        axes.axhline(missed[0], color=color, linewidth=1, linestyle=":")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, SHARES[-1])
    axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])  # a curve at 0 is above the axis
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def histogram_plot(verification: Verification, score: NDArray[np.float64], same: NDArray[np.bool_]) -> Figure:
    """Plot score histograms of same and different pairs, each normalised."""
    low, high = float(score.min()), float(score.max())
    pad = max(0.0, 1e-3 - (high - low)) / 2  # a collapsed model's cosines have too small a range for bins
    edges = np.linspace(low - pad, high + pad, BINS + 1)
    figure, axes = _one_plot(f"{SCORE_NAMES[verification.dist]} of the pair", "share of pairs of the kind", grid="y")
    for kind, color, name in ((~same, DIFF, "different"), (same, SAME, "same")):
        count = int(kind.sum())
        share = np.histogram(score[kind], bins=edges)[0] / count
        axes.stairs(share, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(share, edges, color=color, linewidth=1.2, label=f"{name}, {counted(count, 'pair')}")
    threshold = verification.threshold_score
    label = f"mean threshold {threshold_text(threshold)}"
    axes.axvline(threshold, color=NEUTRAL, linestyle="--", linewidth=1.3, label=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(bottom=0)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def group_plot(rates: GroupRates) -> Figure:
    """Plot FMR within each group and FNMR, with 95 % intervals, and those rates of all groups as dashed lines."""
    names = list(rates.people)
    height = max(SIZE[1] / 2, 0.35 * len(names) + 0.8)
    figure = Figure(figsize=(2 * SIZE[0], height), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, of_groups, overall, color in (
        (left, "FMR within the group", rates.fmr, rates.within, DIFF),
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
    """Plot values over iterations by name; NaN is a gap, points are marked if there are few."""
    figure, axes = _one_plot("iteration", plain_label(ylabel), SMALL_SIZE)
    few = max(len(iterations) for iterations, _ in curves.values()) <= _MARKED
    for index, (name, (iterations, values)) in enumerate(curves.items()):
        style = STYLES[index // len(COLORS) % len(STYLES)]
        color = COLORS[index % len(COLORS)]
        axes.plot(
            iterations, values, style, color=color, marker="o" if few else "", markersize=3.5, linewidth=1.2,
            label=plain_label(name),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _legend_above(figure, curves)
    return figure


def _legend_above(figure: Figure, names: Collection[str]) -> None:
    """Legend above the plot, in as many columns as fit."""
    columns = max(1, min(len(names), _LEGEND // (max(map(len, names)) + 6)))  # 6: width of the line sample
    figure.legend(loc="outside upper center", ncols=columns, fontsize="small", frameon=False)


def plain_label(name: str) -> str:
    """Escape a name for use as a label: no formula, and no leading _, which would hide it from the legend."""
    return ("\N{ZERO WIDTH SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")


def cmc_plot(curve: NDArray[np.float64]) -> Figure:
    """Plot a CMC curve [R] at ranks 1 … R."""
    figure, axes = _one_plot("rank", "share of mated probes found up to this rank")
    axes.plot(np.arange(1, len(curve) + 1), curve, "o-", color=SAME, markersize=4, linewidth=1.8, clip_on=False)
    lowest = min(float(curve.min()), 0.99)  # a perfect curve still gets a range of one per cent
    axes.set_ylim(lowest - 0.05 * (1 - lowest), 1 + 0.05 * (1 - lowest))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)  # sets the Agg canvas, independent of the user's configured backend
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _one_plot(
    xlabel: str, ylabel: str, size: tuple[float, float] = SIZE, grid: Literal["both", "y"] = "both"
) -> tuple[Figure, Axes]:
    """New figure with one plot. grid: whose lines are shown."""
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.7)
    axes.ticklabel_format(useOffset=False)  # no "+1" beside the axis of cosines that are all nearly 1
    return _plain(figure), axes


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
