#!/usr/bin/env python3
"""Score a snapshot or an ONNX model on TinyFace: 1:N identification with distractors, rank-k and mAP.

    python tools/evaluate_tinyface.py /data/tinyface --images /data/tinyface_aligned --snap t.pt --flipped_emb
    torchrun --nproc_per_node 4 tools/evaluate_tinyface.py /data/tinyface/Testing_Set --snap t.onnx --json tiny.json

The folder has TinyFace's layout (fr/data/pairs/tinyface.py). Images are treated as aligned crops, of any size: --images
names a folder of aligned copies with the same names. Further options: those of evaluate_lfw.py for model, preprocessing
and device.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/evaluate_tinyface.py", "tools.options.evaluate_tinyface:options")

from pathlib import Path

from fr.console import counted
from fr.data.crop_sizes import size_warning
from fr.data.pairs.tinyface import DISTRACTOR, read_tinyface
from fr.distributed import open_ranks
from fr.errors import run_plainly
from fr.evaluation.scoring import Embedder
from fr.files.data_root import DataRoot
from fr.files.durable import write_json
from fr.files.outputs import check_outputs
from fr.recognition.gallery import normalised_rows
from fr.recognition.retrieval import retrieval_metrics, retrieve
from tools.options.evaluate_tinyface import options as read_options

RANKS = (1, 5, 10, 20, 50)


def main(argv: list[str]) -> int:
    arguments, resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        check_outputs([options.json])
        embedder = Embedder.open(resolved, ranks)
        tiny = read_tinyface(DataRoot(arguments.folder, options.allow_outside), arguments.images)
        why = size_warning(tiny.faces)
        embedder.announce([f"the images are taken for aligned crops, but {why}"] if why else [])
        rows = normalised_rows(embedder.embed(tiny.faces))
        if ranks.is_main:
            split, person = tiny.probes, tiny.identity
            rank, precision = retrieve(rows[:split], person[:split], rows[split:], person[split:])
            figures = retrieval_metrics(rank, precision, RANKS)
            gallery = f"{counted(len(person) - split, 'image')}, {(person == DISTRACTOR).sum():,} of them distractors"
            print(f"TinyFace: {counted(split, 'probe')}, gallery of {gallery}, {arguments.folder}")
            print("\n".join(f"{name.upper()}: {value:.4f}" for name, value in figures.items()))
            if options.json:
                write_json(Path(options.json), figures)
    return 0


if __name__ == "__main__":
    run_plainly("tools/evaluate_tinyface.py", main)
