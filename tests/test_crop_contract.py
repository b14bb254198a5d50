"""Template and alignment of aligned crops: those of the crops' own file, or an error; never another by default."""

import json
from pathlib import Path
from typing import Any

import pytest

from fr.data.crop_contract import MARK, crop_notes, with_crop_contract
from fr.errors import InputError
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
