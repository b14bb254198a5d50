"""Model to be scored: a snapshot or an ONNX file, and its preprocessing."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fr.alignment import CENTER_CROP
from fr.checkpoint import snapshot
from fr.checkpoint.snapshot import SnapshotContents
from fr.errors import InputError
from fr.evaluation.embedding_cache import weights_digest
from fr.evaluation.score_check import Spread, read_spreads
from fr.files.kinds import Kind, kind_of
from fr.models import build_model, family
from fr.onnx.model import OnnxModel
from fr.preprocessing import Preprocessing

_SIMILARITY = "procrustes"  # alignment for a file that stores none


@dataclass(frozen=True)
class ScoredModel:
    """Network ready to be scored.

    network: [B, 3, H, W] on the device, preprocessed as `preprocessing` → [B, E]; a module if from a snapshot.
    overrides: one message for each stored preprocessing value replaced by an option. config: options of its training,
    as far as known. name: of the backbone. threshold: best cosine distance for "same person", None if unknown. noted:
    score distributions of the training's last validation. digest: of its file, for --cache. unit_length: True if an
    ONNX file returns embeddings of norm 1: the norms that the training validated with are then lost.
    """

    network: Callable[[torch.Tensor], torch.Tensor]
    preprocessing: Preprocessing
    facts: dict[str, str]
    config: dict[str, Any]
    overrides: list[str]
    name: str = "unknown"
    threshold: float | None = None
    noted: list[Spread] = field(default_factory=list)
    digest: str = ""
    unit_length: bool = False


def open_model(options: argparse.Namespace, device: torch.device, overriding: bool = True) -> ScoredModel:
    """Open `--snap` with the options of evaluate_lfw.py.

    overriding: False = options of the preprocessing apply only to a file that stores none.
    InputError if the file is neither a snapshot nor an ONNX model, if it contradicts --model or --embed_size, and if
    neither file nor options define the preprocessing.
    """
    path = Path(options.snap)
    digest = weights_digest(path) if getattr(options, "cache", False) else ""  # computed before the file is read
    opened = (_open_onnx if is_onnx(path) else _open_snapshot)(path, options, device, overriding)
    return replace(opened, digest=digest)


def stores_preprocessing(path: Path) -> bool:
    """Return True if a model's file stores its preprocessing; InputError for an ONNX model that can't be run."""
    return not is_onnx(path) or OnnxModel(path, torch.device("cpu")).preprocessing is not None


def is_onnx(path: Path) -> bool:
    kind = kind_of(path)
    return kind is Kind.ONNX or path.suffix == ".onnx" or (kind is None and path.suffix != ".pt")


def read_backbone(path: Path) -> tuple[SnapshotContents, Preprocessing]:
    """Read a snapshot's contents and preprocessing; InputError if its model is unknown to this version."""
    contents = snapshot.read(path)
    try:
        family(contents.model)
        return contents, Preprocessing.from_dict(contents.preprocessing)
    except InputError as error:
        raise InputError(*[f"{path}: {problem}" for problem in error.problems]) from error


def load_backbone(
    path: Path, contents: SnapshotContents, input_size: tuple[int, int], averaged: bool = False
) -> nn.Module:
    """Build a snapshot's backbone for images of (H, W), in evaluation mode; InputError if its weights don't fit.

    averaged: with the averaged weights (`--ema_decay`).
    """
    model = build_model(contents.model, contents.embed_size, input_size, contents.model_kwargs)
    snapshot.load_weights(model, contents, path, averaged)
    return model.eval()


def _open_snapshot(path: Path, options: argparse.Namespace, device: torch.device, overriding: bool) -> ScoredModel:
    contents, stored = read_backbone(path)
    _check_claims(path, options, contents.model, contents.embed_size)
    preprocessing = _with_options(stored, options) if overriding else stored
    return ScoredModel(
        load_backbone(path, contents, preprocessing.input_size, options.averaged).to(device),
        preprocessing,
        _facts(contents.model, contents.embed_size, contents.iteration),
        contents.config,
        _overrides(path, stored, preprocessing),
        contents.model,
        threshold_of(contents.metrics, options.averaged),
        [one for one in read_spreads(path, contents.scores or []) if one.averaged == options.averaged],
    )


