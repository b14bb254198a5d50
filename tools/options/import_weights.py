"""Options of tools/import_weights.py."""

import argparse
from pathlib import Path

from fr.alignment import ALIGNMENTS, CENTER_CROP, TEMPLATES


def options(argv: list[str]) -> argparse.Namespace:
    about = "Convert another system's weights to a snapshot."
    parser = argparse.ArgumentParser(prog="import_weights.py", description=about)
    parser.add_argument("file", type=Path, help="the weights; docs/weights.md lists the kinds")
    parser.add_argument("out", type=Path, help="the snapshot to write (.pt)")
    parser.add_argument("--identities", type=Path, help="names of the head's classes, one per line, to keep the head")
    parser.add_argument("--template", choices=sorted(TEMPLATES), help="alignment template (default: its authors')")
    fits = (*ALIGNMENTS, CENTER_CROP)
    parser.add_argument("--alignment", choices=fits, help="as train.py's (default: its authors')")
    return parser.parse_args(argv)
