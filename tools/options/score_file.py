"""Options of tools/score_file.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.parsing import tool_parser
from fr.options.types import COUNT_OR_0


def options(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/score_file.py")
    add = parser.add_argument
    add("scores", type=Path, metavar="FILE", help="list of scored pairs")
    add("--distance", action="store_true", help="lower scores are more alike (default: higher)")
    number = "bootstrap replicates of 95 %% intervals [count] (default: 1000; 0 = no intervals)"
    add("--bootstrap", type=COUNT_OR_0, default=1000, metavar="N", help=number)
    add("--json", type=Path, metavar="FILE", help="file to write the metrics to (default: none)")
    add("--report", type=Path, metavar="FOLDER", help="folder for the report page (default: none)")
    add("--roc_fname", metavar="FILE.txt", help="the ROC curve's points, for tools/plot_roc.py (default: none)")
    band = "with the ends of the TPR's 95 %% intervals as two more columns (default: without)"
    add("--roc_band", action="store_true", help=band)
    arguments = parser.parse_args(argv)
    if arguments.roc_band and not (arguments.roc_fname and arguments.bootstrap):
        raise InputError("--roc_band: goes with --roc_fname and --bootstrap")
    return arguments
