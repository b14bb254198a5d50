"""Every margin, and what is done to the other classes, against the papers' formulas with arccos in float64."""

import functools
import math
from collections.abc import Callable

import pytest
import torch

from fr.losses import margins
from fr.losses.negatives import Curriculum, Negatives, SupportVectors
from fr.options.losses import LossSettings
from tests import loss_reference as paper

Form = Callable[[torch.Tensor], torch.Tensor]
# At angles below 0.001 from 0 and π, sin θ is held at 0.001.
FIRST, LAST = 0.00101, math.pi - 0.00101


def angles(start: float = 0, stop: float = math.pi) -> torch.Tensor:
    return torch.linspace(start, stop, 2000, dtype=torch.float64)


def along(start: float, stop: float) -> torch.Tensor:
    """One value for each of `angles`, in another order than theirs."""
    source = torch.Generator().manual_seed(0)
    return torch.linspace(start, stop, 2000, dtype=torch.float64)[torch.randperm(2000, generator=source)]


def slope(form: Form, cos: torch.Tensor) -> torch.Tensor:
    cos = cos.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(form(cos).sum(), cos)
    return gradient


# fr's, of cos θ; the paper's, of θ; the paper's derivative, of θ.
Three = tuple[Form, Form, Form]


def cos_forms(m: float) -> Three:
    return lambda cos: margins.cosface(cos, m), lambda theta: theta.cos() - m, lambda theta: -theta.sin()


def arc_forms(m: float) -> Three:
    return (
        lambda cos: margins.arcface(cos, m),
        lambda theta: paper.arc(theta, m),
        lambda theta: torch.where(theta + m < math.pi, -(theta + m).sin(), -theta.sin()),
    )


def sphere_forms(m: float, iteration: int) -> Three:
    weight = max(5, 1000 / (1 + 0.12 * iteration))
    return (
        lambda cos: margins.sphereface(cos, m, iteration),
        lambda theta: paper.sphere(theta, m, iteration),
        lambda theta: -(weight * theta.sin() + m * (m * theta).sin().abs()) / (1 + weight),  # |sin t| = (-1)^k sin t
    )


def sphere_r_forms(m: float) -> Three:
    return (
        lambda cos: margins.sphereface_r(cos, m),
        lambda theta: paper.sphere_r(theta, m),
        lambda theta: torch.where(m * theta < math.pi, -m * (m * theta).sin(), 0),
    )


def combined_forms(m1: float, m2: float, m3: float) -> Three:
    return (
        lambda cos: margins.combined(cos, m1, m2, m3),
        lambda theta: paper.falling(m1 * theta + m2) - m3,
        lambda theta: -m1 * (m1 * theta + m2).sin().abs(),
    )


def ada_forms(z: float) -> Three:
    """With one standing for all samples."""

    def falls(theta: torch.Tensor) -> torch.Tensor:
        turned = theta - 0.4 * z
        return torch.where((turned > 0) & (turned < math.pi), -turned.sin(), 0)

    return (
        lambda cos: margins.adaface(cos, torch.full_like(cos, z), 0.4),
        lambda theta: paper.ada(theta, torch.full_like(theta, z), 0.4),
        falls,
    )


FORMS: dict[str, Three] = {
    **{f"cos {m}": cos_forms(m) for m in (0.1, 0.35)},
    **{f"arc {m:.2f}": arc_forms(m) for m in (0.1, 0.3, 0.5, 1.0, math.pi / 2)},
    **{f"sphere {m} at {i}": sphere_forms(m, i) for m in (1.0, 1.5, 2.0, 3.0, 4.0) for i in (0, 100, 1660, 10**6)},
    **{f"sphere_r {m}": sphere_r_forms(m) for m in (1.0, 1.5, 2.0, 3.0, 4.0)},
    **{
        f"combined {ms}": combined_forms(*ms)
        for ms in ((1.0, 0.3, 0.2), (1.0, 0.5, 0.0), (0.9, 0.4, 0.15), (1.3, 0.2, 0.1), (3.0, 1.0, 0.35))
    },
    **{f"ada {z}": ada_forms(z) for z in (-1.0, -0.4, 0.0, 0.7, 1.0)},
}
EASY: Three = (
    lambda cos: margins.arcface_easy(cos, 0.5),
    lambda theta: paper.arc_easy(theta, 0.5),
    lambda theta: torch.where(theta < math.pi / 2, -(theta + 0.5).sin(), -theta.sin()),
)
WITH_EASY = {**FORMS, "arc easy": EASY}


