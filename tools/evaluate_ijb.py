#!/usr/bin/env python3
"""Score a snapshot or an ONNX model on IJB-B or IJB-C, 1:1 verification: TAR at fixed FARs over all template pairs.

    python tools/evaluate_ijb.py /data/IJBC --snap t.pt --flipped_emb
    torchrun --nproc_per_node 4 tools/evaluate_ijb.py /data/IJBB --snap t.onnx --json ijbb.json

The folder has insightface's layout (`loose_crop/`, `meta/`; see fr/data/pairs/ijb.py). A template is the sum of its
media, a medium the mean of its images, each weighted by its detection score. TAR is the highest whose FAR doesn't
exceed the given one. Further options: those of evaluate_lfw.py for model, preprocessing and device.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.console import begin

    begin()
    from fr.errors import refuse_early
    from tools.options.evaluate_ijb import options

    refuse_early("tools/evaluate_ijb.py", options)

import json
from pathlib import Path

from fr.data.pairs.ijb import read_ijb
from fr.data.pipeline import dali_settings
from fr.distributed import open_ranks
from fr.errors import run_plainly
from fr.evaluation.scored_model import open_model
from fr.evaluation.scoring import announce, embeddings, wants_flip
from fr.evaluation.template_verification import pool, template_metrics, template_scores
from fr.files.data_root import DataRoot
from fr.files.durable import write_result
from tools.options.evaluate_ijb import options as read_options


def main(argv: list[str]) -> int:
    arguments, resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        model = open_model(options, ranks.device)
        flipped = wants_flip(resolved, model)
        if ranks.is_main:
            announce(model, options, flipped)
        ijb = read_ijb(DataRoot(Path(arguments.folder), options.allow_outside))
        dali = dali_settings(options.dali_device, options.dali_threads, ranks)
        rows = embeddings(options, model, ijb.faces, dali, ranks, flipped)
        if ranks.is_main:
            weight = None if arguments.no_detector_score else ijb.detector
            templates = pool(rows, ijb.template, ijb.media, weight)
            figures = template_metrics(template_scores(templates, ijb.pairs), ijb.same)
            pairs = f"{len(ijb.same):,} pairs ({ijb.same.sum():,} same)"
            images = f"{len(ijb.faces):,} images"
            print(f"{ijb.name}: {pairs} of {len(templates):,} templates, {images}, {arguments.folder}")
            print("\n".join(f"{name.upper()}: {'–' if v is None else f'{v:.4f}'}" for name, v in figures.items()))
            if options.json:
                write_result(Path(options.json), (json.dumps(figures, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    run_plainly("tools/evaluate_ijb.py", main)
