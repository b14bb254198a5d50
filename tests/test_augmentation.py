"""The draws against their documented probabilities and ranges; their geometry against OpenCV and Pillow."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fr.alignment import Array, template_points, transform
from fr.data.augmentation import EFFECTS, ERASED_AT_LEAST, MAX_BOXES, Draws, boxes, draw, effects, geometry
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing

PLACES = 20_000
SIZES = st.tuples(st.integers(16, 256), st.integers(16, 256))
PROBABILITIES = [field.name for field in fields(Augmentation) if field.name.endswith("_prob")]


def all_with(probability: float) -> Augmentation:
    settings: dict[str, Any] = dict.fromkeys(PROBABILITIES, probability)
    return Augmentation(**settings)


NEVER, ALWAYS = all_with(0), all_with(1)


def happened(draws: Draws) -> dict[str, Array]:
    return {
        "flip_prob": draws.flip,
        "rotate_prob": draws.angle != 0,
        "zoom_prob": draws.zoom != 1,
        "shift_prob": (draws.shift != 0).all(axis=1),
        "crop_prob": draws.crop_side != 1,
        "color_prob": draws.color,
        "gray_prob": draws.gray,
        "cutout_prob": draws.box_count > 0,
        "blur_prob": draws.blur,
        "lowres_prob": draws.lowres,
        "jpeg_prob": draws.jpeg,
        "erase_prob": draws.erase,
    }


def opencv_move(flip: bool, degrees: float, height: int, width: int, zoom: float = 1) -> Array:
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]) if flip else np.eye(3)
    turn = np.array(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom))
    moved: Array = turn @ mirror
    return moved


@settings(max_examples=100, deadline=None)
@given(SIZES, st.lists(st.tuples(st.booleans(), st.floats(-180, 180), st.floats(0.1, 3)), min_size=1, max_size=4))
def test_geometry_is_a_mirror_then_opencvs_rotation_and_zoom_about_the_center(
    size: tuple[int, int], moves: list[tuple[bool, float, float]]
) -> None:
    flip, degrees, zoom = (np.array(column) for column in zip(*moves, strict=True))
    blank = draw(NEVER, 0, 0, 0, len(moves))
    found = geometry(replace(blank, flip=flip, angle=np.deg2rad(degrees), zoom=zoom), size)
    expected = [opencv_move(one, angle, *size, factor) for one, angle, factor in moves]
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


def test_a_shift_moves_the_picture_last_but_for_the_crop() -> None:
    draws = replace(draw(ALWAYS, 0, 0, 0, 50), crop_side=np.ones(50), crop_corner=np.zeros((50, 2)))
    still = geometry(replace(draws, shift=np.zeros((50, 2))), (112, 96))
    # Right and down, in fractions of width and height; sums of numbers around 100 round at 10⁻¹⁴.
    moved = geometry(draws, (112, 96))[:, :, 2] - still[:, :, 2]
    np.testing.assert_allclose(moved, draws.shift * (96, 112), atol=1e-12)


def test_a_crop_is_pillows_resize_of_the_window() -> None:
    """VGGFace2-pytorch's: of an image of 256 a window of 224, here as an image of 128 that keeps its size."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.uniform(0, 255, (128, 128)).astype(np.float32), (0, 0), 3)
    draws = draw(replace(NEVER, crop_prob=1), 5, 0, 0, 20)
    for matrix, (x, y) in zip(geometry(draws, (128, 128)), draws.crop_corner * 128, strict=True):
        found = cv2.warpAffine(image, matrix, (128, 128))
        window = (x, y, x + 112, y + 112)
        expected = np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BILINEAR, box=window))
        # Pillow reads nothing outside the window, which matters along its edge; OpenCV may round places to 1/32 pixel.
        np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], atol=np.abs(np.diff(image)).max() / 16)


def test_new_draws_leave_the_older_ones_as_they_were() -> None:
    older: dict[str, Any] = dict.fromkeys(("flip_prob", "rotate_prob", "cutout_prob", "blur_prob"), 0.5)
    one, other = (vars(draw(replace(base, **older), 3, 4, 5, 100)) for base in (NEVER, ALWAYS))
    for name in ("flip", "angle", "box_count", "box_points", "box_side", "blur"):
        np.testing.assert_array_equal(one[name], other[name])
    # As they were drawn before there were others.
    assert one["flip"][:5].tolist() == [True, False, True, True, True]
    assert np.rad2deg(one["angle"][:5]).round(3).tolist() == [0, 0, -8.846, 9.208, 0]
    assert one["box_count"][:8].tolist() == [2, 3, 0, 0, 0, 3, 1, 0]
    assert one["blur"][:8].tolist() == [True, False, False, False, True, True, True, False]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 1_000), st.integers(0, 10**9), st.lists(st.integers(0, 9), max_size=6))
