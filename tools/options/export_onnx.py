"""Options of tools/export_onnx.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.names import SET_OPTIONS
from fr.options.parsing import tool_parser
from fr.options.types import snapshot_file


def options(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/export_onnx.py")
    add = parser.add_argument
    add("snap", type=snapshot_file, metavar="SNAP", help="snapshot (.pt, .safetensors) or Hub folder")
    add("out", type=Path, metavar="OUT.onnx", help="file to write")
    add("--with_preprocessing", action="store_true", help="normalise inside: RGB pixels 0-255 in (default: outside)")
    add("--l2_norm", action="store_true", help="embeddings of norm 1 (default: not normalised)")
    add("--averaged", action="store_true", help="export the averaged weights (default: the weights)")
    add("--program", type=Path, metavar="OUT.pt2", help="also write torch.export's program (default: none)")
    help_int8 = "also write OUT.int8.onnx, calibrated with N faces [images]; 0 = don't (default: 0)"
    add("--int8", type=int, metavar="N", default=0, help=help_int8)
    for name, what in zip(SET_OPTIONS, ("folder of the faces", "pairs.txt", "landmark file [pixels]"), strict=True):
        add(f"--{name}", default="", help=f"{what}, to check and score with (default: the snapshot's)")
    arguments = parser.parse_args(argv)
    problems = [
        f"{what} {path}: must end in {ending}"
        for what, path, ending in (("OUT", arguments.out, ".onnx"), ("--program", arguments.program, ".pt2"))
        if path and path.suffix != ending
    ]
    if arguments.int8 < 0:
        problems.append(f"--int8 {arguments.int8}: expected a number of images, or 0")
    if problems:
        raise InputError(*problems)
    return arguments
