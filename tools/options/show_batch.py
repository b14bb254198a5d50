"""Options of tools/show_batch.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.definitions import train_options, train_parser
from fr.options.parsing import Resolved, own_arguments, tool_parser
from fr.options.types import COUNT


def options(argv: list[str]) -> tuple[argparse.Namespace, Resolved]:
    """The tool's own arguments, and train.py's options."""
    parser = tool_parser("tools/show_batch.py", allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--iteration", type=COUNT, default=1, help="iteration to show, from 1 (default: 1)")
    parser.add_argument("--faces", type=COUNT, default=24, help="most faces shown; with --each one row (default: 24)")
    parser.add_argument("--each", action="store_true", help="one row for each enabled augmentation, alone")
    arguments, rest = own_arguments(parser, argv, train_parser())
    if arguments.out.suffix.lower() != ".png":
        raise InputError(f"--out {arguments.out}: expected a name that ends in .png")
    return arguments, train_options(rest)
