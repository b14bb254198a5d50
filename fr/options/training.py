"""The options that only train.py has, a function a group.

To add one, add its line here; one that other commands share goes into `fr/options/definitions.py`. No default =
required.
"""

import argparse

from fr.options.names import MARGIN_TYPES, MODEL_NAMES
from fr.options.types import (
    AT_LEAST_1,
    BELOW_1,
    COUNT,
    COUNT_OR_0,
    DEGREES,
    ERASED,
    FLAG,
    FRACTION,
    MARGIN,
    NOT_NEGATIVE,
    POSITIVE,
    PREFIX,
    PROBABILITY,
    QUALITY,
    RATE,
    SCALED,
    SEED,
    TEXT,
    model_name,
)

Group = argparse._ArgumentGroup


def order(group: Group) -> None:
    add = group.add_argument
    add("--weighted", **FLAG, help="each identity as often as any other; false = each picture once an epoch")
    add("--images_per_identity", type=COUNT_OR_0, default=0, help="the same, so many of each a batch [images]; 0 = off")


def augmentation(group: Group) -> None:
    add = group.add_argument
    add("--flip_prob", type=PROBABILITY, default=0.5, help="mirroring [probability]; 0 = off")
    add("--rotate_prob", type=PROBABILITY, default=0.95, help="rotation [probability]; 0 = off")
    add("--rotate_degrees", type=DEGREES, default=10.0, help="most rotation either way [degrees]; 0 = off")
    add("--zoom_prob", type=PROBABILITY, default=0.0, help="bigger or smaller [probability]; 0 = off")
    add("--zoom_range", type=FRACTION, default=0.1, help="most bigger or smaller [fraction]")
    add("--shift_prob", type=PROBABILITY, default=0.0, help="moved [probability]; 0 = off")
    add("--shift_range", type=RATE, default=0.05, help="most either way, across and down [fraction of the sides]")
    add("--crop_prob", type=PROBABILITY, default=0.0, help="a random window fills the input [probability]; 0 = off")
    add("--crop_side", type=FRACTION, default=0.875, help="of that window [fraction of the sides]")
    add("--color_prob", type=PROBABILITY, default=0.0, help="the three that follow [probability]; 0 = off")
    for name in ("brightness", "contrast", "saturation"):
        add(f"--color_{name}", type=NOT_NEGATIVE, default=0.5, help="most change either way [fraction]; 0 = none")
    add("--gray_prob", type=PROBABILITY, default=0.0, help="grey instead of colour [probability]; 0 = off")
    add("--cutout_prob", type=PROBABILITY, default=0.05, help="boxes on landmarks [probability]; 0 = off")
    add("--blur_prob", type=PROBABILITY, default=0.2, help="5x5 box blur [probability]; 0 = off")
    add("--lowres_prob", type=PROBABILITY, default=0.0, help="made smaller and back [probability]; 0 = off")
    add("--lowres_ratio", type=FRACTION, default=0.2, help="smallest, up to 1 is drawn [fraction of the sides]")
    add("--jpeg_prob", type=PROBABILITY, default=0.0, help="damage by compression [probability]; 0 = off")
    add("--jpeg_quality", type=QUALITY, default=20, help="lowest, up to 100 is drawn [JPEG quality]")
    add("--erase_prob", type=PROBABILITY, default=0.0, help="one black rectangle [probability]; 0 = off")
    add("--erase_area", type=ERASED, default=0.4, help="largest, from 0.02 on is drawn [fraction of the input]")
    add("--erase_aspect", type=RATE, default=0.3, help="flattest, up to its inverse is drawn [height by width]")


def model(group: Group) -> None:
    add = group.add_argument
    names = "|".join((*MODEL_NAMES, "timm/NAME"))
    add("--model", type=model_name(MODEL_NAMES), default="mobilenet", metavar=names, help="the backbone")
    add("--embed_size", type=COUNT, default=256, help="length of the embedding [numbers]")


def initial_weights(group: Group) -> None:
    add = group.add_argument
    add("--init_from", default="", help="weights to begin with: a snapshot, or another system's file; empty = none")
    add("--partial", **FLAG, help="of --init_from take what fits, and say what doesn't; false = all must fit")
    add("--init_identities", default="", help="names of the classes in --init_from's head, one a line; empty = its own")
    add("--pretrained", **FLAG, help="begin with torchvision's ImageNet weights (resnet34, 50, 101); false = don't")


