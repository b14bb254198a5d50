"""Options of tools/align_faces.py."""

from typing import Any

from fr.alignment import ALIGNMENTS, TEMPLATES
from fr.options.definitions import tool_options
from fr.options.fields import Group
from fr.options.parsing import Resolved
from fr.options.types import AT_LEAST_1, COUNT_OR_0, FLAG, JPEG_QUALITY, NOT_NEGATIVE, SIDE, TEXT


def options(argv: list[str]) -> Resolved:
    return tool_options("tools/align_faces.py", "Crop the faces of all images.", _own, argv, _problems)


def _own(group: Group) -> None:
    add = group.add_argument
    add("--out", type=TEXT, help="folder for the crops, new or from a previous run")
    add("--crop", default="aligned", choices=("aligned", "loose"), help="warped to the template, or the box unchanged")
    add("--size", type=SIDE, nargs="*", default=[112], help="size of aligned crops: height width, or side [pixels]")
    add("--template", default="arcface", choices=TEMPLATES, help="landmark positions in aligned crops")
    add("--alignment", default="procrustes", choices=ALIGNMENTS, help="fit of the similarity transform")
    beyond = "shown beyond the template's frame on each side, at the same --size [fraction of it]; 0 = none"
    add("--margin", type=NOT_NEGATIVE, default=0.0, help=beyond)
    by_landmarks = "a square around the landmarks, 4.2 times their root mean square distance from their middle"
    add("--boxes", default="", help=f"loose_bb CSV for loose crops [pixels]; empty = {by_landmarks}")
    add("--enlarge", type=AT_LEAST_1, default=1.3, help="scale of a loose crop's box [factor]; 1 = unchanged")
    add("--square", **FLAG, help="square loose crops, with the longer side, clipped to the image; false = off")
    add("--format", default="jpg", choices=("jpg", "png"), help="format of the crops; png is lossless")
    add("--quality", type=JPEG_QUALITY, default=95, help="quality of jpg [1 to 100]")
    add("--workers", type=COUNT_OR_0, default=0, help="threads, or processes for loose crops [count]; 0 = one per core")


def _problems(values: dict[str, Any], origins: dict[str, str], _defaults: dict[str, Any]) -> list[str]:
    count = len(values.get("size", [0]))
    return [] if count in (1, 2) else [f"{origins['size']}: --size: takes 1 or 2 values, got {count}"]
