"""Initial weights of a training, from --init_from or --pretrained.

C identities of this run, C_r of them on this rank, E embedding size, C' classes of the file's head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlparse

import torch
from torch import nn

from fr.console import counted
from fr.data.faces import refuse
from fr.distributed import raise_together, rank
from fr.errors import InputError
from fr.files.untrusted import read_text
from fr.losses.classifier import MarginSoftmax
from fr.models import family, timm_models, torchvision_resnet
from fr.options.fields import OptionFields
from fr.options.names import TIMM
from fr.weights.loading import Weights, fit, read_weights

T = TypeVar("T")


@dataclass(frozen=True)
class InitialWeights(OptionFields):
    """Options of the same names."""

    init_from: str
    partial: bool
    init_identities: str
    pretrained: bool
    model: str
    model_kwargs: Sequence[str]


def initialise(
    backbone: nn.Module, head: MarginSoftmax, identities: Sequence[str], wish: InitialWeights, resumed: bool
) -> list[str]:
    """Load the initial weights into backbone and head, all ranks together; returns lines about the result.

    identities [C]: of this run. resumed: the run was resumed from a snapshot, whose weights are used instead.
    InputError on every rank if one of them can't load them.
    """
    option = f"--init_from {wish.init_from}" if wish.init_from else "--pretrained" if wish.pretrained else ""
    if resumed or not option:
        return [f"{option} has no effect: the run is resumed from a snapshot"] if option else []
    failure, said = None, []
    try:
        if wish.pretrained and wish.model.startswith(TIMM):
            said = fit(backbone, _resampled(backbone, timm_weights(wish.model)), partial=False)
        elif wish.pretrained:
            said = fit(backbone, imagenet_weights(wish.model), partial=False)
        else:
            weights = read_weights(Path(wish.init_from), wish.model, wish.model_kwargs)
            weights = _resampled(backbone, weights)
            said = [*fit(backbone, weights, wish.partial), _begin_head(head, weights, identities, wish)]
    except InputError as error:
        failure = error
    raise_together(failure, f"{option}: another rank couldn't read it")
    return said


def _begin_head(head: MarginSoftmax, weights: Weights, identities: Sequence[str], wish: InitialWeights) -> str:
    """Load the file's rows of the common identities into the head; returns a line with their number or the obstacle."""
    theirs = read_identities(Path(wish.init_identities)) if wish.init_identities else weights.identities
    if weights.head is None:
        if wish.init_identities:
            raise InputError(f"--init_identities {wish.init_identities}: {weights.path} has no head for them")
        return "head: all classes start from initial values: the file has no head"
    if theirs is None:
        return f"head: all classes start from initial values: {weights.path} lacks class names; give --init_identities"
    rows = weights.head
    if head.settings.linear:  # the bias is the last column
        bias = weights.bias if weights.bias is not None else rows.new_zeros(len(rows))
        rows = torch.cat([rows, bias[:, None]], dim=1)
    embed_size = head.weight.shape[1]
    if wish.partial and rows.shape[1] != embed_size:
        return f"head: all classes start from initial values: the file's have {rows.shape[1]} numbers, not {embed_size}"
    own = identities[head.first : head.first + len(head.weight)]
    with torch.no_grad():
        head.weight.copy_(head_rows(rows, theirs, own, head.weight))
    kept = len({*identities}.intersection(theirs))
    said = f"head: {kept:,} of {len(identities):,} classes start from the file's, {len(identities) - kept:,} are new"
    return f"{said}{numbers_note(theirs)}" if kept else said


def numbers_note(theirs: Sequence[str]) -> str:
    """Note that identities are matched by numbers, as data without names have them; "" = by names."""
    if not all(name.isdecimal() for name in theirs):
        return ""
    return "; they are matched by numbers, right only if both trainings number the same people alike"


def head_rows(head: torch.Tensor, theirs: Sequence[str], ours: Sequence[str], fresh: torch.Tensor) -> torch.Tensor:
    """Rows [C_r, E]: those of `head` [C', E] for identities that are in `theirs` [C'], `fresh` for the others.

    ours [C_r]: the identities of this rank's rows. InputError if the numbers of names and rows, or the lengths of rows,
    differ.
    """
    if len(theirs) != len(head):
        given = counted(len(theirs), "identity")
        raise InputError(f"{given} for a head of {counted(len(head), 'class')}; give one name for each")
    if head.shape[1] != fresh.shape[1]:
        raise InputError(
            f"a class of the file's head has {head.shape[1]} numbers, one of this run {fresh.shape[1]} (--embed_size "
            "times --sub_centers)"
        )
    row_of = {name: row for row, name in enumerate(theirs)}
    places = [place for place, name in enumerate(ours) if name in row_of]
    rows = fresh.detach().clone()
    rows[places] = head[[row_of[ours[place]] for place in places]].to(rows)
    return rows


def read_identities(path: Path) -> list[str]:
    """Read one name a line, in the order of a head's rows; InputError for an empty line or a repeated name."""
    names = read_text(path).removesuffix("\n").split("\n")
    first: dict[str, int] = {}
    problems = []
    for number, name in enumerate(names, start=1):
        if not name:
            problems.append(f"{path}:{number}: the line is empty")
        elif first.setdefault(name, number) != number:
            problems.append(f"{path}:{number}: {name!r} is on line {first[name]}, too")
    refuse(problems)
    return names


def imagenet_weights(model: str) -> Weights:
    """torchvision's ImageNet weights for a ResNet, downloaded if needed; called by all ranks together.

    InputError if they can't be downloaded or read.
    """
    enum = torchvision_resnet.imagenet_weights(model)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(enum.url).path).name

    def fetch() -> None:
        try:
            enum.get_state_dict(progress=rank() == 0, check_hash=True, weights_only=True)
        except Exception as error:  # from the network, the disk, the hash or a damaged file
            reason = " ".join(str(error).split())
            raise InputError(f"--pretrained: {enum.url}: {reason}; put that file at {path} by hand") from error

    _first_rank_first(fetch, f"--pretrained: another rank has no {path}")
    return read_weights(path)


def timm_weights(model: str) -> Weights:
    """timm's pretrained weights for one of its networks, without the classification layer; as `imagenet_weights`."""
    own = family(model)
    name = model.removeprefix(TIMM)
    tensors, classifiers = _first_rank_first(
        lambda: timm_models.pretrained(name), f"--pretrained: another rank has no weights of {model}"
    )
    last = tuple(key for key in tensors if key.startswith(tuple(f"{one}." for one in classifiers)))
    kept = {key: tensor for key, tensor in tensors.items() if key not in last}
    return Weights(Path(name), "timm", model, 0, own.input_size, kept, None, left_out=last, lacks=last)


def _first_rank_first(fetch: Callable[[], T], elsewhere: str) -> T:
    """Call `fetch` on rank 0, then on the others, of which those of its host find the file; returns its result.

    InputError on all ranks if one raises it, with the message `elsewhere` on the others.
    """
    fetched: list[T] = []
    for leading in (True, False):
        failure = None
        try:
            if (rank() == 0) == leading:
                fetched.append(fetch())
        except InputError as error:
            failure = error
        raise_together(failure, elsewhere)
    return fetched[0]


def _resampled(backbone: nn.Module, weights: Weights) -> Weights:
    """Weights of a timm network, resampled to the input and patch size of the backbone."""
    if not weights.model.startswith(TIMM):
        return weights
    return replace(weights, backbone=timm_models.resampled(backbone, weights.backbone, weights.input_size))
