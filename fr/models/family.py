"""Backbone families: how to build one, and the preprocessing that it was designed for."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Family:
    """How to build a backbone from (embed_size, (height, width)), and the input it was designed for.

    input_size: (height, width) in pixels. divisor: what both must divide by. mean, std: per channel in `color_order`
    on the 0–1 scale, as in `fr.preprocessing`; 0 and 1 where the network normalises its input by itself. last_linear:
    the layer that makes the embedding of pooled features; "" where what it takes isn't pooled.
    """

    build: Callable[[int, tuple[int, int]], nn.Module]
    input_size: tuple[int, int]
    divisor: int = 1
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    color_order: str = "rgb"
    last_linear: str = ""


HALF: Channels = (0.5, 0.5, 0.5)  # mean and std that bring 0–1 to -1–1
