"""Options of the augmentation, which `fr/data/augmentation.py` draws and applies."""

from dataclasses import dataclass

from fr.options.fields import OptionFields, option
from fr.options.types import DEGREES, ERASED, FRACTION, NOT_NEGATIVE, PROBABILITY, QUALITY, RATE

_COLORS = "color_brightness color_contrast color_saturation"


def _probability(default: float, what: str, needs: str = "") -> float:
    value: float = option(default, PROBABILITY, f"{what} [probability]; 0 = off", needs=needs)
    return value


def _color() -> float:
    help = "largest change [fraction]; 0 = none"
    value: float = option(0.5, NOT_NEGATIVE, help, needs="color_prob")
    return value


@dataclass(frozen=True)
class Augmentation(OptionFields):
    """Probabilities in [0, 1] (0 = off) and strengths."""

    flip_prob: float = _probability(0.5, "mirroring")
    rotate_prob: float = _probability(0.95, "rotation")
    rotate_degrees: float = option(10.0, DEGREES, "largest rotation [degrees]; 0 = off", needs="rotate_prob")
    zoom_prob: float = _probability(0.0, "scaling")
    zoom_range: float = option(0.1, FRACTION, "largest relative change of size [fraction]", needs="zoom_prob")
    shift_prob: float = _probability(0.0, "translation")
    shift_range: float = option(
        0.05, RATE, "largest translation on either axis [fraction of the sides]", needs="shift_prob"
    )
    crop_prob: float = _probability(0.0, "random crop, resized to the input")
    crop_side: float = option(0.875, FRACTION, "side of the crop [fraction of the sides]", needs="crop_prob")
    color_prob: float = _probability(0.0, "colour jitter", needs=_COLORS)
    color_brightness: float = _color()
    color_contrast: float = _color()
    color_saturation: float = _color()
    gray_prob: float = _probability(0.0, "grey image")
    cutout_prob: float = _probability(0.05, "black boxes over landmarks")
    blur_prob: float = _probability(0.2, "5x5 box blur")
    lowres_prob: float = _probability(0.0, "downscaling and upscaling")
    lowres_ratio: float = option(
        0.2, FRACTION, "smallest scale; it is drawn between this and 1 [fraction of the sides]", needs="lowres_prob"
    )
    jpeg_prob: float = _probability(0.0, "JPEG compression")
    jpeg_quality: int = option(
        20, QUALITY, "lowest quality; it is drawn between this and 100 [JPEG quality]", needs="jpeg_prob"
    )
    erase_prob: float = _probability(0.0, "random erasing")
    erase_area: float = option(
        0.4, ERASED, "largest area; it is drawn between 0.02 and this [fraction of the input]", needs="erase_prob"
    )
    erase_aspect: float = option(
        0.3, RATE, "smallest aspect ratio; drawn between this and its inverse [height by width]", needs="erase_prob"
    )
    mix_prob: float = _probability(0.0, "mixup with the neighbour in the batch, for distillation")

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
