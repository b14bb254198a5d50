"""Options of tools/compare_models.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.definitions import evaluation_options, evaluation_parser
from fr.options.parsing import Resolved, own_arguments, tool_parser

PREPROCESSING = ("input_size", "template", "alignment", "mean", "std", "color_order")
# Outputs of evaluate_lfw.py for a single model.
_NOT_HERE = ("json", "report", "quality", "roc_fname", "roc_band", "show_failed", "dump_embeddings", "groups")


def options(argv: list[str]) -> tuple[argparse.Namespace, list[Resolved]]:
    """The tool's own arguments, and evaluate_lfw.py's options for A and for B."""
    parser = tool_parser("tools/compare_models.py", allow_abbrev=False)
    parser.add_argument("a", metavar="A", help="snapshot (.pt, .safetensors), Hub folder or ONNX model")
    parser.add_argument("b", metavar="B", help="another one")
    curves = "plot of both ROC curves with their bands to write (default: none)"
    parser.add_argument("--roc", type=Path, metavar="PNG", help=curves)
    arguments, rest = own_arguments(parser, argv, evaluation_parser())
    return arguments, [scoring_options(name, rest) for name in (arguments.a, arguments.b)]


def scoring_options(snap: str, rest: list[str]) -> Resolved:
    """Options of evaluate_lfw.py for one of several models; InputError for outputs that are for a single model."""
    if any(word.partition("=")[0] == "--snap" for word in rest):
        raise InputError("--snap: the models are named without it")
    resolved = evaluation_options([*rest, "--snap", snap])
    if refused := resolved.said(_NOT_HERE, "not for several models"):
        raise InputError(*refused)
    return resolved
