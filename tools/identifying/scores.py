"""1:N metrics of probes searched in a gallery, as text and JSON, and the CMC curve as an image."""

from pathlib import Path

import numpy as np

from fr.console import counted
from fr.evaluation.all_pairs import Rows
from fr.evaluation.verification import metric_text, threshold_text
from fr.files.durable import write_result
from fr.recognition.gallery import Gallery, normalised_rows
from fr.recognition.identification import FPIRS, RANKS, Searches, cmc, fpir, identification_metrics, search, tpir
from fr.report.plots import cmc_plot, png
from tools.identifying.portraits import Portraits

SHOWN_RANKS = 20  # of the CMC curve

Figures = dict[str, float | None]


def search_probes(gallery: Gallery, probes: Portraits, embeddings: Rows) -> Searches:
    """Search probes in the gallery. embeddings: [number of usable probes, E] of any norm."""
    rows = {name: row for row, name in enumerate(gallery.people)}
    person = np.array([rows.get(name, -1) for name in probes.people], dtype=np.int64)
    return search(gallery, normalised_rows(embeddings), person, probes.usable)


def metrics_of(searches: Searches, threshold: float | None) -> Figures:
    """Counts, the metrics of fr/recognition/identification.py and, with a threshold, the rates at it."""
    mated = int(searches.mated.sum())
    figures: Figures = {"mated_probes": mated, "strangers": len(searches.mated) - mated}
    figures |= identification_metrics(searches)
    if threshold is not None:
        score = 1 - threshold
        figures |= {"threshold": threshold, "tpir": tpir(searches, score), "fpir": fpir(searches, score)}
    return figures


def lines(figures: Figures) -> list[str]:
    """Output lines of the metrics."""
    mated, strangers = (int(figures[kind] or 0) for kind in ("mated_probes", "strangers"))
    output = [f"{counted(mated, 'mated probe')}, {counted(strangers, 'unmated probe')}"]
    output += [f"rank-{rank}: {metric_text(figures[f'rank{rank}'])}" for rank in RANKS]
    for rate in FPIRS:
        at = figures[f"threshold@fpir={rate:.0e}"]
        where = "" if at is None else f" (threshold {threshold_text(at)})"
        output.append(f"TPIR@FPIR={rate:.0e}: {metric_text(figures[f'tpir@fpir={rate:.0e}'])}{where}")
    if (threshold := figures.get("threshold")) is not None:
        rates = f"TPIR {metric_text(figures['tpir'])}, FPIR {metric_text(figures['fpir'])}"
        output.append(f"at the threshold {threshold_text(threshold)}: {rates}")
    return output


def cmc_of(searches: Searches, gallery: Gallery) -> list[float]:
    """CMC curve at the first ranks; empty without mated probes."""
    return cmc(searches, len(gallery.people))[:SHOWN_RANKS].tolist() if searches.mated.any() else []


def write_cmc(path: Path, curve: list[float]) -> None:
    write_result(path, png(cmc_plot(np.array(curve))))
