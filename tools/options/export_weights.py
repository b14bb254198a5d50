"""Options of tools/export_weights.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.parsing import tool_parser
from fr.options.types import snapshot_file

FILES = (".safetensors", ".pth")


def options(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/export_weights.py")
    add = parser.add_argument
    add("snap", type=snapshot_file, metavar="SNAP", help="snapshot (.pt, .safetensors) or Hub folder")
    add("out", type=Path, metavar="OUT", help="file.safetensors, file.pth, or a folder for Hugging Face's Hub")
    add("--averaged", action="store_true", help="write the averaged weights (default: the weights)")
    add("--license", metavar="NAME", default="", help="of a folder's weights, as the Hub names it (default: other)")
    arguments = parser.parse_args(argv)
    arguments.folder = arguments.out.is_dir() or not arguments.out.suffix
    problems = []
    if not arguments.folder and arguments.out.suffix not in FILES:
        problems.append(f"OUT {arguments.out}: must end in {' or '.join(FILES)}, or be a folder (without an ending)")
    if arguments.license and not arguments.folder:
        problems.append(f"--license {arguments.license}: is for a model card, so OUT must be a folder")
    if problems:
        raise InputError(*problems)
    return arguments
