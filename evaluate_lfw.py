#!/usr/bin/env python3
"""Score a snapshot or an ONNX model on LFW (or any set in its layout): accuracy, AUC and threshold over ten folds.

    python evaluate_lfw.py --snap snapshots/mobilenet_arcface_120000.pt
    python evaluate_lfw.py --snap exported.onnx --val_data_root /data/lfw
    python evaluate_lfw.py --snap other.onnx --val_data_root /data/lfw --template arcface --mean .5 .5 .5 --std .5 .5 .5
    torchrun --nproc_per_node 4 evaluate_lfw.py --snap … --json figures.json --report report/

Model, embedding size and preprocessing come out of the file; options that say otherwise win, and that is printed. The
set is the one a snapshot was validated on unless --val_data_root, --val_list and --val_landmarks name another.
"""

import json
from pathlib import Path

import numpy as np

from fr.data.pipeline import plain_stream
from fr.distributed import open_ranks
from fr.errors import run_plainly
from fr.evaluation import people_of_pairs
from fr.files import write_result
from fr.options import evaluation_options
from fr.pair_statistics import Figure, lines, pair_statistics, record
from fr.preprocessing import Preprocessing
from fr.report import WorstPair, worst_pairs, write_report
from fr.roc import Roc, roc_curve
from fr.score_plots import SCORE_NAMES
from fr.scoring import Scored, score

SHOWN_PAIRS = 8  # worst pairs of a kind in the report


def main(argv: list[str]) -> int:
    resolved = evaluation_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        scored = score(resolved, ranks)
        if ranks.is_main:
            verification, same, people = scored.verification, scored.faces.same, people_of_pairs(scored.faces)
            print("\n".join(verification.lines()), flush=True)
            statistics = pair_statistics(scored.scores, same, verification, people, options.bootstrap)
            print("\n".join(lines(statistics, people, options.bootstrap)))
            if options.json:
                figures = {**record(statistics), **verification.figures()}
                write_result(Path(options.json), (json.dumps(figures, indent=1) + "\n").encode())
            if options.roc_fname:
                _write_curve(Path(options.roc_fname), roc_curve(scored.scores, same))
            if options.report:
                print(f"report: {_write_report(Path(options.report), options.snap, scored, statistics)}")
    return 0


def _write_curve(path: Path, roc: Roc) -> None:
    """A line a point, `TPR FPR`, as face_recognition.pytorch has it."""
    lines = (f"{tar:.17g} {far:.17g}\n" for far, tar in zip(roc.far, roc.tar, strict=True))
    write_result(path.with_suffix(".txt"), "".join(lines).encode())


def _write_report(folder: Path, snap: str, scored: Scored, statistics: dict[str, Figure]) -> Path:
    title = f"{Path(snap).name} on {scored.faces.root}"
    verification, scores, same = scored.verification, scored.scores, scored.faces.same
    return write_report(folder, verification, scores, same, _facts(snap, scored), title, _worst(scored), statistics)


def _facts(snap: str, scored: Scored) -> dict[str, str]:
    return {
        "file": snap,
        **scored.model.facts,
        "preprocessing": scored.model.preprocessing.describe(),
        "embedding": scored.embedding,
        "score": SCORE_NAMES[scored.verification.dist],
        "protocol": scored.verification.protocol,
        "set": str(scored.faces.root),
        "photographs": f"{len(scored.faces):,}",
        "pairs": f"{len(scored.faces.pairs):,}",
    }


def _worst(scored: Scored) -> list[WorstPair]:
    """The most wrongly judged pairs, as the network saw them."""
    faces, preprocessing = scored.faces, scored.model.preprocessing
    wrong = worst_pairs(scored.scores, faces.same, scored.verification.threshold_score, SHOWN_PAIRS)
    if not len(wrong):
        return []
    plain = Preprocessing(preprocessing.input_size, preprocessing.template, preprocessing.alignment)
    stream = plain_stream(faces, faces.pairs[wrong].reshape(-1), 2, plain, scored.dali)
    pictures = [np.round(batch.cpu().numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8) for batch in stream]
    return [
        WorstPair(
            (faces.names[first].as_py(), faces.names[second].as_py()),
            float(scored.scores[index]),
            bool(faces.same[index]),
            (pair[0], pair[1]),
        )
        for index, (first, second), pair in zip(wrong, faces.pairs[wrong].tolist(), pictures, strict=True)
    ]


if __name__ == "__main__":
    run_plainly("evaluate_lfw.py", main)
