#!/usr/bin/env python3
"""Convert another system's weights to a snapshot, for evaluate_lfw.py, export and --init_from.

    python tools/import_weights.py backbone.pth snapshots/iresnet50_insightface.pt
    python tools/import_weights.py resnet50_scratch_weight.pkl out.pt --identities names.txt    # with its head

Supported files: docs/weights.md. Options override the snapshot's preprocessing: its model's default, with its authors'
alignment; what else they did (crops, for example) isn't applied. It has no training state to resume from.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/import_weights.py", "tools.options.import_weights:options")

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from fr.alignment import CENTER_CROP
from fr.checkpoint import snapshot
from fr.console import counted
from fr.errors import InputError, run_plainly
from fr.models import build_model, family
from fr.options.commands import next_command
from fr.options.types import keyword_arguments
from fr.preprocessing import Preprocessing
from fr.weights.initial_weights import read_identities
from fr.weights.loading import OWN, Weights, fit, read_weights
from tools.options.import_weights import options as read_options


def main(argv: list[str]) -> int:
    arguments = read_options(argv)
    if arguments.out.suffix != ".pt" or snapshot.state_path(arguments.out).exists():
        raise InputError(f"{arguments.out}: must end in .pt, and not belong to a training state beside it")
    weights = read_weights(arguments.file, arguments.model or "", arguments.model_kwargs)
    if weights.source == OWN:
        raise InputError(f"{arguments.file}: is a snapshot of this trainer already")
    if arguments.model not in (None, weights.model):
        raise InputError(f"--model {arguments.model}: {weights.describe()}")
    if arguments.template and (arguments.alignment or weights.alignment) == CENTER_CROP:
        raise InputError(f"--template: not with the alignment {CENTER_CROP}; give another --alignment")
    contents = _snapshot_of(weights, arguments)
    contents = replace(contents, **_head_of(weights, arguments.identities))
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        snapshot.write_weights(arguments.out, contents)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{arguments.out}: can't be written: {error}") from error
    print(f"wrote {arguments.out}: {Preprocessing.from_dict(contents.preprocessing).describe()}")
    known = {"input_size": arguments.input_size or weights.input_size, "mean": arguments.mean, "std": arguments.std}
    if assumed := [f"--{name}" for name, value in known.items() if not value]:
        print(f"{', '.join(assumed)}: the file stores none; {weights.model}'s are taken: did its authors use them?")
    print(next_command("evaluate_lfw.py", snap=str(arguments.out), val_data_root="LFW"))
    return 0


def _snapshot_of(weights: Weights, arguments: argparse.Namespace) -> snapshot.SnapshotContents:
    """Contents of the `.pt`; prints a summary; InputError for weights that don't fit the model completely."""
    if not weights.embed_size:
        raise InputError(f"{weights.describe()}: there is nothing to score; use it in a training with --init_from")
    own = family(weights.model)
    preprocessing = Preprocessing(
        weights.input_size or own.input_size,
        arguments.template or weights.template,
        arguments.alignment or weights.alignment,
        own.color_order,
        own.mean,
        own.std,
    ).with_overrides(
        arguments.input_size, arguments.mean, arguments.std, arguments.color_order or weights.color_order or "auto"
    )
    kwargs = keyword_arguments(arguments.model_kwargs)
    model = build_model(weights.model, weights.embed_size, preprocessing.input_size, kwargs)
    print("\n".join(fit(model, weights, partial=False)))
    return snapshot.SnapshotContents(
        weights.model,
        weights.embed_size,
        preprocessing.as_dict(),
        state_dict=model.state_dict(),
        model_kwargs=kwargs or None,
    )


def _head_of(weights: Weights, identities: Path | None) -> dict[str, Any]:
    """Head with the names of its rows, for --init_from; empty without names."""
    if identities is None:
        return {}
    if weights.head is None:
        raise InputError(f"--identities {identities}: {weights.path} has no head for them")
    names = read_identities(identities)
    if len(names) != len(weights.head):
        given = counted(len(names), "identity")
        raise InputError(f"{identities}: {given} for a head of {counted(len(weights.head), 'class')}")
    bias = {} if weights.bias is None else {"head_bias": weights.bias.clone()}
    print(f"head: {counted(len(names), 'class')}" + (", with their bias" if bias else ""))
    return {"head": weights.head.clone(), "identities": names, **bias}


if __name__ == "__main__":
    run_plainly("tools/import_weights.py", main)
