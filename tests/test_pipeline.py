"""The DALI graph on the CPU against OpenCV; batches against each other for any number of ranks."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from nvidia.dali import backend, ops
from PIL import Image
from torchvision import transforms

from fr.alignment import ALIGNMENTS, Array, compose, invert, template_points
from fr.data import pipeline
from fr.data.augmentation import EFFECTS, boxes, draw, geometry
from fr.data.bad_images import BadImages
from fr.data.faces import Faces, LabelledFaces
from fr.data.graph import face_graph, regions
from fr.data.order import Order
from fr.data.pairs.lfw import read_lfw
from fr.data.pipeline import DaliSettings, dali_settings, plain_stream
from fr.data.training_stream import TrainingStream
from fr.distributed import Ranks
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing
from tests.conftest import vgg_faces

CPU = DaliSettings("cpu", None, 1)
PLAIN = Preprocessing((112, 96), template="sphereface")
OFF = Augmentation(flip_prob=0, rotate_prob=0, cutout_prob=0, blur_prob=0)
Pixels = NDArray[np.uint8]


def rank_of(rank: int, world: int, device: str = "cpu", local_world: int = 1) -> Ranks:
    return Ranks(rank, world, rank, local_world, torch.device(device))


def picture(seed: int, height: int = 150, width: int = 170) -> Pixels:
    """Coloured blobs of a few pixels: detail enough to see a wrong shift, smooth enough for JPEG."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.clip((soft - 127) * 6 + 127, 0, 255).astype(np.uint8)


def faces_of(folder: Path, images: dict[str, Pixels], landmarks: Array) -> LabelledFaces:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), image)
    people = [name.split("/")[0] for name in images]
    known = list(dict.fromkeys(people))
    labels = np.array([known.index(person) for person in people], dtype=np.int64)
    return LabelledFaces(DataRoot(folder), pa.array(list(images), type=pa.string()), landmarks, labels, known)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> LabelledFaces:
    """24 JPEGs of 8 people; faces turned, moved and scaled by up to a quarter."""
    rng = np.random.default_rng(0)
    template = template_points("sphereface", (112, 96))
    landmarks = template * rng.uniform(0.8, 1.1, (24, 1, 1)) + (35, 20) + rng.normal(0, 4, (24, 5, 2))
    images = {f"p{index // 3}/{index}.jpg": picture(index) for index in range(24)}
    return faces_of(tmp_path_factory.mktemp("photographs"), images, landmarks)


def levels(images: torch.Tensor, preprocessing: Preprocessing) -> Array:
    """Back from network units to 0–255, as [N, H, W, 3]."""
    values = np.asarray(images, dtype=np.float64).transpose(0, 2, 3, 1)
    return (values * preprocessing.std + preprocessing.mean) * 255


def plain(faces: Faces, preprocessing: Preprocessing = PLAIN, batch_size: int = 8) -> Array:
    stream = plain_stream(faces, np.arange(len(faces)), batch_size, preprocessing, CPU)
    return np.concatenate([levels(images, preprocessing) for images in stream])


def warped(image: Pixels, matrix: Array, preprocessing: Preprocessing) -> Array:
    height, width = preprocessing.input_size
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR).astype(np.float64)


def by_opencv(faces: Faces, preprocessing: Preprocessing, moves: Array | None = None) -> Array:
    template = template_points(preprocessing.template, preprocessing.input_size)
    matrices = ALIGNMENTS[preprocessing.alignment](faces.landmarks, template)
    if moves is not None:
        matrices = compose(moves, matrices)
    aligned = []
    for index, matrix in enumerate(matrices):
        image = cv2.imread(faces.path(index), cv2.IMREAD_COLOR)
        assert image is not None
        image = image[:, :, ::-1] if preprocessing.color_order == "rgb" else image
        sigma = documented_sigma(matrix)
        if sigma:
            size = 2 * int(np.ceil(3 * sigma)) + 1  # DALI's window for a sigma
            image = cv2.GaussianBlur(image, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101)
        aligned.append(warped(np.ascontiguousarray(image), matrix, preprocessing))
    return np.stack(aligned)


