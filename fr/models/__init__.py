"""Backbones by name (`--model`): images → embeddings. The module of each lists its models in FAMILIES."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from fr.data.nvjpeg import load_dalis
from fr.errors import InputError, unknown
from fr.models.family import Family, check_kwargs
from fr.options.names import BACKBONES, TIMM
from fr.preprocessing import Preprocessing

load_dalis()  # before torchvision, which one of the modules imports
MODELS: dict[str, Family] = {
    name: import_module(f"fr.models.{module}").FAMILIES[name] for module, names in BACKBONES.items() for name in names
}


def family(name: str) -> Family:
    """Family of a `--model`; InputError for an unknown name, or for a timm model if timm isn't installed."""
    if name.startswith(TIMM):
        from fr.models.timm_models import timm_family

        return timm_family(name.removeprefix(TIMM))
    if name not in MODELS:
        raise InputError(unknown("model", name, MODELS))
    return MODELS[name]


def training_preprocessing(options: argparse.Namespace) -> Preprocessing:
    """Preprocessing of a training: that of the model's family, with train.py's options applied."""
    model = family(options.model)
    default = Preprocessing(
        model.input_size, options.template, options.alignment, model.color_order, model.mean, model.std
    )
    return default.with_overrides(options.input_size, options.mean, options.std, options.color_order)


def build_model(
    name: str, embed_size: int, input_size: tuple[int, int], kwargs: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build a backbone [B, 3, H, W] → [B, embed_size], initialised from torch's global generator.

    kwargs: of --model_kwargs. InputError for an unknown name, unsupported kwargs, or an input_size (height, width) that
    isn't a multiple of the family's divisor.
    """
    model = family(name)
    if any(side % model.divisor for side in input_size):
        height, width = input_size
        raise InputError(f"{name} needs sides that are multiples of {model.divisor}, got {height}×{width}")
    kwargs = kwargs or {}
    if model.settings is not None:
        check_kwargs(name, kwargs, model.settings)
        kwargs = {**model.settings, **kwargs}
    return model.build(embed_size, input_size, **kwargs)


def undecayed(network: nn.Module) -> set[str]:
    """Names of parameters, besides vectors, that a network exempts from weight decay, such as position embeddings."""
    names: set[str] = getattr(network, "no_weight_decay", set)()
    return names
