#!/usr/bin/env python3
"""Pack training data of any format into tar shards (WebDataset), which --train_dataset tar reads.

    python tools/pack_dataset.py --out shards @my_data.yml
    python tools/pack_dataset.py --out crops --align 160 --margin 0.25 @my_data.yml
    python train.py --train_dataset tar --train_data_root shards

Images are packed byte for byte with class and landmarks, or with --align as crops around the face, with transformed
landmarks. Unusable images are left out and listed in OUT/*.left_out.txt; images packed unchanged are only checked by
their headers. The same data and options give the same shards. After an interruption, run it again: complete shards are
kept.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/pack_dataset.py", "tools.options.pack_dataset:options")

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fr import alignment
from fr.console import counted
from fr.data import placement
from fr.data.faces import LabelledFaces, refuse, shown
from fr.data.formats import read_training_faces
from fr.data.pipeline import DaliSettings
from fr.data.readers.tar_shards import IMAGE_ENDINGS
from fr.errors import InputError, run_plainly
from fr.files.durable import replace_file
from fr.files.images import TOO_LARGE, image_file, is_too_large
from fr.files.untrusted import read_text
from fr.options.commands import next_command
from fr.options.names import SET_OPTIONS
from fr.options.recipes import first_recipe
from fr.preprocessing import Preprocessing
from fr.randomness import Purpose, generator
from tools.align_faces import aligned_crops, widened
from tools.dataset.parallel import map_in_processes
from tools.options.pack_dataset import options as read_options

PLAN, LEFT_OUT = "pack.json", ".left_out.txt"
_SAMPLES = 200  # images measured to estimate the number of images per shard


@dataclass(frozen=True)
class Crop:
    """Square crop of `side` pixels: the aligned face plus `margin` of its side on each side."""

    side: int
    margin: float
    quality: int  # of JPEG


@dataclass(frozen=True)
class Sample:
    """Image to pack. ending: of its file name. points: [5, 2] pixels, [0, 2] for aligned crops."""

    row: int
    ending: str
    picture: bytes
    points: NDArray[np.float64]


def main(argv: list[str]) -> int:
    resolved = read_options(argv)
    options = resolved.values
    crop = Crop(options.align, options.margin, options.quality) if options.align else None
    faces = read_training_faces(resolved.as_dict())
    if crop and not faces.landmarks.shape[1]:
        raise InputError("--align: these images are aligned crops already; they can be packed as they are")
    refuse([f"identity {name!r}: can't be a class in a shard" for name in faces.identities if name != _class(name)])
    if options.shuffle:
        faces = faces.take(generator(0, Purpose.ORDER).permutation(len(faces)))
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _pack(faces, crop, options.shard_size, out, options.workers)
    except OSError as error:
        raise InputError(f"{error.filename or out}: can't be written: {error.strerror}") from error
    print("\n".join([*resolved.notes, *faces.notes, _summary(out, len(faces))]))
    crops = [] if faces.landmarks.shape[1] else ["--aligned"]
    recipe, advice = first_recipe(len(faces.identities))
    if advice:
        print(advice)
    places = {"train_data_root": str(out)} | dict.fromkeys(SET_OPTIONS, "")
    print(next_command("train.py", *recipe, "--train_dataset", "tar", *crops, **places))
    return 0


def _class(name: str) -> str:
    """Class name, normalised as by the reader of shards."""
    return name.strip() if name.isprintable() else ""


def _pack(faces: LabelledFaces, crop: Crop | None, shard_size: float, out: Path, workers: int) -> None:
    count = _images_a_shard(faces, crop, shard_size, out)
    parts = {out / f"shard-{first // count:06d}.tar": first for first in range(0, len(faces), count)}
    todo = {path: first for path, first in parts.items() if not path.exists()}
    if len(todo) < len(parts):
        print(f"{len(parts) - len(todo):,} of {len(parts):,} shards were made before", flush=True)
    rows = np.arange(len(faces))
    items = [(path, faces.take(rows[first : first + count])) for path, first in todo.items()]
    for _ in map_in_processes(partial(write_shard, crop), items, workers, "packing", "shard"):
        pass


def _images_a_shard(faces: LabelledFaces, crop: Crop | None, shard_size: float, out: Path) -> int:
    """Number of images per shard, from the mean size of some; stored in OUT for later runs."""
    plan = out / PLAN
    settings = {"data": faces.fingerprint(), "shard_size": shard_size, "crop": asdict(crop) if crop else None}
    if plan.exists():
        count = _kept_count(plan, settings)
        if not count:
            raise InputError(f"{plan}: the shards there are of other data or options; give another --out")
        return count
    if any(out.glob("*.tar")):
        raise InputError(f"--out {out}: holds shards of another origin; give another folder")
    some = faces.take(faces.spaced_rows(_SAMPLES))
    measured = list(samples(some, crop))
    sizes = [_size_in_shard(some, sample) for sample in measured if isinstance(sample, Sample)]
    if not sizes:
        raise InputError(f"none of {counted(len(measured), 'image')} examined can be packed: {measured[0]}")
    count = max(1, int(shard_size * 2**20 / np.mean(sizes)))
    replace_file(plan, json.dumps(settings | {"images": count}).encode())
    return count


def _kept_count(plan: Path, settings: dict[str, Any]) -> int:
    """Number of images per shard from an earlier run with equal settings; 0 for other settings."""
    try:
        kept = json.loads(read_text(plan))
    except (InputError, ValueError, RecursionError):
        return 0
    count = kept.pop("images", 0) if isinstance(kept, dict) else 0
    return count if kept == settings and type(count) is int and count > 0 else 0


def _size_in_shard(faces: LabelledFaces, sample: Sample) -> int:
    blocks = [1 + -(-len(content) // tarfile.BLOCKSIZE) for content in _files(faces, sample).values()]
    return sum(blocks) * tarfile.BLOCKSIZE


def write_shard(crop: Crop | None, item: tuple[Path, LabelledFaces]) -> None:
    """Write one shard atomically, and the list of images left out."""
    path, faces = item
    temporary = path.with_name(f".{path.name}.tmp")
    keys: set[str] = set()
    left_out = []
    with tarfile.open(temporary, "w") as shard:
        for sample in samples(faces, crop):
            if isinstance(sample, str):
                left_out.append(sample)
                continue
            name = PurePosixPath(faces.names[sample.row].as_py())
            key = str(name.with_name(name.stem.replace(".", "_")))  # a key ends at its first dot
            key += f"_{sample.row}" if key in keys else ""
            keys.add(key)
            for ending, content in _files(faces, sample).items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    if left_out:
        replace_file(path.with_suffix(LEFT_OUT), "".join(f"{problem}\n" for problem in left_out).encode())
    os.replace(temporary, path)


def _files(faces: LabelledFaces, sample: Sample) -> dict[str, bytes]:
    """Ending → content. The image comes last, so that a truncated shard still has its class and landmarks."""
    points = " ".join(map(repr, sample.points.ravel().tolist()))
    return {
        "cls": faces.identities[faces.labels[sample.row]].encode(),
        **({"landmarks": points.encode()} if points else {}),
        sample.ending: sample.picture,
    }


def samples(faces: LabelledFaces, crop: Crop | None) -> Iterator[Sample | str]:
    """Yield the sample of each face, or the problem of its image."""
    return _crops(faces, crop) if crop else _as_they_are(faces)


def _as_they_are(faces: LabelledFaces) -> Iterator[Sample | str]:
    for row in range(len(faces)):
        try:
            encoded = faces.read(row)
        except OSError as error:
            yield f"{faces.path(row)}: can't be read: {error.strerror}"
            continue
        points, placed = placement.landmarks(faces, np.array([row]), [encoded])
        if is_too_large(encoded):
            yield f"{faces.path(row)}: {TOO_LARGE}"
        elif not placement.sizes_of([encoded]).all():
            yield f"{faces.path(row)}: can't be decoded: {'no image' if len(encoded) else 'it is empty'}"
        elif not placed.all():
            yield f"{faces.path(row)}: the box of its face lies outside the image"
        else:
            ending = PurePosixPath(faces.names[row].as_py()).suffix[1:].lower()
            yield Sample(row, ending if ending in IMAGE_ENDINGS else "jpg", encoded.tobytes(), points[0])


def _crops(faces: LabelledFaces, crop: Crop) -> Iterator[Sample | str]:
    contract = Preprocessing((crop.side, crop.side), template="arcface")
    move = widened(contract.input_size, crop.margin)[None]
    every = np.arange(len(faces))
    for row, pixels in aligned_crops(faces, every, contract, crop.margin, DaliSettings("cpu", None, 1)):
        if isinstance(pixels, str):
            yield pixels
            continue
        encoded = [faces.read(row)] if faces.boxes is not None else []
        points, _ = placement.landmarks(faces, every[row : row + 1], encoded)
        matrix, _ = placement.matrices(faces, every[row : row + 1], encoded, contract)
        (moved,) = alignment.transform(alignment.compose(move, matrix), points)
        jpeg = image_file(Image.fromarray(pixels), "JPEG", quality=crop.quality, subsampling=0)
        yield Sample(row, "jpg", jpeg, moved)


def _summary(out: Path, images: int) -> str:
    problems = [line for path in sorted(out.glob(f"*{LEFT_OUT}")) for line in path.read_text().splitlines()]
    shards = list(out.glob("shard-*.tar"))
    size = sum(path.stat().st_size for path in shards) / 2**20
    packed = f"{images - len(problems):,} of {counted(images, 'image')} in {counted(len(shards), 'shard')}"
    return "\n".join([*shown(problems), f"{out}: {packed}, {size:,.0f} MB; {len(problems):,} left out (*{LEFT_OUT})"])


if __name__ == "__main__":
    run_plainly("tools/pack_dataset.py", main)
