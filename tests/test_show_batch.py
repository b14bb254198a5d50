"""The contact sheet shows what the training's stream gives, and says what was drawn."""

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fr.data.augmentation import Draws, draw
from fr.data.bad_images import BadImages
from fr.data.order import Order
from fr.data.pipeline import DaliSettings, plain_stream
from fr.data.training_stream import TrainingStream
from fr.distributed import Ranks
from fr.errors import run_plainly
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing
from tests.conftest import data_options, vgg_faces
from tools import show_batch
from tools.show_batch import Batch, Cell, describe, each, pairs, sheet

ONE, CPU = Ranks(0, 1, 0, 1, torch.device("cpu")), DaliSettings("cpu", None, 1)
MANY = Augmentation(zoom_prob=0.5, color_prob=0.5, gray_prob=0.3, jpeg_prob=0.5, erase_prob=0.5)
OFF: dict[str, Any] = {field.name: 0.0 for field in fields(Augmentation) if field.name.endswith("_prob")}


@pytest.fixture(scope="module", params=["rgb", "bgr"])
def batch(request: pytest.FixtureRequest, sample_data: Path) -> Batch:
    faces = vgg_faces(sample_data)
    mean, std = (0.2, 0.4, 0.6), (0.5, 0.4, 0.3)
    preprocessing = Preprocessing((64, 48), color_order=request.param, mean=mean, std=std)
    return Batch(faces, Order(len(faces), 16, 3), 4, preprocessing, CPU, ONE, 0)


def levels(images: torch.Tensor, preprocessing: Preprocessing) -> NDArray[np.float64]:
    values = np.asarray(images, dtype=np.float64).transpose(0, 2, 3, 1)
    values = (values * preprocessing.std + preprocessing.mean) * 255
    return values[:, :, :, ::-1] if preprocessing.color_order == "bgr" else values


def of_training(batch: Batch, augmentation: Augmentation) -> tuple[NDArray[np.float64], list[str]]:
    """The fourth batch of a training from its beginning."""
    stream = TrainingStream(
        batch.faces, batch.order, range(9), ONE, 1, batch.preprocessing, augmentation, CPU, BadImages(0)
    )
    *_, (images, labels) = (one for one, _ in zip(stream, range(4), strict=False))
    return levels(images, batch.preprocessing), [batch.faces.identities[label] for label in labels.tolist()]


def test_a_pair_is_the_aligned_face_and_what_the_training_shows(batch: Batch) -> None:
    ((title, cells),) = pairs(batch, MANY, 12).items()
    assert title == "iteration 4, 12 of 16 faces: aligned, augmented"
    images, identities = of_training(batch, MANY)
    (aligned,) = plain_stream(batch.faces, batch.order.share(3, 0, 1).indices, 16, batch.preprocessing, CPU)
    before = levels(aligned, batch.preprocessing)
    assert len(cells) == 12
    for row, cell in enumerate(cells):
        # Through float32 and back to whole levels.
        np.testing.assert_allclose(cell.pixels[:, :48], before[row], atol=1e-3)
        np.testing.assert_allclose(cell.pixels[:, -48:], images[row], atol=1e-3)
        assert cell.caption.startswith(f"{identities[row]}: ")


def test_with_each_a_row_is_one_augmentation_on_every_face(batch: Batch) -> None:
    sections = each(batch, MANY, 5)
    assert [title.split()[0] for title in sections] == [
        "aligned",
        *(f"--{name}_prob" for name in ("flip", "rotate", "zoom", "color", "gray", "cutout", "blur", "jpeg", "erase")),
    ]
    assert "--rotate_prob 0.95, --rotate_degrees 10" in sections
    assert "--erase_prob 0.5, --erase_area 0.4, --erase_aspect 0.3" in sections
    for name in ("rotate", "color", "jpeg"):
        expected, _ = of_training(batch, replace(MANY, **(OFF | {f"{name}_prob": 1.0})))
        (cells,) = (cells for title, cells in sections.items() if title.startswith(f"--{name}_prob"))
        np.testing.assert_allclose([cell.pixels for cell in cells], expected[:5], atol=1e-3)


def words(draws: Draws) -> str:
    return ", ".join(describe(draws, 1)).replace("\N{NO-BREAK SPACE}", " ")


