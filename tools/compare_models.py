#!/usr/bin/env python3
"""Compare two snapshots or ONNX models on one verification set, pair by pair.

    python tools/compare_models.py a.pt b.onnx --val_data_root /data/lfw
    python tools/compare_models.py a.pt b.pt --val_data_root /data/lfw --flipped_emb --roc both.png

Both are scored as by evaluate_lfw.py, whose options may follow and apply to both; if one of the files stores no
preprocessing, preprocessing options apply only to that file. Output: metrics of each, B − A with a 95 % interval from
the same bootstrap draws of identities for both, and the pairs that only one classifies correctly, each at the
thresholds of its own folds. A difference is significant if its interval excludes 0. The p is that of McNemar's exact
test (https://doi.org/10.1007/BF02295996), which assumes independent pairs: if people are in several, it is too small.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/compare_models.py", "tools.options.compare_models:options")

from pathlib import Path

from fr.console import counted, warn
from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation.bands import banded_curve
from fr.evaluation.embedding import people_of_pairs
from fr.evaluation.paired import Comparison, check_one_set, compare, drawn_from, embeddings_warning
from fr.evaluation.scored_model import stores_preprocessing
from fr.evaluation.scoring import score
from fr.files.durable import write_result
from fr.files.outputs import check_outputs
from fr.report.plots import png, roc_overlay
from tools.options.compare_models import PREPROCESSING
from tools.options.compare_models import options as read_options


def main(argv: list[str]) -> int:
    arguments, both = read_options(argv)
    options = both[0].values
    overriding = False
    if both[0].said(PREPROCESSING, ""):  # opens the files once more, to see if they store a preprocessing
        overriding = len({stores_preprocessing(Path(resolved.values.snap)) for resolved in both}) == 1
    with open_ranks(options.device) as ranks:
        check_outputs([arguments.roc])
        sets_of_a, sets_of_b = (score(resolved, ranks, overriding) for resolved in both)
        if len(sets_of_a) != len(sets_of_b):
            of_a = counted(len(sets_of_a), "set")
            raise InputError(f"A was scored on {of_a}, B on {len(sets_of_b)}: name them with --val_sets")
        of_both = {"A": sets_of_a[0], "B": sets_of_b[0]}
        if ranks.is_main:
            for (letter, one), name in zip(of_both.items(), (arguments.a, arguments.b), strict=True):
                print(f"{letter}: {name}, embedding {one.embedding}", flush=True)
            if warning := embeddings_warning(of_both):
                warn(warning)
        curves = {}
        for a, b in zip(sets_of_a, sets_of_b, strict=True):
            check_one_set(a, b)
            if not ranks.is_main:
                continue
            if len(sets_of_a) > 1:
                print(a.pair_set.describe())
            count = options.bootstrap
            comparison = compare(a, b, (drawn_from(a, count), drawn_from(b, count)) if count else None)
            print("\n".join([*_table(comparison), comparison.disagreement()]))
            where = f", {a.pair_set.name}" if len(sets_of_a) > 1 else ""
            for letter, name, scored in (("A", arguments.a, a), ("B", arguments.b, b)):
                people = people_of_pairs(scored.faces)
                curve = banded_curve(scored.scores, scored.faces.same, people, options.bootstrap * bool(arguments.roc))
                curves[f"{letter}: {Path(name).name}{where}"] = curve
        if arguments.roc and ranks.is_main:
            write_result(arguments.roc, png(roc_overlay(curves)))
            print(f"wrote {arguments.roc}")
    return 0


def _table(comparison: Comparison) -> list[str]:
    drawn = any(one.interval for one in comparison.differences)
    rows = [f"{'':10}{'A':>8}{'B':>8}{'B - A':>9}" + ("   95 % interval" if drawn else "")]
    for one in comparison.differences:
        ends = f"   [{one.interval[0]:+.4f}, {one.interval[1]:+.4f}]: {one.verdict}" if one.interval else ""
        rows.append(f"{one.name:10}{one.a:8.4f}{one.b:8.4f}{one.b - one.a:+9.4f}{ends}")
    return rows


if __name__ == "__main__":
    run_plainly("tools/compare_models.py", main)
