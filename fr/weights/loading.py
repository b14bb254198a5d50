"""Loading of weights of other systems: recognise the layout, rename keys, check them against a model, load them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fr.checkpoint import snapshot
from fr.checkpoint.training_state import read_head
from fr.console import counted
from fr.errors import InputError
from fr.files import foreign_pickle, safetensors
from fr.files.kinds import Kind, kind_of
from fr.files.model_metadata import CONTRACT_KEY
from fr.files.names import is_unicode
from fr.files.restricted_pickle import StandIn
from fr.weights.layouts import (
    COUNTER,
    LAYOUTS,
    Layout,
    embedding_size,
    input_sides,
    layouts_with,
    likeliest_model,
    refuse_unreadable,
)

OWN = "a snapshot of this trainer"  # source of files that need no import
_QUOTED = 80  # characters of a name
_SHOWN = 20  # keys of a kind that are named; the others are counted
# Keys of the state dict in checkpoints: face_recognition.pytorch, VGGFace2-pytorch and facenet, MobileFaceNet_Pytorch,
# insightface, torchvision's training scripts.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "net_state_dict", "state_dict_backbone", "model"),
    *("backbone", "net", "network"),
    *("state_dict_ema", "model_ema", "ema"),  # averaged weights of timm and torchvision, if there are no others
)
# Prefixes of keys: DDP, torch.compile, Lightning and others that hold the network as an attribute of the model.
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "net.", "network.")
_MOST_PREFIXES = 6  # nested

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """Content of a weights file, in the terms of this trainer.

    source: name of the system, for messages. embed_size: E; 0 if the file has no embedding layer. input_size: (height,
    width); None if the shapes don't determine it. backbone: our key → tensor. head: [C, E] (K centres a class:
    [C, K · E]), a row for each class, unchanged. bias: [C], of the logits of a plain softmax; None = the head's logits
    are cosines. identities: the classes' names, if the file has them. left_out: its keys without a counterpart here.
    lacks: our keys that no file of its kind has. template, alignment: the authors' alignment of faces. color_order: of
    its input; "" = the model's.
    """

    path: Path
    source: str
    model: str
    embed_size: int
    input_size: tuple[int, int] | None
    backbone: dict[str, torch.Tensor]
    head: torch.Tensor | None
    identities: list[str] | None = None
    bias: torch.Tensor | None = None
    left_out: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    template: str = "sphereface"
    alignment: str = "procrustes"
    color_order: str = ""

    def describe(self) -> str:
        """One line for the log."""
        numbers = sum(tensor.numel() for tensor in self.backbone.values())
        embedding = f"embeddings of {self.embed_size}" if self.embed_size else "no embedding layer"
        classes = f"a head of {counted(len(self.head), 'class')}" if self.head is not None else "no head"
        return f"{self.path}: {self.model} ({self.source}), {numbers:,} numbers, {embedding}, {classes}"


def read_weights(path: Path, model: str = "", model_kwargs: Sequence[str] = ()) -> Weights:
    """Read a weight file of a known kind: our own snapshots, and those of `fr.weights.layouts`.

    model: a `--model` whose keys the file may have unchanged; timm's models are recognised only in this way.
    model_kwargs: its `--model_kwargs`.
    InputError if it can't be read, is damaged, or is of an unknown kind. Executes nothing.
    """
    if kind_of(path) is Kind.SAFETENSORS:
        tree, metadata = safetensors.read(path)
        if CONTRACT_KEY in metadata:
            return _of_snapshot(path, snapshot.described(path, tree, metadata))
    else:
        tree = foreign_pickle.read(path)
    if isinstance(tree, dict) and {"format", "preprocessing", "run"} <= tree.keys():
        return _of_snapshot(path, snapshot.SnapshotContents.from_dict(path, tree))
    tensors = _state_dict(tree, path)
    if odd := next((key for key in tensors if not is_unicode(key)), ""):
        raise InputError(f"{path}: a name in it isn't UTF-8: {odd[:_QUOTED]!r}")
    refuse_unreadable(path, tensors)
    recognised = _recognised(tensors, layouts_with(model, (*model_kwargs,)))
    if recognised is None:
        some = ", ".join(list(tensors)[:4])
        known = ", ".join(dict.fromkeys(layout.system.source for layout in LAYOUTS))
        raise InputError(f"{path}: weights of an unknown kind (its keys: {some}, …); known: {known}")
    layout, inner, outside = recognised
    if layout.system.head in outside:  # a head stored outside the network
        inner = inner | {layout.system.head: outside.pop(layout.system.head)}
    weights = _of_layout(path, layout, inner, (*model_kwargs,) if layout.models == (model,) else ())
    return replace(weights, left_out=(*weights.left_out, *outside))


def _recognised(
    tensors: Tensors, layouts: Sequence[Layout], depth: int = _MOST_PREFIXES
) -> tuple[Layout, Tensors, Tensors] | None:
    """Layout of the tensors by their keys, without or with nested _PREFIXES; the tensors with it, and the others."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    layout = next((layout for layout in layouts if layout.describes(shapes)), None)
    if layout:
        return layout, tensors, {}
    for prefix in _PREFIXES if depth else ():
        inner = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if inner and (recognised := _recognised(inner, layouts, depth - 1)):
            layout, named, outside = recognised
            beside = {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}
            return layout, named, beside | {f"{prefix}{key}": tensor for key, tensor in outside.items()}
    return None


