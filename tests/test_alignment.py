"""Alignment against linear least squares, SciPy's Procrustes and plain 3×3 matrices."""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from scipy.linalg import orthogonal_procrustes

from fr.alignment import ALIGNMENTS, TEMPLATES, Array, compose, invert, procrustes, template_points, transform, umeyama

SIZE = (112, 112)
TEMPLATE_NAMES = st.sampled_from(sorted(TEMPLATES))
LANDMARKS = st_np.arrays(np.float64, (5, 2), elements=st.floats(-1_000, 1_000, width=32))
# Landmarks here reach 1,000 pixels and a matrix moves them by less than 10⁵; double precision keeps 16 digits, of
# which conditioning (spread and correlation bounded by `usable`) costs some: 10⁻⁶ pixels remain by far.
close = partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-6)


def usable(points: Array, template: Array) -> bool:
    """Spread over more than 10 pixels, and not so far from the template's shape that any rotation is as good."""
    centered, target = points - points.mean(0), template - template.mean(0)
    singular = np.linalg.svd(centered.T @ target, compute_uv=False)
    sign = np.sign(np.linalg.det(centered.T @ target))
    norms = float(np.linalg.norm(centered) * np.linalg.norm(target))
    return float(np.linalg.norm(centered)) > 10 and float(singular[0] + sign * singular[1]) > 0.01 * norms


