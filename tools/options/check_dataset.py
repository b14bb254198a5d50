"""Options of tools/check_dataset.py: kinds of findings, and the thresholds of its checks."""

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fr.options.definitions import train_options, train_parser
from fr.options.parsing import Resolved, own_arguments, tool_parser
from fr.options.types import COUNT, COUNT_OR_0, NOT_NEGATIVE, POSITIVE, checked

# In the order of the checks; an image dropped by an earlier one isn't the original of a later duplicate.
KINDS = {
    "unusable": "Images that can't be read, decoded or aligned; training would replace them.",
    "landmarks": "The landmarks can't be those of this face.",
    "small_face": "The aligned face covers few pixels of the image.",
    "greyscale": "The face has no colour.",
    "turned": "EXIF's orientation turns or mirrors the image; training ignores it, and so must the landmarks.",
    "duplicate_across": "The same file under two identities: one of the labels is wrong.",
    "duplicate": "The same file repeated under the same identity.",
    "near_duplicate_across": "The same image in different files under two identities.",
    "near_duplicate": "The same image in different files under the same identity.",
    "few_images": "Identities with too few remaining images.",
    "in_verification": "Identities with the name of a person in the verification set.",
}
DROPPED = tuple(kind for kind in KINDS if kind not in ("small_face", "greyscale", "turned"))
_NEAR = checked(int, "a whole number in [0, 20]", lambda x: 0 <= x <= 20)  # beyond, too many are missed


@dataclass(frozen=True)
class Limits:
    """Thresholds of the checks."""

    drop: Collection[str] = DROPPED  # kinds whose images are dropped from the list
    min_images: int = 2  # images that an identity must keep
    min_face: float = 32.0  # side of the aligned face [pixels of the image]
    misfit: float = 6.0  # of the landmarks from the template [robust standard deviations above the median]
    near: int = 18  # bits of 128 that near-duplicates of two identities differ


def options(argv: list[str]) -> tuple[argparse.Namespace, Resolved]:
    """The tool's own arguments, and train.py's options."""
    parser = tool_parser(
        "tools/check_dataset.py",
        epilog="\n".join(["kinds of findings:", *(f"  {kind:22} {what}" for kind, what in KINDS.items())]),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder for the findings")
    dropped = f"kinds that are left out of the cleaned list (default: {' '.join(DROPPED)})"
    add("--drop", nargs="*", choices=KINDS, default=list(DROPPED), metavar="KIND", help=dropped)
    fewest = "images that an identity must keep [images] (default: %(default)s)"
    add("--min_images", type=COUNT, default=Limits.min_images, metavar="N", help=fewest)
    side = "smallest side of an aligned face [pixels of the image] (default: %(default)g)"
    add("--min_face", type=NOT_NEGATIVE, default=Limits.min_face, metavar="N", help=side)
    misfit = "most that landmarks differ from a face's [robust deviations above the median] (default: %(default)g)"
    add("--landmark_misfit", type=POSITIVE, default=Limits.misfit, metavar="X", help=misfit)
    near = "most that near-duplicates of two identities differ [bits of 128]; 0 = in none (default: %(default)s)"
    add("--near", type=_NEAR, default=Limits.near, metavar="N", help=near)
    shown = "findings of each kind that the page shows [images] (default: %(default)s)"
    add("--thumbnails", type=COUNT_OR_0, default=24, metavar="N", help=shown)
    add("--workers", type=COUNT_OR_0, default=0, metavar="N", help="processes; 0 = one per core (default: 0)")
    arguments, rest = own_arguments(parser, argv, train_parser())
    return arguments, train_options(rest)
