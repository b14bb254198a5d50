"""Every option of train.py and evaluate_lfw.py: its name, type, default and range.

To add one, add its line to the function of its group: nothing else knows the names. No default = required.
`@file.yml` anywhere on the command line reads that file; the later setting wins (`fr/config_files.py`).
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import configargparse

from fr.config_files import find_option, parse_setting, printable, read_settings, yaml_text
from fr.errors import InputError

MODEL_NAMES = ("mobilenet",)

Group = argparse._ArgumentGroup
Checks = Callable[[dict[str, Any], dict[str, str]], list[str]]
Value = bool | int | float | str | list[int]


@dataclass(frozen=True)
class Resolved:
    """The options of one run: what each is, and where it was said."""

    values: argparse.Namespace
    origins: dict[str, str]  # option → "default", "command line" or "configs/x.yml:12"

    def as_dict(self) -> dict[str, Value]:
        """Builtins alone, for a snapshot."""
        return {name: list(v) if isinstance(v, list) else v for name, v in vars(self.values).items()}

    def table(self) -> str:
        """One aligned `name = value   (origin)` line an option."""
        rows = [(name, yaml_text(value), self.origins[name]) for name, value in self.as_dict().items()]
        names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{name:{names}} = {value:{values}}   ({origin})" for name, value, origin in rows)

    def write(self, path: str | Path) -> None:
        """A config file that gives the same values when it is read with `@path`; the origins are comments."""
        lines = [f"{name}: {yaml_text(v)}  # {self.origins[name]}\n" for name, v in self.as_dict().items()]
        Path(path).write_text("".join(lines), encoding="utf-8")


def train_options(argv: Sequence[str]) -> Resolved:
    """The options of train.py; raises InputError with every problem found. `--help` prints and exits."""
    parser = _parser("train.py", "Train a face-embedding network with a margin softmax.")
    _data(parser.add_argument_group("training data"))
    _preprocessing(parser.add_argument_group("preprocessing and augmentation"))
    _model(parser.add_argument_group("model"))
    _loss(parser.add_argument_group("loss"))
    _optimiser(parser.add_argument_group("optimiser"))
    _loop(parser.add_argument_group("loop"))
    _verification(parser.add_argument_group("validation on LFW"), "empty = no validation")
    _snapshots(parser.add_argument_group("snapshots and logs"))
    _machine(parser.add_argument_group("machine"))
    return _resolve(parser, argv, _cross_checks)


def evaluation_options(argv: Sequence[str]) -> Resolved:
    """As `train_options`, for evaluate_lfw.py; raises InputError with every problem found."""
    parser = _parser("evaluate_lfw.py", "Measure a snapshot on LFW.")
    _evaluation(parser.add_argument_group("snapshot and results"))
    _verification(parser.add_argument_group("LFW"), "empty = the one stored in the snapshot")
    _machine(parser.add_argument_group("machine"))
    return _resolve(parser, argv, lambda _values, _origins: [])


def check_batch_size(batch: int, world_size: int, accumulate: int) -> None:
    """Raises InputError, with the nearest that do, if a global batch doesn't split evenly over the ranks."""
    parts = world_size * accumulate
    if batch % parts:
        lower = batch // parts * parts
        nearest = " and ".join(str(size) for size in (lower, lower + parts) if size)
        raise InputError(
            f"--train_batch_size {batch} doesn't divide into {world_size} (ranks) x "
            f"{accumulate} (--accumulate) equal micro-batches; the nearest that do: {nearest}"
        )


def _checked(kind: Callable[[str], Value], wanted: str, test: Callable[..., bool]) -> Callable[[str], Value]:
    """An option type whose error says what was wanted."""

    def convert(text: str) -> Value:
        try:
            value = kind(text)
            if (not isinstance(value, float) or math.isfinite(value)) and test(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")

    return convert


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "yes", "on", "false", "no", "off"):
        raise ValueError
    return text.lower() in ("true", "yes", "on")


_COUNT = _checked(int, "a whole number >= 1", lambda x: x >= 1)
_COUNT_OR_0 = _checked(int, "a whole number >= 0", lambda x: x >= 0)
_TEXT = _checked(str, "a text that isn't empty", lambda x: x != "")
_POSITIVE = _checked(float, "a number > 0", lambda x: x > 0)
_NOT_NEGATIVE = _checked(float, "a number >= 0", lambda x: x >= 0)
_PROBABILITY = _checked(float, "a number in [0, 1]", lambda x: 0 <= x <= 1)
_MOMENTUM = _checked(float, "a number in [0, 1)", lambda x: 0 <= x < 1)
_DEGREES = _checked(float, "a number of degrees in [0, 180]", lambda x: 0 <= x <= 180)
_SEED = _checked(int, "a whole number in [0, 2**32)", lambda x: 0 <= x < 2**32)
_SIDE = _checked(int, "0 or a multiple of 16 from 32 on", lambda x: x == 0 or (x >= 32 and x % 16 == 0))
_PREFIX = _checked(str, "a file name without / or \\", lambda x: bool(x.strip()) and not {*"/\\"} & {*x})
# `--flag`, `--flag true` and `flag: true` switch on; `--flag false` and `flag: false` switch off.
_BOOLEAN = _checked(_boolean, "true or false", lambda x: True)
_FLAG: dict[str, Any] = {
    "type": _BOOLEAN,
    "nargs": "?",
    "const": True,
    "default": False,
    "metavar": "true|false",
}


