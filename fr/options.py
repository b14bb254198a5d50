"""Every option of train.py and evaluate_lfw.py: its name, type, default and range.

To add one, add its line to the function of its group: nothing else knows the names. No default = required.
How they are read and merged: `fr/option_parsing.py`.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from fr.data.alignment import ALIGNMENTS, TEMPLATES
from fr.option_checks import DATASETS, MARGIN_TYPES, evaluation_problems, tool_problems, train_problems
from fr.option_parsing import Checks, Resolved, new_parser, resolve
from fr.option_types import (
    AT_LEAST_1,
    BELOW_1,
    CHANNEL,
    COUNT,
    COUNT_OR_0,
    DEGREES,
    ERASED,
    FLAG,
    FRACTION,
    MARGIN,
    MODEL_NAMES,
    NOT_NEGATIVE,
    POSITIVE,
    PREFIX,
    PROBABILITY,
    QUALITY,
    RATE,
    SCALED,
    SEED,
    SIDE,
    TEXT,
    model_name,
)

Group = argparse._ArgumentGroup


def train_options(argv: Sequence[str]) -> Resolved:
    """The options of train.py; raises InputError with every problem found. `--help` prints and exits."""
    parser = new_parser("train.py", "Train a face-embedding network with a margin softmax.")
    data = parser.add_argument_group("training data")
    _data(data)
    _order(data)
    _preprocessing(parser.add_argument_group("preprocessing"), "sphereface", "procrustes", "the model's own")
    _augmentation(parser.add_argument_group("augmentation"))
    _model(parser.add_argument_group("model"))
    _initial_weights(parser.add_argument_group("initial weights"))
    _loss(parser.add_argument_group("loss"))
    _companions(parser.add_argument_group("losses beside the softmax"))
    _optimiser(parser.add_argument_group("optimiser"))
    _loop(parser.add_argument_group("loop"))
    _verification(parser.add_argument_group("validation on LFW"), "empty = no validation")
    _snapshots(parser.add_argument_group("snapshots and logs"))
    _machine(parser.add_argument_group("machine"))
    return resolve(parser, argv, train_problems)


def evaluation_options(argv: Sequence[str]) -> Resolved:
    """As `train_options`, for evaluate_lfw.py; raises InputError with every problem found."""
    parser = new_parser("evaluate_lfw.py", "Measure a snapshot or an ONNX model on LFW.")
    _evaluation(parser.add_argument_group("model and results"))
    _preprocessing(parser.add_argument_group("preprocessing"), "auto", "auto", "as --snap says")
    _verification(parser.add_argument_group("LFW"), "empty = the one stored in the snapshot", "; unsaid = as stored")
    _protocol(parser.add_argument_group("protocol"))
    _machine(parser.add_argument_group("machine"))
    return resolve(parser, argv, evaluation_problems)


def tool_options(
    program: str, description: str, own: Callable[[Group], None], own_checks: Checks, argv: Sequence[str]
) -> Resolved:
    """As `train_options`, for a tool that reads training data of any format; `own` adds the tool's own options."""
    parser = new_parser(program, description)
    own(parser.add_argument_group("the tool"))
    _data(parser.add_argument_group("data, as train.py reads them"))

    def checks(*settings: dict[str, Any]) -> list[str]:
        return tool_problems(*settings) + own_checks(*settings)

    return resolve(parser, argv, checks)


def _data(group: Group) -> None:
    add = group.add_argument
    add("--train_dataset", default="vgg", choices=DATASETS, help="format of the data, see README.md; vgg = VGGFace2")
    add("--train_data_root", type=TEXT, help="folder that the paths of --train_list start from")
    add("--train_list", default="", help="text file, one image a line (of tar: one shard); empty for folder and rec")
    add("--train_landmarks", default="", help="the bb_landmark folder, or one landmark CSV file [pixels]; empty = none")
    add("--train_meta", default="", help="identity_meta.csv of vgg, for the order of the labels; empty = the list's")
    add("--aligned", **FLAG, help="the pictures of folder, list or tar are aligned crops; false = off")
    add("--allow_outside", **FLAG, help="photographs may lie outside the data roots, by paths and links; false = off")
    where = "auto = ~/.cache/face-recognition-trainer, none = off"
    add("--data_cache", type=TEXT, default="auto", help=f"folder that keeps what was read for the next start; {where}")


