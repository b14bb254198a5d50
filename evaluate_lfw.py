#!/usr/bin/env python3
"""Score a snapshot or an ONNX model on LFW (or any set in its layout): accuracy, AUC and threshold over ten folds.

    python evaluate_lfw.py --snap snapshots/mobilenet_arcface_120000.pt
    python evaluate_lfw.py --snap exported.onnx --val_data_root /data/lfw
    python evaluate_lfw.py --snap other.onnx --val_data_root /data/lfw --template arcface --mean .5 .5 .5 --std .5 .5 .5
    python evaluate_lfw.py --snap exported.onnx --val_sets /data/lfw cfp_fp=/data/cfp-dataset /data/faces/agedb_30.bin
    torchrun --nproc_per_node 4 evaluate_lfw.py --snap … --json figures.json --report report/ --show_failed failed/
    python evaluate_lfw.py --snap … --cache --protocol histogram     # embeddings are kept beside the snapshot

Model, embedding size and preprocessing come out of the file; options that say otherwise win, and that is printed. The
set is the one a snapshot was validated on unless --val_data_root, --val_list and --val_landmarks name another, or
--val_sets whole ones. Of several sets --json has an object each, --report a page each, --show_failed a folder each, and
a table ends the output.
"""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fr.distributed import open_ranks
from fr.errors import run_plainly
from fr.evaluation.embedding import people_of_pairs
from fr.evaluation.pair_statistics import Figure, lines, pair_statistics, record
from fr.evaluation.roc import roc_curve
from fr.evaluation.scoring import Scored, score
from fr.files.durable import write_result
from fr.options.definitions import evaluation_options
from fr.report.failed_pairs import WrongPair, aligned, pictured, write_pairs, wrong_pairs
from fr.report.plots import SCORE_NAMES
from fr.report.projector import add_set, open_projector
from fr.report.verification_report import write_report

Figures = dict[str, float | None]
SHOWN_PAIRS = 8  # worst pairs of a kind in the report


def main(argv: list[str]) -> int:
    resolved = evaluation_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        every = score(resolved, ranks)
        if ranks.is_main:
            several = len(every) > 1
            figures: dict[str, Figures] = {}
            for scored in every:
                if several or not scored.faces.landmarks.shape[1]:
                    print(scored.of.describe(), flush=True)
                people = people_of_pairs(scored.faces)
                verification = scored.verification
                print("\n".join(verification.lines()), flush=True)
                statistics = pair_statistics(scored.scores, scored.faces.same, verification, people, options.bootstrap)
                print("\n".join(lines(statistics, people, options.bootstrap)))
                figures[scored.of.name] = {**record(statistics), **verification.figures()}
                _write_pictures(options, scored, statistics, scored.of.name if several else "")
            if several:
                print("\n".join(_table(figures)))
            if options.json:
                content: Any = figures if several else figures[every[0].of.name]
                write_result(Path(options.json), (json.dumps(content, indent=1) + "\n").encode())
            if options.roc_fname:
                for scored in every:
                    _write_curve(options.roc_fname, scored, several)
            if options.dump_embeddings:
                _dump_embeddings(Path(options.dump_embeddings), every)
    return 0


def _write_pictures(options: Namespace, scored: Scored, statistics: dict[str, Figure], subfolder: str) -> None:
    """What --report and --show_failed ask for, of one set."""
    if options.report:
        print(f"report: {_write_report(Path(options.report, subfolder), options.snap, scored, statistics)}")
    if options.show_failed:
        folder, score_name = Path(options.show_failed, subfolder), SCORE_NAMES[scored.verification.dist]
        count = write_pairs(folder, _wrong_pairs(scored, len(scored.scores)), score_name)
        print(f"wrongly judged: {count} in {folder}")


def _dump_embeddings(folder: Path, every: list[Scored]) -> None:
    with open_projector(folder) as writer:
        for scored in every:
            faces, rows = scored.faces, np.arange(len(scored.faces))
            pictures = aligned(faces, rows, scored.model.preprocessing, scored.dali)
            add_set(writer, scored.of.name, scored.embeddings, faces.names.to_pylist(), pictures)
    print(f"embeddings: tensorboard --logdir {folder}")


def _write_curve(name: str, scored: Scored, several: bool) -> None:
    """A line a point, `TPR FPR`, as face_recognition.pytorch has it; `name`_<set>.txt of each of several sets."""
    roc = roc_curve(scored.scores, scored.faces.same)
    lines = (f"{tar:.17g} {far:.17g}\n" for far, tar in zip(roc.far, roc.tar, strict=True))
    stem = name.removesuffix(".txt") + (f"_{scored.of.name}" if several else "")
    write_result(Path(f"{stem}.txt"), "".join(lines).encode())


def _table(figures: dict[str, Figures]) -> list[str]:
    """A line a set."""
    width = max(map(len, figures))
    columns = ("accuracy", "accuracy_std", "auc", "eer", "tar@far=1e-02", "tar@far=1e-03")
    lines = [f"{'':{width}}" + "".join(f"{name:>15}" for name in columns)]
    for name, of in figures.items():
        values = (of.get(column) for column in columns)
        lines.append(f"{name:{width}}" + "".join(f"{'–' if v is None else f'{v:.4f}':>15}" for v in values))
    return lines


def _write_report(folder: Path, snap: str, scored: Scored, statistics: dict[str, Figure]) -> Path:
    title = f"{Path(snap).name} on {scored.of.source}"
    verification, scores, same = scored.verification, scored.scores, scored.faces.same
    worst = list(_wrong_pairs(scored, SHOWN_PAIRS))
    return write_report(folder, verification, scores, same, _facts(snap, scored), title, worst, statistics)


def _facts(snap: str, scored: Scored) -> dict[str, str]:
    return {
        "file": snap,
        **scored.model.facts,
        "preprocessing": scored.model.preprocessing.describe(),
        "embedding": scored.embedding,
        "score": SCORE_NAMES[scored.verification.dist],
        "protocol": scored.verification.protocol,
        "set": scored.of.source,
        "photographs": f"{len(scored.faces):,}",
        "pairs": f"{len(scored.faces.pairs):,}",
        **({"warning": scored.warning} if scored.warning else {}),
    }


def _wrong_pairs(scored: Scored, most: int) -> Iterator[WrongPair]:
    """At most so many wrongly judged pairs of a kind, the worst first."""
    wrong = wrong_pairs(scored.scores, scored.faces.same, scored.verification.right, most)
    return pictured(scored.faces, scored.scores, wrong, scored.model.preprocessing, scored.dali)


if __name__ == "__main__":
    run_plainly("evaluate_lfw.py", main)
