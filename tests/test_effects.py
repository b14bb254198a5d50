"""Each effect of the DALI graph against another library's, on faces that the alignment leaves as they are."""

import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as tv
from numpy.typing import NDArray
from PIL import Image

from fr.alignment import template_points
from fr.data.augmentation import EFFECTS, Effect
from fr.data.faces import Faces
from fr.data.graph import face_graph
from fr.data.pipeline import DaliSettings, FaceStream
from fr.data.samples import SampleBatch
from fr.files.data_root import DataRoot
from fr.preprocessing import Preprocessing
from tests.conftest import ROOT

COUNT, HEIGHT, WIDTH = 24, 112, 96
RGB = Preprocessing((HEIGHT, WIDTH), color_order="rgb")
BGR = replace(RGB, color_order="bgr")
Pixels = NDArray[np.uint8]  # [N, H, W, 3] or [H, W, 3], RGB

RNG = np.random.default_rng(0)
FACTORS = RNG.uniform(0.5, 1.5, (COUNT, 3)).astype(np.float32)
SIZES = RNG.integers((22, 19), (HEIGHT, WIDTH), (COUNT, 2)).astype(np.float32)
QUALITIES = RNG.integers(1, 101, COUNT).astype(np.int32)
CORNERS = RNG.integers(0, 60, (COUNT, 2))
BOXES = np.stack([CORNERS, RNG.integers(0, 36, (COUNT, 2))], axis=1).astype(np.float32)
GREY = FACTORS * (1, 1, 0)
PARAMETERS: dict[str, NDArray[Any]] = {"color": FACTORS, "lowres": SIZES, "jpeg": QUALITIES, "erase": BOXES}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """Images of the input's size, with all levels and edges of all directions in each channel."""
    root = tmp_path_factory.mktemp("faces")
    for index in range(COUNT):
        noise = RNG.uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)
        soft = (cv2.GaussianBlur(noise, (0, 0), 3) - 127) * 8 + 127
        assert cv2.imwrite(f"{root}/{index}.png", np.clip(soft, 0, 255).astype(np.uint8))
    landmarks = np.repeat(template_points(RGB.template, RGB.input_size)[None], COUNT, axis=0)
    return Faces(DataRoot(root), pa.array([f"{index}.png" for index in range(COUNT)], type=pa.string()), landmarks)


def shown(faces: Faces, effects: dict[str, Effect], preprocessing: Preprocessing = RGB) -> Pixels:
    """Output of the training's graph: [N, H, W, 3] in the contract's colour order."""
    batch = SampleBatch(faces, np.arange(COUNT), effects=effects)
    stream = FaceStream(iter([batch]), COUNT, preprocessing, DaliSettings("cpu", None, 1), tuple(effects))
    levels = np.asarray(next(stream)[0]).transpose(0, 2, 3, 1) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)  # times 1/255 and back in float32
    return np.round(levels).astype(np.uint8)


def always(name: str, parameters: NDArray[Any]) -> dict[str, Effect]:
    return {name: Effect(np.ones(COUNT, dtype=bool), np.ascontiguousarray(parameters, dtype=parameters.dtype))}


@pytest.fixture(scope="module")
def plain(faces: Faces) -> Pixels:
    found = shown(faces, {})
    for index in range(COUNT):
        file = cv2.imread(faces.path(index))
        np.testing.assert_array_equal(found[index, :, :, ::-1], file)  # the alignment moves nothing
    return found


def by_torchvision(image: Pixels, factors: NDArray[np.float32]) -> NDArray[np.float64]:
    unit = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    unit = tv.adjust_brightness(unit, float(factors[0]))
    unit = tv.adjust_contrast(unit, float(factors[1]))
    unit = tv.adjust_saturation(unit, float(factors[2]))
    return unit.permute(1, 2, 0).double().numpy() * 255


@pytest.mark.parametrize("factors", [FACTORS, GREY.astype(np.float32)], ids=["color", "grey"])
def test_colour_is_torchvisions_brightness_contrast_and_saturation(
    faces: Faces, plain: Pixels, factors: NDArray[np.float32]
) -> None:
    found = shown(faces, always("color", factors))
    for image, one, factor in zip(plain, found, factors, strict=True):
        # Each step rounds to a level, which the later ones multiply by up to 1.5: 0.5 · (1.5² + 1.5 + 1), and 0.5 · 0.5
        # for the mean of rounded greys; torchvision's weights of grey are .2989 where ours are .299.
        np.testing.assert_allclose(one, by_torchvision(image, factor), atol=2.7)