def documented_sigma(matrix: Array) -> float:
    """Variance of a box of `shrink` pixels less that of one pixel; none below 20 % of shrinking."""
    shrink = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    return float(np.sqrt((shrink**2 - 1) / 12)) if shrink >= 1.2 else 0.0


def assert_same_picture(found: Array, expected: Array) -> None:
    # Both decode with libjpeg-turbo; what differs is interpolation: OpenCV may round places to 1/32 pixel and both
    # round to whole levels. 1/64 of a pixel on the steepest edges here (under 255 levels a pixel) is 4 levels, on
    # the average gradient a small part of one.
    difference = np.abs(found - expected)
    assert difference.mean() < 0.5
    assert difference.max() < 6


def test_plain_stream_is_opencvs_warp_of_the_decoded_photograph(photographs: LabelledFaces) -> None:
    expected = by_opencv(photographs, PLAIN)
    assert expected.std() > 40  # an image, not a border
    assert_same_picture(plain(photographs), expected)


def test_sample_faces_are_opencvs_warp(sample_data: Path) -> None:
    faces = vgg_faces(sample_data)
    some = Faces(faces.root, faces.names[:16], faces.landmarks[:16])
    assert_same_picture(plain(some), by_opencv(some, PLAIN))


def test_real_faces_are_opencvs_warp(shared_data: Path) -> None:
    base = shared_data / "faces-mini/lfw"
    faces = read_lfw(DataRoot(base / "lfw"), str(base / "pairs.txt"), str(base / "lfw_landmark.txt"))
    some = Faces(faces.root, faces.names[:32], faces.landmarks[:32])
    arcface = Preprocessing((112, 112), template="arcface", alignment="umeyama")
    for preprocessing in (PLAIN, arcface):
        assert_same_picture(plain(some, preprocessing), by_opencv(some, preprocessing))


@pytest.mark.parametrize("scale", [0.6, 1.0, 3.0])
def test_decoding_only_the_region_changes_nothing_but_rounding(
    photographs: LabelledFaces, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = replace(photographs, landmarks=(photographs.landmarks - 75) * scale + 75)

    def whole(matrices: Array, input_size: tuple[int, int]) -> dict[str, NDArray[Any]]:
        known = regions(matrices, input_size)
        return known | {"low": np.zeros_like(known["low"]), "high": np.full_like(known["high"], 1e6)}

    by_region = plain(faces)
    monkeypatch.setattr(pipeline, "regions", whole)
    difference = np.abs(by_region - plain(faces))
    # Places counted from another corner differ by float32's rounding, about 10⁻⁵ pixels. That turns a value next to a
    # half to the other level, which is one in some thousands; pixels missing at an edge would be far off.
    assert difference.max() < 1.001
    assert (difference > 0.5).mean() < 0.005


def test_regions_hold_every_pixel_that_bilinear_interpolation_and_the_blur_read() -> None:
    rng = np.random.default_rng(1)
    height, width = 112, 96
    count = 500
    angle, scale = rng.uniform(-np.pi, np.pi, count), np.exp(rng.uniform(np.log(0.05), np.log(8), count))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    shift = rng.uniform(-3_000, 3_000, (count, 2))
    shift[:100] = np.round(shift[:100])  # whole and half pixels are where an edge is missed
    angle_free = slice(0, 50)
    cos[angle_free], sin[angle_free] = np.round(scale[angle_free] * 2 + 1) / 2, 0
    matrices = np.stack([np.stack([cos, -sin, shift[:, 0]], 1), np.stack([sin, cos, shift[:, 1]], 1)], 1)
    region = regions(matrices, (height, width))
    back = invert(matrices)
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], dtype=np.float64)
    for index in range(count):
        reach = np.ceil(3 * documented_sigma(matrices[index]))
        places = corners @ back[index, :, :2].T + back[index, :, 2]
        # The warp computes in float32; places reach 10⁵ here, where that is 2⁻⁷ = 0.008 pixels; four of those.
        low = np.floor(places.min(0) - 0.03) - reach
        high = np.floor(places.max(0) + 0.03) + 1 + reach
        assert (region["low"][index] <= low).all()
        assert (region["high"][index] >= high + 1).all()  # `high` is the first pixel not read


