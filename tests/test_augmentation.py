"""The draws against their documented probabilities; their geometry against OpenCV's matrices."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fr.data.alignment import Array, template_points, transform
from fr.data.augmentation import MAX_BOXES, Augmentation, Draws, boxes, draw, geometry
from fr.preprocessing import Preprocessing

PLACES = 20_000
NEVER = Augmentation(flip_prob=0, rotate_prob=0, cutout_prob=0, blur_prob=0)
ALWAYS = Augmentation(flip_prob=1, rotate_prob=1, cutout_prob=1, blur_prob=1)
SIZES = st.tuples(st.integers(16, 256), st.integers(16, 256))


def happened(draws: Draws) -> dict[str, Array]:
    return {
        "flip_prob": draws.flip,
        "rotate_prob": draws.angle != 0,
        "cutout_prob": draws.box_count > 0,
        "blur_prob": draws.blur,
    }


def opencv_move(flip: bool, degrees: float, height: int, width: int) -> Array:
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]) if flip else np.eye(3)
    turn = np.array(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1))
    moved: Array = turn @ mirror
    return moved


@settings(max_examples=100, deadline=None)
@given(SIZES, st.lists(st.tuples(st.booleans(), st.floats(-180, 180)), min_size=1, max_size=4))
def test_geometry_is_a_mirror_then_opencvs_rotation_about_the_center(
    size: tuple[int, int], moves: list[tuple[bool, float]]
) -> None:
    flip, degrees = np.array([flip for flip, _ in moves]), np.array([angle for _, angle in moves])
    blank = draw(NEVER, 0, 0, 0, len(moves))
    found = geometry(replace(blank, flip=flip, angle=np.deg2rad(degrees)), size)
    expected = [opencv_move(one, angle, *size) for one, angle in moves]
    # OpenCV takes the centre as float32: (W-1)/2 is exact in it. Degrees to radians and the sums round at 10⁻¹⁶.
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_positive_angles_turn_a_picture_as_opencv_does() -> None:
    blank = draw(NEVER, 0, 0, 0, 1)
    image = np.zeros((9, 9), np.uint8)
    image[4, 8] = 255  # to the right of the centre
    quarter = geometry(replace(blank, angle=np.array([np.pi / 2])), (9, 9))[0]
    turned = cv2.warpAffine(image, quarter, (9, 9))
    assert turned[0, 4] == 255  # counter-clockwise as seen: the right goes to the top
    assert turned.sum() == 255


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 1_000), st.integers(0, 10**9), st.lists(st.integers(0, 9), max_size=6))
def test_draws_do_not_depend_on_how_a_range_of_places_is_split(
    seed: int, epoch: int, first: int, sizes: list[int]
) -> None:
    settings_ = Augmentation(cutout_prob=0.5)
    whole = draw(settings_, seed, epoch, first, sum(sizes))
    starts = first + np.cumsum([0, *sizes])
    parts = [draw(settings_, seed, epoch, int(start), size) for start, size in zip(starts, sizes, strict=False)]
    for name, column in vars(whole).items():
        joined = np.concatenate([vars(part)[name] for part in parts]) if parts else column[:0]
        np.testing.assert_array_equal(joined, column)


def test_draws_differ_by_seed_and_by_epoch() -> None:
    here = draw(ALWAYS, 3, 4, 0, 50)
    assert not np.isin(draw(ALWAYS, 4, 4, 0, 50).angle, here.angle).any()
    assert not np.isin(draw(ALWAYS, 3, 5, 0, 50).angle, here.angle).any()


@pytest.mark.parametrize("name", happened(draw(NEVER, 0, 0, 0, 1)))
def test_each_probability_is_the_rate_of_its_effect_alone(name: str) -> None:
    assert not happened(draw(NEVER, 0, 0, 0, PLACES))[name].any()
    assert happened(draw(ALWAYS, 0, 0, 0, PLACES))[name].all()
    for probability in (0.05, 0.5, 0.95):
        effects = happened(draw(replace(NEVER, **{name: probability}), 0, 0, 0, PLACES))
        # Binomial: 4.5 standard deviations, missed by chance in 7 of 10⁶; the seed is fixed.
        slack = 4.5 * np.sqrt(probability * (1 - probability) / PLACES)
        assert abs(effects.pop(name).mean() - probability) < slack
        assert not any(other.any() for other in effects.values())


def test_effects_of_a_sample_are_independent_of_each_other() -> None:
    halves = Augmentation(flip_prob=0.5, rotate_prob=0.5, cutout_prob=0.5, blur_prob=0.5)
    effects = np.stack(list(happened(draw(halves, 1, 0, 0, PLACES)).values())).astype(float)
    # Correlation of independent draws: standard deviation 1/√20,000 = 0.0071; 4.5 of them.
    assert np.abs(np.corrcoef(effects) - np.eye(len(effects))).max() < 0.032


@pytest.mark.parametrize("degrees", [0.0, 10.0, 45.0])
def test_rotate_degrees_bounds_the_angle_on_both_sides(degrees: float) -> None:
    angles = np.rad2deg(draw(replace(NEVER, rotate_prob=1, rotate_degrees=degrees), 0, 0, 0, PLACES).angle)
    # Of 20,000 uniform angles the outermost is within 0.1 % of the bound but for a chance of 0.999^10,000 = 5·10⁻⁵.
    np.testing.assert_allclose([angles.min(), angles.max()], [-degrees, degrees], rtol=1e-3)
    assert np.abs(angles).max() <= degrees * (1 + 1e-12)  # to radians and back
    # Standard deviation of the mean of a uniform: degrees/√3/√20,000 = 0.0041·degrees; 4.5 of them.
    assert abs(angles.mean()) <= 0.0185 * degrees


def test_cutout_covers_one_to_three_distinct_landmarks_equally_often() -> None:
    draws = draw(ALWAYS, 2, 0, 0, PLACES)
    counts = np.bincount(draws.box_count, minlength=4) / PLACES
    # 4.5 standard deviations of a share of 1/3 and of 1/5.
    np.testing.assert_allclose(counts, [0, 1 / 3, 1 / 3, 1 / 3], atol=4.5 * np.sqrt(2 / 9 / PLACES))
    assert draws.box_points.shape == (PLACES, MAX_BOXES)
    assert (np.diff(np.sort(draws.box_points, axis=1), axis=1) > 0).all()
    for column in draws.box_points.T:
        landmarks = np.bincount(column, minlength=5) / PLACES
        np.testing.assert_allclose(landmarks, np.full(5, 1 / 5), atol=4.5 * np.sqrt(4 / 25 / PLACES))


def test_box_sides_cover_5_to_10_percent_alone_and_less_each_when_there_are_more() -> None:
    draws = draw(ALWAYS, 2, 0, 0, PLACES)
    for count in (1, 2, 3):
        area = (draws.box_side[draws.box_count == count] * count) ** 2
        assert area.min() >= 0.05 - 1e-12  # the square of a square root
        assert area.max() <= 0.10 + 1e-12
        # About 6,700 uniform values: the outermost within 0.5 % of the range but for a chance of 0.995^6,700.
        np.testing.assert_allclose([area.min(), area.max()], [0.05, 0.10], atol=0.005 * 0.05)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from(["sphereface", "arcface"]), st.integers(0, 1_000))
def test_boxes_are_squares_over_the_moved_template_points_inside_the_input(
    size: tuple[int, int], template: str, seed: int
) -> None:
    height, width = size
    draws = draw(replace(ALWAYS, rotate_degrees=40), seed, 0, 0, 30)
    corners, extents = boxes(draws, geometry(draws, size), Preprocessing(size, template=template))
    assert corners.dtype == extents.dtype == np.float32
    assert corners.shape == extents.shape == (30, 2 * MAX_BOXES)
    low, extent = corners.reshape(30, MAX_BOXES, 2), extents.reshape(30, MAX_BOXES, 2)
    assert (low >= 0).all()
    assert (low + extent <= (height, width)).all()
    for sample in range(30):
        move = opencv_move(bool(draws.flip[sample]), float(np.rad2deg(draws.angle[sample])), height, width)
        moved = transform(move[None], template_points(template, size)[None])[0]
        for box in range(MAX_BOXES):
            if box >= draws.box_count[sample]:
                assert (extent[sample, box] == 0).all()
                continue
            x, y = moved[draws.box_points[sample, box]]
            side = draws.box_side[sample] * np.array([height, width])
            for axis, (center, limit) in enumerate(((y, height), (x, width))):
                # Each edge is rounded to the pixel on its own: half a pixel, and what float arithmetic adds.
                edges = np.clip([center - side[axis] / 2, center + side[axis] / 2], 0, limit)
                start = low[sample, box, axis]
                np.testing.assert_allclose([start, start + extent[sample, box, axis]], edges, atol=0.5 + 1e-3)


def test_no_cutout_gives_boxes_without_extent() -> None:
    draws = draw(replace(ALWAYS, cutout_prob=0), 0, 0, 0, 100)
    assert not boxes(draws, geometry(draws, (112, 112)), Preprocessing((112, 112)))[1].any()
