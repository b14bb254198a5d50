"""The options that only train.py has, a function a group.

To add one, add its line here; one that other commands share goes into `fr/options/definitions.py`. No default =
required.
"""

import argparse

from fr.options.names import MODEL_NAMES
from fr.options.types import (
    BELOW_1,
    COUNT,
    COUNT_OR_0,
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    PREFIX,
    SCALED,
    SEED,
    TEXT,
    model_name,
)

Group = argparse._ArgumentGroup


def order(group: Group) -> None:
    add = group.add_argument
    add("--weighted", **FLAG, help="each identity as often as any other; false = each image once an epoch")
    add("--images_per_identity", type=COUNT_OR_0, default=0, help="the same, so many of each a batch [images]; 0 = off")


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
    add("--precision", default="fp32", choices=("auto", "fp32", "bf16"), help="of the backbone; auto: bf16 if native")
    add("--channels_last", **FLAG, help="memory order of images and weights, same numbers; false = off")
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
    add("--async_snapshots", **FLAG, help="write them from a copy while the training goes on; false = wait")
    add("--keep_snapshots", type=COUNT_OR_0, default=0, help="that stay: the newest, and the best [count]; 0 = all")
    add("--keep_every", type=COUNT_OR_0, default=0, help="and those of each multiple of this [iterations]; 0 = none")
    add("--log_folder", default="", help="of TensorBoard files and log.jsonl; empty = logs/<snap_prefix>")
    add("--log_step", type=COUNT, default=10, help="between log lines [iterations]")