def loss(group: Group) -> None:
    add = group.add_argument
    add("--margin_type", default="cos", choices=MARGIN_TYPES, help="see docs/losses.md")
    add("--s", "--scale", type=POSITIVE, default=30.0, help="scale of the logits [factor]")
    margins = "cos: cosine; sphere, sphere_r: factor; else radians"
    add("--m", "-m", "--margin", type=MARGIN, default="auto", help=f"margin [{margins}]; auto = its paper's, 0 = none")
    add("--easy_margin", **FLAG, help="arc: no margin beyond a right angle; false = off")
    add("--m1", type=AT_LEAST_1, default=1.0, help="combined: margin on the angle [factor]; 1 = none")
    add("--m2", type=NOT_NEGATIVE, default=0.3, help="combined: margin on the angle [radians]; 0 = none")
    add("--m3", type=NOT_NEGATIVE, default=0.2, help="combined: margin on the cosine [cosine]; 0 = none")
    add("--h", type=POSITIVE, default=0.333, help="ada: how strongly an embedding's length counts [factor]")
    add("--l_m", type=NOT_NEGATIVE, default=0.45, help="mag: margin of the shortest embeddings [radians]")
    add("--u_m", type=NOT_NEGATIVE, default=0.8, help="mag: margin of the longest embeddings [radians]")
    add("--l_a", type=POSITIVE, default=10.0, help="mag: length that counts as shortest [L2]")
    add("--u_a", type=POSITIVE, default=110.0, help="mag: length that counts as longest [L2]")
    add("--lambda_g", type=NOT_NEGATIVE, default=35.0, help="mag: weight of the lengths' own loss [factor]; 0 = off")
    add("--margin_gradient", default="true", choices=("true", "straight"), help="straight = as if without margin")
    add("--mining_type", default="none", choices=("none", "sv", "focal"), help="weight of hard examples; none = off")
    add("--t", type=AT_LEAST_1, default=1.1, help="sv: weight of hard classes [factor]; 1 = none")
    add("--gamma", type=AT_LEAST_1, default=2.0, help="focal: power of the samples' weight [exponent]")
    add("--label_smoothing", type=BELOW_1, default=0.0, help="goes to all classes [fraction]; 0 = off")
    add("--sample_rate", type=RATE, default=1.0, help="classes that a step sees (PartialFC) [fraction]; 1 = all")


def companions(group: Group) -> None:
    add = group.add_argument
    add("--center_loss_weight", type=NOT_NEGATIVE, default=0.0, help="centre loss [weight]; 0 = off")
    add("--center_loss_lr", type=POSITIVE, default=0.5, help="how fast its centres follow [fraction]")
    add("--push_loss_weight", type=NOT_NEGATIVE, default=0.0, help="samples from samples [weight]; 0 = off")
    add("--push_plus_loss_weight", type=NOT_NEGATIVE, default=0.0, help="the same beyond the centre [weight]; 0 = off")
    add("--global_push_loss_weight", type=NOT_NEGATIVE, default=0.0, help="samples from centres [weight]; 0 = off")
    add("--push_margin", type=POSITIVE, default=0.7, help="of the three push losses [1 - cosine]")
    add("--min_margin_loss_weight", type=NOT_NEGATIVE, default=0.0, help="centres from centres [weight]; 0 = off")
    add("--min_margin", type=POSITIVE, default=0.7, help="of that loss [1 - cosine]")
    add("--triplet_loss_weight", type=NOT_NEGATIVE, default=0.0, help="triplet loss [weight]; 0 = off")
    add("--triplet_margin", type=POSITIVE, default=0.2, help="of that loss [squared L2 of unit embeddings]")
    add("--triplet_mining", default="hard", choices=("hard", "semihard"), help="which triplets of a batch")


