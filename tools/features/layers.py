"""Feature layers of a network: the embedding, or the input of its last linear layer."""

import torch
from torch import nn
from torch.nn import functional

from fr.errors import InputError
from fr.evaluation.embedding import Network, with_mirror_image
from fr.evaluation.scored_model import ScoredModel
from fr.models import family


def feature_network(model: ScoredModel, snap: str, layer: str, flip_mode: str, normalize: bool) -> Network:
    """Network [B, 3, H, W] → [B, D] up to a layer of LAYERS; InputError if it has no such layer.

    flip_mode: as in `with_mirror_image`. normalize: to norm 1; a zero row stays zero.
    """
    network = with_mirror_image(model.network if layer == "embedding" else _pooled(model, snap), flip_mode)
    return (lambda images: functional.normalize(network(images).float(), dim=1)) if normalize else network


def _pooled(model: ScoredModel, snap: str) -> Network:
    if not isinstance(model.network, nn.Module):
        raise InputError(f"--layer pooled: {snap} is an ONNX model, which gives its embedding alone")
    name = family(model.name).last_linear
    if not name:
        raise InputError(f"--layer pooled: the last linear layer of {model.name} doesn't take pooled features")
    whole, seen = model.network, list[torch.Tensor]()
    whole.get_submodule(name).register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))

    def pooled(images: torch.Tensor) -> torch.Tensor:
        whole(images)
        return torch.flatten(seen.pop(), 1)

    return pooled
