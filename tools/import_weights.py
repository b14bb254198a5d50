#!/usr/bin/env python3
"""Make a snapshot of weights that another system has trained, for evaluate_lfw.py, export and --init_from.

    python tools/import_weights.py backbone.pth snapshots/iresnet50_insightface.pt
    python tools/import_weights.py resnet50_scratch_weight.pkl out.pt --identities names.txt    # with its head

Known files: docs/weights.md. The snapshot is fed as its model is by default, faces aligned as its authors do; what they
do otherwise (crops, say) it can't know. It has no training state to resume.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, tools/ alone is on the path

from fr.alignment import TEMPLATES
from fr.checkpoint import snapshot
from fr.errors import InputError, run_plainly
from fr.models import build_model, family
from fr.preprocessing import Preprocessing
from fr.weights.initial_weights import read_identities
from fr.weights.loading import OWN, Weights, fit, read_weights


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="import_weights.py", description="Make a snapshot of others' weights.")
    parser.add_argument("file", type=Path, help="the weights; docs/weights.md lists the kinds")
    parser.add_argument("out", type=Path, help="the snapshot to write (.pt)")
    parser.add_argument("--identities", type=Path, help="names of the head's classes, one a line, to keep the head by")
    parser.add_argument("--template", choices=sorted(TEMPLATES), help="where landmarks go; unsaid = as its authors do")
    given = parser.parse_args(argv)
    if given.out.suffix != ".pt" or snapshot.state_path(given.out).exists():
        raise InputError(f"{given.out}: must end in .pt, and not belong to a training state beside it")
    weights = read_weights(given.file)
    if weights.source == OWN:
        raise InputError(f"{given.file}: is a snapshot of this trainer already")
    contents = replace(_snapshot_of(weights, given.template or weights.template), **_head_of(weights, given.identities))
    try:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        snapshot.write_weights(given.out, contents)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{given.out}: can't be written: {error}") from error
    print(f"wrote {given.out}: {Preprocessing.from_dict(contents.preprocessing).describe()}")
    return 0


def _snapshot_of(weights: Weights, template: str) -> snapshot.SnapshotContents:
    """The contents of the `.pt`; prints what was found, and refuses what doesn't fit the model whole."""
    if not weights.embed_size:
        raise InputError(f"{weights.describe()}: there is nothing to score; train on with --init_from")
    own = family(weights.model)
    preprocessing = Preprocessing(
        weights.input_size or own.input_size, template, weights.alignment, own.color_order, own.mean, own.std
    )
    model = build_model(weights.model, weights.embed_size, preprocessing.input_size)
    print("\n".join(fit(model, weights, partial=False)))
    return snapshot.SnapshotContents(
        weights.model, weights.embed_size, preprocessing.as_dict(), state_dict=model.state_dict()
    )


def _head_of(weights: Weights, identities: Path | None) -> dict[str, Any]:
    """The head with the names of its rows, so that --init_from finds both; nothing without names."""
    if identities is None:
        return {}
    if weights.head is None:
        raise InputError(f"--identities {identities}: {weights.path} has no head for them")
    names = read_identities(identities)
    if len(names) != len(weights.head):
        raise InputError(f"{identities}: {len(names):,} identities for a head of {len(weights.head):,} classes")
    bias = {} if weights.bias is None else {"head_bias": weights.bias.clone()}
    print(f"head: {len(names):,} classes" + (", with their bias" if bias else ""))
    return {"head": weights.head.clone(), "identities": names, **bias}


if __name__ == "__main__":
    run_plainly("import_weights.py", main)