@pytest.mark.parametrize("shift", [(-60, 0), (70, 10), (0, -70), (0, 75), (-55, 60)])
def test_what_lies_outside_the_photograph_is_black(photographs: LabelledFaces, shift: tuple[int, int]) -> None:
    faces = replace(photographs, landmarks=photographs.landmarks + shift)
    found, expected = plain(faces), by_opencv(faces, PLAIN)
    assert_same_picture(found, expected)
    outside = expected.max(axis=3) == 0
    assert 0.05 < outside.mean() < 0.95  # a part of each, or the case shows nothing
    # A pixel whose place rounds to just outside for one and just inside for the other: 1/32 of 255 levels at most.
    assert found[outside].max() <= 8
    assert (found[outside] == 0).mean() > 0.999


@pytest.mark.parametrize("shift", [(-400, 0), (400, 0), (0, -400), (0, 400), (5_000, -5_000)])
def test_faces_wholly_outside_the_photograph_are_black(photographs: LabelledFaces, shift: tuple[int, int]) -> None:
    assert not plain(replace(photographs, landmarks=photographs.landmarks + shift)).any()


def test_a_face_that_shrinks_a_lot_is_smoothed_as_documented(tmp_path: Path) -> None:
    # One-pixel detail, which a plain bilinear warp to a fifth would turn into noise.
    noise = np.random.default_rng(3).integers(0, 256, (600, 560, 3), dtype=np.uint8)
    landmarks = template_points("sphereface", PLAIN.input_size) * np.array([5.0, 2.0, 1.25, 1.15])[:, None, None]
    faces = faces_of(tmp_path, {f"a/{index}.png": noise for index in range(4)}, landmarks)
    found, expected = plain(faces), by_opencv(faces, PLAIN)
    for one, other in zip(found[:3], expected[:3], strict=True):
        # Noise is the worst case for places rounded to 1/32 pixel: 1/64 of a gradient whose size is that of the
        # image's own spread, and half a level of rounding on each side.
        assert np.abs(one - other).mean() < 0.5 + other.std() / 32
        assert np.abs(one - other).max() < 2 + 8
    # White noise after a box of 5×5 has a fifth of its deviation of 74; a plain warp leaves about two thirds.
    assert found[0].std() < 74 / 4
    assert found[3].std() > 74 / 2  # 15 % of shrinking isn't filtered


def test_a_centre_crop_is_torchvisions_of_pillows_bilinear_filter(tmp_path: Path) -> None:
    """Larger and smaller images, upright and wide; sides that don't scale to whole numbers."""
    sizes = [(600, 533), (301, 300), (231, 480), (256, 256), (77, 64), (101, 90)]
    images = {f"a/{height}.png": picture(height, height, width) for height, width in sizes}
    landmarks = np.full((len(sizes), 5, 2), 3.0)  # not used
    crop = Preprocessing((224, 224), alignment="center_crop")
    by_torchvision = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    found = plain(faces_of(tmp_path, images, landmarks), crop)
    for one, image in zip(found, images.values(), strict=True):
        expected = np.asarray(by_torchvision(Image.fromarray(image[:, :, ::-1])), dtype=np.float64)
        assert expected.std() > 30
        # Pillow rounds to whole levels after each axis, DALI once.
        assert np.abs(one - expected).max() < 1.01
        assert np.abs(one - expected).mean() < 0.25


