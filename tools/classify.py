#!/usr/bin/env python3
"""Classify held-out images of the training identities with a snapshot's head: top-1 and top-5 accuracy.

    python tools/make_list.py photographs lists
    python train.py --train_dataset list --train_list lists/train.txt …
    python tools/classify.py --snap t.pt --train_dataset list --train_data_root photographs \\
        --train_list lists/test.txt --aligned --json figures.json --per_identity table.csv

For VGGFace2, use images of its 8,631 training identities; its 500 test identities have no class. Class names come from
the training state next to the snapshot, or from tools/import_weights.py --identities, and match the identity's name or
the last part of its path. Logits are cosines without a margin; an imported head with a bias is applied unchanged. Works
under torchrun.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.console import begin

    begin()
    from fr.errors import refuse_early
    from tools.options.classify import options

    refuse_early("tools/classify.py", options)

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fr.data.bad_images import BadImages
from fr.data.distributed_reading import read_on_all_ranks
from fr.data.faces import LabelledFaces
from fr.data.pipeline import dali_settings
from fr.distributed import gather_objects, open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation.scored_model import open_model
from fr.evaluation.scoring import wants_flip
from fr.files.durable import write_result
from fr.weights.initial_weights import read_identities
from fr.weights.loading import Weights, read_weights
from tools.features.classes import Classifier, Indices, Verdicts, judged, table
from tools.features.layers import feature_network
from tools.features.parts import Extractor, Features, Part, extract
from tools.options.classify import options as read_options


def main(argv: list[str]) -> int:
    resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        model = open_model(options, ranks.device)
        if not isinstance(model.network, nn.Module):
            raise InputError(f"--snap {options.snap}: an ONNX model has no head; give the snapshot")
        weights = read_weights(Path(options.snap))
        head = _head(weights)
        names = _class_names(weights, len(head), options.identities)
        faces = read_on_all_ranks(vars(options), ranks)
        targets = class_of_each(faces, names)
        rows = np.flatnonzero(targets >= 0)
        if not len(rows):
            raise InputError(
                f"none of the {len(faces.identities):,} identities ({faces.identities[0]}, …) is a class of "
                f"{options.snap} ({names[0]}, …); images of those that it was trained on are wanted"
            )
        flip_mode = "sum" if wants_flip(resolved, model) else ""
        network = feature_network(model, options.snap, "embedding", flip_mode, normalize=False)
        dali = dali_settings(options.dali_device, options.dali_threads, ranks)
        extractor = Extractor(network, faces, model.preprocessing, dali, options.batch_size)
        if (dimensions := extractor.dimensions(ranks.device)) != head.shape[1]:
            raise InputError(f"{options.snap}: a head of {head.shape[1]} numbers for embeddings of {dimensions}")
        classifier = Classifier(head, weights.bias, ranks.device)
        own: list[Indices] = [np.zeros((0, 4), dtype=np.int64)]

        def take(_part: Part, features: Features) -> None:
            if len(features.rows):
                own.append(judged(classifier, features, targets))

        if ranks.is_main and model.overrides:
            print("\n".join(model.overrides), flush=True)
        bad = BadImages(options.max_bad_images)
        extract(extractor, extractor.parts(rows), ranks, bad, take)
        every = gather_objects(np.concatenate(own))
        if not sum(map(len, every)):
            raise InputError("none of the images can be used", *bad.listed[:1])
        if ranks.is_main:
            verdicts = Verdicts.of(every)
            record = _record(verdicts, names, options.pairs) | {
                "left_out": len(faces) - len(rows),
                "unusable": bad.count,
            }
            print("\n".join([*resolved.notes, *faces.notes, *_lines(record)]))
            if options.json:
                write_result(Path(options.json), (json.dumps(record, indent=1) + "\n").encode())
            if options.per_identity:
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(table(verdicts, names))
                write_result(Path(options.per_identity), text.getvalue().encode())
    return 0


def class_of_each(faces: LabelledFaces, names: list[str]) -> Indices:
    """Class of each image [N] in a head of `names`; -1 = none.

    By the identity's name or the last part of it (`n000002` of `train/n000002`).
    """
    rows = {name: row for row, name in enumerate(names)}
    classes = [rows.get(name, rows.get(name.rpartition("/")[2], -1)) for name in faces.identities]
    return np.array(classes, dtype=np.int64)[faces.labels]


def _head(weights: Weights) -> torch.Tensor:
    """Head [C, E]; InputError for a snapshot without one."""
    if weights.head is None:
        raise InputError(
            f"{weights.path}: no head to test: a training keeps it in the folder {weights.path.stem}.state beside the "
            "snapshot, tools/import_weights.py with --identities in the snapshot"
        )
    return weights.head


def _class_names(weights: Weights, classes: int, identities: str) -> list[str]:
    """Names of the head's rows; InputError if they are unknown or their number differs."""
    names = read_identities(Path(identities)) if identities else weights.identities
    if names is None:
        raise InputError(f"{weights.path}: who the {classes:,} classes are isn't in it: give --identities")
    if len(names) != classes:
        raise InputError(f"{identities or weights.path}: {len(names):,} identities for a head of {classes:,} classes")
    return names


def _record(verdicts: Verdicts, names: list[str], pairs: int) -> dict[str, Any]:
    counts = verdicts.by_class()
    return {
        "photographs": len(verdicts.place),
        "identities": len(counts),
        "classes": len(names),
        **verdicts.metrics(),
        "confused": [
            {"identity": names[target], "taken_for": names[other], "times": times, "of": counts[target][0]}
            for target, other, times in verdicts.confused(pairs)
        ],
    }


def _lines(record: dict[str, Any]) -> list[str]:
    count = f"{record['photographs']:,} images of {record['identities']:,} identities"
    aside = [f"{record[key]:,} {what}" for key, what in _ASIDE.items() if record[key]]
    return [
        "; ".join([f"{count}, {record['classes']:,} classes", *aside]),
        "top-1 {top1:.4f}, top-5 {top5:.4f}; mean of the identities' top-1 {mean_top1:.4f}".format(**record),
        *("{identity} taken for {taken_for}: {times} of {of}".format(**pair) for pair in record["confused"]),
    ]


_ASIDE = {"left_out": "of people without a class left out", "unusable": "unusable"}


if __name__ == "__main__":
    run_plainly("tools/classify.py", main)