def test_draws_do_not_depend_on_how_a_range_of_places_is_split(
    seed: int, epoch: int, first: int, sizes: list[int]
) -> None:
    settings_ = all_with(0.5)
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
        setting: dict[str, Any] = {name: probability}
        seen = happened(draw(replace(NEVER, **setting), 0, 0, 0, PLACES))
        # Binomial: 4.5 standard deviations, missed by chance in 7 of 10⁶; the seed is fixed.
        slack = 4.5 * np.sqrt(probability * (1 - probability) / PLACES)
        assert abs(seen.pop(name).mean() - probability) < slack
        assert not any(other.any() for other in seen.values())


def test_effects_of_a_sample_are_independent_of_each_other() -> None:
    halves = all_with(0.5)
    seen = np.stack(list(happened(draw(halves, 1, 0, 0, PLACES)).values())).astype(float)
    # Correlation of independent draws: standard deviation 1/√20,000 = 0.0071; 4.5 of them.
    assert np.abs(np.corrcoef(seen) - np.eye(len(seen))).max() < 0.032


@pytest.mark.parametrize("degrees", [0.0, 10.0, 45.0])
def test_rotate_degrees_bounds_the_angle_on_both_sides(degrees: float) -> None:
    angles = np.rad2deg(draw(replace(NEVER, rotate_prob=1, rotate_degrees=degrees), 0, 0, 0, PLACES).angle)
    # Of 20,000 uniform angles the outermost is within 0.1 % of the bound but for a chance of 0.999^10,000 = 5·10⁻⁵.
    np.testing.assert_allclose([angles.min(), angles.max()], [-degrees, degrees], rtol=1e-3)
    assert np.abs(angles).max() <= degrees * (1 + 1e-12)  # to radians and back
    # Standard deviation of the mean of a uniform: degrees/√3/√20,000 = 0.0041·degrees; 4.5 of them.
    assert abs(angles.mean()) <= 0.0185 * degrees


STRENGTHS = [
    ("zoom_range", 0.3, lambda draws: draws.zoom, (0.7, 1.3)),
    ("shift_range", 0.2, lambda draws: draws.shift[:, 0], (-0.2, 0.2)),
    ("shift_range", 0.2, lambda draws: draws.shift[:, 1], (-0.2, 0.2)),
    ("crop_side", 0.75, lambda draws: draws.crop_corner[:, 0], (0, 0.25)),
    ("crop_side", 0.75, lambda draws: draws.crop_corner[:, 1], (0, 0.25)),
    ("color_brightness", 0.25, lambda draws: draws.color_factors[:, 0], (0.75, 1.25)),
    ("color_contrast", 1.5, lambda draws: draws.color_factors[:, 1], (0, 2.5)),  # as torchvision, never below 0
    ("color_saturation", 0.0, lambda draws: draws.color_factors[:, 2], (1, 1)),
    ("lowres_ratio", 0.4, lambda draws: draws.lowres_ratio, (0.4, 1)),
    ("erase_area", 0.3, lambda draws: draws.erase_extent.prod(axis=1), (ERASED_AT_LEAST, 0.3)),
]


@pytest.mark.parametrize(("name", "strength", "drawn", "bounds"), STRENGTHS)
def test_a_strength_is_the_range_of_what_is_drawn_evenly(
    name: str, strength: float, drawn: Callable[[Draws], Array], bounds: tuple[float, float]
) -> None:
    setting: dict[str, Any] = {name: strength}
    values = drawn(draw(replace(ALWAYS, **setting), 4, 0, 0, PLACES))
    low, high = bounds
    assert low - 1e-12 <= values.min() <= values.max() <= high + 1e-12  # sums of float64
    # Standard deviation of a quartile of uniform numbers: at most √(1/4/20,000) = 0.0036 of the range; 4.5 of them.
    quarters = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quarters, np.linspace(low, high, 5), atol=4.5 * 0.0036 * (high - low) + 1e-12)


