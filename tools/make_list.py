#!/usr/bin/env python3
"""Split a tree with one folder per identity into lists of training, validation and test images, and pairs to verify.

    python tools/make_list.py photographs lists --landmarks tables --people 0.2
    python tools/make_list.py photographs lists --landmarks tables --list check/cleaned_train_list.txt --people 0.2
    python tools/make_list.py crops lists --val 0.05 --test 0 --min_images 3

OUT gets train.txt, val.txt and test.txt with `path<TAB>identity` per line. Each identity is split separately, with at
least one image in train.txt. The split of an identity depends only on the seed and its own file names, not on other
identities. With --people that fraction of the identities is in none of the three lists: pairs.txt, for --val_list, has
pairs of their images, `path<TAB>path<TAB>1` if both show the same person, else 0.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/make_list.py")

import argparse
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fr.console import counted
from fr.data.crop_contract import MARK
from fr.data.faces import LabelledFaces, refuse
from fr.data.landmark_csv import has_landmarks, landmark_table
from fr.data.lines import read_lines
from fr.data.readers.folders import read_folders
from fr.errors import InputError, os_error_as, run_plainly
from fr.files.data_root import DataRoot
from fr.files.durable import replace_file
from fr.options.commands import as_called, next_command
from fr.options.names import SET_OPTIONS
from fr.options.parsing import tool_parser
from fr.options.recipes import first_recipe
from fr.options.types import BELOW_1, COUNT, SEED
from fr.progress import tracked

PARTS = ("train", "val", "test")
PAIRS = "pairs"
MOST_PAIRS = 3_000  # of a kind, as LFW's
_MOST_PAIRED = 2_000  # images; pairs are drawn from so many at most


def main(argv: list[str]) -> int:
    arguments = _arguments(argv)
    # Only names are listed: the permission to leave the root is needed for reading the images.
    faces = read_folders(DataRoot(arguments.root, outside_allowed=True), "")
    table = landmark_table(Path(arguments.landmarks), Path("train")) if arguments.landmarks else None
    faces, notes = _chosen(faces, arguments.list, table)
    refuse_unlistable(faces.names.to_pylist(), arguments.format)
    images = {name: of for name, of in _by_identity(faces).items() if len(of) >= arguments.min_images}
    if not images:
        raise InputError(f"{arguments.root}: no folder holds {counted(arguments.min_images, 'image')} (--min_images)")
    numbers = [int(name) for name in images if name.isascii() and name.isdigit()]
    if len(numbers) == len(images) > len(set(numbers)):
        raise InputError(f"{arguments.root}: folders with equal numbers as names; rename them")
    held = _held_out(images, arguments.people, arguments.seed)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for identity, names in tracked(images.items(), "identity", "splitting"):
        if identity in held:
            continue
        for part, chosen in zip(PARTS, split(names, arguments.val, arguments.test, arguments.seed), strict=True):
            parts[part] += chosen if arguments.format == "vgg" else [f"{name}\t{identity}" for name in chosen]
    if held:
        parts[PAIRS] = draw_pairs({identity: images[identity] for identity in held}, arguments.seed)
    for note in (*faces.notes, *notes):
        print(note)
    _write(arguments.out, parts)
    left_out = len(faces.identities) - len(images)
    counts = ", ".join(f"{part} {len(lines):,}" for part, lines in parts.items())
    people = f"{counted(len(images) - len(held), 'identity')}{f', {len(held):,} more in pairs.txt' if held else ''}"
    print(f"{arguments.out}: {people}; {counts}; {left_out:,} with too few images left out")
    recipe, advice = first_recipe(len(images) - len(held))
    if advice:
        print(advice)
    if not table and not (arguments.root / MARK).exists():
        print(
            "without --landmarks the images are taken for aligned crops; for photographs run "
            f"{as_called('tools/detect_faces.py')} first, and give its OUT as --landmarks"
        )
    print(_next(arguments, table, bool(held), recipe))
    return 0


def _next(arguments: argparse.Namespace, table: Path | None, paired: bool, recipe: Sequence[str]) -> str:
    """Command that trains on the lists; without landmarks, on aligned crops."""
    root, landmarks, lists = str(arguments.root), str(table or ""), arguments.out
    pairs = (root, str(lists / f"{PAIRS}.txt"), landmarks) if paired else ("", "", "")
    places = {"train_data_root": root, "train_list": str(lists / f"{PARTS[0]}.txt"), "train_landmarks": landmarks}
    places |= dict(zip(SET_OPTIONS, pairs, strict=True))
    crops = [] if table else ["--aligned"]
    return next_command("train.py", *recipe, "--train_dataset", arguments.format, *crops, **places)


def _chosen(faces: LabelledFaces, list_file: str, table: Path | None) -> tuple[LabelledFaces, list[str]]:
    """The images of a list that have landmarks in a table, and lines about the others. "", None: no restriction.

    InputError names the lines of the list that aren't images.
    """
    stays = np.ones(len(faces), dtype=bool)
    names, notes = np.array(faces.names.to_pylist()), []
    if list_file:
        lines = read_lines(Path(list_file))
        known = {*names.tolist()}  # a name may hold a tab
        listed = np.array([
            line if line in known else line.rpartition("\t")[0] or line for line in lines.texts.to_pylist()
        ])
        refuse([
            f"{lines.where(row)}: {listed[row][:80]!r} is no image in a folder of {faces.root}"
            for row in np.flatnonzero(~np.isin(listed, names)).tolist()
        ])
        stays &= np.isin(names, listed)
        notes.append((len(faces) - stays.sum(), f"not in {list_file} left out"))
    if table:
        missing = stays & ~has_landmarks(faces.names, table)
        stays &= ~missing
        notes.append((missing.sum(), f"without a row in {table} left out"))
    return faces.take(np.flatnonzero(stays)), [f"{counted(n, 'image')} {what}" for n, what in notes if n]


def _held_out(images: Mapping[str, Sequence[str]], fraction: float, seed: int) -> set[str]:
    """Identities that are held out completely, at least two; none with a fraction of 0."""
    if not fraction:
        return set()
    count = max(2, round(fraction * len(images)))
    if len(images) - count < 2:
        out = f"holds out {count:,} of {counted(len(images), 'identity')}"
        raise InputError(f"--people {fraction:g}: {out}: pairs need two, and a training two")
    return set(sorted(images, key=lambda identity: _uniform(seed, identity))[:count])


def draw_pairs(images: Mapping[str, Sequence[str]], seed: int) -> list[str]:
    """Lines of pairs, in the order of the images: equal numbers of both kinds, at most MOST_PAIRS of a kind.

    InputError if there are fewer than two of a kind.
    """
    names: list[str] = []
    people: list[int] = []
    for number, identity in enumerate(sorted(images, key=lambda identity: _uniform(seed, identity))):
        names += images[identity]
        people += [number] * len(images[identity])
        if len(names) >= _MOST_PAIRED:
            break
    del names[_MOST_PAIRED:]
    first, second = np.triu_indices(len(names), 1)
    same = np.equal(*np.array(people)[[first, second]])
    count = min(MOST_PAIRS, same.sum(), (~same).sum())
    if count < 2:
        among = f"{counted(len(images), 'identity')} with {counted(len(names), 'image')}"
        raise InputError(f"--people: no two pairs of each kind among {among}")
    random = np.random.default_rng(seed)
    drawn = [np.sort(random.choice(np.flatnonzero(kind), count, replace=False)) for kind in (same, ~same)]
    return [f"{names[first[row]]}\t{names[second[row]]}\t{int(same[row])}" for row in np.concatenate(drawn)]


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
        identity = name.partition("/")[0]
        if re.match(r"[\s\ufeff]", name) or len(name.splitlines()) > 1:
            problems.append(f"{name!r}: begins with a space or holds a line break, which no list can; rename it")
        elif form == "list" and (identity != identity.strip() or "\t" in identity):
            problems.append(f"{name!r}: the identity ends with a space or holds a tab, which no list can; rename it")
        elif form == "vgg" and name.count("/") > 1:
            problems.append(f"{name!r}: in a folder of its identity's folder; --format list takes it")
    refuse(problems)


def _by_identity(faces: LabelledFaces) -> dict[str, list[str]]:
    names: list[str] = faces.names.to_pylist()
    names_by_label: list[list[str]] = [[] for _ in faces.identities]
    for name, label in zip(names, faces.labels.tolist(), strict=True):
        names_by_label[label].append(name)
    return dict(zip(faces.identities, names_by_label, strict=True))


def _uniform(seed: int, text: str) -> float:
    """Hash a seed and a text to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:6]) / 2**48


