#!/usr/bin/env python3
"""Choose the threshold for a required error rate, on images of people from your own camera.

    python tools/choose_threshold.py people door.json --snap t.pt --fmr 1e-3                        # 1:1
    python tools/choose_threshold.py people door.json --snap t.onnx --fpir 0.01 --gallery_size 50   # 1:N

The folder has one folder per person, like the gallery of tools/identify.py. The model must not have been trained on
these people.

--fmr: share of the pairs of images of different people that may be accepted. --fpir: each image is searched, as that of
an unknown person, in galleries of --gallery_size of the other people with all of their images; share of these searches
that may be accepted.

It prints the threshold as a distance (1 - cosine), the rate measured at it, the upper 95 % bound of the true rate
(computed over people, since images of one person aren't independent), the number of people needed for a bound within
1.5 times the required rate, and the share of known people who are then rejected. A rate that can't be measured with so
few people is refused. OUT.json holds the same, for --threshold of tools/identify.py. Further options: those of
evaluate_lfw.py for model, preprocessing and device. To install the detector: bash init_venv.sh --with detect
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/choose_threshold.py", "tools.options.choose_threshold:options")

import argparse
from pathlib import Path

import numpy as np

from fr.console import counted, print_lines
from fr.data.readers.folders import images_below
from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation.scoring import Embedder
from fr.evaluation.verification import threshold_text
from fr.files.data_root import DataRoot
from fr.files.outputs import check_outputs
from fr.options.commands import next_command
from fr.recognition.gallery import normalised_rows
from fr.recognition.operating_points import (
    LOOSE,
    OperatingPoint,
    check_fmr,
    check_fpir,
    identification_point,
    verification_point,
)
from tools.identifying.portraits import Looking, embedded, person_of
from tools.identifying.thresholds import embeddings_of, write_threshold
from tools.options.choose_threshold import options as read_options
from tools.options.detect_faces import settings_of


def main(argv: list[str]) -> int:
    arguments, resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        if ranks.world_size > 1:
            raise InputError("runs in one process only: start it without torchrun")
        check_outputs([arguments.out])
        root = DataRoot(Path(arguments.people), options.allow_outside)
        root.check_exists("FOLDER")
        _check(len({person_of(name) for name in images_below(root)}), arguments)  # before minutes of work
        embedder = Embedder.open(resolved, ranks)
        print_lines(embedder.model.overrides)
        chosen_for = embeddings_of(embedder)
        looking = None if arguments.aligned else Looking(settings_of(arguments), str(ranks.device), arguments.face)
        portraits, embeddings = embedded("FOLDER", arguments.people, looking, embedder)
        person = np.unique(portraits.people_of_faces, return_inverse=True)[1].astype(np.int64)
        rows = normalised_rows(embeddings)
        if arguments.fmr:
            point = verification_point(rows, person, arguments.fmr)
        else:
            point = identification_point(rows, person, arguments.fpir, arguments.gallery_size)
        rate = "fmr" if arguments.fmr else "fpir"
        write_threshold(arguments.out, point, arguments.gallery_size or 0, chosen_for)
        print(f"{counted(len(rows), 'image')} of {counted(point.people, 'person', 'people')}")
        print_lines(_lines(point, rate))
        if arguments.fpir:
            use = ("--gallery", "GALLERY", "--input", "NEW_IMAGES", "--out", "seen", "--threshold", str(arguments.out))
            print(next_command("tools/identify.py", *arguments.of_model, *use))
        else:
            below = threshold_text(point.threshold)
            print(f"next: take two images for one person where their distance is below {below}")
    return 0


def _check(people: int, arguments: argparse.Namespace) -> None:
    if arguments.fmr:
        check_fmr(people, arguments.fmr)
    else:
        check_fpir(people, arguments.fpir, arguments.gallery_size)


def _lines(point: OperatingPoint, rate: str) -> list[str]:
    known = "FNMR" if rate == "fmr" else "FNIR"
    lines = [
        f"threshold (distance): {threshold_text(point.threshold)}",
        f"{rate.upper()} there: {point.measured:.2e}, upper 95 % bound of the true one: {point.bound:.2e}",
    ]
    if point.bound > LOOSE * point.wanted:
        lines.append(f"a bound of {LOOSE:g} times {point.wanted:g} takes about {point.needed:,} people")
    if point.misses is None:
        return [*lines, f"{known}: not measured: no person has two images"]
    between = point.misses_interval
    return [*lines, f"{known}: {point.misses:.4f}" + (f" [{between[0]:.4f}, {between[1]:.4f}]" if between else "")]


if __name__ == "__main__":
    run_plainly("tools/choose_threshold.py", main)
