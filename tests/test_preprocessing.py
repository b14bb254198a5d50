"""The preprocessing contract, and what options may wish of it."""

import argparse
from typing import Any

import pytest

from fr.errors import InputError
from fr.models import MODELS, build_model, training_preprocessing
from fr.options.definitions import train_options
from fr.preprocessing import Preprocessing
from tests.conftest import REQUIRED

OWN = Preprocessing((64, 48), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def test_nothing_wished_changes_nothing() -> None:
    assert OWN.with_overrides([], [], [], "auto") == OWN


@pytest.mark.parametrize(("wish", "size"), [([112], (112, 112)), ([112, 96], (112, 96))])
def test_an_input_size_is_a_side_or_height_and_width(wish: list[int], size: tuple[int, int]) -> None:
    assert OWN.with_overrides(wish, [], [], "auto").input_size == size


def test_mean_and_std_are_said_of_red_green_blue_and_kept_in_the_networks_order() -> None:
    said = OWN.with_overrides([], [0.7, 0.8, 0.9], [1, 2, 3], "bgr")
    assert (said.color_order, said.mean, said.std) == ("bgr", (0.9, 0.8, 0.7), (3, 2, 1))
    assert said.with_overrides([], [], [], "rgb") == OWN.with_overrides([], [0.7, 0.8, 0.9], [1, 2, 3], "rgb")
    assert OWN.with_overrides([], [], [], "bgr").mean == (0.3, 0.2, 0.1)


def run_options(*words: str) -> argparse.Namespace:
    return train_options([*REQUIRED, *words]).values


@pytest.mark.parametrize("name", list(MODELS))
def test_a_run_takes_the_models_own_contract_unless_told(name: str) -> None:
    own = training_preprocessing(run_options("--model", name))
    family = MODELS[name]
    assert (own.input_size, own.mean, own.std) == (family.input_size, family.mean, family.std)
    assert own.color_order == family.color_order
    wishes = ["--mean", ".1", ".2", ".3", "--std", "1", "2", "3", "--color_order", "bgr"]
    other = training_preprocessing(run_options("--model", name, *wishes))
    assert (other.color_order, other.mean, other.std) == ("bgr", (0.3, 0.2, 0.1), (3, 2, 1))


def test_a_size_that_the_model_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match="mobilenet needs sides that are multiples of 16, got 64×40"):
        build_model("mobilenet", 8, training_preprocessing(run_options("--input_size", "64", "40")).input_size)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input_size", "32", "32", "32"], "--input_size: takes 1 or 2 values, got 3"),
        (["--mean", "0.5"], "--mean: takes 3 values, got 1"),
        (["--std", "1", "1"], "--std: takes 3 values, got 2"),
        (["--std", "1", "0", "1"], "expected a number > 0"),
    ],
)
def test_a_wrong_number_of_values_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_options(*words)


def test_the_contract_survives_a_snapshot() -> None:
    stored: dict[str, Any] = OWN.as_dict()
    assert Preprocessing.from_dict(stored) == OWN
    with pytest.raises(InputError, match="sharpness"):
        Preprocessing.from_dict(stored | {"sharpness": 1})