def _write(out: Path, lists: dict[str, list[str]]) -> None:
    with os_error_as(f"{out}: can't be written"):
        out.mkdir(parents=True, exist_ok=True)
        for name, lines in lists.items():
            replace_file(out / f"{name}.txt", "".join(f"{line}\n" for line in lines).encode())


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = tool_parser("tools/make_list.py")
    add = parser.add_argument
    add("root", type=Path, metavar="ROOT", help="folder with one folder an identity")
    add("out", type=Path, metavar="OUT", help="folder for the lists")
    tables = "OUT of tools/detect_faces.py, or a landmark CSV: images without a row are left out (default: none are)"
    add("--landmarks", default="", metavar="TABLES", help=tables)
    listed = "split the images of this list only, such as check_dataset.py's (default: all of ROOT)"
    add("--list", default="", metavar="FILE", help=listed)
    held = "identities held out whole, for pairs.txt [fraction], two at least; 0 = none (default: 0)"
    add("--people", type=BELOW_1, default=0.0, metavar="F", help=held)
    share = "images held out of each other identity [fraction]; 0 = none (default: 0.1)"
    add("--val", type=BELOW_1, default=0.1, metavar="F", help=share)
    add("--test", type=BELOW_1, default=0.1, metavar="F", help="the same for test.txt (default: 0.1)")
    fewest = "leave out identities with fewer images [images] (default: 1)"
    add("--min_images", type=COUNT, default=1, metavar="N", help=fewest)
    forms = "of the lines: list = path, tab, identity; vgg = VGGFace2's `identity/file` (default: list)"
    add("--format", default="list", choices=("list", "vgg"), help=forms)
    add("--seed", type=SEED, default=0, metavar="N", help="another split [whole number] (default: 0)")
    arguments = parser.parse_args(argv)
    if arguments.val + arguments.test >= 1:
        raise InputError(f"--val {arguments.val} and --test {arguments.test} together leave nothing to train on")
    return arguments


if __name__ == "__main__":
    run_plainly("tools/make_list.py", main)
