"""The 1:N figures of probes searched in a gallery, for people and as JSON, and the CMC curve as a picture."""

from pathlib import Path

import numpy as np

from fr.files.durable import write_result
from fr.recognition.gallery import Gallery, Rows, normalised_rows
from fr.recognition.identification import FPIRS, RANKS, Searches, cmc, fpir, identification_metrics, search, tpir
from fr.report.plots import cmc_plot, png
from tools.identifying.portraits import Portraits

SHOWN_RANKS = 20  # of the CMC curve

Figures = dict[str, float | None]


def search_probes(gallery: Gallery, probes: Portraits, embeddings: Rows) -> Searches:
    """embeddings: [number of usable probes, E] as the network gives them."""
    rows = {name: row for row, name in enumerate(gallery.people)}
    person = np.array([rows.get(name, -1) for name in probes.people], dtype=np.int64)
    return search(gallery, normalised_rows(embeddings), person, probes.usable)


def figures_of(searches: Searches, threshold: float | None) -> Figures:
    """Counts, the figures of fr/recognition/identification.py and, if there is a threshold, the rates at it."""
    mated = int(searches.mated.sum())
    figures: Figures = {"mated_probes": mated, "strangers": len(searches.mated) - mated}
    figures |= identification_metrics(searches)
    if threshold is not None:
        score = 1 - threshold
        figures |= {"threshold": threshold, "tpir": tpir(searches, score), "fpir": fpir(searches, score)}
    return figures


def lines(figures: Figures) -> list[str]:
    """For people."""
    said = [f"{figures['mated_probes']:,} mated probes, {figures['strangers']:,} strangers"]
    said += [f"rank-{rank}: {_digits(figures[f'rank{rank}'])}" for rank in RANKS]
    for rate in FPIRS:
        at = figures[f"threshold@fpir={rate:.0e}"]
        where = "" if at is None else f" (threshold {at:.4f})"
        said.append(f"TPIR@FPIR={rate:.0e}: {_digits(figures[f'tpir@fpir={rate:.0e}'])}{where}")
    if "threshold" in figures:
        rates = f"TPIR {_digits(figures['tpir'])}, FPIR {_digits(figures['fpir'])}"
        said.append(f"at the threshold {_digits(figures['threshold'])}: {rates}")
    return said


def cmc_of(searches: Searches, gallery: Gallery) -> list[float]:
    """The curve at the first ranks; empty without mated probes."""
    return cmc(searches, len(gallery.people))[:SHOWN_RANKS].tolist() if searches.mated.any() else []


def write_cmc(path: Path, curve: list[float]) -> None:
    write_result(path, png(cmc_plot(np.array(curve))))


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