def _order(group: Group) -> None:
    add = group.add_argument
    add("--weighted", **FLAG, help="each identity as often as any other; false = each picture once an epoch")
    add("--images_per_identity", type=COUNT_OR_0, default=0, help="the same, so many of each a batch [images]; 0 = off")


def _preprocessing(group: Group, template: str, fit: str, own: str) -> None:
    """The contract. template, fit: defaults of the alignment. own: what an option that isn't set means."""
    add = group.add_argument
    auto, instead = (["auto"], f"; auto = {own}") if template == "auto" else ([], "")
    add("--input_size", type=SIDE, nargs="*", default=[], help=f"height width, or side [pixels]; no value = {own}")
    add("--template", default=template, choices=(*auto, *TEMPLATES), help=f"where landmarks go{instead}")
    add("--alignment", default=fit, choices=(*auto, *ALIGNMENTS), help=f"fit of the similarity{instead}")
    add("--mean", type=CHANNEL, nargs="*", default=[], help=f"of R G B [on a 0-1 scale]; no value = {own}")
    add("--std", type=POSITIVE, nargs="*", default=[], help=f"of R G B [on a 0-1 scale]; no value = {own}")
    add("--color_order", default="auto", choices=("auto", "rgb", "bgr"), help=f"auto = {own}")


def _augmentation(group: Group) -> None:
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


def _model(group: Group) -> None:
    add = group.add_argument
    names = "|".join((*MODEL_NAMES, "timm/NAME"))
    add("--model", type=model_name(MODEL_NAMES), default="mobilenet", metavar=names, help="the backbone")
    add("--embed_size", type=COUNT, default=256, help="length of the embedding [numbers]")


def _initial_weights(group: Group) -> None:
    add = group.add_argument
    add("--init_from", default="", help="weights to begin with: a snapshot, or another system's file; empty = none")
    add("--partial", **FLAG, help="of --init_from take what fits, and say what doesn't; false = all must fit")
    add("--init_identities", default="", help="names of the classes in --init_from's head, one a line; empty = its own")
    add("--pretrained", **FLAG, help="begin with torchvision's ImageNet weights (resnet34, 50, 101); false = don't")


def _loss(group: Group) -> None:
    add = group.add_argument
    add("--margin_type", default="cos", choices=MARGIN_TYPES, help="README's table of losses says which is which")
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


def _companions(group: Group) -> None:
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


def _optimiser(group: Group) -> None:
    add = group.add_argument
    drops = [3, 6, 9, 13]
    add("--lr", type=POSITIVE, default=0.4, help="learning rate of SGD [per step]")
    add("--momentum", type=BELOW_1, default=0.9, help="momentum of SGD [fraction]; 0 = none")
    add("--weight_decay", type=NOT_NEGATIVE, default=1e-4, help="L2 penalty [factor]; 0 = off")
    add(
        "--lr_drops",
        type=COUNT,
        nargs="*",
        default=drops,
        help="--lr is x0.1 from [epochs]; no value = never",
    )
    add("--warmup_iterations", type=COUNT_OR_0, default=0, help="linear warm-up [iterations]; 0 = off")
    add("--clip_norm", type=NOT_NEGATIVE, default=0.0, help="largest norm of the gradient [L2]; 0 = off")
    names = "backbone.<name> or head.weight; * stands for anything"
    add("--freeze", nargs="*", default=[], help=f"weights that don't learn [patterns of {names}]; no value = none")
    add("--lr_scale", type=SCALED, nargs="*", default=[], help="of --lr for some weights [pattern=factor]; none = 1")
    add("--ema_decay", type=BELOW_1, default=0.0, help="moving average of the weights [fraction kept a step]; 0 = off")


