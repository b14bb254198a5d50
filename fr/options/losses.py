"""Margin types and options of the losses; `fr/losses/margins.py` has the margins' functions.

To add a margin, add its line to MARGINS here, its own options as fields of SoftmaxSettings, and its function there.
"""

import math
from dataclasses import dataclass, field

from fr.files.names import model_file
from fr.options.fields import OptionFields, option
from fr.options.types import AT_LEAST_1, BELOW_1, CENTERS, FLAG, MARGIN, NOT_NEGATIVE, POSITIVE, RATE


@dataclass(frozen=True)
class MarginType:
    """A value of --margin_type. options: the options that have an effect with it, of those that not all types use.

    auto: value of `--m auto`, from the paper or the authors' code. smallest: lowest value of --m. largest: highest
    values of options; a right angle for an option that is added to the angle, 2 for one subtracted from the cosine.
    """

    options: tuple[str, ...] = ()
    auto: float = 0.0
    smallest: float = 0.0
    largest: dict[str, float] = field(default_factory=dict)


_RIGHT_ANGLE, COSINES = math.pi / 2, 2.0  # the second: most that two cosines differ

MARGINS: dict[str, MarginType] = {
    "softmax": MarginType(),
    "linear": MarginType(),  # logits, not cosines: no --s
    "cos": MarginType(("m",), 0.35, largest={"m": COSINES}),  # no --margin_gradient: the slope is 1 anyway
    "arc": MarginType(("m", "easy_margin", "margin_gradient"), 0.5, largest={"m": _RIGHT_ANGLE}),
    "sphere": MarginType(("m", "margin_gradient"), 4.0, smallest=1),
    "sphere_r": MarginType(("m", "margin_gradient"), 1.5, smallest=1),
    "combined": MarginType(
        ("m1", "m2", "m3", "margin_gradient"), largest={"m2": _RIGHT_ANGLE, "m3": COSINES}
    ),
    "ada": MarginType(("m", "h", "margin_gradient"), 0.4, largest={"m": _RIGHT_ANGLE}),
    "curricular": MarginType(("m", "margin_gradient"), 0.5, largest={"m": _RIGHT_ANGLE}),
    "mag": MarginType(("l_m", "u_m", "l_a", "u_a", "lambda_g", "margin_gradient"), largest={"u_m": _RIGHT_ANGLE}),
}


@dataclass(frozen=True)
class SoftmaxSettings(OptionFields):
    """Options of the margin softmax, the group "loss"."""

    margin_type: str = option("cos", choices=MARGINS, help="linear = a linear layer with bias; see docs/losses.md")
    softmax_weight: float = option(1.0, NOT_NEGATIVE, "softmax loss [weight]; 0 = only the auxiliary losses")
    s: float = option(30.0, POSITIVE, "scale of the logits [factor]", flags=("--scale",))
    m: float | str = option(
        "auto",
        MARGIN,
        "margin [cos: cosine; sphere, sphere_r: factor; else radians]; auto = the paper's value, 0 = none",
        flags=("-m", "--margin"),
    )
    easy_margin: bool = option(**FLAG, help="arc: no margin beyond a right angle; false = off")
    m1: float = option(1.0, AT_LEAST_1, "combined: margin on the angle [factor]; 1 = none")
    m2: float = option(0.3, NOT_NEGATIVE, "combined: margin on the angle [radians]; 0 = none")
    m3: float = option(0.2, NOT_NEGATIVE, "combined: margin on the cosine [cosine]; 0 = none")
    h: float = option(0.333, POSITIVE, "ada: influence of the embedding norm [factor]")
    l_m: float = option(0.45, NOT_NEGATIVE, "mag: margin of the shortest embeddings [radians]")
    u_m: float = option(0.8, NOT_NEGATIVE, "mag: margin of the longest embeddings [radians]")
    l_a: float = option(10.0, POSITIVE, "mag: lower bound of the embedding norm [L2]")
    u_a: float = option(110.0, POSITIVE, "mag: upper bound of the embedding norm [L2]")
    lambda_g: float = option(35.0, NOT_NEGATIVE, "mag: weight of the regulariser of the norms [factor]; 0 = off")
    margin_gradient: str = option("true", choices=("true", "straight"), help="straight = gradient without the margin")
    mining_type: str = option("none", choices=("none", "sv", "focal"), help="weighting of hard examples; none = off")
    t: float = option(1.1, AT_LEAST_1, "sv: weight of hard classes [factor]; 1 = none")
    gamma: float = option(2.0, AT_LEAST_1, "focal: exponent of the sample weight [exponent]")
    label_smoothing: float = option(0.0, BELOW_1, "label smoothing [fraction]; 0 = off")
    sub_centers: int = option(
        1, CENTERS, "centres of a class, of which the nearest counts, for noisy data [count]; 1 = none"
    )
    sample_rate: float = option(1.0, RATE, "share of the classes sampled per step (PartialFC) [fraction]; 1 = all")

    @property
    def linear(self) -> bool:
        """True if the logits are those of a linear layer with bias, not scaled cosines."""
        return self.margin_type == "linear"

    @property
    def scale(self) -> float:
        """Factor of the cosines in the head; 1 for a linear layer."""
        return 1.0 if self.linear else self.s

    @property
    def margin(self) -> float:
        """Value of `m`, with `auto` replaced by the margin type's value."""
        return MARGINS[self.margin_type].auto if isinstance(self.m, str) else self.m


