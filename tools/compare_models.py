#!/usr/bin/env python3
"""Compare two snapshots or ONNX models on one verification set, pair by pair.

    python tools/compare_models.py a.pt b.onnx --val_data_root /data/lfw
    python tools/compare_models.py a.pt b.pt --val_data_root /data/lfw --flipped_emb --roc both.png

Both are scored as by evaluate_lfw.py, whose options may follow and apply to both; where one of the files stores no
preprocessing, options of it apply to that file alone. Output: metrics of each, B − A with a
95 % interval from bootstrap draws of identities shared by both, and the pairs that only one classifies correctly, each
at the thresholds of its own folds. A difference isn't chance where its interval excludes 0. McNemar's exact test (1947,
https://doi.org/10.1007/BF02295996) takes pairs for independent: where people are in several pairs, its p is too small.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.console import begin

    begin()
    from fr.errors import refuse_early
    from tools.options.compare_models import options

    refuse_early("tools/compare_models.py", options)

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation.bands import banded_curve
from fr.evaluation.bootstrap import Replicates, replicates
from fr.evaluation.embedding import people_of_pairs
from fr.evaluation.intervals import Interval, paired_difference, percentile, wider
from fr.evaluation.roc import area, roc_curve
from fr.evaluation.scored_model import stores_preprocessing
from fr.evaluation.scoring import Scored, score
from fr.evaluation.verification import Verification, shares_of_pairs
from fr.files.durable import write_result
from fr.report.plots import png, roc_overlay
from tools.options.compare_models import PREPROCESSING
from tools.options.compare_models import options as read_options

COMPARED = ("accuracy", "auc")


def main(argv: list[str]) -> int:
    arguments, both = read_options(argv)
    options = both[0].values
    overriding = False
    if both[0].said(PREPROCESSING, ""):  # to see what a file stores it is opened once more
        overriding = len({stores_preprocessing(Path(resolved.values.snap)) for resolved in both}) == 1
    with open_ranks(options.device) as ranks:
        sets_of_a, sets_of_b = (score(resolved, ranks, overriding) for resolved in both)
        if len(sets_of_a) != len(sets_of_b):
            raise InputError(f"A was scored on {len(sets_of_a)} sets, B on {len(sets_of_b)}: name them with --val_sets")
        curves = {}
        for a, b in zip(sets_of_a, sets_of_b, strict=True):
            _check_one_set(a, b)
            if not ranks.is_main:
                continue
            if len(sets_of_a) > 1:
                print(a.pair_set.describe())
            drawn = [_replicates(scored, options.bootstrap) for scored in (a, b)] if options.bootstrap else []
            print("\n".join(_table(a, b, drawn)))
            print(_disagreement(a.verification.right, b.verification.right))
            where = f", {a.pair_set.name}" if len(sets_of_a) > 1 else ""
            for letter, name, scored in (("A", arguments.a, a), ("B", arguments.b, b)):
                people = people_of_pairs(scored.faces)
                curve = banded_curve(scored.scores, scored.faces.same, people, options.bootstrap * bool(arguments.roc))
                curves[f"{letter}: {Path(name).name}{where}"] = curve
        if arguments.roc and ranks.is_main:
            write_result(arguments.roc, png(roc_overlay(curves)))
            print(f"wrote {arguments.roc}")
    return 0


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Pairs that only A, and that only B classifies correctly, and McNemar's exact two-sided p. right_a, right_b: [P].

    p: probability of a split at least as uneven if each of these pairs is a fair coin toss.
    """
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    return only_a, only_b, min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def accuracy_interval(a: Verification, b: Verification, drawn: tuple[Replicates, Replicates]) -> Interval | None:
    """95 % interval of B's accuracy minus A's; None without replicates. drawn: of A and B, with equal draws."""
    # A pair's share is the same for both: folds and kinds are of the set.
    gains = shares_of_pairs(a.cell) * (b.right.astype(np.float64) - a.right)
    return wider(percentile(drawn[1]["accuracy"] - drawn[0]["accuracy"]), paired_difference(gains))


def _check_one_set(a: Scored, b: Scored) -> None:
    same_set = a.faces.names.equals(b.faces.names) and np.array_equal(a.faces.pairs, b.faces.pairs)
    if not same_set:
        sources = f"A was scored on {a.pair_set.source}, B on {b.pair_set.source}"
        raise InputError(f"{sources}: name one set with --val_data_root")


def _replicates(scored: Scored, count: int) -> Replicates:
    people = people_of_pairs(scored.faces)
    return replicates(scored.scores, scored.faces.same, scored.verification, people, count)


def _table(a: Scored, b: Scored, drawn: list[Replicates]) -> list[str]:
    rows = [f"{'':10}{'A':>8}{'B':>8}{'B - A':>9}" + ("   95 % interval" if drawn else "")]
    between: dict[str, Interval | None] = {}
    if drawn:
        between["accuracy"] = accuracy_interval(a.verification, b.verification, (drawn[0], drawn[1]))
        between["auc"] = percentile(drawn[1]["auc"] - drawn[0]["auc"])
    for name in COMPARED:
        first, second = (_metric(scored, name) for scored in (a, b))
        row = f"{name:10}{first:8.4f}{second:8.4f}{second - first:+9.4f}"
        if ends := between.get(name):
            row += f"   [{ends[0]:+.4f}, {ends[1]:+.4f}]: " + _verdict(ends)
        rows.append(row)
    return rows


def _verdict(ends: Interval) -> str:
    return "isn't chance" if ends[0] > 0 or ends[1] < 0 else "may be chance"


def _metric(scored: Scored, name: str) -> float:
    """Accuracy of the protocol, or AUC of the exact curve, as in the bootstrap replicates."""
    if name == "accuracy":
        return scored.verification.accuracy
    roc = roc_curve(scored.scores, scored.faces.same)
    return float(area(roc.far, roc.tar))


def _disagreement(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> str:
    only_a, only_b, p = mcnemar(right_a, right_b)
    counts = f"correct only by A: {only_a:,}, only by B: {only_b:,} of {right_a.size:,} pairs"
    return f"{counts}; McNemar's p, if pairs were independent: {p:.3g}"


if __name__ == "__main__":
    run_plainly("tools/compare_models.py", main)
