"""Options of tools/evaluate_ijb.py."""

import argparse

from fr.errors import InputError
from fr.options.definitions import OF_SETS, evaluation_options, evaluation_parser
from fr.options.parsing import Resolved, own_arguments, tool_parser


def options(argv: list[str]) -> tuple[argparse.Namespace, Resolved]:
    """The tool's own arguments, and evaluate_lfw.py's options."""
    parser = tool_parser("tools/evaluate_ijb.py", allow_abbrev=False)
    parser.add_argument("folder", metavar="FOLDER", help="folder with loose_crop/ and meta/")
    parser.add_argument("--no_detector_score", action="store_true", help="weight all images equally")
    arguments, rest = own_arguments(parser, argv, evaluation_parser())
    resolved = evaluation_options(rest)
    if others := resolved.said(OF_SETS, "not for IJB"):
        raise InputError(*others)
    return arguments, resolved