def _data(group: Group) -> None:
    add = group.add_argument
    add("--train_dataset", default="vgg", choices=("vgg",), help="layout of the data; vgg = VGGFace2")
    add("--train_data_root", type=_TEXT, help="folder that the paths of --train_list start from")
    add("--train_list", type=_TEXT, help="text file, one image path a line")
    add("--train_landmarks", type=_TEXT, help="the bb_landmark folder, or one landmark CSV file [pixels]")


def _preprocessing(group: Group) -> None:
    add = group.add_argument
    add("--input_size", type=_SIDE, default=0, help="side of the network input [pixels]; 0 = the model's own")
    add("--template", default="sphereface", choices=("sphereface", "arcface"), help="where landmarks go")
    add("--alignment", default="procrustes", choices=("procrustes", "umeyama"), help="fit of the similarity")
    add("--flip_prob", type=_PROBABILITY, default=0.5, help="mirroring [probability]; 0 = off")
    add("--rotate_prob", type=_PROBABILITY, default=0.95, help="rotation [probability]; 0 = off")
    add("--rotate_degrees", type=_DEGREES, default=10.0, help="most rotation either way [degrees]; 0 = off")
    add("--cutout_prob", type=_PROBABILITY, default=0.05, help="boxes on landmarks [probability]; 0 = off")
    add("--blur_prob", type=_PROBABILITY, default=0.2, help="5x5 box blur [probability]; 0 = off")


def _model(group: Group) -> None:
    add = group.add_argument
    add("--model", default="mobilenet", choices=MODEL_NAMES, help="the backbone")
    add("--embed_size", type=_COUNT, default=256, help="length of the embedding [numbers]")


def _loss(group: Group) -> None:
    add = group.add_argument
    add("--margin_type", default="cos", choices=("cos", "arc"), help="cos = CosFace, arc = ArcFace")
    add("--s", "--scale", type=_POSITIVE, default=30.0, help="scale of the logits [factor]")
    add("--m", "-m", "--margin", type=_NOT_NEGATIVE, default=0.35, help="margin [cos: cosine, arc: radians]; 0 = none")


def _optimiser(group: Group) -> None:
    add = group.add_argument
    drops = [3, 6, 9, 13]
    add("--lr", type=_POSITIVE, default=0.4, help="learning rate of SGD [per step]")
    add("--momentum", type=_MOMENTUM, default=0.9, help="momentum of SGD [fraction]; 0 = none")
    add("--weight_decay", type=_NOT_NEGATIVE, default=1e-4, help="L2 penalty [factor]; 0 = off")
    add(
        "--lr_drops",
        type=_COUNT,
        nargs="*",
        default=drops,
        help="--lr is x0.1 from [epochs]; no value = never",
    )
    add("--warmup_iterations", type=_COUNT_OR_0, default=0, help="linear warm-up [iterations]; 0 = off")
    add("--clip_norm", type=_NOT_NEGATIVE, default=0.0, help="largest norm of the gradient [L2]; 0 = off")


def _loop(group: Group) -> None:
    add = group.add_argument
    add("--train_batch_size", type=_COUNT, default=170, help="samples per step over all ranks [images]")
    add("--accumulate", type=_COUNT, default=1, help="micro-batches of a rank per step [count]; 1 = off")
    add("--epoch_total_num", type=_COUNT, default=30, help="length of the training [epochs]")
    add("--max_iterations", type=_COUNT_OR_0, default=0, help="stop after so many [iterations]; 0 = off")
    add("--freeze_bn", **_FLAG, help="batch norms keep their batch statistics; false = off")
    add("--precision", default="fp32", choices=("fp32", "bf16"), help="what the backbone computes in")
    add("--channels_last", **_FLAG, help="memory order of pictures and weights, same numbers; false = off")
    add("--seed", type=_SEED, default=0, help="of weights, order and augmentation [whole number]")


