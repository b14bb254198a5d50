"""Options of tools/evaluate_tinyface.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.definitions import OF_SETS, evaluation_options, evaluation_parser
from fr.options.parsing import Resolved, own_arguments, tool_parser


def options(argv: list[str]) -> tuple[argparse.Namespace, Resolved]:
    """The tool's own arguments, and evaluate_lfw.py's options."""
    parser = tool_parser("tools/evaluate_tinyface.py", allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Testing_Set, or the folder that it is in")
    images = "folder with aligned copies in Probe/, Gallery_Match/ and Gallery_Distractor/ (default: those of FOLDER)"
    parser.add_argument("--images", type=Path, metavar="FOLDER", help=images)
    arguments, rest = own_arguments(parser, argv, evaluation_parser())
    resolved = evaluation_options(rest)
    if others := resolved.said(OF_SETS, "not for TinyFace"):
        raise InputError(*others)
    return arguments, resolved
