"""Generate sample data: drawn faces, in VGGFace2's layout for training and in LFW's for verification.

    python tools/make_sample_data.py data/sample
    python tools/make_sample_data.py data/sample --identities 200 --images_per_identity 10 --seed 1 --force

OUT/vggface2 gets the images, meta/ and bb_landmark/; OUT/lfw, of other people, the images, pairs.txt (ten folds that
share no one) and lfw_landmark.txt. The same arguments give the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from fr.errors import InputError
from fr.options.parsing import tool_parser
from tools.dataset.parallel import map_in_processes
from tools.sample.faces import SUPERSAMPLING, draw_face
from tools.sample.people import Floats, Person, draw_backdrop, draw_person, draw_shot, photograph

FOLDS = 10
TRAIN, LFW, PAIRS = range(3)  # splits of the random streams
MARK = "sample_data.json"  # holds the arguments; a folder with it is complete


@dataclass(frozen=True)
class Options:
    """Settings that determine the bytes of the sample data: counts, and the image side in pixels."""

    identities: int = 120
    images_per_identity: int = 16
    lfw_identities: int = 200
    pairs_per_fold: int = 30
    size: int = 160
    seed: int = 0

    def lfw_images(self) -> int:
        """Images per LFW person: the smallest number that gives a fold enough pairs."""
        people, count = self.lfw_identities // FOLDS, 2
        while people * count * (count - 1) // 2 < self.pairs_per_fold or (
            people * (people - 1) // 2 * count * count < self.pairs_per_fold
        ):
            count += 1
        return count

    def check(self) -> None:
        """Raise InputError naming all options out of range."""
        limits = {"identities": (1, 99_999), "images_per_identity": (1, 9_999), "lfw_identities": (2 * FOLDS, 9_999),
                  "pairs_per_fold": (1, 9_999), "size": (64, 1024), "seed": (0, 2**32 - 1)}
        wrong = [f"--{name} {getattr(self, name)} is not in {low}..{high}" for name, (low, high) in limits.items()
                 if not low <= getattr(self, name) <= high]
        if wrong:
            raise InputError("; ".join(wrong))


@dataclass(frozen=True)
class Picture:
    """Image to draw: its file and its random stream."""

    file: str  # path inside OUT
    split: int
    identity: int
    image: int  # from 1; 0 is the stream of the person's look


def _stream(options: Options, split: int, identity: int, image: int) -> np.random.Generator:
    words = np.random.SeedSequence([options.seed, split, identity, image])
    return np.random.Generator(np.random.Philox(words))


@lru_cache(maxsize=4)  # images of a person are consecutive
def person_of(options: Options, split: int, identity: int) -> Person:
    """Appearance of an identity; depends on the seed, not on any count."""
    return draw_person(_stream(options, split, identity, 0))


def make_picture(options: Options, picture: Picture) -> tuple[bytes, Floats, list[int]]:
    """Draw an image: JPEG bytes, landmarks (5, 2) in pixels, and face box [x, y, w, h] clipped to the image."""
    rng = _stream(options, picture.split, picture.identity, picture.image)
    backdrop = draw_backdrop(rng, options.size * SUPERSAMPLING)
    person = person_of(options, picture.split, picture.identity)
    image, landmarks, outline = draw_face(person, draw_shot(rng), backdrop, rng.uniform(20, 230, 3))
    low = np.clip(np.floor(outline.min(0)), 0, options.size - 1).astype(int)
    high = np.clip(np.ceil(outline.max(0)), 1, options.size).astype(int)
    return photograph(rng, image, outline), landmarks, [*low.tolist(), *(high - low).tolist()]


def _name(index: int) -> str:
    """First and last name, unique for each index."""
    starts = ["Ba", "Do", "Fi", "Gu", "Ka", "Le", "Mo", "Na", "Pe", "Ri", "Sa", "To", "Va", "Zi"]
    ends = ["ba", "dan", "lo", "mir", "nel", "ra", "sen", "ti", "vo", "zak"]
    index, a = divmod(index, len(starts))
    index, b = divmod(index, len(ends))
    index, c = divmod(index, len(starts))
    last = starts[c]
    while True:
        index, d = divmod(index, len(ends))
        last += ends[d]
        if not index:
            return f"{starts[a]}{ends[b]}_{last}"


def lfw_name(identity: int) -> str:
    """Name of the LFW person of that number; training identities have the even ones."""
    return _name(2 * identity + 1)


def plan_pictures(options: Options) -> list[Picture]:
    """All images, in the order of the lists."""
    train = [Picture(f"vggface2/train/n{i + 1:06d}/{k:04d}_01.jpg", TRAIN, i, k)
             for i in range(options.identities) for k in range(1, options.images_per_identity + 1)]
    names = [lfw_name(i) for i in range(options.lfw_identities)]
    lfw = [Picture(f"lfw/lfw/{name}/{name}_{k:04d}.jpg", LFW, i, k)
           for i, name in enumerate(names) for k in range(1, options.lfw_images() + 1)]
    return train + lfw


def plan_pairs(options: Options) -> str:
    """Text of pairs.txt: ten folds of as many same as different pairs, each fold with its own people."""
    n, images = options.pairs_per_fold, options.lfw_images()
    lines = [f"{FOLDS}\t{n}"]
    for fold in range(FOLDS):
        rng = _stream(options, PAIRS, fold, 0)
        names = [lfw_name(i) for i in range(fold, options.lfw_identities, FOLDS)]
        same = [(name, a, b) for name in names for a, b in combinations(range(1, images + 1), 2)]
        lines += ["\t".join(map(str, same[i])) for i in sorted(rng.choice(len(same), n, replace=False))]
        couples = list(combinations(names, 2))
        for code in rng.choice(len(couples) * images**2, n, replace=False).tolist():
            couple, shots = divmod(code, images**2)
            a, b = divmod(shots, images)
            lines.append(f"{couples[couple][0]}\t{a + 1}\t{couples[couple][1]}\t{b + 1}")
    return "\n".join(lines) + "\n"


def _write_picture(root: Path, options: Options, picture: Picture) -> tuple[Floats, list[int]]:
    """Draw an image and write it; landmarks and face box."""
    cv2.setNumThreads(1)  # each worker has one core
    data, landmarks, box = make_picture(options, picture)
    path = root / picture.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return landmarks, box


def _write_lists(root: Path, options: Options, pictures: list[Picture], drawn: list[tuple[Floats, list[int]]]) -> None:
    base = root / "vggface2"
    (base / "meta").mkdir()
    (base / "bb_landmark").mkdir()
    images, landmarks, boxes, lfw = [], ["NAME_ID,P1X,P1Y,P2X,P2Y,P3X,P3Y,P4X,P4Y,P5X,P5Y"], ["NAME_ID,X,Y,W,H"], []
    for picture, (points, box) in zip(pictures, drawn, strict=True):
        row = points.ravel().tolist()
        if picture.split == LFW:
            lfw.append("\t".join([picture.file.removeprefix("lfw/lfw/"), *(f"{v:.2f}" for v in row)]))
            continue
        image = picture.file.removeprefix("vggface2/train/")
        images.append(image)
        key = '"' + image.removesuffix(".jpg") + '"'
        landmarks.append(",".join([key, *(f"{v:.6f}" for v in row)]))
        boxes.append(",".join([key, *map(str, box)]))
    people = ["Class_ID, Name, Sample_Num, Flag, Gender"]
    for i in range(options.identities):
        gender = "f" if person_of(options, TRAIN, i).female else "m"
        people.append(f'n{i + 1:06d}, "{_name(2 * i)}", {options.images_per_identity}, 1, {gender}')
    for path, lines in {
        base / "meta/train_list.txt": images,
        base / "meta/identity_meta.csv": people,
        base / "bb_landmark/loose_landmark_train.csv": landmarks,
        base / "bb_landmark/loose_bb_train.csv": boxes,
        root / "lfw/lfw_landmark.txt": sorted(lfw),
    }.items():
        path.write_text("\n".join(lines) + "\n")
    (root / "lfw/pairs.txt").write_text(plan_pairs(options))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Temporary folder that replaces `out` at the end, or is removed on an exception."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        root = folder / "new"
        root.mkdir()
        yield root
        if out.exists():
            out.rename(folder / "old")
        root.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_sample_data(out: Path, options: Options | None = None, workers: int = 0, force: bool = False) -> bool:
    """Write the sample data; returns False if it exists already.

    Raises InputError for options out of range, or if `out` has other contents and force is False. force replaces only
    sample data. workers: processes, 0 for one per core.
    """
    options = options or Options()
    options.check()
    if workers < 0:
        raise InputError(f"--workers {workers} is negative")
    out = Path(os.path.abspath(out))
    text = json.dumps({"version": 1, **asdict(options)}, indent=1) + "\n"
    mark = out / MARK
    if mark.is_file():
        if mark.read_text() == text:
            return False
        if not force:
            raise InputError(f"{out} holds sample data of other arguments; --force replaces it")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not sample data; give another folder")
    with _new_folder(out) as root:
        pictures = plan_pictures(options)
        drawn = [*map_in_processes(partial(_write_picture, root, options), pictures, workers, "faces")]
        _write_lists(root, options, pictures, drawn)
        (root / MARK).write_text(text)
    return True


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    default = Options()
    parser = tool_parser("tools/make_sample_data.py")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; gets vggface2/ and lfw/")
    for name, text in {
        "identities": "people in the training part",
        "images_per_identity": "images of each of them",
        "lfw_identities": "other people, in the verification part; at least 20, spread over ten folds",
        "pairs_per_fold": "pairs of the same person, and as many of different people, in each fold",
        "size": "width and height of an image, in pixels",
        "seed": "random seed",
    }.items():
        value = getattr(default, name)
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{text} (default %(default)s)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0, the default: one per core")
    parser.add_argument("--force", action="store_true", help="replace sample data of other arguments")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; exit status 0 = done or nothing to do, 2 = refused."""
    try:
        args = _parse(argv)
        options = Options(**{name: getattr(args, name) for name in asdict(Options())})
        made = make_sample_data(args.out, options, args.workers, args.force)
    except (InputError, OSError) as error:
        print(f"tools/make_sample_data.py: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {'made' if made else 'already complete, nothing to do'}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the unfinished folder is removed
    sys.exit(main())
