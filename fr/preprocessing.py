"""Preprocessing of an image to the input of a network: one value that training, evaluation and export share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fr.alignment import ALIGNMENTS, CENTER_CROP, TEMPLATES
from fr.errors import InputError


@dataclass(frozen=True)
class Preprocessing:
    """The contract between pixels and network; stored in every snapshot.

    input_size: (height, width) in pixels. template: key of `fr.alignment.TEMPLATES`, where the five landmarks
    go. alignment: `procrustes` or `umeyama`, the fit of the similarity, or `center_crop`. mean and std: per channel, in
    `color_order`, on the 0–1 scale; the network sees (pixel / 255 - mean) / std. Pixels outside the image are black.

    With the alignment `center_crop` neither template nor landmarks are used: the image is resized to `resized`, with
    Pillow's bilinear filter, and its centre is the input, as by torchvision's Resize and CenterCrop.
    """

    input_size: tuple[int, int]
    template: str = "sphereface"
    alignment: str = "procrustes"
    color_order: str = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "linear"

    def with_overrides(
        self, input_size: Sequence[int], mean: Sequence[float], std: Sequence[float], color_order: str
    ) -> "Preprocessing":
        """Replace fields by options: side or (height, width), mean and std of R, G, B, `rgb` or `bgr`.

        An empty sequence or `auto` keeps the present value.
        """
        order = self.color_order if color_order == "auto" else color_order

        def channels(values: Sequence[float], own: tuple[float, float, float]) -> tuple[float, float, float]:
            red, green, blue = values or (own if self.color_order == "rgb" else own[::-1])
            return (red, green, blue) if order == "rgb" else (blue, green, red)

        size = (input_size[0], input_size[-1]) if input_size else self.input_size
        return replace(
            self, input_size=size, mean=channels(mean, self.mean), std=channels(std, self.std), color_order=order
        )

    @property
    def resized(self) -> int:
        """Shorter side of the image before its centre is cropped [pixels]: 256 for an input of 224, as is usual."""
        return round(max(self.input_size) * 8 / 7)

    def as_dict(self) -> dict[str, Any]:
        """Fields as builtins, so that a snapshot that holds them loads with `weights_only=True`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Preprocessing":
        """Inverse of `as_dict`; InputError names fields that are missing, unknown or invalid."""
        known = cls.__dataclass_fields__
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        wrong = sorted(set(stored) ^ set(known))
        wrong = wrong or [f"{name} {fields[name]!r}" for name, fits in _FITS.items() if not fits(fields[name])]
        if wrong:
            raise InputError(f"the stored preprocessing doesn't fit this version: {', '.join(wrong)}")
        return cls(**fields)

    def describe(self, aligned: bool = False) -> str:
        """One line for the log. aligned: the images are aligned crops, which are only resized."""
        height, width = self.input_size
        how = "aligned crops, resized" if aligned else f"{self.alignment} to the {self.template} template"
        if self.alignment == CENTER_CROP:
            how = f"centre of the image with a shorter side of {self.resized}"
        return (
            f"{width}×{height} {self.color_order.upper()}, {how}, {self.interpolation}, mean {self.mean}, "
            f"std {self.std}"
        )


def _numbers(value: Any, count: int, kinds: tuple[type, ...], above: float) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == count
        and all(type(number) in kinds and above < number < math.inf for number in value)
    )


# Check of each field; the file may be untrusted.
_FITS: dict[str, Callable[[Any], bool]] = {
    "input_size": lambda value: _numbers(value, 2, (int,), 0),
    "template": list(TEMPLATES).__contains__,
    "alignment": [*ALIGNMENTS, CENTER_CROP].__contains__,
    "color_order": ["rgb", "bgr"].__contains__,
    "mean": lambda value: _numbers(value, 3, (int, float), -math.inf),
    "std": lambda value: _numbers(value, 3, (int, float), 0),
    "interpolation": ["linear"].__contains__,
}
