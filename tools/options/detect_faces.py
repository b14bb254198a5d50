"""Options of tools/detect_faces.py, and those of the detector, which tools/identify.py has too."""

import argparse
from pathlib import Path

from fr.options.detection import CHOICES, DetectorSettings
from fr.options.parsing import tool_parser
from fr.options.types import COUNT, COUNT_OR_0, PROBABILITY, checked

_SMALLEST = checked(int, "a whole number >= 12", lambda x: x >= 12)  # the first network's input size


def options(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/detect_faces.py")
    add = parser.add_argument
    add("photographs", type=Path, metavar="PHOTOS", help="folder; all images in its tree unless --list is given")
    add("out", type=Path, metavar="OUT", help="folder for the tables")
    add("--list", default="", metavar="FILE", help="`path id` a line, as for --train_dataset list (default: no list)")
    add("--split", choices=("train", "test", "all"), default="train", help="part of the tables' names (default: train)")
    detector_options(parser)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto = cuda if available (default)")
    add("--allow_outside", action="store_true", help="images may lie outside PHOTOS, by paths and links")
    add("--workers", type=COUNT_OR_0, default=0, metavar="N", help="processes; 0 = one per core, 2 on a GPU (default)")
    return parser.parse_args(argv)


def detector_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the detector and of the choice between several faces."""
    add = parser.add_argument
    default = DetectorSettings()
    choice = "face to choose: center = large and near the image centre, the largest, or the most certain"
    add("--face", choices=CHOICES, default="center", help=f"{choice} (default: center)")
    at_most = f"side of the smallest face looked for [pixels] (default: {default.min_face})"
    add("--min_face", type=_SMALLEST, default=default.min_face, metavar="N", help=at_most)
    stages = f"scores that a face needs at the three stages (default: {' '.join(map(str, default.thresholds))})"
    add("--thresholds", type=PROBABILITY, nargs=3, default=default.thresholds, metavar="P", help=stages)
    longest = f"longer images are scaled down for detection, with their faces [pixels] (default: {default.max_side})"
    add("--max_side", type=COUNT, default=default.max_side, metavar="N", help=longest)


def settings_of(options: argparse.Namespace) -> DetectorSettings:
    """Detector settings from the options of `detector_options`."""
    return DetectorSettings(options.min_face, tuple(options.thresholds), options.max_side)