def optimiser(group: Group) -> None:
    add = group.add_argument
    drops = [3, 6, 9, 13]
    add("--lr", type=POSITIVE, default=0.4, help="learning rate of SGD [per step]")
    add("--momentum", type=BELOW_1, default=0.9, help="momentum of SGD [fraction]; 0 = none")
    add("--weight_decay", type=NOT_NEGATIVE, default=1e-4, help="L2 penalty [factor]; 0 = off")
    add("--lr_drops", type=COUNT, nargs="*", default=drops, help="--lr is x0.1 from [epochs]; no value = never")
    add("--warmup_iterations", type=COUNT_OR_0, default=0, help="linear warm-up [iterations]; 0 = off")
    add("--clip_norm", type=NOT_NEGATIVE, default=0.0, help="largest norm of the gradient [L2]; 0 = off")
    names = "backbone.<name> or head.weight; * stands for anything"
    add("--freeze", nargs="*", default=[], help=f"weights that don't learn [patterns of {names}]; no value = none")
    add("--lr_scale", type=SCALED, nargs="*", default=[], help="of --lr for some weights [pattern=factor]; none = 1")
    add("--ema_decay", type=BELOW_1, default=0.0, help="moving average of the weights [fraction kept a step]; 0 = off")


def loop(group: Group) -> None:
    add = group.add_argument
    add("--train_batch_size", type=COUNT, default=170, help="samples per step over all ranks [images]")
    add("--accumulate", type=COUNT, default=1, help="micro-batches of a rank per step [count]; 1 = off")
    add("--epoch_total_num", type=COUNT, default=30, help="length of the training [epochs]")
    add("--max_iterations", type=COUNT_OR_0, default=0, help="stop after so many [iterations]; 0 = off")
    add("--max_bad_steps", type=COUNT_OR_0, default=10, help="end after so many skipped in a row [steps]; 0 = never")
    add("--max_bad_images", type=COUNT_OR_0, default=100, help="one more unusable ends the run [files]; 0 = the first")
    add("--freeze_bn", **FLAG, help="batch norms keep their batch statistics; false = off")
    precisions, products = ("auto", "fp32", "tf32", "bf16"), "of products; fp32: IEEE; auto: bf16 if native, else fp32"
    add("--precision", default="fp32", choices=precisions, help=products)
    add("--channels_last", **FLAG, help="memory order of pictures and weights, same numbers; false = off")
    add("--sync_bn", **FLAG, help="batch norms over the samples of all ranks; false = of each rank")
    add("--activation_checkpointing", **FLAG, help="compute blocks twice rather than keep them; false = off")
    add("--compile", **FLAG, help="torch.compile the backbone; false = off")
    add("--deterministic", **FLAG, help="only operations that repeat to the bit, or an error; false = any")
    add("--spike_factor", type=NOT_NEGATIVE, default=0.0, help="a loss above so many medians is told [factor]; 0 = off")
    add("--spike_return", **FLAG, help="after one, take back the newest snapshot's weights; false = only tell")
    add("--hang_timeout", type=NOT_NEGATIVE, default=1200.0, help="a rank silent so long ends the run [s]; 0 = never")
    add("--seed", type=SEED, default=0, help="of weights, order and augmentation [whole number]")


def snapshots(group: Group) -> None:
    add = group.add_argument
    add("--val_step", type=COUNT, default=1000, help="between validations and snapshots [iterations]")
    add("--snap_folder", type=TEXT, default="./snapshots/", help="folder of the snapshots")
    add("--snap_prefix", type=PREFIX, default="FaceReidNet", help="of the names <snap_prefix>_<iteration>.pt")
    add("--snap_to_resume", default="", help="a .pt to go on from; auto = newest whole one, empty = none")
    add("--overwrite", **FLAG, help="remove what another run left under --snap_prefix; false = refuse to start there")
    add("--async_snapshots", **FLAG, help="write them from a copy while the training goes on; false = wait")
    add("--keep_snapshots", type=COUNT_OR_0, default=0, help="that stay: the newest, and the best [count]; 0 = all")
    add("--keep_every", type=COUNT_OR_0, default=0, help="and those of each multiple of this [iterations]; 0 = none")
    add("--log_folder", default="", help="of TensorBoard files and log.jsonl; empty = logs/<snap_prefix>")
    add("--log_step", type=COUNT, default=10, help="between log lines [iterations]")