def test_a_strip_has_no_centre_to_crop(tmp_path: Path) -> None:
    """Resized as a whole, a kilobyte would take gigabytes."""
    faces = faces_of(tmp_path, {"a/1.png": picture(0, 9, 181)}, np.full((1, 5, 2), 3.0))
    with pytest.raises(InputError, match=r"a/1\.png: one side is more than 20 times the other"):
        plain(faces, Preprocessing((64, 64), alignment="center_crop"))


@pytest.mark.parametrize("color_order", ["rgb", "bgr"])
def test_mean_std_and_color_order_are_applied_per_channel(photographs: LabelledFaces, color_order: str) -> None:
    some = Faces(photographs.root, photographs.names[:4], photographs.landmarks[:4])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normal = replace(PLAIN, color_order=color_order, mean=mean, std=std)
    (images,) = plain_stream(some, np.arange(4), 4, normal, CPU)
    assert images.dtype == torch.float32
    assert images.shape == (4, 3, 112, 96)
    (raw,) = plain_stream(some, np.arange(4), 4, PLAIN, CPU)
    channels = raw.numpy() if color_order == "rgb" else raw.numpy()[:, ::-1]
    expected = (channels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(images, expected, atol=1e-5)  # float32 of values below 3


def test_the_last_batch_of_plain_stream_is_smaller(photographs: LabelledFaces) -> None:
    indices = np.array([5, 3, 5, 20, 1, 0, 9])
    batches = [batch.clone() for batch in plain_stream(photographs, indices, 3, PLAIN, CPU)]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(levels(torch.cat(batches), PLAIN), plain(photographs)[indices])


def test_grey_jpeg_and_png_give_three_equal_or_their_own_channels(tmp_path: Path) -> None:
    grey = np.array(cv2.cvtColor(picture(1), cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    images = {"a/grey.jpg": grey, "a/grey.png": grey, "a/color.png": picture(2)}
    faces = faces_of(tmp_path, images, np.repeat(template_points("sphereface", (112, 96))[None] + 30, 3, axis=0))
    found = plain(faces)
    assert_same_picture(found, by_opencv(faces, PLAIN))
    assert (np.ptp(found[:2], axis=3) < 1e-3).all()
    assert np.ptp(found[2], axis=2).max() > 50


# --- training batches -----------------------------------------------------------------------------------------------

STRONG = Augmentation(
    rotate_degrees=20,
    zoom_prob=0.5,
    shift_prob=0.5,
    crop_prob=0.5,
    color_prob=0.3,
    gray_prob=0.3,
    cutout_prob=0.5,
    blur_prob=0.5,
    lowres_prob=0.3,
    jpeg_prob=0.3,
    erase_prob=0.3,
    mix_prob=0.5,
)


def batches(
    faces: LabelledFaces,
    iterations: range,
    ranks: Ranks,
    accumulate: int = 1,
    augment: Augmentation = STRONG,
    seed: int = 7,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = Order(len(faces), 8, seed)
    none_bad = BadImages(0)
    for images, labels in TrainingStream(faces, order, iterations, ranks, accumulate, PLAIN, augment, CPU, none_bad):
        yield images.clone(), labels


def put_together(
    faces: LabelledFaces, world: int, accumulate: int, iterations: range
) -> tuple[torch.Tensor, torch.Tensor]:
    """The global batches: of each micro-batch, the ranks' parts in order."""
    by_rank = [list(batches(faces, iterations, rank_of(rank, world), accumulate)) for rank in range(world)]
    parts = [part for turn in zip(*by_rank, strict=True) for part in turn]
    assert {len(images) for images, _ in parts} == {8 // world // accumulate}
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_global_batches_are_bit_equal_for_any_ranks_and_accumulation(
    photographs: LabelledFaces, world: int, accumulate: int
) -> None:
    whole = put_together(photographs, 1, 1, range(4))
    images, labels = put_together(photographs, world, accumulate, range(4))
    assert torch.equal(images, whole[0])
    assert torch.equal(labels, whole[1])


def test_a_stream_started_at_an_iteration_equals_the_tail_of_one_from_0(photographs: LabelledFaces) -> None:
    whole = list(batches(photographs, range(5), rank_of(0, 1)))
    tail = list(batches(photographs, range(2, 5), rank_of(0, 1)))
    assert len(tail) == 3
    for (images, labels), (expected, expected_labels) in zip(tail, whole[2:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)
    assert not torch.equal(whole[0][0], whole[3][0])  # three iterations an epoch: same place, other epoch


def test_another_seed_gives_other_batches(photographs: LabelledFaces) -> None:
    ((one, _),) = batches(photographs, range(1), rank_of(0, 1), seed=1)
    ((other, _),) = batches(photographs, range(1), rank_of(0, 1), seed=2)
    assert not torch.equal(one, other)


def first_batch(faces: LabelledFaces, augment: Augmentation) -> tuple[LabelledFaces, Array]:
    """Eight faces in the order of the first batch, and the batch in levels."""
    ((images, labels),) = batches(faces, range(1), rank_of(0, 1), augment=augment)
    indices = Order(len(faces), 8, 7).share(0, 0, 1).indices
    names = faces.names.take(pa.array(indices))
    chosen = LabelledFaces(faces.root, names, faces.landmarks[indices], faces.labels[indices], faces.identities)
    np.testing.assert_array_equal(labels, chosen.labels)
    return chosen, levels(images, PLAIN)


def test_mirror_and_rotation_are_one_opencv_warp_with_the_alignment(photographs: LabelledFaces) -> None:
    augment = replace(OFF, flip_prob=0.5, rotate_prob=1, rotate_degrees=30)
    chosen, found = first_batch(photographs, augment)
    moves = geometry(draw(augment, 7, 0, 0, 8), PLAIN.input_size)
    assert_same_picture(found, by_opencv(chosen, PLAIN, moves))


def test_blur_is_opencvs_5x5_box(photographs: LabelledFaces) -> None:
    _, sharp = first_batch(photographs, OFF)
    _, found = first_batch(photographs, replace(OFF, blur_prob=1))
    for one, other in zip(found, sharp, strict=True):
        expected = cv2.blur(np.round(other).astype(np.uint8), (5, 5))
        # Sums of 25 levels times a float32 1/25: at a half the two may round to different sides.
        np.testing.assert_allclose(one, expected, atol=1 + 1e-3)


def test_cut_out_boxes_are_black_and_the_rest_is_untouched(photographs: LabelledFaces) -> None:
    augment = replace(OFF, cutout_prob=1, flip_prob=0.5)
    _, uncut = first_batch(photographs, replace(augment, cutout_prob=0))
    _, found = first_batch(photographs, augment)
    draws = draw(augment, 7, 0, 0, 8)
    corners, sides = boxes(draws, geometry(draws, PLAIN.input_size), PLAIN)
    expected = uncut.copy()
    for sample, (corner, side) in enumerate(zip(corners.astype(int), sides.astype(int), strict=True)):
        for y, x, height, width in np.concatenate([corner.reshape(3, 2), side.reshape(3, 2)], axis=1):
            expected[sample, y : y + height, x : x + width] = 0
    assert (expected != uncut).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(found, expected)


# --- images that can't be used ---------------------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "text": b"<html>404</html>" * 50,
                "half": whole[: len(whole) // 2],
                "without its end": whole[:-2],
                "header only": whole[:20],
                "one byte": whole[:1],
                "PNG without its data": b"\x89PNG\r\n\x1a\n" + bytes(60),
            }[how]
        )


HARM = [
    "missing",
    "folder",
    "empty",
    "text",
    "half",
    "without its end",
    "header only",
    "one byte",
    "PNG without its data",
]


@pytest.mark.parametrize("how", HARM)
def test_a_bad_photograph_is_named_in_the_iteration_that_needs_it(tmp_path: Path, how: str) -> None:
    images = {f"a/{index}.jpg": picture(index) for index in range(10)}
    faces = faces_of(tmp_path, images, np.repeat(template_points("sphereface", (112, 96))[None] + 30, 10, axis=0))
    good = plain(faces, batch_size=2)
    spoil(tmp_path / "a/7.jpg", how)
    stream = plain_stream(faces, np.arange(10), 2, PLAIN, CPU)
    for iteration in range(3):
        np.testing.assert_array_equal(levels(next(stream), PLAIN), good[2 * iteration : 2 * iteration + 2])
    with pytest.raises(InputError) as caught:
        next(stream)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/a/7.jpg: can't be ")


# --- the GPU graph, without a GPU -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alignment", ["procrustes", "center_crop"])
@pytest.mark.parametrize(("effects", "teacher"), [((), None), (tuple(EFFECTS), None), (tuple(EFFECTS), PLAIN)])
def test_every_operator_of_the_gpu_graph_exists_for_its_device_and_takes_its_inputs(
    effects: tuple[str, ...], teacher: Preprocessing | None, alignment: str
) -> None:
    graph = face_graph(
        source=lambda: None,
        preprocessing=replace(PLAIN, alignment=alignment),
        dali_device="gpu",
        effects=effects,
        teacher=teacher,
        batch_size=2,
        num_threads=1,
        device_id=0,
        prefetch_queue_depth=2,
    )
    graph._build_graph()  # traces the Python function; the operators themselves would need a driver
    known = {"cpu": ops.cpu_ops(), "gpu": ops.gpu_ops(), "mixed": ops.mixed_ops()}
    on_gpu = []
    for node in graph._ops:
        name = getattr(node._op, "schema_name", "ExternalSource")
        assert name in known[node._op.device]
        if node._op.device != "cpu":
            on_gpu.append(name)
        schema = backend.GetSchema(name)
        for place in range(node.spec.NumRegularInput()):
            given = node.spec.InputDevice(place)
            wanted = schema.GetInputDevice(place, given, node._op.device)
            assert given == ("cpu" if wanted == "mixed" else wanted)  # a mixed operator reads on the CPU
    assert on_gpu[0] == "decoders__ImageSlice"
    assert {"WarpAffine", "CropMirrorNormalize"} < set(on_gpu)
    assert {"Erase", "Filter", "Contrast", "Saturation", "Resize"} <= set(on_gpu) or not effects


# --- settings -------------------------------------------------------------------------------------------------------


def test_dali_on_the_gpu_needs_the_network_there() -> None:
    with pytest.raises(InputError, match="--dali_device gpu needs --device cuda"):
        dali_settings("gpu", 0, rank_of(0, 1))


@pytest.mark.parametrize(
    ("wish", "device", "expected"),
    [
        ("auto", "cpu", ("cpu", None)),
        ("cpu", "cpu", ("cpu", None)),
        ("auto", "cuda:3", ("gpu", 3)),
        ("gpu", "cuda:1", ("gpu", 1)),
        ("cpu", "cuda:1", ("cpu", None)),
    ],
)
def test_dali_follows_the_network_unless_told_to_stay_on_the_cpu(
    wish: str, device: str, expected: tuple[str, int | None]
) -> None:
    settings = dali_settings(wish, 1, rank_of(0, 1, device))
    assert (settings.device, settings.gpu) == expected


@pytest.mark.parametrize(
    ("cores", "local_world", "wish", "threads"), [(8, 1, 0, 8), (8, 3, 0, 2), (2, 4, 0, 1), (8, 4, 5, 5)]
)
def test_a_rank_takes_its_share_of_the_cores_unless_told(
    monkeypatch: pytest.MonkeyPatch, cores: int, local_world: int, wish: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert dali_settings("auto", wish, rank_of(0, local_world, local_world=local_world)).threads == threads