def test_grey_is_torchvisions(faces: Faces, plain: Pixels) -> None:
    found = shown(faces, always("color", np.array([[1, 1, 0]] * COUNT, dtype=np.float32)))
    assert (np.ptp(found, axis=3) == 0).all()
    expected = tv.rgb_to_grayscale(torch.from_numpy(plain).permute(0, 3, 1, 2).double(), 3).permute(0, 2, 3, 1)
    # Rounded to a level; torchvision's weight of red is .2989, ours .299: 0.026 of a level.
    np.testing.assert_allclose(found, expected, atol=0.5 + 0.03)


def test_low_resolution_is_torchs_antialiased_resize_and_back(faces: Faces, plain: Pixels) -> None:
    found = shown(faces, always("lowres", SIZES))
    for image, one, (height, width) in zip(plain, found, SIZES.astype(int).tolist(), strict=True):
        levels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double()
        # Beyond the edge DALI's filter sees the edge repeated; torch's sees nothing, so it is repeated for it.
        wide = F.pad(levels, (WIDTH, WIDTH, HEIGHT, HEIGHT), mode="replicate")
        small = F.interpolate(wide, (3 * height, 3 * width), mode="bilinear", antialias=True)
        small = small[:, :, height:-height, width:-width]
        full = F.interpolate(small, (HEIGHT, WIDTH), mode="bilinear")[0].permute(1, 2, 0)
        np.testing.assert_allclose(one, full, atol=0.5 + 0.5 + 1e-3)  # either way rounds to a level; float32


def test_jpeg_damage_is_that_of_pillows_file(faces: Faces, plain: Pixels) -> None:
    found = shown(faces, always("jpeg", QUALITIES))
    for image, one, quality in zip(plain, found, QUALITIES.tolist(), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        np.testing.assert_array_equal(one, np.asarray(Image.open(file)))  # both by libjpeg's integer arithmetic


@pytest.mark.parametrize("name", ["cutout", "erase"])
def test_rectangles_are_black_and_the_rest_is_untouched(faces: Faces, plain: Pixels, name: str) -> None:
    found = shown(faces, always(name, BOXES))
    expected = plain.copy()
    for image, ((y, x), (height, width)) in zip(expected, BOXES.astype(int).tolist(), strict=True):
        image[y : y + height, x : x + width] = 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_effect_changes_only_the_selected_samples(faces: Faces, plain: Pixels, name: str) -> None:
    drawn = np.arange(COUNT) % 3 == 0
    found = shown(faces, {name: Effect(drawn, PARAMETERS[name])})
    np.testing.assert_array_equal(found[~drawn], plain[~drawn])
    np.testing.assert_array_equal(found[drawn], shown(faces, always(name, PARAMETERS[name]))[drawn])


def test_effects_are_applied_one_after_the_other_as_given(faces: Faces, tmp_path: Path) -> None:
    chain = {name: always(name, PARAMETERS[name])[name] for name in ("color", "lowres", "jpeg", "erase")}
    step = replace(faces, root=DataRoot(tmp_path))
    images = shown(faces, {})
    for name, effect in chain.items():
        for index, image in enumerate(images):
            Image.fromarray(image).save(step.path(index))
        images = shown(step, {name: effect})
    np.testing.assert_array_equal(shown(faces, chain), images)


def test_effects_on_bgr_are_those_on_rgb(faces: Faces) -> None:
    chain = {name: always(name, PARAMETERS[name])[name] for name in PARAMETERS}
    np.testing.assert_array_equal(shown(faces, chain, BGR)[:, :, :, ::-1], shown(faces, chain))


OPERATORS = {
    "color": {"Brightness", "Contrast", "Saturation", "ColorSpaceConversion"},
    "cutout": {"Erase"},
    "blur": {"Filter"},
    "lowres": {"Resize"},
    "jpeg": {"JpegCompressionDistortion"},
    "erase": {"Erase"},
}


@pytest.mark.parametrize("effects", [(), *((name,) for name in EFFECTS)])
def test_the_graph_holds_the_operators_of_its_effects_and_no_others(effects: tuple[str, ...]) -> None:
    graph = face_graph(lambda: None, RGB, "cpu", effects, batch_size=1, num_threads=1, device_id=None)
    graph._build_graph()
    seen = {getattr(node._op, "schema_name", "") for node in graph._ops}
    assert seen & set().union(*OPERATORS.values()) == set().union(*(OPERATORS[name] for name in effects))


def test_a_killed_process_leaves_no_file_of_its_graph(tmp_path: Path) -> None:
    """DALI removes the files of converted functions at the interpreter's end; a second graph finds them converted."""
    code = """if True:
        import os
        from fr.data.augmentation import EFFECTS
        from fr.data.graph import face_graph
        from fr.preprocessing import Preprocessing
        for effects in ((), tuple(EFFECTS)):
            graph = face_graph(
                lambda: None, Preprocessing((32, 32)), "cpu", effects, batch_size=1, num_threads=1, device_id=None
            )
            graph._build_graph()
        os.kill(os.getpid(), 9)"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL and [*tmp_path.iterdir()] == []
