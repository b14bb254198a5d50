"""Options of tools/count_flops.py."""

import argparse

from fr.options.names import MODEL_NAMES
from fr.options.parsing import tool_parser
from fr.options.training import add_model_kwargs


def options(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/count_flops.py")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help=f"{', '.join(MODEL_NAMES)}, or timm/<name>")
    which.add_argument("--all", action="store_true", help="all models except timm's")
    add_model_kwargs(parser.add_argument)
    parser.add_argument("--embed_size", type=int, default=256, help="length of the embedding [numbers] (default: 256)")
    parser.add_argument("--input_size", type=int, nargs=2, metavar=("H", "W"), help="[pixels] (default: the model's)")
    parser.add_argument("--batch", type=int, default=16, help="for the speed [images] (default: 16)")
    parser.add_argument("--no_speed", action="store_true", help="don't measure the speed")
    return parser.parse_args(argv)
