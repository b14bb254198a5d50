"""Margins: what is done to the cosine between an embedding and the centre of its own class.

Each is a pure function of the target cosines, cos θ_y [N], in the paper's symbols; the other classes' cosines stay as
they are. The logit is s times the result.
"""

import math
from collections.abc import Callable

import torch

# sin²θ below this counts as this: θ < 0.001. The true gradient of ArcFace, sin(θ + m) / sin θ, is infinite at θ = 0.
_SMALLEST_SIN_SQUARED = 1e-6


def cosface(cos: torch.Tensor, m: float) -> torch.Tensor:
    """cos θ - m: CosFace, arXiv:1801.09414 eq. 4. m in units of the cosine."""
    return cos - m


def arcface(cos: torch.Tensor, m: float) -> torch.Tensor:
    """cos(θ + m): ArcFace, arXiv:1801.07698 eq. 3. m in radians.

    Beyond θ + m = π, where cos(θ + m) would rise again, the logit goes on falling as cos θ - m sin m (as in the
    authors' code).
    """
    sin = (1 - cos * cos).clamp_min(_SMALLEST_SIN_SQUARED).sqrt()
    turned = cos * math.cos(m) - sin * math.sin(m)
    return torch.where(cos > math.cos(math.pi - m), turned, cos - m * math.sin(m))


MARGINS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {"cos": cosface, "arc": arcface}