def _weight(what: str) -> float:
    value: float = option(0.0, NOT_NEGATIVE, f"{what} [weight]; 0 = off")
    return value


_PUSH = "push_loss_weight push_plus_loss_weight global_push_loss_weight"
_TRIPLET = "triplet_loss_weight"
_DISTILLATION = "distill_cosine_weight distill_mse_weight distill_relation_weight distill_logit_weight"


@dataclass(frozen=True)
class LossSettings(SoftmaxSettings):
    """Options of the margin softmax and of the group "auxiliary losses"."""

    center_loss_weight: float = _weight("centre loss")
    center_loss_lr: float = option(
        0.5, POSITIVE, "update rate of the centre loss's centres [fraction]", needs="center_loss_weight"
    )
    push_loss_weight: float = _weight("push loss: samples away from samples")
    push_plus_loss_weight: float = _weight("push+ loss: samples away from samples, relative to their centre")
    global_push_loss_weight: float = _weight("global push+ loss: samples away from centres")
    push_margin: float = option(0.7, POSITIVE, "margin of the three push losses [1 - cosine]", needs=_PUSH)
    min_margin_loss_weight: float = _weight("minimum margin loss: centres away from centres")
    min_margin: float = option(
        0.7, POSITIVE, "margin of the minimum margin loss [1 - cosine]", needs="min_margin_loss_weight"
    )
    triplet_loss_weight: float = _weight("triplet loss")
    triplet_margin: float = option(
        0.2, POSITIVE, "margin of the triplet loss [squared L2 of unit embeddings]", needs=_TRIPLET
    )
    triplet_mining: str = option(
        "hard", choices=("hard", "semihard"), help="selection of triplets in a batch", needs=_TRIPLET
    )
    teacher: str = option(
        "", model_file, "trained model to distil from, as --snap of evaluate_lfw.py; empty = none", needs=_DISTILLATION
    )
    distill_cosine_weight: float = _weight("1 - cosine between embedding and the teacher's")
    distill_mse_weight: float = _weight("mean squared difference of embedding and the teacher's")
    distill_relation_weight: float = _weight("squared difference between cosines of samples and the teacher's")
    distill_logit_weight: float = _weight("KL divergence of class probabilities from the teacher's, a snapshot")
    distill_temperature: float = option(
        4.0, POSITIVE, "divisor of the logits for --distill_logit_weight [factor]", needs="distill_logit_weight"
    )

    @property
    def trains_centres(self) -> bool:
        """True if any of the losses has a gradient for the centres of the classes."""
        return any((
            *(self.softmax_weight, self.push_plus_loss_weight, self.global_push_loss_weight),
            *(self.min_margin_loss_weight, self.distill_logit_weight),
        ))
