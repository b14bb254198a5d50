"""Options of tools/import_weights.py."""

import argparse
from pathlib import Path

from fr.alignment import ALIGNMENTS, CENTER_CROP, TEMPLATES
from fr.options.names import MODEL_NAMES
from fr.options.parsing import tool_parser
from fr.options.training import add_model_kwargs
from fr.options.types import CHANNEL, COUNT, POSITIVE, model_name, snapshot_file


def options(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/import_weights.py")
    parser.add_argument("file", type=snapshot_file, help="the weights, or a Hub folder (kinds: docs/weights.md)")
    parser.add_argument("out", type=Path, help="the snapshot to write (.pt)")
    parser.add_argument("--identities", type=Path, help="names of the head's classes, one per line, to keep the head")
    parser.add_argument("--template", choices=sorted(TEMPLATES), help="alignment template (default: its authors')")
    fits = (*ALIGNMENTS, CENTER_CROP)
    parser.add_argument("--alignment", choices=fits, help="as train.py's (default: its authors')")
    help_order = "order of the input's channels (default: its authors')"
    parser.add_argument("--color_order", choices=("rgb", "bgr"), help=help_order)
    own = "(default: its network's)"
    parser.add_argument("--input_size", type=COUNT, nargs=2, default=[], metavar=("H", "W"), help=f"[pixels] {own}")
    for name, kind in (("--mean", CHANNEL), ("--std", POSITIVE)):
        on = f"of the input's R G B, on a 0-1 scale {own}"
        parser.add_argument(name, type=kind, nargs=3, default=[], metavar=("R", "G", "B"), help=on)
    help_model = "network whose keys the file has as they are, as timm/NAME (default: found out)"
    parser.add_argument("--model", type=model_name(MODEL_NAMES), help=help_model)
    add_model_kwargs(parser.add_argument)
    arguments = parser.parse_args(argv)
    if arguments.model_kwargs and not arguments.model:
        parser.error("--model_kwargs: goes with --model")
    return arguments
