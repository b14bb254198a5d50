"""Options of augmentation; `fr/data/augmentation.py` draws and applies it."""

from dataclasses import dataclass

from fr.options.fields import OptionFields, option
from fr.options.types import DEGREES, ERASED, FRACTION, NOT_NEGATIVE, PROBABILITY, QUALITY, RATE

_COLORS = ("color_brightness", "color_contrast", "color_saturation")


def _probability(default: float, what: str, **more: tuple[str, ...]) -> float:
    value: float = option(default, type=PROBABILITY, help=f"{what} [probability]; 0 = off", **more)
    return value


def _color() -> float:
    help = "most change either way [fraction]; 0 = none"
    value: float = option(0.5, type=NOT_NEGATIVE, help=help, needs=("color_prob",))
    return value


@dataclass(frozen=True)
class Augmentation(OptionFields):
    """Probabilities in [0, 1] (0 = off) and strengths."""

    flip_prob: float = _probability(0.5, "mirroring")
    rotate_prob: float = _probability(0.95, "rotation")
    rotate_degrees: float = option(
        10.0, type=DEGREES, help="most rotation either way [degrees]; 0 = off", needs=("rotate_prob",)
    )
    zoom_prob: float = _probability(0.0, "bigger or smaller")
    zoom_range: float = option(0.1, type=FRACTION, help="most bigger or smaller [fraction]", needs=("zoom_prob",))
    shift_prob: float = _probability(0.0, "moved")
    shift_range: float = option(
        0.05, type=RATE, help="most either way, across and down [fraction of the sides]", needs=("shift_prob",)
    )
    crop_prob: float = _probability(0.0, "a random window fills the input")
    crop_side: float = option(0.875, type=FRACTION, help="of that window [fraction of the sides]", needs=("crop_prob",))
    color_prob: float = _probability(0.0, "the three that follow", needs=_COLORS)
    color_brightness: float = _color()
    color_contrast: float = _color()
    color_saturation: float = _color()
    gray_prob: float = _probability(0.0, "grey instead of colour")
    cutout_prob: float = _probability(0.05, "boxes on landmarks")
    blur_prob: float = _probability(0.2, "5x5 box blur")
    lowres_prob: float = _probability(0.0, "made smaller and back")
    lowres_ratio: float = option(
        0.2, type=FRACTION, help="smallest, up to 1 is drawn [fraction of the sides]", needs=("lowres_prob",)
    )
    jpeg_prob: float = _probability(0.0, "damage by compression")
    jpeg_quality: int = option(20, type=QUALITY, help="lowest, up to 100 is drawn [JPEG quality]", needs=("jpeg_prob",))
    erase_prob: float = _probability(0.0, "one black rectangle")
    erase_area: float = option(
        0.4, type=ERASED, help="largest, from 0.02 on is drawn [fraction of the input]", needs=("erase_prob",)
    )
    erase_aspect: float = option(
        0.3, type=RATE, help="flattest, up to its inverse is drawn [height by width]", needs=("erase_prob",)
    )

    @property
    def effects(self) -> tuple[str, ...]:
        """Enabled pixel transforms, in order."""
        probabilities = {
            "color": max(self.color_prob, self.gray_prob),
            "cutout": self.cutout_prob,
            "blur": self.blur_prob,
            "lowres": self.lowres_prob,
            "jpeg": self.jpeg_prob,
            "erase": self.erase_prob,
        }
        return tuple(name for name, probability in probabilities.items() if probability)
