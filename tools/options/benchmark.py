"""Options of tools/benchmark.py, one function for each part."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fr.options.fields import Add
from fr.options.parsing import docstring, tool_parser
from fr.options.training import add_model_kwargs

HEAD_FORMS = ("plain", "full", "sampled")
VGGFACE2_ROWS = 3_141_890  # of its training part


@dataclass(frozen=True)
class Form:
    """Form of the measured step; plain: torch's own parts."""

    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False
    plain: bool = False
    deterministic: bool = False


STEP_FORMS = {
    "plain": Form(plain=True),
    "fp32": Form(),
    "channels_last": Form(channels_last=True),
    "bf16": Form(precision="bf16"),
    "fp16": Form(precision="fp16"),
    "both": Form(precision="bf16", channels_last=True),
    "deterministic": Form(deterministic=True),
    "compile": Form(precision="bf16", channels_last=True, compiled=True),
}


def options(argv: list[str]) -> argparse.Namespace:
    """Options of the chosen part; `part` is its name."""
    parser = tool_parser("tools/benchmark.py")
    parts = parser.add_subparsers(required=True, metavar="PART", dest="part")
    for name, (add_options, about) in _PARTS.items():
        description, form = docstring(f"tools/benchmarks/{name}.py"), argparse.RawDescriptionHelpFormatter
        add_options(parts.add_parser(name, help=about, description=description, formatter_class=form).add_argument)
    return parser.parse_args(argv)


def _endurance(add: Add) -> None:
    add("--iterations", type=int, default=3000, help="length of the training [count] (default: %(default)s)")
    add("--val_step", type=int, default=50, help="interval of snapshots [iterations] (default: %(default)s)")
    add("--stops", type=int, default=2, help="interruptions by SIGTERM [count] (default: %(default)s)")
    add("--train", nargs=argparse.REMAINDER, default=[], help="further options of train.py; must come last")


def _evaluate(add: Add) -> None:
    add("--turns", type=int, default=5, help="of each form, after one as warm-up [count] (default: %(default)s)")
    add("--eval", nargs=argparse.REMAINDER, required=True, help="options of evaluate_lfw.py; must come last")


def _head(add: Add) -> None:
    add("--classes", type=int, nargs="+", default=[8_631, 100_000, 1_000_000], help="[count] (default: %(default)s)")
    add("--ranks", type=int, nargs="+", default=[1, 2], help="processes [count] (default: %(default)s)")
    add("--forms", nargs="+", choices=HEAD_FORMS, default=HEAD_FORMS, help="plain runs only on 1 rank (default: all)")
    add("--embed_size", type=int, default=512, help="[numbers] (default: %(default)s)")
    add("--batch", type=int, default=64, help="samples over all ranks [count] (default: %(default)s)")
    add("--sample_rate", type=float, default=0.1, help="for the sampled form [fraction] (default: %(default)s)")
    add("--steps", type=int, default=5, help="measured, after one as warm-up [count] (default: %(default)s)")


def _loader(add: Add) -> None:
    add("--threads", type=int, nargs="+", default=[1], help="of each form [count] (default: %(default)s)")
    add("--batches", type=int, default=20, help="measured a turn, after two as warm-up [count] (default: %(default)s)")
    add("--turns", type=int, default=7, help="of each form [count] (default: %(default)s)")
    add("--read_delay_ms", type=float, nargs="*", default=[], help="read delays of further forms [ms] (default: none)")
    add("--train", nargs=argparse.REMAINDER, required=True, help="options of train.py, @config.yml; come last")


def _snapshot(add: Add) -> None:
    add("--classes", type=int, default=1_000_000, help="classes of the head [count] (default: %(default)s)")
    add("--embed_size", type=int, default=512, help="length of its rows [numbers] (default: %(default)s)")
    add("--ranks", type=int, default=1, help="processes [count] (default: %(default)s)")
    add("--snapshots", type=int, default=3, help="written in a turn [count] (default: %(default)s)")
    add("--turns", type=int, default=2, help="of each form [count] (default: %(default)s)")
    add("--folder", type=Path, default=Path("."), help="on the disk to measure; holds two snapshots (default: here)")


def _startup(add: Add) -> None:
    add("--rows", type=int, default=VGGFACE2_ROWS, help="lines of the list [count] (default: VGGFace2's, %(default)s)")
    add("--ranks", type=int, nargs="+", default=[1, 2], help="processes [count] (default: %(default)s)")
    add("--turns", type=int, default=3, help="of each measurement [count] (default: %(default)s)")


def _scaling(add: Add) -> None:
    add("--weights", type=int, default=65_150_912, help="of the backbone [count] (default: iresnet100's, %(default)s)")
    add("--embed_size", type=int, default=512, help="[numbers] (default: %(default)s)")
    add("--batch", type=int, default=64, help="samples of each rank [count] (default: %(default)s)")
    add("--sample_rate", type=float, default=0.1, help="for the last columns [fraction] (default: %(default)s)")


def _step(add: Add) -> None:
    add("--model", nargs="+", default=["mobilenet", "iresnet50"], help="backbones (default: %(default)s)")
    add_model_kwargs(add)
    default = ["plain", "fp32", "channels_last", "bf16", "both"]
    add("--forms", nargs="+", choices=STEP_FORMS, default=default, help="(default: %(default)s; compile takes minutes)")
    add("--ranks", type=int, nargs="+", default=[1], help="processes [count] (default: %(default)s)")
    add("--batch", type=int, default=32, help="images over all ranks [count] (default: %(default)s)")
    add("--steps", type=int, default=3, help="measured a turn, after one as warm-up [count] (default: %(default)s)")
    add("--turns", type=int, default=3, help="of each form [count] (default: %(default)s)")


_PARTS: dict[str, tuple[Callable[[Add], None], str]] = {
    "head": (_head, "the softmax head"),
    "scaling": (_scaling, "costs on many ranks, by formula"),
    "step": (_step, "a whole training step"),
    "snapshot": (_snapshot, "the pause for a snapshot"),
    "startup": (_startup, "reading of lists"),
    "loader": (_loader, "reading and alignment of images"),
    "evaluate": (_evaluate, "embedding of a verification set"),
    "endurance": (_endurance, "leaks in a long run"),
}
