"""How a photograph becomes the input of a network: one value that training, evaluation and export share (C1)."""

from dataclasses import asdict, dataclass
from typing import Any

from fr.errors import InputError


@dataclass(frozen=True)
class Preprocessing:
    """The whole contract between pixels and network; stored in every snapshot.

    input_size: (height, width) in pixels. template: key of `fr.data.alignment.TEMPLATES`, where the five landmarks
    go. alignment: `procrustes` or `umeyama`, how the similarity is fitted. mean and std: per channel, in
    `color_order`, on the 0–1 scale; the network sees (pixel / 255 - mean) / std. Outside the photograph is black.
    """

    input_size: tuple[int, int]
    template: str = "sphereface"
    alignment: str = "procrustes"
    color_order: str = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: str = "linear"

    def as_dict(self) -> dict[str, Any]:
        """Builtins only, so that a snapshot holding it loads with `weights_only=True`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Preprocessing":
        """The inverse of `as_dict`; InputError names what is missing or unknown."""
        known = cls.__dataclass_fields__
        if wrong := sorted(set(stored) ^ set(known)):
            raise InputError(f"the stored preprocessing doesn't fit this version: {', '.join(wrong)}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**fields)

    def describe(self) -> str:
        """One line for people."""
        height, width = self.input_size
        return (
            f"{width}×{height} {self.color_order.upper()}, {self.alignment} to the {self.template} template, "
            f"{self.interpolation}, mean {self.mean}, std {self.std}"
        )