def test_a_caption_says_what_was_drawn_and_nothing_else() -> None:
    nothing = draw(replace(MANY, **OFF), 0, 0, 0, 2)
    yes, quarter = np.ones(2, dtype=bool), np.full(2, 0.25)
    assert words(nothing) == ""
    shift = np.array([[0, 0], [0.03, -0.02]])
    moved = replace(nothing, flip=yes, angle=np.deg2rad([0, 7]), zoom=1 + quarter, shift=shift)
    assert words(moved) == "mirror, turn +7°, zoom 1.25, shift +3 -2 %"
    little = replace(nothing, angle=np.array([0, -0.001]), shift=-np.full((2, 2), 0.001))
    assert words(little) == "turn +0°, shift +0 +0 %"
    colored = replace(nothing, crop_side=quarter, color=yes, color_factors=np.array([[0, 0, 0], [1.5, 0.5, 2]]))
    assert words(colored) == "crop to 25 %, brightness 1.50, contrast 0.50, saturation 2.00"
    assert words(replace(colored, gray=yes)) == "crop to 25 %, brightness 1.50, contrast 0.50, grey"
    damaged = replace(nothing, box_count=np.array([0, 2]), blur=yes, lowres=yes, lowres_ratio=quarter)
    assert words(damaged) == "boxes 2, blur, resolution 25 %"
    extent = np.array([[1, 1], [0.5, 0.24]])
    damaged = replace(nothing, jpeg=yes, jpeg_quality=np.array([1, 9]), erase=yes, erase_extent=extent)
    assert words(damaged) == "JPEG 9, erased 12 %"


@pytest.mark.parametrize("side", [32, 112])
def test_every_cell_is_on_the_sheet_in_whole_multiples_with_its_words(side: int) -> None:
    random = np.random.default_rng(0)
    cells = [Cell(random.integers(0, 256, (side, side, 3), dtype=np.uint8), "words") for _ in range(30)]
    found = np.asarray(sheet({"one": cells[:20], "another": cells[20:]}))
    assert found.shape[1] <= 1600
    scale = 3 if side == 32 else 1
    for cell in cells:
        large = np.kron(cell.pixels, np.ones((scale, scale, 1), dtype=np.uint8))
        corner = (found[: -scale * side, : -scale * side] == large[0, 0]).all(axis=2)
        windows = [(slice(y, y + len(large)), slice(x, x + len(large))) for y, x in np.argwhere(corner).tolist()]
        ((rows, columns),) = (window for window in windows if (found[window] == large).all())
        assert (found[rows.stop : rows.stop + 15, columns] < 128).any()  # black letters


def test_captions_are_written_with_letters_and_not_with_boxes() -> None:
    """Letters that a font lacks all look alike: a box."""
    pixels = np.zeros((112, 112, 3), dtype=np.uint8)
    assert len({sheet({"": [Cell(pixels, name)]}).tobytes() for name in ("Zo\u00eb", "Zo\u00fc", "Zo\u0159")}) == 3


@pytest.fixture
def command(sample_data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | str | None]:
    """command(*arguments) → exit status of the tool on the sample data."""

    def run(*arguments: str) -> int | str | None:
        options = [*data_options(sample_data), "--train_batch_size", "8", "--input_size", "32", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["show_batch.py", *options, *arguments])
        with pytest.raises(SystemExit) as stop:
            run_plainly("tools/show_batch.py", show_batch.main)
        return stop.value.code

    return run


def test_the_command_writes_a_png(command: Callable[..., int], tmp_path: Path) -> None:
    out = tmp_path / "new" / "batch.png"
    assert command("--out", str(out), "--iteration", "2", "--faces", "4", "--jpeg_prob", "1") == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        four = picture.size
    assert command("--out", str(out), "--faces", "99") == 0  # no more than the batch has
    with Image.open(out) as picture:
        assert picture.size > four
    assert command("--out", str(out), "--each") == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--out", "/dev/null/a/b.png"), "show_batch.py: /dev/null/a/b.png: can't be written: Not a directory"),
        (("--out", "."), "show_batch.py: --out .: expected a name that ends in .png"),
        (("--out", "a.png", "--iteration", "0"), "--iteration: expected a whole number >= 1, got '0'"),
        (("--out", "a.png", "--jpeg_quality", "5"), "--jpeg_quality: no effect while 0: --jpeg_prob"),
        (("--out", "a.png", "--train_batch_size", "999"), "--train_batch_size 999 is more than the 96 images"),
        ((), "the following arguments are required: --out"),
    ],
)
def test_bad_input_is_refused_plainly(
    command: Callable[..., int],
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
