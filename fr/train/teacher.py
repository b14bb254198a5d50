"""The teacher of a distillation: a trained network with the preprocessing that its file stores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fr.alignment import CENTER_CROP
from fr.console import counted
from fr.distributed import gather_objects, raise_together, rank, world_size
from fr.errors import InputError
from fr.evaluation.embedding_cache import weights_digest
from fr.evaluation.scored_model import is_onnx, load_backbone, read_backbone
from fr.losses.classifier import shard_rows
from fr.losses.distillation import TeacherHead
from fr.onnx.model import OnnxModel
from fr.options.losses import LossSettings
from fr.preprocessing import Preprocessing
from fr.weights.initial_weights import head_rows
from fr.weights.loading import read_weights


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode: [B, 3, H, W], preprocessed as `preprocessing`, on the device → [B, embed_size].

    digest: SHA-256 of its file. head: of the training's classes, for `distill_logit_weight`.
    """

    network: Callable[[torch.Tensor], torch.Tensor]
    preprocessing: Preprocessing
    embed_size: int
    digest: str
    head: TeacherHead | None = None

    def describe(self) -> str:
        """One line for the log."""
        return f"{self.embed_size} numbers an embedding; {self.preprocessing.describe()}"


def open_teacher(
    settings: LossSettings,
    embed_size: int,
    student: Preprocessing,
    aligned: bool,
    identities: Sequence[str],
    device: torch.device,
) -> Teacher | None:
    """Open `--teacher`, all ranks together; None without the option.

    embed_size, student: of the trained network. aligned: it trains on aligned crops. identities: its classes.
    InputError on every rank if one can't read the file, if it doesn't store its preprocessing, isn't compatible with
    network, losses and data, or differs between ranks.
    """
    if not settings.teacher:
        return None
    teacher, failure = None, None
    try:
        teacher = _opened(settings, embed_size, student, aligned, device)
        if settings.distill_logit_weight:
            teacher = replace(teacher, head=_head(Path(settings.teacher), identities, device))
    except InputError as error:
        failure = error
    raise_together(failure, "--teacher: another rank can't open it, and prints the reason")
    facts = gather_objects(teacher and (teacher.digest, teacher.preprocessing))
    if any(one != facts[0] for one in facts):
        raise InputError(f"--teacher {settings.teacher}: isn't the same file on all hosts; copy it to each")
    return teacher


def _opened(
    settings: LossSettings, embed_size: int, student: Preprocessing, aligned: bool, device: torch.device
) -> Teacher:
    path = Path(settings.teacher)
    try:
        teacher = (_onnx_teacher if is_onnx(path) else _snapshot_teacher)(path, device)
    except InputError as error:
        raise InputError(*[f"--teacher: {problem}" for problem in error.problems]) from error
    elementwise = [name for name in ("distill_cosine_weight", "distill_mse_weight") if getattr(settings, name)]
    problems = []
    if elementwise and teacher.embed_size != embed_size:
        problems.append(
            f"--{', --'.join(elementwise)}: the embeddings of {path} have {teacher.embed_size} numbers: give "
            f"--embed_size {teacher.embed_size}, or --distill_relation_weight alone"
        )
    fits = teacher.preprocessing.alignment, student.alignment
    if fits[0] != fits[1] and CENTER_CROP in fits:
        problems.append(
            f"--teacher: {path} has the alignment {fits[0]}, the training {fits[1]}: only one of them uses landmarks"
        )
    elif aligned and CENTER_CROP not in fits and teacher.preprocessing.template != student.template:
        problems.append(
            f"--teacher: {path} takes faces aligned to the {teacher.preprocessing.template} template, the crops of "
            f"--aligned are of --template {student.template}; train on images with landmarks"
        )
    if problems:
        raise InputError(*problems)
    return teacher


def _snapshot_teacher(path: Path, device: torch.device) -> Teacher:
    digest = weights_digest(path)  # before the file is read
    contents, preprocessing = read_backbone(path)
    network = load_backbone(path, contents, preprocessing.input_size).to(device).requires_grad_(False)
    return Teacher(network, preprocessing, contents.embed_size, digest)


def _onnx_teacher(path: Path, device: torch.device) -> Teacher:
    digest = weights_digest(path)
    if not digest and path.is_file():
        raise InputError(f"{path}: refers to other files; a teacher has to be one file")
    network = OnnxModel(path, device)
    if not network.preprocessing:
        raise InputError(f"{path} doesn't store its preprocessing: write it to {path}.json (docs/evaluation.md)")
    return Teacher(network, network.preprocessing, network.embed_size(network.preprocessing.input_size), digest)


def _head(path: Path, identities: Sequence[str], device: torch.device) -> TeacherHead:
    """Rows of a snapshot's head for this rank's part of the identities; InputError unless it has all of them."""
    option = "--distill_logit_weight"
    if is_onnx(path):
        raise InputError(f"{option}: {path} is an ONNX model, which has no head")
    weights, config = read_weights(path), read_backbone(path)[0].config
    if weights.head is None or weights.identities is None:
        raise InputError(f"{option}: {path} has no head: take a snapshot whose training state (.state) is beside it")
    if others := sorted({*identities}.difference(weights.identities)):
        unknown = f"{counted(len(others), 'identity')}, such as {others[0]}"
        raise InputError(f"{option}: {path} has not been trained on {unknown}")
    linear, rows = weights.bias is not None, weights.head
    if weights.bias is not None:
        rows = torch.cat([rows, weights.bias[:, None]], dim=1)
    if not linear and not isinstance(config.get("s"), float):
        raise InputError(f"{option}: {path} doesn't store the scale of its logits (--s)")
    first, count = shard_rows(len(identities), world_size(), rank())
    own = identities[first : first + count]
    rows = head_rows(rows, weights.identities, own, rows.new_empty(count, rows.shape[1]))
    return TeacherHead(rows.to(device), 1.0 if linear else config["s"], linear)
