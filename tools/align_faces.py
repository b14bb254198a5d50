#!/usr/bin/env python3
"""Crop the faces of all images into a copy of the folder tree, as aligned or loose crops.

    python tools/align_faces.py --train_data_root train --train_list list.txt --train_landmarks bb_landmark --out crops
    python tools/align_faces.py --train_data_root train --train_list tables/train_list.txt --train_landmarks tables \\
        --out loose --crop loose --boxes tables/loose_bb_train.csv --square
    python train.py --train_dataset folder --train_data_root crops --aligned

aligned: warped to --template at --size with the training's alignment and single resampling; png crops at the network's
input size give the same pixels as training from the images. loose: as VGGFace2, the face box enlarged by --enlarge, not
resampled. OUT gets the crops under the images' names, crops.json with the settings, and unreadable.txt. After an
interruption, run it again: existing crops are complete and are kept.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/align_faces.py", "tools.options.align_faces:options")

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fr.console import counted
from fr.data.crop_contract import MARK
from fr.data.faces import Faces, shown
from fr.data.formats import read_training_faces
from fr.data.landmark_csv import boxes_of
from fr.data.pipeline import DaliSettings
from fr.data.samples import plain_batches
from fr.data.usable import usable_batches
from fr.errors import InputError, run_plainly
from fr.files.durable import write_result
from fr.files.images import Pixels
from fr.options.commands import next_command
from fr.preprocessing import Preprocessing
from fr.progress import tracked
from tools.dataset.crop_files import Targets, target_names
from tools.dataset.loose_crops import write_loose
from tools.dataset.marked_folder import open_folder
from tools.dataset.parallel import map_in_processes
from tools.options.align_faces import options as read_options

UNREADABLE = "unreadable.txt"
BATCH = 64
_WITHOUT_EFFECT = ("out", "workers", "data_cache", "allow_outside")  # options that don't change crops


def main(argv: list[str]) -> int:
    resolved = read_options(argv)
    options = resolved.values
    faces = read_training_faces(resolved.as_dict())
    if not faces.landmarks.shape[1]:
        raise InputError(f"{faces.root}: no landmarks to crop by; tools/detect_faces.py finds them")
    boxes = boxes_of(faces.names, Path(options.boxes), lambda i: faces.path(i)) if options.boxes else None
    targets = Targets(Path(options.out), target_names(faces, options.format), options.quality)
    settings = {name: value for name, value in resolved.as_dict().items() if name not in _WITHOUT_EFFECT}
    open_folder(targets.out, MARK, settings, "crops")
    try:
        if gone := targets.remove_others():
            print(f"removed {counted(gone, 'crop')} of images that are no longer in the data", flush=True)
    except OSError as error:
        raise InputError(f"{error.filename or targets.out}: can't be removed: {error.strerror}") from error
    todo = targets.missing()
    if len(todo) < len(faces):
        print(f"{len(faces) - len(todo):,} of {len(faces):,} crops were there before", flush=True)
    if options.crop == "aligned":
        problems = write_aligned(faces, todo, targets, options)
    else:
        write = partial(write_loose, faces, boxes, targets, options.enlarge, options.square)
        problems = map_in_processes(write, todo.tolist(), options.workers, "cutting")
    bad = [problem for problem in problems if problem]
    write_result(targets.out / UNREADABLE, "".join(f"{problem}\n" for problem in bad).encode())
    crops, unusable = counted(len(faces) - len(bad), "crop"), counted(len(bad), "unusable image")
    summary = f"{targets.out}: {crops}; {unusable} ({UNREADABLE})"
    print("\n".join([*resolved.notes, *faces.notes, *shown(bad), summary]))
    if options.crop == "aligned":
        print(next_command("tools/make_list.py", options.out, f"{targets.out}_lists", "--people", "0.2"))
    return 0


def write_aligned(faces: Faces, todo: NDArray[np.int64], targets: Targets, options: Any) -> Iterator[str]:
    """Crop and write; yield the problem of each image, "" = none."""
    size = (options.size[0], options.size[-1])
    preprocessing = Preprocessing(size, options.template, options.alignment, color_order="bgr")
    settings = DaliSettings("cpu", None, options.workers or len(os.sched_getaffinity(0)))
    crops = aligned_crops(faces, todo, preprocessing, options.margin, settings)
    for index, crop in tracked(crops, "img", "cutting", len(todo)):
        if isinstance(crop, str):
            yield crop
        else:
            targets.write_crop(index, crop)
            yield ""


def aligned_crops(
    faces: Faces, indices: NDArray[np.int64], preprocessing: Preprocessing, margin: float, settings: DaliSettings
) -> Iterator[tuple[int, Pixels | str]]:
    """Yield each index [N] with its crop [H, W, 3] in the colour order of `preprocessing`, or with its problem.

    preprocessing: of mean 0 and std 1. margin: area shown beyond the template's frame on each side, at the same output
    size [fraction of the frame].
    """
    move = widened(preprocessing.input_size, margin)
    batches = (
        replace(batch, moves=np.tile(move, (len(batch.indices), 1, 1)))
        for batch in plain_batches(faces, indices, BATCH)
    )
    for images, rows, problems in usable_batches(batches, BATCH, preprocessing, settings):
        levels = np.round(images.cpu().numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        yield from problems.items()
        yield from zip(rows.tolist(), levels, strict=True)


def widened(input_size: tuple[int, int], margin: float) -> NDArray[np.float64]:
    """Affine matrix [2, 3] from an input of (height, width) to one that shows `margin` more on each side."""
    height, width = input_size
    shrink = 1 / (1 + 2 * margin)
    middle = np.array([[(width - 1) / 2], [(height - 1) / 2]])
    return np.concatenate([shrink * np.eye(2), (1 - shrink) * middle], axis=1)


if __name__ == "__main__":
    run_plainly("tools/align_faces.py", main)
