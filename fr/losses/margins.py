"""Margin functions: target cosines → target cosines after the margin.

Each is a pure function of the target cosines, cos θ_y [N], in the paper's symbols; the target logit is s times its
result. Angles are in radians. Docstrings state deviations from the paper, where its formula would increase again with
the angle or has an infinite gradient. MARGINS, at the end, lists the functions by --margin_type;
`fr/options/losses.py` has their options.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fr.options.losses import LossSettings

# Lower bound of sin²θ (θ = 0.001): the gradient of cos(θ + m), sin(θ + m) / sin θ, is infinite at 0.
_SMALLEST_SIN_SQUARED = 1e-6

# SphereFace's annealing in the authors' code: λ = max(5, 1000 / (1 + 0.12 · iteration)).
_LAMBDA_START, _LAMBDA_DECAY, _LAMBDA_END = 1000.0, 0.12, 5.0


def _sine(cos: torch.Tensor) -> torch.Tensor:
    return (1 - cos * cos).clamp_min(_SMALLEST_SIN_SQUARED).sqrt()


def _falling_cosine(angle: torch.Tensor) -> torch.Tensor:
    """(-1)^k cos t - 2k with k = ⌊t / π⌋, for t ≥ 0: cos t up to π, and still decreasing beyond."""
    k = (angle.detach() / math.pi).floor()
    return (1 - 2 * k.remainder(2)) * angle.cos() - 2 * k


def cosface(cos: torch.Tensor, m: float) -> torch.Tensor:
    """cos θ - m: CosFace, arXiv:1801.09414 eq. 4. m: a cosine difference."""
    return cos - m


def arcface(cos: torch.Tensor, m: float | torch.Tensor) -> torch.Tensor:
    """cos(θ + m): ArcFace, arXiv:1801.07698 eq. 3. m: a scalar or [N].

    Beyond θ + m = π, where cos(θ + m) would rise again, it is cos θ - m sin m, as in the authors' code.
    """
    m = torch.as_tensor(m, dtype=cos.dtype)
    turned = cos * m.cos() - _sine(cos) * m.sin()
    return torch.where(cos > (math.pi - m).cos(), turned, cos - m * m.sin())


def arcface_easy(cos: torch.Tensor, m: float) -> torch.Tensor:
    """cos(θ + m) where θ < π / 2, else cos θ: "easy margin" in ArcFace's own code. It jumps by sin m at θ = π / 2."""
    return torch.where(cos > 0, arcface(cos, m), cos)


def sphereface(cos: torch.Tensor, m: float, iteration: int) -> torch.Tensor:
    """(λ cos θ + ψ(θ)) / (1 + λ) with ψ = (-1)^k cos mθ - 2k: SphereFace, arXiv:1704.08063 eq. 7.

    λ falls from 1000 to 5 over the iterations, so the margin starts near zero (appendix and authors' code). s replaces
    the paper's ‖x‖.
    """
    weight = max(_LAMBDA_END, _LAMBDA_START / (1 + _LAMBDA_DECAY * iteration))
    psi = _falling_cosine(m * torch.atan2(_sine(cos), cos))
    return (weight * cos + psi) / (1 + weight)


def sphereface_r(cos: torch.Tensor, m: float) -> torch.Tensor:
    """cos(min(m, π / θ) θ): SphereFace-R v1, arXiv:2109.05565 sec. 3. Beyond θ = π / m it is -1, with no gradient."""
    return (m * torch.atan2(_sine(cos), cos)).clamp_max(math.pi).cos()


def combined(cos: torch.Tensor, m1: float, m2: float, m3: float) -> torch.Tensor:
    """cos(m1 θ + m2) - m3: ArcFace, arXiv:1801.07698 eq. 4; beyond m1 θ + m2 = π it continues as SphereFace's ψ."""
    return _falling_cosine(m1 * torch.atan2(_sine(cos), cos) + m2) - m3


def adaface(cos: torch.Tensor, quality: torch.Tensor, m: float) -> torch.Tensor:
    """cos(θ + g_angle) - g_add with g_angle = -m ẑ, g_add = m ẑ + m: AdaFace, arXiv:2204.00964 sec. 3.3.

    quality: ẑ [N] in [-1, 1], the normalised embedding norm; high for clear images. The angle with the margin is
    clamped to [0, π], as in the authors' code.
    """
    theta = torch.atan2(_sine(cos), cos)
    return (theta - m * quality).clamp(0, math.pi).cos() - (m * quality + m)


def adaface_quality(norms: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, h: float) -> torch.Tensor:
    """ẑ = clip((‖z‖ - μ) / (σ / h), -1, 1) [N], without gradient: AdaFace, arXiv:2204.00964 sec. 3.3."""
    return ((norms.detach() - mean) * (h / (std + 1e-3))).clamp(-1, 1)


def magface_margin(norms: torch.Tensor, m_range: tuple[float, float], a_range: tuple[float, float]) -> torch.Tensor:
    """m(a) [N], linear from (l_a, l_m) to (u_a, u_m), in the loss of sec. 3.2: MagFace, arXiv:2103.06627 sec. 4.1.

    norms: a = ‖f‖ [N], clamped to a_range = (l_a, u_a); m_range = (l_m, u_m) in radians.
    """
    (l_m, u_m), (l_a, u_a) = m_range, a_range
    return l_m + (u_m - l_m) / (u_a - l_a) * (norms.clamp(l_a, u_a) - l_a)


def magface_regulariser(norms: torch.Tensor, a_range: tuple[float, float]) -> torch.Tensor:
    """g(a) = 1 / a + a / u_a² [N], decreasing up to a = u_a: MagFace, arXiv:2103.06627 sec. 4.1, supplement."""
    a = norms.clamp(*a_range)
    return 1 / a + a / a_range[1] ** 2


@dataclass(frozen=True)
class MarginInputs:
    """Inputs of margins, for N samples. quality: norms [N] → AdaFace's ẑ [N], by the running statistics."""

    cos: torch.Tensor  # [N] target cosines
    norms: torch.Tensor  # [N] of the embeddings
    iteration: int
    quality: Callable[[torch.Tensor], torch.Tensor]


def _arc(x: MarginInputs, o: LossSettings) -> torch.Tensor:
    return (arcface_easy if o.easy_margin else arcface)(x.cos, o.margin)


MARGINS: dict[str, Callable[[MarginInputs, LossSettings], torch.Tensor]] = {
    "softmax": lambda x, o: x.cos,
    "linear": lambda x, o: x.cos,  # here the logits of a linear layer
    "cos": lambda x, o: cosface(x.cos, o.margin),
    "arc": _arc,
    "sphere": lambda x, o: sphereface(x.cos, o.margin, x.iteration),
    "sphere_r": lambda x, o: sphereface_r(x.cos, o.margin),
    "combined": lambda x, o: combined(x.cos, o.m1, o.m2, o.m3),
    "ada": lambda x, o: adaface(x.cos, x.quality(x.norms.detach()), o.margin),
    "curricular": lambda x, o: arcface(x.cos, o.margin),
    "mag": lambda x, o: arcface(x.cos, magface_margin(x.norms, (o.l_m, o.u_m), (o.l_a, o.u_a))),
}
"""Target cosines after the margin [N], by --margin_type."""
