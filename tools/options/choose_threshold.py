"""Options of tools/choose_threshold.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.definitions import OF_SETS, evaluation_options, evaluation_parser
from fr.options.parsing import Resolved, own_arguments, tool_parser
from fr.options.types import COUNT, FRACTION
from tools.options.detect_faces import detector_options


def options(argv: list[str]) -> tuple[argparse.Namespace, Resolved]:
    """The tool's own arguments, with the words of `evaluate_lfw.py`'s options as `of_model`, and these options."""
    model = "model:\n  --snap FILE           snapshot (.pt) or ONNX model (required)"
    parser = tool_parser("tools/choose_threshold.py", epilog=model, allow_abbrev=False)
    add = parser.add_argument
    add("people", metavar="FOLDER", help="images of people from your camera, one folder per person")
    add("out", type=Path, metavar="OUT.json", help="file for the threshold")
    which = parser.add_mutually_exclusive_group(required=True)
    of_pairs = "share of the pairs of different people that may be accepted (1:1)"
    which.add_argument("--fmr", type=FRACTION, metavar="RATE", help=of_pairs)
    of_strangers = "share of the searches of unknown people that may be accepted (1:N; needs --gallery_size)"
    which.add_argument("--fpir", type=FRACTION, metavar="RATE", help=of_strangers)
    add("--gallery_size", type=COUNT, metavar="N", help="people in the gallery of --fpir")
    add("--aligned", action="store_true", help="the images are aligned crops (default: whole images)")
    detector_options(parser)
    arguments, rest = own_arguments(parser, argv, evaluation_parser())
    arguments.of_model = rest
    resolved = evaluation_options(rest)
    problems = resolved.said([*OF_SETS, "cache", "json"], "not for a threshold of one's own images")
    if bool(arguments.fpir) != bool(arguments.gallery_size):
        problems.append("--fpir and --gallery_size belong together: how many are named depends on how many are known")
    if arguments.out.suffix != ".json":
        problems.append(f"{arguments.out}: give it the ending .json, by which --threshold of identify.py knows it")
    if problems:
        raise InputError(*problems)
    return arguments, resolved
