"""Options of tools/plan.py: its own, and those of train.py, which mostly come from a recipe."""

import argparse
import os
import re
from dataclasses import dataclass

from fr.errors import InputError
from fr.options.config_files import read_settings
from fr.options.definitions import train_options
from fr.options.parsing import tool_parser
from fr.options.run_checks import check_batches
from fr.options.types import COUNT, COUNT_OR_0
from tools.planning.cards import CARDS


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan. own: its own. training: train.py's. words: train.py's part of the command line, unchanged."""

    own: argparse.Namespace
    training: argparse.Namespace
    words: list[str]


def options(argv: list[str]) -> PlanOptions:
    """Parse both; InputError with every problem of train.py's options, and for a batch that the GPUs can't share."""
    usage = "%(prog)s @recipe.yml --gpus N --gpu CARD --identities N [--option of train.py] ..."
    parser = tool_parser("tools/plan.py", usage=usage, allow_abbrev=False, epilog="All other options: train.py --help")
    add = parser.add_argument
    add("--gpus", type=COUNT, required=True, help="number of GPUs in all [count]")
    add("--gpu", choices=CARDS, required=True, help="kind of the GPUs")
    add("--identities", type=COUNT, required=True, help="identities of the training data [count]")
    add("--images", type=COUNT_OR_0, default=0, help="images of the training data [count]; 0 = no hours (default: 0)")
    add("--gpus_per_node", type=COUNT, default=8, help="GPUs of a node [count] (default: 8)")
    add("--json", action="store_true", help="print JSON in place of the table")
    own, words = parser.parse_known_args(argv)
    _keep_unset_variables(words)
    if not any(word.startswith(("@", "--train_data")) for word in words):  # neither a recipe nor own data
        words = ["--train_dataset", "folder", "--train_data_root", "DATA", "--aligned", *words]
    training = train_options(words).values
    check_batches(training, own.gpus)
    if training.precision != "auto" and training.precision not in CARDS[own.gpu].flops:
        raise InputError(f"--precision {training.precision}: not supported by a {own.gpu}")
    if training.teacher:
        raise InputError("--teacher: memory and time of a teacher aren't estimated; plan without it")
    if 0 < own.images < training.train_batch_size:
        raise InputError(f"--train_batch_size {training.train_batch_size} is more than the {own.images} of --images")
    if own.gpus > own.gpus_per_node and own.gpus % own.gpus_per_node:
        raise InputError(f"--gpus {own.gpus}: not a whole number of nodes of --gpus_per_node {own.gpus_per_node}")
    return PlanOptions(own, training, words)


def _keep_unset_variables(words: list[str]) -> None:
    """Leave $NAME of an unset variable as it is written: a plan reads no data."""
    for setting in read_settings(words)[0]:
        for name in re.findall(r"\$\{?([A-Za-z_]\w*)", " ".join(setting.words)):
            os.environ.setdefault(name, f"${name}")
