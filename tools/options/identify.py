"""Options of tools/identify.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.definitions import OF_SETS, evaluation_options, evaluation_parser
from fr.options.parsing import Resolved, own_arguments, tool_parser
from fr.options.types import checked
from tools.options.detect_faces import detector_options

_DISTANCE = checked(
    lambda text: text if text.endswith(".json") else float(text),
    "a cosine distance in [0, 2], or a .json file of tools/choose_threshold.py",
    lambda x: isinstance(x, str) or 0 <= x <= 2,
)


def options(argv: list[str]) -> tuple[argparse.Namespace, Resolved]:
    """The tool's own arguments, and evaluate_lfw.py's options."""
    model = "model:\n  --snap FILE           snapshot (.pt, .safetensors), Hub folder or ONNX model (required)"
    parser = tool_parser("tools/identify.py", epilog=model, allow_abbrev=False)
    add = parser.add_argument
    add("--gallery", required=True, metavar="FOLDER", help="images of the people to recognise")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--input", default="", metavar="WHAT", help="image, folder of images, video or camera number")
    what.add_argument("--evaluate", default="", metavar="PROBES", help="folder with the gallery's layout: 1:N metrics")
    add("--out", type=Path, metavar="OUT", help="folder for the results, or for the CMC curve (default: none)")
    add("--show", action="store_true", help="show the result in a window; q ends (needs an OpenCV with window support)")
    nearer = "faces below this distance are named [1 - cosine, or a file of tools/choose_threshold.py]"
    nearer += " (default: estimated in the model's validation)"
    add("--threshold", type=_DISTANCE, metavar="D", help=nearer)
    add("--aligned", action="store_true", help="gallery and PROBES are aligned crops (default: whole images)")
    detector_options(parser)
    arguments, rest = own_arguments(parser, argv, evaluation_parser())
    resolved = evaluation_options(rest)
    _check(arguments, resolved)
    return arguments, resolved


def _check(arguments: argparse.Namespace, resolved: Resolved) -> None:
    """Raise InputError for options without effect, and for an --out inside an input or overwriting one."""
    problems = resolved.said([*OF_SETS, "cache"], "not for identification")
    if arguments.evaluate and arguments.show:
        problems.append("--show: not with --evaluate, which shows nothing")
    if arguments.input and resolved.values.json:
        problems.append(f"{resolved.origins['json']}: --json: goes with --evaluate; of --input, OUT gets faces.jsonl")
    problems += _out_problems(arguments)
    if problems:
        raise InputError(*problems)


def _out_problems(arguments: argparse.Namespace) -> list[str]:
    if not (arguments.out and arguments.input):
        return []
    out, gallery, source = (Path(path).resolve() for path in (arguments.out, arguments.gallery, arguments.input))
    if out.is_relative_to(gallery):
        return [f"--out {arguments.out}: lies in the gallery, whose people it would join"]
    if source.is_dir() and out.is_relative_to(source):
        return [f"--out {arguments.out}: lies in --input, whose images it would join"]
    if out == source.parent:
        return [f"--out {arguments.out}: the annotated one would take the place of --input"]
    return []
