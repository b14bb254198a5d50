#!/usr/bin/env python3
"""Score a snapshot on LFW (or any set in its layout): accuracy, AUC and threshold over ten folds.

    python evaluate_lfw.py --snap snapshots/mobilenet_arcface_120000.pt
    torchrun --nproc_per_node 4 evaluate_lfw.py --snap … --json figures.json --report report/

Model, embedding size and preprocessing come out of the snapshot; the set is the one it was validated on unless
--val_data_root, --val_list and --val_landmarks name another.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fr import snapshot
from fr.data.annotations import VerificationFaces, read_lfw
from fr.data.pipeline import DaliSettings, dali_settings, plain_stream
from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation import evaluate
from fr.models import build_model, family
from fr.options import evaluation_options
from fr.preprocessing import Preprocessing
from fr.report import WorstPair, worst_pairs, write_report
from fr.verification import Verification

SHOWN_PAIRS = 8  # worst pairs of a kind in the report


def main(argv: list[str]) -> int:
    resolved = evaluation_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        contents = snapshot.read(Path(options.snap))
        _check_model(options, contents)
        faces = read_lfw(*_set_paths(options, contents["config"]))
        preprocessing = Preprocessing.from_dict(contents["preprocessing"])
        dali = dali_settings(options.dali_device, options.dali_threads, ranks)

        model = build_model(contents["model"], contents["embed_size"], preprocessing.input_size)
        snapshot.load_weights(model, contents, Path(options.snap))
        model.to(ranks.device).eval()
        said = resolved.origins["flipped_emb"] != "default"
        flipped = bool(options.flipped_emb if said else contents["config"].get("flipped_emb"))
        verification, scores = evaluate(
            model, faces, preprocessing, dali, ranks, options.val_batch_size, flipped
        )
        if ranks.is_main:
            print("\n".join(verification.lines()))
            if options.json:
                _write_json(Path(options.json), verification)
            if options.report:
                facts = _facts(options, contents, preprocessing, faces, flipped)
                worst = _worst(faces, verification, scores, preprocessing, dali)
                title = f"{Path(options.snap).name} on {faces.root}"
                page = write_report(Path(options.report), verification, scores, faces.same, facts, title, worst)
                print(f"report: {page}")
    return 0


def _check_model(options: argparse.Namespace, contents: dict[str, Any]) -> None:
    """001's --model and --embed_size are accepted, and held against the snapshot."""
    problems = [
        f"--{name} {wish}: {options.snap} holds {contents[name]}"
        for name, wish in (("model", options.model), ("embed_size", options.embed_size))
        if wish and wish != contents[name]
    ]
    try:
        family(contents["model"])
    except InputError as error:
        problems += [f"{options.snap}: {problem}" for problem in error.problems]
    if problems:
        raise InputError(*problems)


def _set_paths(options: argparse.Namespace, config: dict[str, Any]) -> tuple[str, str, str]:
    """Root, pairs and landmarks: what was said here, else what the snapshot was validated on."""
    names = ("val_data_root", "val_list", "val_landmarks")
    root, pairs, landmarks = (str(getattr(options, name) or config.get(name, "")) for name in names)
    if not (root and pairs and landmarks):
        raise InputError(f"{options.snap} was trained without validation: give --{', --'.join(names)}")
    return root, pairs, landmarks


def _write_json(path: Path, verification: Verification) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(verification.figures(), indent=1) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--json {path}: can't be written: {error.strerror}") from error


def _facts(
    options: argparse.Namespace,
    contents: dict[str, Any],
    preprocessing: Preprocessing,
    faces: VerificationFaces,
    flipped: bool,
) -> dict[str, str]:
    return {
        "snapshot": options.snap,
        "model": f"{contents['model']}, {contents['embed_size']} numbers an embedding",
        "iteration": f"{contents['iteration']:,}",
        "preprocessing": preprocessing.describe(),
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
