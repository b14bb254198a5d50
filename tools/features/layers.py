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

    flip_mode: as in `with_mirror_image`, "" = without mirror images. normalize: to norm 1; a zero row stays zero.
    """
    network = model.network if layer == "embedding" else _pooled(model, snap)
    if flip_mode:
        network = with_mirror_image(network, flip_mode)
    return _Normalized(network) if normalize else network


def _pooled(model: ScoredModel, snap: str) -> Network:
    if not isinstance(model.network, nn.Module):
        raise InputError(f"--layer pooled: {snap} is an ONNX model, which gives its embedding alone")
    name = family(model.name).last_linear
    if not name:
        raise InputError(f"--layer pooled: the last linear layer of {model.name} doesn't take pooled features")
    return _InputOf(model.network, name)


class _InputOf:
    """Input of a layer of a network, as [B, D]."""

    def __init__(self, network: nn.Module, name: str) -> None:
        self._network = network
        self._seen = torch.empty(0)
        network.get_submodule(name).register_forward_pre_hook(self._keep)

    def _keep(self, _layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        (self._seen,) = inputs

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self._network(images)
        return torch.flatten(self._seen, 1)


class _Normalized:
    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self._network(images).float(), dim=1)
