"""Options of tools/reproduce.py."""

import argparse
from pathlib import Path

from fr.options.definitions import train_parser
from fr.options.parsing import own_arguments, tool_parser
from fr.options.types import COUNT


def options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The tool's own arguments, and those of train.py."""
    usage = "%(prog)s configs/NAME.yml [--snap FILE | --record FILE ...] [--option of train.py] ..."
    parser = tool_parser("tools/reproduce.py", usage=usage, allow_abbrev=False)
    add = parser.add_argument
    add("recipe", type=Path, metavar="RECIPE", help="configs/NAME.yml; its receipt is configs/receipts/NAME.json")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--snap", type=Path, metavar="FILE", help="last snapshot of a finished run (default: train)")
    made = "last snapshots of runs with different seeds, three or more, to write the receipt from"
    one.add_argument("--record", type=Path, nargs="+", metavar="FILE", help=made)
    add("--note", default="", help="for --record: text about machine and runs")
    add("--out", type=Path, metavar="FOLDER", help="folder for the run's snapshots and logs (default: reproduced/NAME)")
    add("--nproc_per_node", type=COUNT, default=1, metavar="N", help="processes, as of torchrun (default: 1)")
    arguments, rest = own_arguments(parser, argv, train_parser())
    if arguments.record is not None and len(arguments.record) < 3:
        parser.error("--record: takes three runs at least")
    if rest and (arguments.snap or arguments.record):
        parser.error(f"no training begins with --snap or --record, so what would {rest[0]} be for?")
    if arguments.recipe.suffix != ".yml":
        parser.error(f"RECIPE comes first, a file of configs/: {arguments.recipe} isn't one")
    if (arguments.snap or arguments.record) and (arguments.out or arguments.nproc_per_node > 1):
        parser.error("--out, --nproc_per_node: no training begins with --snap or --record")
    if arguments.note and not arguments.record:
        parser.error("--note: goes with --record")
    return arguments, rest