def least_squares_similarity(points: Array, template: Array) -> Array:
    """u = ax - by + c, v = bx + ay + d: four unknowns, ten equations."""
    rows, wanted = [], []
    for (x, y), (u, v) in zip(points, template, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        wanted += [u, v]
    # Columns of comparable size: coordinates reach 1,000 where the constant is 1.
    columns = np.array([1e3, 1e3, 1, 1])
    (a, b, c, d) = np.linalg.lstsq(np.array(rows) / columns, np.array(wanted), rcond=None)[0] / columns
    return np.array([[a, -b, c], [b, a, d]])


def plain_procrustes(points: Array, template: Array) -> tuple[Array, Array]:
    """The fit of face_recognition.pytorch by SciPy: best orthogonal matrix, scale = ratio of deviations."""
    mean, target_mean = points.mean(0), template.mean(0)
    deviation, target_deviation = (points - mean).std(), (template - target_mean).std()
    rotation, _ = orthogonal_procrustes((points - mean) / deviation, (template - target_mean) / target_deviation)
    linear = target_deviation / deviation * rotation.T
    return np.column_stack([linear, target_mean - linear @ mean]), rotation


@settings(max_examples=200, deadline=None)
@given(LANDMARKS, TEMPLATE_NAMES)
def test_umeyama_is_the_linear_least_squares_similarity(points: Array, name: str) -> None:
    template = template_points(name, SIZE)
    assume(usable(points, template))
    close(umeyama(points[None], template)[0], least_squares_similarity(points, template))


@settings(max_examples=200, deadline=None)
@given(LANDMARKS, TEMPLATE_NAMES)
def test_procrustes_is_scipys_wherever_no_reflection_is_best(points: Array, name: str) -> None:
    template = template_points(name, SIZE)
    assume(usable(points, template))
    expected, rotation = plain_procrustes(points, template)
    assume(np.linalg.det(rotation) > 0)
    close(procrustes(points[None], template)[0], expected)


@settings(max_examples=100, deadline=None)
@given(LANDMARKS, TEMPLATE_NAMES)
def test_procrustes_is_the_best_rotation_among_all_angles_also_for_mirrored_landmarks(points: Array, name: str) -> None:
    template = template_points(name, SIZE)
    assume(usable(points, template))
    centered, target = points - points.mean(0), template - template.mean(0)
    scale = np.linalg.norm(target) / np.linalg.norm(centered)

    def error(linear: Array) -> float:
        return float(((centered @ linear.T - target) ** 2).sum())

    angles = np.linspace(-np.pi, np.pi, 721)
    turned = [scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
    found = procrustes(points[None], template)[0, :, :2]
    assert error(found) <= min(map(error, turned)) * (1 + 1e-9) + 1e-9  # rounding only
    np.testing.assert_allclose(np.sqrt(np.linalg.det(found)), scale, rtol=1e-9)


@pytest.mark.parametrize("fit", ALIGNMENTS.values(), ids=ALIGNMENTS)
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_mirrored_landmarks_give_no_reflection(fit: Callable[[Array, Array], Array], name: str) -> None:
    template = template_points(name, SIZE)
    mirrored = (template * (-1, 1) + (111, 0))[None]  # the points' own order kept: left is right
    assert np.linalg.det(plain_procrustes(mirrored[0], template)[1]) < 0  # where plain Procrustes would mirror
    linear = fit(mirrored, template)[0, :, :2]
    assert np.linalg.det(linear) > 0
    np.testing.assert_allclose(linear[0, 0], linear[1, 1], rtol=1e-12)
    np.testing.assert_allclose(linear[0, 1], -linear[1, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fit", ALIGNMENTS.values(), ids=ALIGNMENTS)
@settings(max_examples=100, deadline=None)
@given(LANDMARKS, TEMPLATE_NAMES)
def test_a_fit_is_never_a_reflection(fit: Callable[[Array, Array], Array], points: Array, name: str) -> None:
    template = template_points(name, SIZE)
    assume(usable(points, template))
    assert np.linalg.det(fit(points[None], template)[0, :, :2]) > 0


@pytest.mark.parametrize("fit", ALIGNMENTS.values(), ids=ALIGNMENTS)
@settings(max_examples=100, deadline=None)
@given(
    st.floats(-np.pi, np.pi), st.floats(0.05, 20), st.tuples(st.floats(-500, 500), st.floats(-500, 500)), TEMPLATE_NAMES
)
def test_a_template_that_was_moved_by_a_similarity_is_put_back_exactly(
    fit: Callable[[Array, Array], Array], angle: float, scale: float, shift: tuple[float, float], name: str
) -> None:
    template = template_points(name, SIZE)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    moved = (template @ np.array([[cos, -sin], [sin, cos]]).T + shift)[None]
    close(transform(fit(moved, template), moved)[0], template)


def test_rows_of_a_batch_are_fitted_each_on_its_own() -> None:
    points = np.random.default_rng(0).normal(60, 20, (7, 5, 2))
    template = template_points("arcface", SIZE)
    for fit in ALIGNMENTS.values():
        one_by_one = np.concatenate([fit(row[None], template) for row in points])
        np.testing.assert_array_equal(fit(points, template), one_by_one)


def test_templates_are_the_published_points() -> None:
    arcface = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    np.testing.assert_allclose(template_points("arcface", (112, 112)), arcface, rtol=1e-12)
    # SphereFace's 112×96 points (face_align_demo.m); the fractions carry six digits, of at most 112 pixels.
    sphereface = [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
    np.testing.assert_allclose(template_points("sphereface", (112, 96)), sphereface, atol=112 * 0.5e-6 + 1e-4)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_template_scales_with_the_width_and_height_of_the_input(name: str) -> None:
    small, large = template_points(name, (100, 200)), template_points(name, (300, 800))
    np.testing.assert_allclose(large[:, 0], small[:, 0] * 4)
    np.testing.assert_allclose(large[:, 1], small[:, 1] * 3)


MATRICES = st_np.arrays(np.float64, (3, 2, 3), elements=st.floats(-100, 100, width=32))


def square(matrices: Array) -> Array:
    return np.concatenate([matrices, np.broadcast_to([[[0.0, 0.0, 1.0]]], (len(matrices), 1, 3))], axis=1)


@settings(max_examples=100, deadline=None)
@given(MATRICES, MATRICES, st_np.arrays(np.float64, (3, 4, 2), elements=st.floats(-100, 100, width=32)))
def test_compose_and_transform_are_products_of_3x3_matrices(after: Array, before: Array, points: Array) -> None:
    product = compose(after, before)
    # Sums of three products of up to 10⁴: 10⁻⁹ is a thousand roundings.
    np.testing.assert_allclose(square(product), square(after) @ square(before), rtol=1e-12, atol=1e-9)
    homogeneous = np.concatenate([points, np.ones((3, 4, 1))], axis=2)
    expected = np.einsum("nij,nkj->nki", square(after), homogeneous)[:, :, :2]
    np.testing.assert_allclose(transform(after, points), expected, rtol=1e-12, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(MATRICES)
def test_invert_is_the_inverse_of_the_3x3_matrix(matrices: Array) -> None:
    assume((np.linalg.cond(square(matrices)) < 1e5).all())
    # Two ways to invert agree to cond · 10⁻¹⁶ of the largest entry.
    expected = np.linalg.inv(square(matrices))
    np.testing.assert_allclose(square(invert(matrices)), expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())


def test_invert_agrees_with_opencv() -> None:
    matrix = np.array(cv2.getRotationMatrix2D((30, 40), 25, 1.7), dtype=np.float64)
    np.testing.assert_allclose(invert(matrix[None])[0], np.array(cv2.invertAffineTransform(matrix)), rtol=1e-10)
