"""Images per second of a training by a roofline model, calibrated with the measured steps of docs/gpu.md.

A step's time is the sum of: the backbone's products and memory traffic; those of the head; the optimiser's memory
traffic; and the collectives that aren't overlapped. tools/benchmarks/scaling.py has a rank's bytes over the network.

W ranks, N samples of the global batch, E embedding size, C_r classes of a rank, P weights.
"""

import argparse
from dataclasses import dataclass

import torch

from fr.models import build_model, training_preprocessing
from fr.options.types import keyword_arguments
from tools.benchmarks.head import head_cost
from tools.benchmarks.scaling import step_collectives
from tools.count_flops import count
from tools.planning.cards import Card
from tools.planning.memory import backbone_step

# Two constants, fitted to three measured steps on an H100 in bf16, channels_last: mobilenet 7,031 images/s, iresnet50
# 4,008, iresnet100 2,396. They are the share of the data sheet's rate that products reach, and the number of bytes read
# and written for each byte that autograd saves.
PRODUCTS, PASSES = 0.65, 18
HEAD_PASSES = 12  # over the [N, C_r] cosines, forward and backward, by counting; not measured
OPTIMISER_PASSES = 5  # over weights, gradients and momentum
NETWORK = 0.8  # share of the data sheet's rate of the links, assumed
LOADER = 17_009  # images/s of a GPU with 16 cores, measured on an H100 with images of 250 × 250
_FLOAT = 4


@dataclass(frozen=True)
class Speed:
    """Seconds of a step by part."""

    backbone: float
    head: float
    optimiser: float
    collectives: float

    @property
    def step(self) -> float:
        return self.backbone + self.head + self.optimiser + self.collectives


def speed(options: argparse.Namespace, card: Card, ranks: int, per_node: int, classes: int, precision: str) -> Speed:
    """Speed of train.py with its options, one rank on each card. precision: not auto."""
    size = training_preprocessing(options).input_size
    micro = options.train_batch_size // options.accumulate
    images = options.train_batch_size // ranks
    whole = argparse.Namespace(**vars(options) | {"activation_checkpointing": False})
    kept = backbone_step(whole, micro // ranks, precision).kept * options.accumulate
    with torch.device("meta"):
        kwargs = keyword_arguments(options.model_kwargs)
        cost = count(build_model(options.model, options.embed_size, size, kwargs), size)
    weights = cost.parameters
    again = 4 / 3 if options.activation_checkpointing else 1.0  # a second forward pass
    flops = again * 3 * 2 * cost.macs * images
    backbone = flops / (PRODUCTS * card.flops[precision]) + again * PASSES * kept / card.bandwidth
    active = head_cost(classes, options.embed_size, micro, ranks, options.sample_rate).active
    cosines = options.train_batch_size * active
    ieee = card.flops["fp32"]
    products = ieee if precision == "fp32" else card.flops.get("tf32", ieee)
    width = options.embed_size * options.sub_centers
    head = 6 * cosines * width / (PRODUCTS * products) + HEAD_PASSES * _FLOAT * cosines / card.bandwidth
    updated = weights + active * width
    optimiser = OPTIMISER_PASSES * _FLOAT * updated / card.bandwidth
    # A node's network cards are shared by its GPUs.
    rate = NETWORK * (card.link if ranks <= per_node else min(card.link, per_node * card.network))
    sent = {
        part: sum(one.sent(ranks) for one in collectives) / rate
        for part, collectives in step_collectives(weights, options.embed_size, micro).items()
    }
    hidden = 2 / 3 * backbone / options.accumulate  # overlapped with the backward pass of the last micro-batch
    exposed = max(0.0, sent["gradients"] - hidden) + options.accumulate * sent["head"]
    return Speed(backbone, head, optimiser, exposed)
