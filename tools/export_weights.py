#!/usr/bin/env python3
"""Write the weights of a snapshot for other programs: safetensors, a folder for Hugging Face's Hub, or a state dict.

    python tools/export_weights.py snapshots/t_1000.pt t.safetensors      # with preprocessing, model, threshold
    python tools/export_weights.py snapshots/t_1000.pt t_hub --license cc-by-nc-4.0
    python tools/export_weights.py snapshots/t_1000.pt backbone.pth       # weights only
    python evaluate_lfw.py --snap t.safetensors --val_data_root /data/lfw

The safetensors file describes its model in its metadata, so all tools and --init_from accept it in place of the
snapshot; keys as in ONNX files: face_recognition.preprocessing and face_recognition.model, both JSON. The folder holds
such a file as model.safetensors, the same facts as config.json, and a model card, README.md; an existing one is kept.
`hf upload USER/NAME FOLDER` publishes the folder. A .pth file holds only the weights: those of iresnet* and mbf with
insightface's keys, of ir* with AdaFace's, of inception_resnet_v1 with facenet-pytorch's, others with this trainer's.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/export_weights.py", "tools.options.export_weights:options")

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fr.alignment import CENTER_CROP
from fr.errors import os_error_as, run_plainly
from fr.evaluation.scored_model import exported_facts, load_backbone, option_values, read_backbone
from fr.files import safetensors
from fr.files.durable import write_whole
from fr.files.model_metadata import as_strings
from fr.files.names import HUB_WEIGHTS
from fr.options.commands import next_command
from fr.preprocessing import Preprocessing
from fr.report.model_card import CARD, model_card
from tools.options.export_weights import options as read_options

_METRICS = ("accuracy", "auc")


def main(argv: list[str]) -> int:
    arguments = read_options(argv)
    snap, out = arguments.snap, arguments.out
    contents, contract = read_backbone(snap)
    tensors = load_backbone(snap, contents, contract.input_size, arguments.averaged).state_dict()
    if out.suffix == ".pth" and not arguments.folder:
        _write(out, lambda file: torch.save(dict(tensors), file))
        print(f"it stores neither model nor preprocessing: {contents.model}, {contract.describe()}")
        words = ["--model", contents.model, *_preprocessing_options(contract)]
        if contents.model_kwargs:
            words += ["--model_kwargs", *(f"{key}={value}" for key, value in contents.model_kwargs.items())]
        print(next_command("tools/import_weights.py", str(out), "OUT.pt", *words))
        return 0
    facts = exported_facts(snap, contents, arguments.averaged)
    if arguments.folder:
        metrics = {name: contents.metrics.get(f"ema_{name}" if arguments.averaged else name) for name in _METRICS}
        _describe(out, contract, facts, model_card(out.resolve().name, contract, facts, metrics, arguments.license))
    metadata = {"format": "pt", **as_strings(contract, facts)}  # the first for transformers
    _write(out / HUB_WEIGHTS if arguments.folder else out, lambda file: safetensors.write(file, tensors, metadata))
    if arguments.folder:
        upload = shlex.join(["hf", "upload", f"USER/{out.resolve().name}", str(out)])
        print(f"describe the training data in {out / CARD}, then: {upload}")
    print(next_command("evaluate_lfw.py", snap=str(out), val_data_root="LFW"))
    return 0


def _preprocessing_options(contract: Preprocessing) -> list[str]:
    """Options of tools/import_weights.py for this preprocessing."""
    values = option_values(contract)
    del values["interpolation"]  # there is one only
    if contract.alignment == CENTER_CROP:
        del values["template"]
    return [word for name, value in values.items() for word in (f"--{name}", *value.split())]


def _describe(folder: Path, contract: Preprocessing, facts: dict[str, Any], card: str) -> None:
    """Write config.json, and the model card if there is none."""
    config = json.dumps({**facts, "preprocessing": contract.as_dict()}, indent=2) + "\n"
    _write(folder / "config.json", lambda file: file.write(config.encode()))
    if (folder / CARD).exists():
        print(f"{folder / CARD}: exists, not changed")
    else:
        _write(folder / CARD, lambda file: file.write(card.encode()))


def _write(path: Path, write_into: Callable[[BinaryIO], object]) -> None:
    with os_error_as(f"{path}: can't be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write_into)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    run_plainly("tools/export_weights.py", main)