def _verification(group: Group, empty: str) -> None:
    add = group.add_argument
    add("--val_data_root", default="", help=f"folder of the LFW images; {empty}")
    add("--val_list", default="", help=f"LFW's pairs.txt; {empty}")
    add("--val_landmarks", default="", help=f"landmark file [pixels]; {empty}")
    add("--val_batch_size", type=_COUNT, default=20, help="images per rank and forward pass [images]")
    add("--flipped_emb", **_FLAG, help="add the embedding of the mirror image; false = off")


def _snapshots(group: Group) -> None:
    add = group.add_argument
    add("--val_step", type=_COUNT, default=1000, help="between validations and snapshots [iterations]")
    add("--snap_folder", type=_TEXT, default="./snapshots/", help="folder of the snapshots")
    add(
        "--snap_prefix", type=_PREFIX, default="FaceReidNet", help="of the names <snap_prefix>_<iteration>.pt"
    )
    add("--snap_to_resume", default="", help="a .pt to go on from; auto = newest whole one, empty = none")
    add("--log_folder", default="", help="of TensorBoard files and log.jsonl; empty = logs/<snap_prefix>")
    add("--log_step", type=_COUNT, default=10, help="between log lines [iterations]")


def _evaluation(group: Group) -> None:
    add = group.add_argument
    add("--snap", type=_TEXT, help="snapshot to measure (.pt)")
    add("--model", default="", help="the backbone; empty = as the snapshot says")
    add(
        "--embed_size",
        type=_COUNT_OR_0,
        default=0,
        help="of the embedding [numbers]; 0 = as the snapshot says",
    )
    add("--json", default="", help="file to write the figures to; empty = none")
    add("--report", default="", help="folder for the report page; empty = none")


def _machine(group: Group) -> None:
    add = group.add_argument
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto = cuda where there is one")
    add("--dali_device", default="auto", choices=("auto", "cpu", "gpu"), help="decodes; auto = as --device")
    add(
        "--dali_threads", type=_COUNT_OR_0, default=0, help="decoding threads per rank [count]; 0 = its cores"
    )


def _cross_checks(values: dict[str, Any], origins: dict[str, str]) -> list[str]:
    """What one option alone can't show. An option whose own value was refused is absent from `values`."""
    problems = []
    lfw = ("val_data_root", "val_list", "val_landmarks")
    empty = [f"--{name}" for name in lfw if values.get(name) == ""]
    if empty and any(values.get(name) for name in lfw):
        problems.append(f"--{', --'.join(lfw)}: all three or none; empty: {', '.join(empty)}")
    drops = values.get("lr_drops", [])
    if any(later <= earlier for earlier, later in pairwise(drops)):
        problems.append(f"{origins['lr_drops']}: --lr_drops: {drops} must increase")
    if values.get("margin_type") == "arc" and values.get("m", 0) > math.pi / 2:
        problems.append(f"{origins['m']}: --m: {values['m']} radians is more than a right angle; arc takes up to 1.57")
    return problems


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = configargparse.ArgumentParser(
        prog=program,
        usage=f"{program} [@file.yml] [--option value] ...",
        description=description,
        epilog="@file.yml anywhere reads `option: value` lines from that file; the later setting wins. "
        "$NAME in a value is an environment variable, $$ a dollar sign.",
        allow_abbrev=False,
        exit_on_error=False,
        add_config_file_help=False,
        add_env_var_help=False,
    )
    return parser


def _resolve(parser: argparse.ArgumentParser, argv: Sequence[str], cross_checks: Checks) -> Resolved:
    """Reads each setting by itself, so that all problems come out together, and merges them in order."""
    options = {action.dest: action for action in parser._actions if action.dest != "help"}
    if {"-h", "--help"} & set(argv):
        for action in options.values():
            default = "required" if action.default is None else f"default: {yaml_text(action.default)}"
            action.help = f"{action.help} ({default})"
        parser.parse_args(["--help"])
    settings, problems = read_settings(argv)
    all_read = not problems
    values: dict[str, Value] = {}
    origins: dict[str, str] = {}
    for setting in settings:
        try:
            action = find_option(options, setting, parser.prog)
            origins[action.dest] = setting.origin
            values[action.dest] = parse_setting(parser, action, setting)
        except InputError as error:
            where = f"{setting.origin}: {printable(setting.name)}"
            problems += [f"{where}: {problem}" for problem in error.problems]
    for name, action in options.items():
        if name not in origins:
            origins[name], values[name] = "default", action.default
    if all_read:  # else what looks forgotten may stand in the file that couldn't be read
        problems += [f"--{name} is required" for name, value in values.items() if value is None]
        problems += cross_checks(values, origins)
    if problems:
        raise InputError(*problems)
    ordered = {name: values[name] for name in options}
    return Resolved(argparse.Namespace(**ordered), {name: origins[name] for name in options})
