"""Definitions of all options of train.py and evaluate_lfw.py: name, type, default and range.

To add an option, add its line to the function of its group, here or in `fr/options/training.py`. No default =
required. `fr/options/parsing.py` reads and merges them.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fr.alignment import ALIGNMENTS, CENTER_CROP, TEMPLATES
from fr.options import training
from fr.options.augmentation import Augmentation
from fr.options.fields import Add, add_fields, adder
from fr.options.groups import GroupSettings
from fr.options.losses import LossSettings, SoftmaxSettings
from fr.options.names import DATASETS, SET_KINDS
from fr.options.parsing import Checks, Resolved, new_parser, resolve
from fr.options.types import CHANNEL, COUNT_OR_0, FLAG, MODEL_FILE, POSITIVE, SIDE, TEXT
from fr.options.validation import evaluation_problems, tool_problems, train_problems

# Options of `evaluation_options` about verification sets, which tools without these sets refuse.
OF_SETS = (
    *("val_data_root", "val_set", "val_sets", "val_list", "val_landmarks"),
    *("protocol", "dist", "center", "bootstrap", "report", "quality", "roc_fname", "roc_band", "show_failed"),
    "dump_embeddings",
    *("groups", "groups_columns", "groups_pairs", "groups_fmr", "groups_threshold"),
)

# Options that most runs set; --help lists them first.
_TRAIN_FIRST = (
    *("train_data_root", "train_dataset", "train_list", "train_landmarks", "val_data_root"),
    *("model", "lr", "train_batch_size", "epoch_total_num", "snap_to_resume"),
)
_EVALUATION_FIRST = (
    *("snap", "val_data_root", "val_sets", "val_list", "val_landmarks"),
    *("flipped_emb", "cache", "json", "report", "show_failed"),
)

# Meanings of a verification set's options that aren't given: see `_verification`.
_OF_TRAINING = ("empty = none", "empty = that of the set", ", or none: aligned crops")
_STORED = ("empty = the stored one", "empty = the stored one", "", "; not given = as stored")


def train_options(argv: Sequence[str]) -> Resolved:
    """Options of train.py; InputError lists every problem found. `--help` prints and exits."""
    return resolve(train_parser(), argv, train_problems, _TRAIN_FIRST)


def train_parser() -> argparse.ArgumentParser:
    parser = new_parser("train.py", "Train a face-embedding network with a margin softmax.")
    add = partial(adder, parser)
    data = add("training data")
    _data(data)
    training.order(data)
    _preprocessing(add("preprocessing"), "sphereface", "procrustes", "the model's own")
    add_fields(parser.add_argument_group("augmentation"), Augmentation)
    training.model(add("model"))
    training.initial_weights(add("initial weights"))
    add_fields(parser.add_argument_group("loss"), SoftmaxSettings)
    add_fields(parser.add_argument_group("auxiliary losses"), LossSettings)
    training.optimiser(add("optimiser"))
    training.loop(add("loop"))
    _verification(add("validation"), *_OF_TRAINING)
    add_fields(parser.add_argument_group("error rates by group"), GroupSettings)
    training.snapshots(add("snapshots and logs"))
    _machine(add("machine"))
    return parser


def evaluation_options(argv: Sequence[str]) -> Resolved:
    """Options of evaluate_lfw.py; errors as for `train_options`."""
    return resolve(evaluation_parser(), argv, evaluation_problems, _EVALUATION_FIRST)


def evaluation_parser() -> argparse.ArgumentParser:
    parser = new_parser("evaluate_lfw.py", "Measure a snapshot or an ONNX model on LFW.")
    add = partial(adder, parser)
    _evaluation(add("model and results"))
    _preprocessing(add("preprocessing"), "auto", "auto", "the model's own")
    _verification(add("verification set"), *_STORED)
    add_fields(parser.add_argument_group("error rates by group"), GroupSettings)
    _protocol(add("protocol"))
    _machine(add("machine"))
    return parser


def tool_options(
    program: str,
    description: str,
    own: Callable[[Add], None],
    argv: Sequence[str],
    own_checks: Checks = lambda *_: [],
    datasets: Mapping[str, Any] = DATASETS,
    with_model: bool = False,
    with_sets: bool = False,
) -> Resolved:
    """Options of a tool that reads training data.

    own: adds the tool's own options. datasets: formats of the data, the default first. with_model, with_sets: the tool
    runs a model, on verification sets.
    """
    parser = new_parser(program, description)
    add = partial(adder, parser)
    own(add("the tool"))
    _data(add("data, as train.py reads them"), datasets)
    if with_sets:
        _verification(add("verification set"), *_STORED)
    if with_model:
        _model(add("model"))
        _preprocessing(add("preprocessing"), "auto", "auto", "the model's own")
        _machine(add("machine"))
    return resolve(parser, argv, lambda *settings: tool_problems(*settings) + own_checks(*settings))


def _data(add: Add, datasets: Mapping[str, Any] = DATASETS) -> None:
    """Add the options of the data. datasets: names to choose from, the default first."""
    form = "format of the data, see docs/data.md; vgg = VGGFace2"
    add("--train_dataset", default=next(iter(datasets)), choices=datasets, help=form)
    add("--train_data_root", type=TEXT, help="folder of the data; for tar also a URL: s3://, gs://, https://")
    listed = "text file with one image a line (tar, parquet: one file a line); empty for folder, rec, lmdb"
    add("--train_list", default="", help=listed)
    add("--train_landmarks", default="", help="the bb_landmark folder, or one landmark CSV file [pixels]; empty = none")
    add("--train_meta", default="", help="identity_meta.csv of vgg, for the order of the labels; empty = the list's")
    add("--aligned", **FLAG, help="the images of folder, list, tar or parquet are aligned crops; false = off")
    add("--allow_outside", **FLAG, help="images may lie outside the data roots, by paths and links; false = off")
    copies = "folder for local copies of the shards of a URL; auto = ~/.cache/face-recognition-trainer/shards"
    add("--shard_cache", TEXT, "auto", copies)
    add("--shard_cache_gb", POSITIVE, 100.0, "size of --shard_cache [GB]; the least recently used shards are removed")
    where = "auto = ~/.cache/face-recognition-trainer, none = off"
    add("--data_cache", TEXT, "auto", f"folder for a cache of the parsed lists; {where}")


def _preprocessing(add: Add, template: str, fit: str, own: str) -> None:
    """Add the preprocessing options. template, fit: defaults of the alignment. own: meaning of an unset option."""
    auto, instead = (["auto"], f"; auto = {own}") if template == "auto" else ([], "")
    add("--input_size", type=SIDE, nargs="*", default=[], help=f"height width, or side [pixels]; no value = {own}")
    where = f"landmark positions in the aligned face{instead}"
    add("--template", default=template, choices=(*auto, *TEMPLATES), help=where)
    fits = f"fit of the similarity transform, or {CENTER_CROP}: without landmarks, see docs/data.md{instead}"
    add("--alignment", default=fit, choices=(*auto, *ALIGNMENTS, CENTER_CROP), help=fits)
    add("--mean", type=CHANNEL, nargs="*", default=[], help=f"of R G B [on a 0-1 scale]; no value = {own}")
    add("--std", type=POSITIVE, nargs="*", default=[], help=f"of R G B [on a 0-1 scale]; no value = {own}")
    add("--color_order", default="auto", choices=("auto", "rgb", "bgr"), help=f"auto = {own}")


def _verification(add: Add, empty: str, listed: str, crops: str, flipped: str = "") -> None:
    add("--val_data_root", default="", help=f"folder of LFW's images, or of a complete verification set; {empty}")
    add("--val_set", default="auto", choices=SET_KINDS, help="kind of the set at --val_data_root; auto = detect")
    add("--val_sets", nargs="*", default=[], help=f"more verification sets [path or kind=path, see --val_set]; {empty}")
    add("--val_list", default="", help=f"list of pairs, such as LFW's pairs.txt; {listed}")
    add("--val_landmarks", default="", help=f"landmark file [pixels]; {listed}{crops}")
    add("--val_batch_size", COUNT_OR_0, 0, "images per rank and forward pass [images]; 0 = 256 on a GPU, 20 on a CPU")
    add("--flipped_emb", **FLAG, help=f"add the embedding of the mirror image; false = off{flipped}")


def _evaluation(add: Add) -> None:
    _model(add)
    add("--allow_outside", **FLAG, help="images may lie outside --val_data_root, by links; false = off")
    add("--json", default="", help="file to write the metrics to; empty = none")
    add("--report", default="", help="folder for the report page; empty = none")
    csv = "CSV NAME_ID,SCORE of the images' quality, higher is better, for the error-versus-discard curves of the page"
    add("--quality", default="", help=f"{csv}; empty = only the length of the embeddings")
    add("--cache", **FLAG, help="cache embeddings beside --snap and reuse them; false = off")
    add("--show_failed", default="", help="folder for an image of each misclassified pair; empty = none")
    add("--dump_embeddings", default="", help="log folder for TensorBoard's projector; empty = none")
    add("--roc_fname", default="", help="file.txt to write the ROC curve's points to, for plot_roc.py; empty = none")
    add("--roc_band", **FLAG, help="add the ends of the TPR's 95 %% intervals as two columns; false = off")


def _model(add: Add) -> None:
    add("--snap", MODEL_FILE, help="snapshot (.pt, .safetensors), Hub folder or ONNX model")
    add("--model", default="", help="check that --snap is of this backbone; empty = no check")
    add("--embed_size", COUNT_OR_0, 0, "check that --snap has embeddings of this length [numbers]; 0 = no check")
    add("--averaged", **FLAG, help="use the moving average of the weights (--ema_decay); false = the weights")


def _protocol(add: Add) -> None:
    protocols = ("standard", "histogram")
    add("--protocol", default="standard", choices=protocols, help="histogram = that of face_recognition.pytorch")
    add("--dist", default="cos", choices=("cos", "l2"), help="distance: 1 - cosine, or L2 without normalisation")
    add("--flip_mode", default="sum", choices=("sum", "concat"), help="for --flipped_emb: mean or concatenation")
    add("--center", **FLAG, help="subtract the set's mean embedding before the cosine; false = off")
    add("--bootstrap", COUNT_OR_0, 1000, "bootstrap replicates of 95 %% intervals [count]; 0 = no intervals")


def _machine(add: Add) -> None:
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto = cuda if available")
    add("--dali_device", default="auto", choices=("auto", "cpu", "gpu"), help="device that decodes; auto = as --device")
    add("--dali_threads", COUNT_OR_0, 0, "decoding threads per rank [count]; 0 = one per core of the rank")
