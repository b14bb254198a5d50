"""Backbone families: constructor and default preprocessing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fr.errors import InputError

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Family:
    """Constructor (embed_size, (height, width), settings as keywords) → backbone, and its default preprocessing.

    input_size: (height, width) in pixels, multiples of `divisor`. mean, std: per channel in `color_order` on the 0–1
    scale, as in `fr.preprocessing`; 0 and 1 if the network normalises its input itself. last_linear: name of the layer
    from pooled features to the embedding; "" if its input isn't pooled. settings: names in --model_kwargs with default
    values; None = `build` checks them.
    """

    build: Callable[..., nn.Module]
    input_size: tuple[int, int]
    divisor: int = 1
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    color_order: str = "rgb"
    last_linear: str = ""
    settings: Mapping[str, Any] | None = field(default_factory=dict)


HALF: Channels = (0.5, 0.5, 0.5)  # mean and std that map 0–1 to -1–1


def check_kwargs(model: str, kwargs: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise InputError for --model_kwargs that aren't settings of the model, or have another type."""
    takes = f"it takes {', '.join(sorted(settings))}" if settings else "it takes none"
    problems = [f"--model_kwargs {key}: {model} has no such setting; {takes}" for key in kwargs if key not in settings]
    problems += [
        f"--model_kwargs {key}={value}: {model} takes a value as {settings[key]!r}"
        for key, value in kwargs.items()
        if key in settings and not _same_type(value, settings[key])
    ]
    if problems:
        raise InputError(*problems)


def _same_type(value: Any, default: Any) -> bool:
    """Return True if a value has the type of a default; a number may replace a list of numbers."""
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    kinds = int | float | list if isinstance(default, tuple) else int | float
    return default is None or (isinstance(value, kinds) and not isinstance(value, bool))
