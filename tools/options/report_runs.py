"""Options of tools/report_runs.py."""

import argparse
from pathlib import Path

from fr.errors import InputError
from fr.options.definitions import evaluation_parser
from fr.options.parsing import own_arguments, tool_parser
from tools.options.compare_models import scoring_options


def options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The tool's own arguments, and evaluate_lfw.py's options for the snapshots; [] = no scoring."""
    parser = tool_parser("tools/report_runs.py", allow_abbrev=False)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="SNAP_FOLDER/PREFIX.config.yml of a training")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder for index.html (required)")
    arguments, rest = own_arguments(parser, argv, evaluation_parser())
    places = [run.absolute() for run in arguments.runs]
    if repeated := sorted({str(place) for place in places if places.count(place) > 1}):
        raise InputError(*(f"{run}: given twice" for run in repeated))
    if rest and not scoring_options("RUN", rest).said(("val_data_root", "val_sets"), ""):
        raise InputError(f"{' '.join(rest)}: the snapshots are scored with --val_data_root or --val_sets")
    return arguments, rest