def _loop(group: Group) -> None:
    add = group.add_argument
    add("--train_batch_size", type=COUNT, default=170, help="samples per step over all ranks [images]")
    add("--accumulate", type=COUNT, default=1, help="micro-batches of a rank per step [count]; 1 = off")
    add("--epoch_total_num", type=COUNT, default=30, help="length of the training [epochs]")
    add("--max_iterations", type=COUNT_OR_0, default=0, help="stop after so many [iterations]; 0 = off")
    add("--max_bad_steps", type=COUNT_OR_0, default=10, help="end after so many skipped in a row [steps]; 0 = never")
    add("--max_bad_images", type=COUNT_OR_0, default=100, help="one more unusable ends the run [files]; 0 = the first")
    add("--freeze_bn", **FLAG, help="batch norms keep their batch statistics; false = off")
    add("--precision", default="fp32", choices=("auto", "fp32", "bf16"), help="of the backbone; auto: bf16 if native")
    add("--channels_last", **FLAG, help="memory order of pictures and weights, same numbers; false = off")
    add("--sync_bn", **FLAG, help="batch norms over the samples of all ranks; false = of each rank")
    add("--activation_checkpointing", **FLAG, help="compute blocks twice rather than keep them; false = off")
    add("--compile", **FLAG, help="torch.compile the backbone; false = off")
    add("--seed", type=SEED, default=0, help="of weights, order and augmentation [whole number]")


def _verification(group: Group, empty: str, unsaid: str = "") -> None:
    add = group.add_argument
    add("--val_data_root", default="", help=f"folder of the LFW images; {empty}")
    add("--val_list", default="", help=f"LFW's pairs.txt; {empty}")
    add("--val_landmarks", default="", help=f"landmark file [pixels]; {empty}")
    add("--val_batch_size", type=COUNT, default=20, help="images per rank and forward pass [images]")
    add("--flipped_emb", **FLAG, help=f"add the embedding of the mirror image; false = off{unsaid}")


def _snapshots(group: Group) -> None:
    add = group.add_argument
    add("--val_step", type=COUNT, default=1000, help="between validations and snapshots [iterations]")
    add("--snap_folder", type=TEXT, default="./snapshots/", help="folder of the snapshots")
    add(
        "--snap_prefix", type=PREFIX, default="FaceReidNet", help="of the names <snap_prefix>_<iteration>.pt"
    )
    add("--snap_to_resume", default="", help="a .pt to go on from; auto = newest whole one, empty = none")
    add("--log_folder", default="", help="of TensorBoard files and log.jsonl; empty = logs/<snap_prefix>")
    add("--log_step", type=COUNT, default=10, help="between log lines [iterations]")


def _evaluation(group: Group) -> None:
    add = group.add_argument
    add("--snap", type=TEXT, help="snapshot (.pt) or ONNX model to measure")
    add("--model", default="", help="the backbone; empty = as --snap says")
    add(
        "--embed_size",
        type=COUNT_OR_0,
        default=0,
        help="of the embedding [numbers]; 0 = as --snap says",
    )
    add("--averaged", **FLAG, help="the moving average of the weights; false = the weights")
    add("--allow_outside", **FLAG, help="photographs may lie outside --val_data_root, by links; false = off")
    add("--json", default="", help="file to write the figures to; empty = none")
    add("--report", default="", help="folder for the report page; empty = none")


def _protocol(group: Group) -> None:
    add = group.add_argument
    protocols = ("standard", "histogram")
    add("--protocol", default="standard", choices=protocols, help="histogram = as face_recognition.pytorch has it")
    add("--dist", default="cos", choices=("cos", "l2"), help="distance: 1 - cosine, or L2 of embeddings as they are")
    add("--flip_mode", default="sum", choices=("sum", "concat"), help="of --flipped_emb: mean, or one behind the other")
    add("--center", **FLAG, help="subtract the set's mean embedding before the cosine; false = don't")
    add("--bootstrap", type=COUNT_OR_0, default=1000, help="of 95 %% intervals [replicates]; 0 = no intervals")


def _machine(group: Group) -> None:
    add = group.add_argument
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto = cuda where there is one")
    add("--dali_device", default="auto", choices=("auto", "cpu", "gpu"), help="decodes; auto = as --device")
    add(
        "--dali_threads", type=COUNT_OR_0, default=0, help="decoding threads per rank [count]; 0 = its cores"
    )
