"""Backbone families: constructor and default preprocessing."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Family:
    """Constructor (embed_size, (height, width)) → backbone, and its default input.

    input_size: (height, width) in pixels, multiples of `divisor`. mean, std: per channel in `color_order` on the 0–1
    scale, as in `fr.preprocessing`; 0 and 1 where the network normalises its input itself. last_linear: name of the
    layer from pooled features to the embedding; "" where its input isn't pooled.
    """

    build: Callable[[int, tuple[int, int]], nn.Module]
    input_size: tuple[int, int]
    divisor: int = 1
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    color_order: str = "rgb"
    last_linear: str = ""


HALF: Channels = (0.5, 0.5, 0.5)  # mean and std that map 0–1 to -1–1