def test_jpeg_quality_is_any_whole_number_from_the_lowest_to_100() -> None:
    draws = draw(replace(ALWAYS, jpeg_quality=91), 0, 0, 0, PLACES)
    shares = np.bincount(draws.jpeg_quality, minlength=101)[91:] / PLACES
    np.testing.assert_allclose(shares, np.full(10, 0.1), atol=4.5 * np.sqrt(0.09 / PLACES))  # binomial
    assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize(("area", "aspect"), [(0.4, 0.3), (0.9, 0.3), (0.02, 1.0)])
def test_erased_rectangles_keep_to_their_aspect_and_lie_anywhere_inside(area: float, aspect: float) -> None:
    draws = draw(replace(ALWAYS, erase_area=area, erase_aspect=aspect), 0, 0, 0, PLACES)
    height, width = draws.erase_extent.T
    logs = np.log(height / width)
    assert np.abs(logs).max() <= -np.log(aspect) + 1e-12
    assert abs(logs.mean()) <= 4.5 * -np.log(aspect) / np.sqrt(3 * PLACES) + 1e-12  # a uniform number's at most
    end = draws.erase_corner + draws.erase_extent
    assert (draws.erase_corner >= 0).all()
    assert (end <= 1 + 1e-12).all()
    free = 1 - draws.erase_extent
    share = (draws.erase_corner / free)[(free > 0.01).all(axis=1)]
    # Standard deviation of a uniform number's mean: √(1/12/20,000) = 0.0020.
    np.testing.assert_allclose(share.mean(axis=0), [0.5, 0.5], atol=4.5 * 0.0021)


def test_effects_are_those_with_a_probability_in_the_documented_order() -> None:
    assert NEVER.effects == ()
    assert ALWAYS.effects == ("color", "cutout", "blur", "lowres", "jpeg", "erase")
    assert replace(NEVER, gray_prob=0.1).effects == replace(NEVER, color_prob=0.1).effects == ("color",)
    assert replace(NEVER, flip_prob=1, rotate_prob=1, zoom_prob=1, shift_prob=1, crop_prob=1).effects == ()
    assert set(ALWAYS.effects) == EFFECTS.keys()


def test_grey_takes_the_saturation_and_leaves_what_colour_drew() -> None:
    halves = replace(NEVER, gray_prob=0.5, color_prob=0.5)
    draws = draw(halves, 0, 0, 0, 100)
    color = effects(halves, draws, geometry(draws, (112, 112)), Preprocessing((112, 112)))["color"]
    np.testing.assert_array_equal(color.drawn, draws.gray | draws.color)
    np.testing.assert_array_equal(color.parameters[:, 2] == 0, draws.gray)
    assert (color.parameters[~draws.color, :2] == 1).all()
    np.testing.assert_allclose(color.parameters[draws.color, :2], draws.color_factors[draws.color, :2], rtol=1e-7)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.floats(0.02, 0.99), st.floats(1e-6, 1), st.floats(1e-6, 0.99))
def test_pixels_of_rectangles_and_of_smaller_pictures_are_possible_for_any_strength(
    size: tuple[int, int], area: float, aspect: float, ratio: float
) -> None:
    strong = replace(ALWAYS, erase_area=area, erase_aspect=aspect, lowres_ratio=ratio)
    draws = draw(strong, 0, 0, 0, 30)
    found = effects(strong, draws, geometry(draws, size), Preprocessing(size))
    (low, extent), small = np.moveaxis(found["erase"].parameters, 1, 0), found["lowres"].parameters
    for pixels in (low, extent, small):
        assert pixels.dtype == np.float32
        assert (pixels == np.round(pixels)).all()
    assert (low >= 0).all() and (extent >= 0).all() and (low + extent <= size).all()
    assert (small >= 1).all() and (small <= size).all()
    # Each edge is rounded to the pixel on its own.
    assert (np.abs(extent - draws.erase_extent * size) <= 1 + 1e-3).all()
    assert (np.abs(small - np.maximum(draws.lowres_ratio[:, None] * size, 1)) <= 0.5 + 1e-3).all()


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
    draws = draw(replace(NEVER, flip_prob=1, rotate_prob=1, rotate_degrees=40, cutout_prob=1), seed, 0, 0, 30)
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