def _open_onnx(path: Path, options: argparse.Namespace, device: torch.device, overriding: bool) -> ScoredModel:
    if options.averaged:
        raise InputError(f"--averaged: {path} isn't a snapshot; export one with tools/export_onnx.py --averaged")
    model = OnnxModel(path, device)
    stored = model.preprocessing or _preprocessing_from_options(path, options, model.input_size)
    preprocessing = _with_options(stored, options) if overriding or not model.preprocessing else stored
    facts = {"model": "unknown", "iteration": None} | model.facts | {
        "embed_size": model.embed_size(preprocessing.input_size)
    }
    _check_claims(path, options, facts["model"], facts["embed_size"])
    return ScoredModel(
        model,
        preprocessing,
        _facts(facts["model"], facts["embed_size"], facts["iteration"]),
        {"flipped_emb": facts.get("flipped_emb")},
        _overrides(path, stored, preprocessing) if model.preprocessing else [],
        facts["model"],
        threshold_of(model.facts),
        read_spreads(path, model.facts.get("scores", [])),
        unit_length=model.has_unit_length(preprocessing.input_size),
    )


def threshold_of(metrics: dict[str, Any], averaged: bool = False) -> float | None:
    """Threshold in a snapshot's metrics or an ONNX file's facts. averaged: that of the averaged weights."""
    threshold = metrics.get("ema_threshold" if averaged else "threshold")
    return threshold if isinstance(threshold, float) and math.isfinite(threshold) else None


def exported_facts(path: Path, contents: SnapshotContents, averaged: bool = False) -> dict[str, Any]:
    """Facts about a snapshot's network for the metadata of an exported file. averaged: it has the averaged weights.

    The training's options are left out, since they contain paths of this machine.
    """
    entries = contents.as_dict()
    facts = {name: entries[name] for name in snapshot.OF_THE_NETWORK if name in entries}
    facts["flipped_emb"] = bool(contents.config.get("flipped_emb"))
    kept = [one for one in read_spreads(path, contents.scores or []) if one.averaged == averaged]
    facts["scores"] = [replace(one, averaged=False).as_dict() for one in kept]
    threshold = threshold_of(contents.metrics, averaged)
    return facts if threshold is None else facts | {"threshold": threshold}


def keep_threshold(path: Path, metrics: dict[str, float], flipped: bool) -> bool:
    """Write an evaluation's metrics into a snapshot with imported weights that has none; False for any other snapshot.

    flipped: embeddings of mirror images were used, which becomes the snapshot's default. OSError if it can't be
    written.
    """
    contents = snapshot.read(path)
    if contents.run or contents.metrics:
        return False
    config = contents.config | {"flipped_emb": flipped}
    snapshot.write_weights(path, replace(contents, metrics=dict(metrics), config=config))
    return True


def _check_claims(path: Path, options: argparse.Namespace, model: str, embed_size: int) -> None:
    """Check --model and --embed_size, if given, against the file."""
    problems = [
        f"--{name} {claim}: {path} holds {value}"
        for name, claim, value in (("model", options.model, model), ("embed_size", options.embed_size, embed_size))
        if claim and claim != value
    ]
    if problems:
        raise InputError(*problems)


def _facts(model: str, embed_size: int, iteration: int | None) -> dict[str, str]:
    facts = {"model": f"{model}, {embed_size} numbers an embedding"}
    return facts if iteration is None else facts | {"iteration": f"{iteration:,}"}


def _with_options(stored: Preprocessing, options: argparse.Namespace) -> Preprocessing:
    """Stored preprocessing with the explicitly set options applied."""
    changed = stored.with_overrides(options.input_size, options.mean, options.std, options.color_order)
    choices = {name: getattr(options, name) for name in ("template", "alignment")}
    return replace(changed, **{name: choice for name, choice in choices.items() if choice != "auto"})


def _preprocessing_from_options(
    path: Path, options: argparse.Namespace, input_size: tuple[int, int] | None
) -> Preprocessing:
    """Preprocessing for a file that stores none, completed by the options; InputError names all that are missing."""
    missing = [f"--{name}" for name in ("mean", "std") if not getattr(options, name)]
    if options.template == "auto" and options.alignment != CENTER_CROP:
        missing.insert(0, "--template")
    if not (input_size or options.input_size):
        missing.insert(0, "--input_size")
    if missing:
        raise InputError(
            f"{path} doesn't store its preprocessing: give {', '.join(missing)}, or write it once to {path}.json "
            "(docs/evaluation.md)"
        )
    return Preprocessing(input_size or (0, 0), alignment=_SIMILARITY)


def _overrides(path: Path, stored: Preprocessing, used: Preprocessing) -> list[str]:
    before, after = option_values(stored), option_values(used)
    return [
        f"--{name} {after[name]} overrides what {path} says: {before[name]}"
        for name in before
        if before[name] != after[name]
    ]


def option_values(preprocessing: Preprocessing) -> dict[str, str]:
    """Preprocessing as option values: height and width, R, G and B."""
    values = preprocessing.as_dict()
    if preprocessing.color_order == "bgr":
        values |= {name: values[name][::-1] for name in ("mean", "std")}
    return {name: " ".join(map(str, v)) if isinstance(v, list) else v for name, v in values.items()}
