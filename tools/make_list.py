#!/usr/bin/env python3
"""Split a tree with one folder per identity into lists of training, validation and test images.

    python tools/make_list.py photographs lists
    python tools/make_list.py photographs lists --val 0.05 --test 0 --min_images 3
    python train.py --train_dataset list --train_data_root photographs --train_list lists/train.txt --aligned

OUT gets train.txt, val.txt and test.txt, and identities.txt with `<id> <folder>` per line; ids number the folders by
name from 0. Each identity is split separately, with at least one image in train.txt. The split of an identity depends
only on the seed and its own file names, not on other identities.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.console import begin

    begin()

import argparse
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fr.data.faces import LabelledFaces, refuse
from fr.data.readers.folders import read_folders
from fr.errors import InputError, run_plainly
from fr.files.data_root import DataRoot
from fr.files.durable import replace_file
from fr.options.parsing import tool_parser
from fr.options.types import BELOW_1, COUNT, SEED
from fr.progress import tracked

PARTS = ("train", "val", "test")


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    # Only names are listed: the permission to leave the root is needed for reading the images.
    faces = read_folders(DataRoot(arguments.root, outside_allowed=True), "")
    refuse_unlistable(faces.names.to_pylist(), arguments.format)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    identities: list[str] = []
    for identity, names in tracked(_by_identity(faces), "identity", "splitting"):
        if len(names) < arguments.min_images:
            continue
        for part, chosen in zip(PARTS, split(names, arguments.val, arguments.test, arguments.seed), strict=True):
            parts[part] += chosen if arguments.format == "vgg" else [f"{name} {len(identities)}" for name in chosen]
        identities.append(identity)
    if not identities:
        raise InputError(f"{arguments.root}: no folder holds {arguments.min_images} images (--min_images)")
    for note in faces.notes:
        print(note)
    parts["identities"] = [f"{number} {name}" for number, name in enumerate(identities)]
    _write(arguments.out, parts)
    left_out = len(faces.identities) - len(identities)
    counts = ", ".join(f"{part} {len(parts[part]):,}" for part in PARTS)
    print(f"{arguments.out}: {len(identities):,} identities; {counts}; {left_out:,} with too few images left out")
    return 0


def split(names: Sequence[str], val: float, test: float, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Split the images of one identity into train (never empty), val and test, each in the given order.

    val, test: fractions. Counts are rounded up or down at random, so that the fractions hold on average over many small
    identities.
    """
    drawn = sorted(names, key=lambda name: _uniform(seed, name))
    chance = _uniform(seed, f"/{min(names)}")
    in_test = min(int(len(names) * test + chance), len(names) - 1)
    held = min(int(len(names) * (test + val) + chance), len(names) - 1)
    tested, validated = set(drawn[:in_test]), set(drawn[in_test:held])
    return (
        [name for name in names if name not in tested | validated],
        [name for name in names if name in validated],
        [name for name in names if name in tested],
    )


def refuse_unlistable(names: Iterable[str], form: str) -> None:
    """Raise InputError for paths that a list of this format, list or vgg, can't represent."""
    problems = []
    for name in names:
        if re.match(r"[\s\ufeff]", name) or len(name.splitlines()) > 1:
            problems.append(f"{name!r}: begins with a space or holds a line break, which no list can; rename it")
        elif form == "vgg" and name.count("/") > 1:
            problems.append(f"{name!r}: in a folder of its identity's folder; --format list takes it")
    refuse(problems)


def _by_identity(faces: LabelledFaces) -> list[tuple[str, list[str]]]:
    names: list[str] = faces.names.to_pylist()
    names_by_label: list[list[str]] = [[] for _ in faces.identities]
    for name, label in zip(names, faces.labels.tolist(), strict=True):
        names_by_label[label].append(name)
    return list(zip(faces.identities, names_by_label, strict=True))


def _uniform(seed: int, text: str) -> float:
    """Hash a seed and a text to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:6]) / 2**48


def _write(out: Path, lists: dict[str, list[str]]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, lines in lists.items():
            replace_file(out / f"{name}.txt", "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise InputError(f"{out}: can't be written: {error.strerror}") from error


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/make_list.py")
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder with one folder an identity")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the lists")
    share = "images held out of each identity [fraction]; 0 = none (default: 0.1)"
    parser.add_argument("--val", type=BELOW_1, default=0.1, metavar="F", help=share)
    parser.add_argument("--test", type=BELOW_1, default=0.1, metavar="F", help="the same for test.txt (default: 0.1)")
    fewest = "leave out identities with fewer images [images] (default: 1)"
    parser.add_argument("--min_images", type=COUNT, default=1, metavar="N", help=fewest)
    forms = "of the lines: list = `path id`, vgg = VGGFace2's `identity/file` (default: list)"
    parser.add_argument("--format", default="list", choices=("list", "vgg"), help=forms)
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="another split [whole number] (default: 0)")
    arguments = parser.parse_args(argv)
    if arguments.val + arguments.test >= 1:
        raise InputError(f"--val {arguments.val} and --test {arguments.test} together leave nothing to train on")
    return arguments


if __name__ == "__main__":
    run_plainly("tools/make_list.py", main)