@pytest.mark.parametrize("name", WITH_EASY)
def test_each_margin_is_its_papers_formula(name: str) -> None:
    ours, theirs, _ = WITH_EASY[name]
    cos = angles(FIRST, LAST).cos()
    # At θ = 0.001, √(1 - cos²) of a rounded cosine is off by 1e-16 / 0.001, and up to four of them count.
    torch.testing.assert_close(ours(cos), theirs(cos.arccos()), rtol=0, atol=1e-12)


def test_cosface_subtracts_exactly_m() -> None:
    cos = angles().cos()
    torch.testing.assert_close(margins.cosface(cos, 0.35), cos - 0.35, rtol=0, atol=0)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_spherefaces_psi_is_the_papers_on_each_of_its_pieces(m: int) -> None:
    """ψ alone: λ = 5 after long enough, so that ψ = 6 logit - 5 cos θ. Piece by piece, and by hand at their ends."""
    for k in range(m):
        theta = angles(k * math.pi / m, (k + 1) * math.pi / m)[1:-1]
        theta = theta[(theta > FIRST) & (theta < LAST)]
        psi = 6 * margins.sphereface(theta.cos(), float(m), 10**6) - 5 * theta.cos()
        torch.testing.assert_close(psi, (-1) ** k * (m * theta).cos() - 2 * k, rtol=0, atol=1e-11)  # 6 times 1e-12
    at_ends = torch.tensor([k * math.pi / m for k in range(m + 1)], dtype=torch.float64).cos()
    psi = 6 * margins.sphereface(at_ends, float(m), 10**6) - 5 * at_ends
    # θ is held 0.001 away from 0 and π, where cos mθ is flat: (4 · 0.001)² / 2.
    torch.testing.assert_close(psi, 1 - 2 * torch.arange(m + 1).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("iteration", "weight"),
    [(0, 1000.0), (10, 1000 / 2.2), (100, 1000 / 13), (1658, 1000 / 199.96), (1659, 5.0), (10**6, 5.0)],
)
def test_spherefaces_margin_grows_as_the_authors_anneal_it(iteration: int, weight: float) -> None:
    cos = torch.tensor([0.5], dtype=torch.float64)  # θ = 60°: ψ = -cos 240° - 2 = -1.5
    wanted = (weight * 0.5 - 1.5) / (1 + weight)
    assert margins.sphereface(cos, 4.0, iteration).item() == pytest.approx(wanted, abs=1e-14)


@pytest.mark.parametrize("m", [0.1, 0.3, 0.5, 1.0])
def test_arcface_beyond_pi_is_the_authors_linear_fall(m: float) -> None:
    cos = angles(math.pi - m + 1e-6, math.pi).cos()
    torch.testing.assert_close(margins.arcface(cos, m), cos - m * math.sin(m), rtol=0, atol=1e-15)


def test_arcface_takes_a_margin_of_its_own_for_each_sample() -> None:
    cos, m = angles(FIRST, LAST).cos(), along(0, 1.5)
    torch.testing.assert_close(margins.arcface(cos, m), paper.arc(cos.arccos(), m), rtol=0, atol=1e-12)
    one_by_one = [margins.arcface(cos[i], m[i].item()) for i in range(0, 2000, 100)]
    torch.testing.assert_close(margins.arcface(cos, m)[::100], torch.stack(one_by_one), rtol=0, atol=1e-15)


