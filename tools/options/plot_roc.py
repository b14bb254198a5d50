"""Options of tools/plot_roc.py."""

import argparse
from pathlib import Path

from fr.options.parsing import tool_parser


def options(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/plot_roc.py")
    add = parser.add_argument
    add("curves", type=Path, nargs="+", metavar="FILE", help="curve of evaluate_lfw.py --roc_fname, or MegaFace's JSON")
    add("--out", type=Path, required=True, metavar="PNG", help="plot to write (required)")
    add("--names", nargs="+", metavar="NAME", help="names of the curves (default: those of the files)")
    add("--det", action="store_true", help="DET curves: FNMR over FMR, on a normal deviate scale (default: ROC)")
    return parser.parse_intermixed_args(argv)
