"""Loss settings: the loss options of train.py as one value."""

import argparse
from dataclasses import dataclass, fields

from fr.losses.margins import OWN_MARGIN


@dataclass(frozen=True)
class LossSettings:
    """Values of the options of the same names, documented in `train.py --help`."""

    margin_type: str
    s: float
    m: float | str
    easy_margin: bool
    m1: float
    m2: float
    m3: float
    h: float
    l_m: float
    u_m: float
    l_a: float
    u_a: float
    lambda_g: float
    margin_gradient: str
    mining_type: str
    t: float
    gamma: float
    label_smoothing: float
    sample_rate: float
    center_loss_weight: float
    center_loss_lr: float
    push_loss_weight: float
    push_plus_loss_weight: float
    global_push_loss_weight: float
    push_margin: float
    min_margin_loss_weight: float
    min_margin: float
    triplet_loss_weight: float
    triplet_margin: float
    triplet_mining: str

    @classmethod
    def of(cls, options: argparse.Namespace) -> "LossSettings":
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @property
    def margin(self) -> float:
        """`m`, with `auto` replaced by the margin type's value in OWN_MARGIN."""
        return OWN_MARGIN[self.margin_type] if isinstance(self.m, str) else self.m
