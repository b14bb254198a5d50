"""The options of the augmentation: their ranges, what is refused, and the effect of each on a training."""

from collections.abc import Callable

import pytest

from fr.data.augmentation import draw, effects, geometry
from fr.errors import InputError
from fr.options.augmentation import Augmentation
from fr.options.definitions import train_options
from fr.preprocessing import Preprocessing
from tests.conftest import REQUIRED, Losses

# An option, a value that isn't its default, and the options without which it has no effect.
STRENGTHS = [
    ("rotate_degrees", "30", ("rotate_prob",)),
    ("zoom_range", "0.3", ("zoom_prob",)),
    ("shift_range", "0.2", ("shift_prob",)),
    ("crop_side", "0.6", ("crop_prob",)),
    ("color_brightness", "0.9", ("color_prob",)),
    ("color_contrast", "0.9", ("color_prob",)),
    ("color_saturation", "0.9", ("color_prob",)),
    ("lowres_ratio", "0.6", ("lowres_prob",)),
    ("jpeg_quality", "3", ("jpeg_prob",)),
    ("erase_area", "0.1", ("erase_prob",)),
    ("erase_aspect", "0.9", ("erase_prob",)),
]
PROBABILITIES = ["zoom", "shift", "crop", "color", "gray", "lowres", "jpeg", "erase"]


def test_defaults_are_those_of_the_options() -> None:
    assert Augmentation.from_options(train_options(REQUIRED).values) == Augmentation()


@pytest.mark.parametrize(("name", "value", "needed"), STRENGTHS)
def test_a_strength_needs_its_probability(name: str, value: str, needed: tuple[str, ...]) -> None:
    off = [f"--{other}=0" for other in needed]
    with pytest.raises(InputError) as refusal:
        train_options([*REQUIRED, *off, f"--{name}={value}"])
    assert str(refusal.value) == f"command line: --{name}: no effect while 0: --{', --'.join(needed)}"
    train_options([*REQUIRED, f"--{needed[0]}=0.1", f"--{name}={value}"])


def test_a_change_of_colour_by_nothing_is_refused() -> None:
    nothing = [f"--color_{name}=0" for name in ("brightness", "contrast", "saturation")]
    with pytest.raises(InputError, match="--color_prob: no effect while 0: --color_brightness, --color_contrast"):
        train_options([*REQUIRED, "--color_prob=0.2", *nothing])
    train_options([*REQUIRED, "--color_prob=0.2", *nothing[1:]])


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        *((f"{name}_prob", "1", "1.1") for name in PROBABILITIES),
        *((f"{name}_prob", "0", "-0.1") for name in PROBABILITIES),
        *(("zoom_range", "0.99", "1"), ("shift_range", "1", "1.1"), ("crop_side", "0.01", "1")),
        *(("zoom_range", "0.01", "0"), ("shift_range", "0.01", "0"), ("crop_side", "0.99", "0")),
        *(("color_brightness", "0", "-1"), ("color_contrast", "9", "nan"), ("color_saturation", "0", "-0.1")),
        *(("lowres_ratio", "0.01", "0"), ("lowres_ratio", "0.99", "1")),
        *(("jpeg_quality", "1", "0"), ("jpeg_quality", "99", "100"), ("jpeg_quality", "50", "50.5")),
        *(("erase_area", "0.02", "0.01"), ("erase_area", "0.99", "1")),
        *(("erase_aspect", "1", "1.1"), ("erase_aspect", "0.01", "0")),
    ],
)
def test_ranges(name: str, good: str, bad: str) -> None:
    on = [f"--{probability}_prob=0.5" for probability in PROBABILITIES]
    train_options([*REQUIRED, *on, f"--{name}={good}"])
    with pytest.raises(InputError, match=f"^command line: --{name}: expected "):
        train_options([*REQUIRED, *on, f"--{name}={bad}"])


# (options that both runs have, an option that one has)
OPTIONS = [
    *(("", f"--{name}_prob 1") for name in PROBABILITIES),
    *((f"--{needed[0]} 1", f"--{name} {value}") for name, value, needed in STRENGTHS),
]


def augmented(options: str) -> list[bytes]:
    """Matrices of a batch, and names, samples and parameters of its pixel transforms."""
    settings = Augmentation.from_options(train_options([*REQUIRED, *options.split()]).values)
    draws, preprocessing = draw(settings, 0, 0, 0, 32), Preprocessing((64, 64), template="sphereface")
    moves = geometry(draws, preprocessing.input_size)
    transforms = effects(settings, draws, moves, preprocessing)
    arrays = [array for effect in transforms.values() for array in effect]
    return [" ".join(transforms).encode(), moves.tobytes(), *(array.tobytes() for array in arrays)]


@pytest.mark.parametrize(("partner", "option"), OPTIONS)
def test_option_changes_the_augmentation(partner: str, option: str) -> None:
    assert augmented(f"{partner} {option}") != augmented(partner)


@pytest.mark.thorough
@pytest.mark.parametrize(("partner", "option"), OPTIONS)
def test_option_changes_the_losses_of_a_training(
    partner: str,
    option: str,
    run_small: Callable[..., Losses],
    reference_with: Callable[[str], Losses],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    seen = run_small(*partner.split(), *option.split(), out=tmp_path_factory.mktemp("seen"))
    assert len(seen) == 3
    assert seen != reference_with(partner)
