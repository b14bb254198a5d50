"""Template and alignment of aligned crops: those of the crops' own file, or an error; never another by default."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fr.data.crop_contract import MARK, crop_notes, photograph_warnings, with_crop_contract
from fr.data.readers.folders import read_folders
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.models import training_preprocessing
from fr.options.definitions import train_options
from fr.options.parsing import Resolved

CUT = {"crop": "aligned", "template": "arcface", "alignment": "umeyama", "margin": 0.0}


def options(folder: Path, *more: str, aligned: bool = True) -> Resolved:
    landmarks = ["--aligned"] if aligned else ["--train_landmarks", "points.csv"]
    return train_options(["--train_dataset", "folder", "--train_data_root", str(folder), *landmarks, *more])


def written(folder: Path, settings: Any) -> Path:
    (folder / MARK).write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return folder


def test_a_training_on_crops_takes_over_how_they_were_cut(tmp_path: Path) -> None:
    resolved = with_crop_contract(options(written(tmp_path, CUT)))
    preprocessing = training_preprocessing(resolved.values)
    assert (preprocessing.template, preprocessing.alignment) == ("arcface", "umeyama")
    assert resolved.as_dict()["template"] == "arcface"
    assert resolved.origins["template"] == str(tmp_path / MARK)  # in the table of options
    assert list(resolved.as_dict()) == list(options(tmp_path).as_dict())
    assert with_crop_contract(options(tmp_path, "--template", "arcface")).values.template == "arcface"


def test_an_option_that_contradicts_the_crops_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        with_crop_contract(options(written(tmp_path, CUT), "--template", "sphereface", "--alignment", "procrustes"))
    cut = f"{tmp_path / MARK} says that these crops were cut with"
    assert list(caught.value.problems) == [
        f"command line: --template sphereface: {cut} arcface; leave --template out",
        f"command line: --alignment procrustes: {cut} umeyama; leave --alignment out",
    ]


@pytest.mark.parametrize("settings", [None, {**CUT, "crop": "loose"}, {}])
def test_without_a_contract_the_options_stay(tmp_path: Path, settings: Any) -> None:
    if settings is not None:
        written(tmp_path, settings)
    plain = options(tmp_path)
    assert with_crop_contract(plain).as_dict() == plain.as_dict()
    assert with_crop_contract(plain).origins == plain.origins


def test_images_with_landmarks_are_no_crops(tmp_path: Path) -> None:
    plain = options(written(tmp_path, CUT), aligned=False)
    assert with_crop_contract(plain) is plain
    assert crop_notes(str(tmp_path), aligned=False) == []


@pytest.mark.parametrize(
    "settings",
    [
        *("{", "[1]", '"x"', "[" * 100_000, "\0"),
        *({**CUT, "template": "face"}, {**CUT, "margin": "wide"}, {**CUT, "margin": None}),
    ],
)
def test_a_file_that_is_no_contract_is_refused(tmp_path: Path, settings: Any) -> None:
    with pytest.raises(InputError, match=r"crops\.json"):
        with_crop_contract(options(written(tmp_path, settings)))


def test_crops_that_show_more_than_the_template_are_told(tmp_path: Path) -> None:
    assert crop_notes(str(written(tmp_path, CUT)), aligned=True) == []
    (wide,) = crop_notes(str(written(tmp_path, {**CUT, "margin": 0.25})), aligned=True)
    assert "crops show 0.25 of the frame beyond the template" in wide
    (loose,) = crop_notes(str(written(tmp_path, {**CUT, "crop": "loose"})), aligned=True)
    assert "loose crops" in loose


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ([(112, 112)] * 3, ""),
        ([(96, 112)] * 3, ""),  # SphereFace's template
        ([(0, 0), (112, 112)], ""),  # an unreadable image, which the training replaces
        ([(250, 250)] * 3, "they are 250×250, as LFW's photographs are"),
        ([(4032, 3024)] * 3, "they are 4032×3024, more elongated than"),
        ([(250, 200), (112, 112)], "their sizes differ, from 112×112 to 250×200, which"),
    ],
)
def test_photographs_given_as_crops_get_a_warning_unless_they_were_cut(
    sizes: list[tuple[int, int]], why: str, tmp_path: Path
) -> None:
    (tmp_path / "p").mkdir()
    for number, size in enumerate(sizes):
        path = tmp_path / f"p/{number}.png"
        path.write_bytes(b"?") if size == (0, 0) else Image.new("L", size).save(path)
    faces = read_folders(DataRoot(tmp_path), "")
    warnings = photograph_warnings(faces, str(tmp_path), aligned=True)
    assert (why in warnings[0] and "tools/detect_faces.py" in warnings[0]) if why else not warnings
    assert not photograph_warnings(faces, str(tmp_path), aligned=False)
    assert not photograph_warnings(faces, str(written(tmp_path, CUT)), aligned=True)
