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
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.data.annotations import VerificationFaces
from fr.data.lfw import read_lfw
from fr.data.pipeline import DaliSettings, dali_settings, plain_stream
from fr.data.verification_set import OPTIONS as SET_OPTIONS
from fr.data.verification_set import find_set
from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation import evaluate
from fr.options import evaluation_options
from fr.preprocessing import Preprocessing
from fr.report import WorstPair, worst_pairs, write_report
from fr.scored_model import ScoredModel, open_model
from fr.verification import Verification

SHOWN_PAIRS = 8  # worst pairs of a kind in the report


def main(argv: list[str]) -> int:
    resolved = evaluation_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        model = open_model(options, ranks.device)
        said, stored = ([of.get(name, "") for name in SET_OPTIONS] for of in (vars(options), model.config))
        faces = read_lfw(*find_set(said, stored, options.snap))
        dali = dali_settings(options.dali_device, options.dali_threads, ranks)
        said_flipped = resolved.origins["flipped_emb"] != "default"
        flipped = bool(options.flipped_emb if said_flipped else model.config.get("flipped_emb"))
        if ranks.is_main and model.overrides:
            print("\n".join(model.overrides), flush=True)
        verification, scores = evaluate(
            model.network, faces, model.preprocessing, dali, ranks, options.val_batch_size, flipped
        )
        if ranks.is_main:
            print("\n".join(verification.lines()))
            if options.json:
                _write_json(Path(options.json), verification)
            if options.report:
                facts = _facts(options.snap, model, faces, flipped)
                worst = _worst(faces, verification, scores, model.preprocessing, dali)
                title = f"{Path(options.snap).name} on {faces.root}"
                page = write_report(Path(options.report), verification, scores, faces.same, facts, title, worst)
                print(f"report: {page}")
    return 0


def _write_json(path: Path, verification: Verification) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(verification.figures(), indent=1) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--json {path}: can't be written: {error.strerror}") from error


def _facts(snap: str, model: ScoredModel, faces: VerificationFaces, flipped: bool) -> dict[str, str]:
    return {
        "file": snap,
        **model.facts,
        "preprocessing": model.preprocessing.describe(),
        "embedding": "mean of the picture's and its mirror image's" if flipped else "of the picture alone",
        "set": str(faces.root),
        "photographs": f"{len(faces):,}",
        "pairs": f"{len(faces.pairs):,}",
    }


def _worst(
    faces: VerificationFaces,
    verification: Verification,
    scores: NDArray[np.float64],
    preprocessing: Preprocessing,
    dali: DaliSettings,
) -> list[WorstPair]:
    """The most wrongly judged pairs, as the network saw them."""
    wrong = worst_pairs(scores, faces.same, verification.threshold_cosine, SHOWN_PAIRS)
    if not len(wrong):
        return []
    plain = Preprocessing(preprocessing.input_size, preprocessing.template, preprocessing.alignment)
    stream = plain_stream(faces, faces.pairs[wrong].reshape(-1), 2, plain, dali)
    pictures = [np.round(batch.cpu().numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8) for batch in stream]
    return [
        WorstPair(
            (faces.names[first].as_py(), faces.names[second].as_py()),
            float(scores[index]),
            bool(faces.same[index]),
            (pair[0], pair[1]),
        )
        for index, (first, second), pair in zip(wrong, faces.pairs[wrong].tolist(), pictures, strict=True)
    ]


if __name__ == "__main__":
    run_plainly("evaluate_lfw.py", main)
