#!/usr/bin/env python3
"""List images of a training set whose labels are probably wrong, by a model trained with several centres a class.

    python train.py @configs/my_config.yml --sub_centers 3 --margin_type arc --m 0.5
    python tools/label_noise.py --out noise --snap t.pt --train_dataset list --train_data_root photographs \\
        --train_list lists/train.txt --aligned

In such a training the clean images of a class gather around one of its centres, the dominant one, and most wrong ones
around others (Sub-center ArcFace, Deng et al., ECCV 2020, sec. 3.4). An image is listed if another centre of its class
is nearer than the dominant one, to which most of the class's images are nearest, and its angle to the dominant one is
above --min_angle. The data options are those of the training. --out gets

    label_noise.csv      path, identity, angles to the dominant and to the nearest centre [degrees]
    cleaned_<list>.txt   the list without these images, for --train_list of a training with one centre a class

The cleaned list has the format that was read, `list` for folders; for shards no list is written. Works under torchrun.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/label_noise.py", "tools.options.label_noise:options")

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fr.data.bad_images import BadImages
from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.files.durable import csv_file, write_result
from fr.files.outputs import check_outputs
from tools.check_dataset import cleaned_list, list_lines
from tools.features.classes import Indices
from tools.features.labelled import LabelledImages, judged_images, labelled_images
from tools.features.parts import Features
from tools.options.label_noise import options as read_options

Angles = NDArray[np.float64]


def main(argv: list[str]) -> int:
    resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        check_outputs(folders=[options.out])
        images = labelled_images(resolved, ranks)
        if images.sub_centers == 1:
            raise InputError(f"{options.snap}: has one centre a class; train with --sub_centers 3, say")
        bad = BadImages(options.max_bad_images)
        every = judged_images(images, ranks, bad, lambda features: (features.rows, _angles(images, features)))
        if not ranks.is_main:
            return 0
        rows, angles = (np.concatenate(parts) for parts in zip(*every, strict=True))
        order = np.argsort(rows)
        rows, angles = rows[order], angles[order]
        dominant, noisy = on_minor_centres(angles, images.targets[rows], options.min_angle)
        faces, out, found = images.faces, Path(options.out), rows[noisy]
        table = [["path", "identity", "dominant_angle", "nearest_angle"]]
        for row, far, near in zip(found.tolist(), dominant[noisy], angles[noisy].min(axis=1), strict=True):
            table.append([faces.names[row].as_py(), faces.identities[faces.labels[row]], f"{far:.1f}", f"{near:.1f}"])
        files = {"label_noise.csv": csv_file(table)}
        stays = np.ones(len(faces), dtype=bool)
        stays[found] = False
        if (lines := list_lines(options, faces)) is not None:
            files |= cleaned_list(options, lines, stays)
        for name, content in files.items():
            write_result(out / name, content)
        said = f"{len(found):,} of {len(rows):,} images above {options.min_angle:g}° on a minor centre of their class"
        wrote = ", ".join(str(out / name) for name in files)
        print("\n".join([*resolved.notes, *faces.notes, said, f"wrote {wrote}"]))
    return 0


def _angles(images: LabelledImages, features: Features) -> Angles:
    """Angles [n, K] of images to the centres of their classes, in degrees."""
    unit = functional.normalize(torch.from_numpy(features.values).double())
    centres = images.head[images.targets[features.rows]].double().view(len(unit), images.sub_centers, -1)
    cosines = torch.einsum("ne,nke->nk", unit, functional.normalize(centres, dim=2))
    return cosines.clamp(-1, 1).arccos().rad2deg().numpy()


def on_minor_centres(angles: Angles, targets: Indices, min_angle: float) -> tuple[Angles, NDArray[np.bool_]]:
    """Angles to the dominant centre of each image's class [n], and mask of the images with probably wrong labels [n].

    angles [n, K]: to the centres of the image's class. targets [n]. Among centres with equal numbers of images the
    first is dominant.
    """
    nearest = angles.argmin(axis=1)
    counts = np.zeros((targets.max() + 1, angles.shape[1]), dtype=np.int64)
    np.add.at(counts, (targets, nearest), 1)
    dominant = counts.argmax(axis=1)[targets]
    to_dominant = angles[np.arange(len(angles)), dominant]
    return to_dominant, (nearest != dominant) & (to_dominant > min_angle)


if __name__ == "__main__":
    run_plainly("tools/label_noise.py", main)
