#!/usr/bin/env python3
"""Score a snapshot or an ONNX model on IJB-B or IJB-C: 1:1 verification, and 1:N identification.

    python tools/evaluate_ijb.py /data/IJBC --snap t.pt --flipped_emb
    torchrun --nproc_per_node 4 tools/evaluate_ijb.py /data/IJBB --snap t.onnx --json ijbb.json

The folder has insightface's layout (`loose_crop/`, `meta/`; see fr/data/pairs/ijb.py). A template is the sum of its
media, a medium the mean of its images, each weighted by its detection score. TAR is the highest whose FAR doesn't
exceed the given one. With the lists of galleries and probes in `meta/` (fr/data/pairs/ijb_identification.py), each
gallery is searched for all probes: rank-k of the probes whose subject is in it, TPIR at the FPIR of the others; and the
mean over the galleries. Further options: those of evaluate_lfw.py for model, preprocessing and device.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/evaluate_ijb.py", "tools.options.evaluate_ijb:options")

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.console import counted
from fr.data.pairs.ijb import read_ijb
from fr.data.pairs.ijb_identification import TemplateList, read_identification
from fr.distributed import open_ranks
from fr.errors import run_plainly
from fr.evaluation.scoring import Embedder
from fr.evaluation.template_verification import pool, template_metrics, template_scores
from fr.evaluation.verification import metric_text
from fr.files.data_root import DataRoot
from fr.files.durable import write_json
from fr.files.outputs import check_outputs
from fr.recognition.identification import identification_metrics, template_identification
from tools.options.evaluate_ijb import options as read_options

RANKS, FPIRS = (1, 5, 10), (0.1, 0.01)


def main(argv: list[str]) -> int:
    arguments, resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        check_outputs([options.json])
        embedder = Embedder.open(resolved, ranks)
        embedder.announce()
        root = DataRoot(Path(arguments.folder), options.allow_outside)
        ijb = read_ijb(root)
        probes, galleries = read_identification(root, ijb)
        rows = embedder.embed(ijb.faces)
        if ranks.is_main:
            weight = None if arguments.no_detector_score else ijb.detector
            templates = pool(rows, ijb.template, ijb.media, weight)
            figures = template_metrics(template_scores(templates, ijb.pairs), ijb.same)
            pairs = f"{counted(len(ijb.same), 'pair')} ({ijb.same.sum():,} same)"
            of = f"{counted(len(templates), 'template')}, {counted(len(ijb.faces), 'image')}"
            print(f"{ijb.name}: {pairs} of {of}, {arguments.folder}")
            print("\n".join(_line(name, value) for name, value in figures.items()))
            if galleries:
                sizes = ", ".join(f"{len(one.subject):,} in {name.upper()}" for name, one in galleries.items())
                print(f"1:N: {counted(len(probes.subject), 'probe')}; templates {sizes}")
                of_searches = identification(templates, probes, galleries)
                print("\n".join(_line(name, value) for name, value in of_searches.items()))
                figures |= of_searches
            if options.json:
                write_json(Path(options.json), figures)
    return 0


def identification(
    templates: NDArray[np.float32], probes: TemplateList, galleries: dict[str, TemplateList]
) -> dict[str, float | None]:
    """Metrics of each gallery, with the suffix `_GALLERY`, and without it their means, except for thresholds.

    A mean is None if one of the galleries has no value.
    """
    figures: dict[str, float | None] = {}
    by_gallery = {}
    for name, one in galleries.items():
        searches = template_identification(templates, one.template, one.subject, probes.template, probes.subject)
        by_gallery[name] = identification_metrics(searches, RANKS, FPIRS)
    for metric in next(iter(by_gallery.values())):
        values = [of_gallery[metric] for of_gallery in by_gallery.values()]
        there = [value for value in values if value is not None]
        if not metric.startswith("threshold"):
            figures[metric] = float(np.mean(there)) if len(there) == len(values) else None
        figures |= {f"{metric}_{name}": value for name, value in zip(by_gallery, values, strict=True)}
    return figures


def _line(name: str, value: float | None) -> str:
    return f"{name.upper()}: {metric_text(value)}"


if __name__ == "__main__":
    run_plainly("tools/evaluate_ijb.py", main)
