#!/usr/bin/env python3
"""Classify held-out images of the training identities with a snapshot's head: top-1 and top-5 accuracy.

    python tools/make_list.py photographs lists
    python train.py --train_dataset list --train_list lists/train.txt …
    python tools/classify.py --snap t.pt --train_dataset list --train_data_root photographs \\
        --train_list lists/test.txt --aligned --json figures.json --per_identity table.csv

For VGGFace2, use images of its 8,631 training identities; its 500 test identities have no class. Class names come from
the training state next to the snapshot, or from tools/import_weights.py --identities, and match the identity's name or
the last part of its path. Logits are cosines without a margin; an imported head with a bias is applied unchanged. Works
under torchrun.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/classify.py", "tools.options.classify:options")

from pathlib import Path
from typing import Any

from fr.console import counted
from fr.data.bad_images import BadImages
from fr.distributed import open_ranks
from fr.errors import run_plainly
from fr.files.durable import csv_file, write_json, write_result
from fr.files.outputs import check_outputs
from tools.features.classes import Classifier, Verdicts, judged, table
from tools.features.labelled import judged_images, labelled_images
from tools.options.classify import options as read_options


def main(argv: list[str]) -> int:
    resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        check_outputs([options.json, options.per_identity])
        images = labelled_images(resolved, ranks)
        faces, names = images.faces, images.names
        classifier = Classifier(images.head, images.bias, ranks.device, images.sub_centers)
        bad = BadImages(options.max_bad_images)
        every = judged_images(images, ranks, bad, lambda features: judged(classifier, features, images.targets))
        if ranks.is_main:
            verdicts = Verdicts.of(every)
            record = _record(verdicts, names, options.pairs) | {
                "left_out": len(faces) - len(images.rows),
                "unusable": bad.count,
            }
            print("\n".join([*resolved.notes, *faces.notes, *_lines(record)]))
            if options.json:
                write_json(Path(options.json), record)
            if options.per_identity:
                write_result(Path(options.per_identity), csv_file(table(verdicts, names)))
    return 0


def _record(verdicts: Verdicts, names: list[str], pairs: int) -> dict[str, Any]:
    counts = verdicts.by_class()
    return {
        "images": len(verdicts.place),
        "identities": len(counts),
        "classes": len(names),
        **verdicts.metrics(),
        "confused": [
            {"identity": names[target], "taken_for": names[other], "times": times, "of": counts[target][0]}
            for target, other, times in verdicts.confused(pairs)
        ],
    }


def _lines(record: dict[str, Any]) -> list[str]:
    of = counted(record["identities"], "identity")
    count = f"{counted(record['images'], 'image')} of {of}"
    aside = [f"{record[key]:,} {what}" for key, what in _ASIDE.items() if record[key]]
    return [
        "; ".join([f"{count}, {counted(record['classes'], 'class')}", *aside]),
        "top-1 {top1:.4f}, top-5 {top5:.4f}; mean of the identities' top-1 {mean_top1:.4f}".format(**record),
        *("{identity} taken for {taken_for}: {times} of {of}".format(**pair) for pair in record["confused"]),
    ]


_ASIDE = {"left_out": "of people without a class left out", "unusable": "unusable"}


if __name__ == "__main__":
    run_plainly("tools/classify.py", main)