def _state_dict(tree: Any, path: Path) -> dict[str, torch.Tensor]:
    """Find the state dict in a file's content."""
    for _ in _WRAPPERS:  # they may be nested
        if isinstance(tree, dict):
            inner = (tree[name] for name in _WRAPPERS if isinstance(tree.get(name), dict | StandIn))
            tree = next(inner, tree)
    named = foreign_pickle.module_tensors(tree, path) if isinstance(tree, StandIn) else _tensors_of(tree)
    if not named:
        raise InputError(f"{path}: no weights in it: neither a state dict nor a network")
    return named


def _tensors_of(tree: Any) -> dict[str, torch.Tensor]:
    items = tree.items() if isinstance(tree, dict) else ()
    return {key: value for key, value in items if isinstance(key, str) and isinstance(value, torch.Tensor)}


def _of_layout(
    path: Path, layout: Layout, tensors: dict[str, torch.Tensor], model_kwargs: tuple[str, ...]
) -> Weights:
    system = layout.system
    head = tensors.pop(system.head, None)
    if head is not None and head.ndim != 2:
        raise InputError(f"{path}: {system.head} has the shape {list(head.shape)}; a head has two sides")
    rows = head.t() if head is not None and system.transposed else head
    kept = {key: tensor for key, tensor in tensors.items() if key not in system.drops}
    model = likeliest_model(layout, {key: tuple(tensor.shape) for key, tensor in kept.items()}, model_kwargs)
    backbone = {system.our_key(model, key): tensor for key, tensor in kept.items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in backbone.items()}
    embed_size = embedding_size(model, shapes, model_kwargs) or system.pooled
    if len(backbone) < len(kept) or not (embed_size or system.lacks):
        raise InputError(f"{path}: looks like {model} of {system.source}, but its embedding layer is missing or wrong")
    return Weights(
        path,
        system.source,
        model,
        embed_size,
        input_sides(model, embed_size or 1, shapes),
        backbone,
        rows,
        bias=_bias(rows, tensors.get(system.bias)),
        left_out=tuple(key for key in tensors if key in system.drops),
        lacks=system.lacks,
        template=system.template,
        alignment=system.alignment,
        color_order=system.color_order,
    )


def _of_snapshot(path: Path, contents: snapshot.SnapshotContents) -> Weights:
    sides: Any = contents.preprocessing.get("input_size")
    head, bias, names = contents.head, contents.head_bias, contents.identities
    if path.suffix == ".pt" and snapshot.state_path(path).is_dir():  # the state doesn't belong to an exported file
        head, names = read_head(snapshot.state_path(path))
        if contents.config.get("margin_type") == "linear" and head.ndim == 2:
            head, bias = head[:, :-1], head[:, -1]
    elif head is None or head.ndim != 2 or names is None:
        head, names = None, None
    sized = isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) for side in sides)
    return Weights(
        path,
        OWN,
        contents.model,
        contents.embed_size,
        (sides[0], sides[1]) if sized else None,
        _tensors_of(contents.state_dict),
        head,
        names,
        _bias(head, bias),
    )


def _bias(head: torch.Tensor | None, found: Any) -> torch.Tensor | None:
    """Bias of a head's logits, if it has one number per class."""
    fits = head is not None and isinstance(found, torch.Tensor) and found.shape == head.shape[:1]
    return found if fits else None


def fit(model: nn.Module, weights: Weights, partial: bool) -> list[str]:
    """Load the backbone's weights into a model; returns lines about the result.

    InputError, with the model unchanged, if a key is missing, unexpected or of another shape; with `partial` these are
    only reported, and parameters without a match keep their initial values. Batch norms' counters may be missing.
    """
    ours = model.state_dict()
    theirs = weights.backbone
    fitting = [key for key in theirs if key in ours and _compatible(theirs[key], ours[key])]
    missing = [key for key in ours if key not in theirs and not key.endswith(COUNTER) and key not in weights.lacks]
    misshaped = [
        f"{key} is {_kind(theirs[key])} there, {_kind(ours[key])} here"
        for key in theirs
        if key in ours and not _compatible(theirs[key], ours[key])
    ]
    problems = [
        *_listed("missing there", missing),
        *_listed("unknown here", [key for key in theirs if key not in ours]),
        *_listed("of another shape", misshaped),
    ]
    if misshaped and weights.input_size:
        height, width = weights.input_size
        problems.append(f"it is for images of {width}×{height}: give --input_size {height} {width}")
    header = weights.describe()
    if problems and not partial:
        raise InputError(f"{header}: doesn't fit this run's network", *problems)
    if not fitting:
        raise InputError(f"{header}: nothing of it fits this run's network", *problems)
    with torch.no_grad():
        for key in fitting:
            ours[key].copy_(theirs[key])
    fresh = [key for key in weights.lacks if key in ours]
    left_out = _listed("left out", list(weights.left_out))
    return [header, *problems, *left_out, *_listed("start from initial values", fresh)]


def _compatible(theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    return theirs.shape == ours.shape and theirs.is_floating_point() == ours.is_floating_point()


def _kind(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)}" if tensor.is_floating_point() else f"{list(tensor.shape)} {tensor.dtype}"


def _listed(what: str, keys: list[str]) -> list[str]:
    """Lines with `what` and the keys; [] without keys."""
    if not keys:
        return []
    more = [f"  … and {len(keys) - _SHOWN:,} more"] if len(keys) > _SHOWN else []
    return [f"{what}: {len(keys):,}", *(f"  {key}" for key in keys[:_SHOWN]), *more]