def test_adaface_takes_a_standing_of_its_own_for_each_sample() -> None:
    cos, z = angles(FIRST, LAST).cos(), along(-1, 1)
    torch.testing.assert_close(margins.adaface(cos, z, 0.4), paper.ada(cos.arccos(), z, 0.4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_margin_falls_over_the_whole_range_of_angles(name: str, dtype: torch.dtype) -> None:
    logits = FORMS[name][0](angles().cos().to(dtype))
    # Neighbours on a flat piece are equal to rounding, a few ulp of θ m ≤ 4π + m2: they may not rise more.
    assert (logits.diff() <= 10 * torch.finfo(dtype).eps).all()
    assert logits[0] - logits[-1] > 1.5


@pytest.mark.parametrize("name", [name for name in FORMS if not name.startswith(("ada", "combined (0.9"))])
def test_a_margin_never_helps(name: str) -> None:
    """Not so AdaFace's of a clear face, which turns the angle back, nor m1 below 1, which the options refuse."""
    cos = angles().cos()
    assert (FORMS[name][0](cos) <= cos + 1e-6).all()  # θ held 0.001 away from π, where cos θ is -1 + 5e-7


def test_the_easy_margin_falls_on_both_sides_of_a_right_angle() -> None:
    logits = EASY[0](angles().cos())
    assert (logits[:1000].diff() <= 0).all() and (logits[1000:].diff() <= 0).all()
    assert torch.equal(logits[1000:], angles().cos()[1000:])


NONE: dict[str, Form] = {
    "cos": lambda cos: margins.cosface(cos, 0.0),
    "arc": lambda cos: margins.arcface(cos, 0.0),
    "arc, a tensor": lambda cos: margins.arcface(cos, torch.zeros_like(cos)),
    "arc easy": lambda cos: margins.arcface_easy(cos, 0.0),
    "sphere": lambda cos: margins.sphereface(cos, 1.0, 10**6),
    "sphere_r": lambda cos: margins.sphereface_r(cos, 1.0),
    "combined": lambda cos: margins.combined(cos, 1.0, 0.0, 0.0),
    "ada": lambda cos: margins.adaface(cos, torch.full_like(cos, 0.3), 0.0),
}


@pytest.mark.parametrize("name", NONE)
def test_no_margin_leaves_the_plain_cosine(name: str) -> None:
    inner, ends = angles(FIRST, LAST).cos(), angles().cos()
    torch.testing.assert_close(NONE[name](inner), inner, rtol=0, atol=1e-15)
    # At the ends θ is held at 0.001: cos 0.001 = 1 - 5e-7.
    torch.testing.assert_close(NONE[name](ends), ends, rtol=0, atol=5.1e-7)


@pytest.mark.parametrize("name", WITH_EASY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_finite_at_and_next_to_the_ends(name: str, dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).eps
    cos = torch.tensor([1.0, 1 - tiny, 1 + tiny, 0.0, tiny, -tiny, -1.0, tiny - 1, -1 - tiny], dtype=dtype)
    gradient = slope(WITH_EASY[name][0], cos)
    assert WITH_EASY[name][0](cos).isfinite().all()
    # With sin θ held at 0.001; the sine itself would give slopes of up to 1e8 next to the ends.
    assert (gradient.abs() < 2).all()
    # A larger cosine never gives a smaller logit; sin kπ is 0 to rounding.
    assert (gradient >= -100 * tiny).all()
    if name.startswith(("cos", "arc")) and name != "arc 1.57":  # which is flat at θ = 0
        assert (gradient > 0).all()


@pytest.mark.parametrize("name", WITH_EASY)
def test_each_margin_has_the_true_gradient_inside(name: str) -> None:
    cos = angles(0.0021, math.pi - 0.0021).cos()
    theta = cos.arccos()
    # θ from its cosine carries 1 ulp / sin²θ of relative error into sin θ: 1e-16 / 4e-6, of slopes up to 4 / 0.002.
    wanted = -WITH_EASY[name][2](theta) / theta.sin()
    torch.testing.assert_close(slope(WITH_EASY[name][0], cos), wanted, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("name", WITH_EASY)
def test_each_margin_passes_gradcheck_inside(name: str) -> None:
    cos = torch.tensor([0.97, 0.83, 0.41, 0.07, -0.13, -0.57, -0.78, -0.93], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(WITH_EASY[name][0], cos)


def test_adaface_knows_a_clear_face_by_its_length_alone() -> None:
    lengths = torch.linspace(0.001, 100, 2000, dtype=torch.float64, requires_grad=True)
    mean, std = torch.tensor(20.0).double(), torch.tensor(10.0).double()
    quality = margins.adaface_quality(lengths, mean, std, 0.333)
    # One rounding each of a few products and quotients.
    torch.testing.assert_close(quality, paper.ada_quality(lengths, mean, std, 0.333), rtol=1e-14, atol=1e-15)
    assert not quality.requires_grad
    assert (quality.diff() >= 0).all() and quality.max() == 1
    assert quality[0].item() == pytest.approx(-19.999 * 0.333 / 10.001)
    assert margins.adaface_quality(lengths, mean, std, 1.0).min() == -1
    assert not torch.isnan(margins.adaface_quality(lengths, mean, torch.zeros(()), 0.333)).any()


def test_magfaces_margin_is_a_line_between_two_lengths_and_lets_gradient_to_them() -> None:
    o = LossSettings(margin_type="mag")
    form = functools.partial(margins.magface_margin, m_range=(o.l_m, o.u_m), a_range=(o.l_a, o.u_a))
    lengths = torch.linspace(0.001, 200, 2000, dtype=torch.float64)
    torch.testing.assert_close(form(lengths), paper.mag_margin(lengths, o), rtol=1e-14, atol=0)
    by_hand = torch.tensor([0.0, 10.0, 60.0, 110.0, 1e4], dtype=torch.float64)
    torch.testing.assert_close(form(by_hand), torch.tensor([0.45, 0.45, 0.625, 0.8, 0.8]).double(), rtol=1e-7, atol=0)
    inside = (lengths > o.l_a) & (lengths < o.u_a)
    torch.testing.assert_close(slope(form, lengths), torch.where(inside, 0.35 / 100, 0.0).double(), rtol=1e-6, atol=0)


def test_magfaces_regulariser_falls_up_to_the_longest_and_is_flat_beyond() -> None:
    o = LossSettings(margin_type="mag")
    form = functools.partial(margins.magface_regulariser, a_range=(o.l_a, o.u_a))
    lengths = torch.linspace(0.001, 200, 2000, dtype=torch.float64)
    torch.testing.assert_close(form(lengths), paper.mag_regulariser(lengths, o), rtol=1e-14, atol=0)
    assert (form(lengths).diff() <= 0).all()
    assert form(torch.tensor([20.0])).item() == pytest.approx(1 / 20 + 20 / 110**2)
    inside = (lengths > o.l_a) & (lengths < o.u_a)
    wanted = torch.where(inside, 1 / o.u_a**2 - 1 / lengths**2, 0)
    torch.testing.assert_close(slope(form, lengths), wanted, rtol=1e-12, atol=1e-15)


def test_magface_as_a_whole_passes_gradcheck_in_cosine_and_length() -> None:
    cos = torch.tensor([0.9, 0.3, -0.4, -0.95, 0.5], dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([15.0, 40.0, 90.0, 50.0, 105.0], dtype=torch.float64, requires_grad=True)

    def whole(cos: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return margins.arcface(cos, margins.magface_margin(lengths, (0.45, 0.8), (10.0, 110.0)))

    assert torch.autograd.gradcheck(whole, (cos, lengths))


@pytest.mark.parametrize("name", paper.PAPER_MARGIN)
def test_an_automatic_margin_is_that_of_the_paper(name: str) -> None:
    assert LossSettings(margin_type=name).margin == paper.PAPER_MARGIN[name]
    assert LossSettings(margin_type=name, m=1.25).margin == 1.25


def sv(cos: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    return torch.where(cos > phi[:, None], 1.25 * cos + 0.25, cos)


def curricular(cos: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    return torch.where(cos > phi[:, None], cos * (0.37 + cos), cos)


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (Negatives(), lambda cos, phi: cos),
        (SupportVectors(1.25), sv),
        (Curriculum(torch.tensor(0.37, dtype=torch.float64)), curricular),
        (SupportVectors(1.0), lambda cos, phi: cos),
    ],
)
def test_hard_classes_weigh_as_the_papers_say_with_the_slope_of_autograd(
    kind: Negatives, plain: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    source = torch.Generator().manual_seed(0)
    cos = (2 * torch.rand(50, 40, generator=source, dtype=torch.float64) - 1).requires_grad_()
    phi = 2 * torch.rand(50, generator=source, dtype=torch.float64) - 1
    asked = torch.randn(50, 40, generator=source, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(plain(cos, phi), cos, asked)
    before = cos.detach().clone()
    values = kind.values(cos.detach(), phi)
    # Products and sums in another order: an ulp or two.
    torch.testing.assert_close(values, plain(cos.detach(), phi), rtol=1e-15, atol=1e-15)
    kind.chain_(asked, cos.detach(), phi)
    torch.testing.assert_close(asked, wanted, rtol=1e-15, atol=1e-15)
    assert torch.equal(cos.detach(), before)
