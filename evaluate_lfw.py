#!/usr/bin/env python3
"""Score a snapshot or an ONNX model on LFW (or any set in its layout): accuracy, AUC and threshold over ten folds.

    python evaluate_lfw.py --snap snapshots/mobilenet_arcface_120000.pt
    python evaluate_lfw.py --snap exported.onnx --val_data_root /data/lfw
    python evaluate_lfw.py --snap other.onnx --val_data_root /data/lfw --template arcface --mean .5 .5 .5 --std .5 .5 .5
    python evaluate_lfw.py --snap exported.onnx --val_sets /data/lfw cfp_fp=/data/cfp-dataset /data/faces/agedb_30.bin
    torchrun --nproc_per_node 4 evaluate_lfw.py --snap … --json figures.json --report report/ --show_failed failed/
    python evaluate_lfw.py --snap … --cache --protocol histogram     # embeddings are cached next to the snapshot

Model, embedding size and preprocessing are read from the file; overrides by options are printed. The default set is the
one that the snapshot was validated on; --val_data_root, --val_list and --val_landmarks name another, --val_sets
several. With several sets --json has an object, --report a page and --show_failed a folder for each, and the output
ends with a table.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("evaluate_lfw.py", "fr.options.definitions:evaluation_options")

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fr.console import warn
from fr.data.verification_set import FOLDER
from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation.bands import banded_curve
from fr.evaluation.embedding import people_of_pairs
from fr.evaluation.group_rates import GroupRates
from fr.evaluation.pair_statistics import Metric, PairResult
from fr.evaluation.rejection import embedding_lengths, rejection_curves
from fr.evaluation.roc import Roc, write_curve
from fr.evaluation.scored_model import ScoredModel, keep_threshold
from fr.evaluation.scoring import Scored, score
from fr.evaluation.verification import metric_text
from fr.files.durable import write_json
from fr.files.outputs import check_outputs
from fr.options.commands import next_command
from fr.options.definitions import evaluation_options
from fr.report.failed_pairs import WrongPair, aligned, load_pairs, write_pairs, wrong_pairs
from fr.report.plots import SCORE_NAMES
from fr.report.projector import add_set, open_projector
from fr.report.verification_report import write_report

Metrics = dict[str, Any]
SHOWN_PAIRS = 8  # worst pairs of each kind in the report


def main(argv: list[str]) -> int:
    resolved = evaluation_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        folders = options.report, options.show_failed, options.dump_embeddings
        check_outputs([options.json, options.roc_fname], folders)
        scored_sets = score(resolved, ranks)
        if ranks.is_main:
            results = {scored.pair_set.name: _result(scored, options.bootstrap) for scored in scored_sets}
            by_group = {scored.pair_set.name: _by_group(scored, options) for scored in scored_sets}
            several = len(results) > 1
            figures: dict[str, Metrics] = {
                name: {**result.figures, **({"groups": rates.record()} if (rates := by_group[name]) else {})}
                for name, result in results.items()
            }
            if options.json:  # written before anything is printed, since printing to a closed pipe may fail
                write_json(Path(options.json), figures if several else figures[scored_sets[0].pair_set.name])
            for scored in scored_sets:
                result = results[scored.pair_set.name]
                if several or not scored.faces.landmarks.shape[1]:
                    print(scored.pair_set.describe(), flush=True)
                print("\n".join([*result.lines, f"embedding: {scored.embedding}"]), flush=True)
                in_groups = by_group[scored.pair_set.name]
                if in_groups:
                    print("\n".join(in_groups.lines()), flush=True)
                for warning in in_groups.warnings if in_groups else ():
                    warn(warning)
                _write_reports(options, scored, result.statistics, in_groups, scored.pair_set.name if several else "")
            if several:
                print("\n".join(_table(figures)))
            if options.roc_fname:
                for scored in scored_sets:
                    own = f"_{scored.pair_set.name}" if several else ""
                    write_curve(options.roc_fname, own, _curve(scored, options, options.roc_band))
            if options.dump_embeddings:
                _dump_embeddings(Path(options.dump_embeddings), scored_sets)
            _keep_threshold(options, scored_sets[0])
            _print_next(options, scored_sets[0].model)
    if options.groups and not scored_sets[0].groups.labels:
        raise InputError("--groups: no set has rates by group: the warnings above have the reasons")
    return 0


def _result(scored: Scored, bootstrap: int) -> PairResult:
    people = people_of_pairs(scored.faces)
    return PairResult.of(scored.scores, scored.faces.same, scored.verification, people, bootstrap)


def _by_group(scored: Scored, options: Namespace) -> GroupRates | None:
    name, faces, dist, center = scored.pair_set.name, scored.faces, options.dist, options.center
    return scored.groups.measure(name, faces, scored.embeddings, scored.scores, dist, center, options.bootstrap)


def _keep_threshold(options: Namespace, scored: Scored) -> None:
    """Store the threshold in an imported snapshot, which has none, if tools/identify.py compares in the same way."""
    snap = Path(options.snap)
    comparable = options.protocol == "standard" and options.dist == "cos" and options.flip_mode == "sum"
    if not comparable or options.center or options.averaged or not isinstance(scored.model.network, nn.Module):
        return
    if scored.model.overrides:  # of the stored preprocessing, with which the threshold would be used
        return
    if scored.model.config:  # of a training, so the file need not be read again
        return
    try:
        if keep_threshold(snap, scored.verification.metrics(), scored.flipped):
            print(f"{snap}: stored the threshold, for tools/identify.py", flush=True)
    except OSError as error:
        print(f"{snap}: can't store the threshold: {error.strerror}", file=sys.stderr, flush=True)


def _print_next(options: Namespace, model: ScoredModel) -> None:
    """After a training on folders of people, print the command that identifies people in other images."""
    config = model.config
    if config.get("train_dataset") in ("list", "folder") and not config.get("aligned"):
        people = os.path.normpath(os.path.join(config.get(FOLDER, ""), config["train_data_root"]))
        images = ["--input", "NEW_IMAGES", "--out", "seen"]
        print(next_command("tools/identify.py", "--gallery", people, *images, snap=options.snap))


def _write_reports(
    options: Namespace, scored: Scored, statistics: dict[str, Metric], by_group: GroupRates | None, subfolder: str
) -> None:
    """Write the --report page and --show_failed images of one set."""
    if options.report:
        report = _write_report(Path(options.report, subfolder), options, scored, statistics, by_group)
        print(f"report: {report}")
    if options.show_failed:
        folder, score_name = Path(options.show_failed, subfolder), SCORE_NAMES[scored.verification.dist]
        count = write_pairs(folder, _wrong_pairs(scored, len(scored.scores)), score_name)
        print(f"misclassified: {count} in {folder}")


def _dump_embeddings(folder: Path, scored_sets: list[Scored]) -> None:
    with open_projector(folder) as writer:
        for scored in scored_sets:
            faces, rows = scored.faces, np.arange(len(scored.faces))
            images = aligned(faces, rows, scored.model.preprocessing, scored.dali)
            add_set(writer, scored.pair_set.name, scored.embeddings, faces.names.to_pylist(), images)
    print(f"embeddings: tensorboard --logdir {shlex.quote(str(folder))}")


def _curve(scored: Scored, options: Namespace, banded: bool) -> Roc:
    """ROC curve of a set. banded: with its band, if --bootstrap allows."""
    people = people_of_pairs(scored.faces)
    return banded_curve(scored.scores, scored.faces.same, people, options.bootstrap * banded)


def _table(figures: dict[str, Metrics]) -> list[str]:
    """Table with one line per set."""
    width = max(map(len, figures))
    columns = ("accuracy", "accuracy_std", "auc", "eer", "tar@far=1e-02", "tar@far=1e-03")
    lines = [f"{'':{width}}" + "".join(f"{name:>15}" for name in columns)]
    for name, metrics in figures.items():
        values = (metrics.get(column) for column in columns)
        lines.append(f"{name:{width}}" + "".join(f"{metric_text(value):>15}" for value in values))
    return lines


def _write_report(
    folder: Path, options: Namespace, scored: Scored, statistics: dict[str, Metric], by_group: GroupRates | None
) -> Path:
    title = f"{Path(options.snap).name} on {scored.pair_set.source}"
    verification, scores, same = scored.verification, scored.scores, scored.faces.same
    worst = list(_wrong_pairs(scored, SHOWN_PAIRS))
    rejection, curve = _rejection(scored), _curve(scored, options, banded=True)
    facts = _facts(options.snap, scored)
    return write_report(folder, verification, scores, same, facts, title, worst, statistics, rejection, curve, by_group)


def _rejection(scored: Scored) -> dict[str, NDArray[np.float64]]:
    """FNMR when pairs of poor images are rejected, by quality measure and threshold."""
    lengths = None if scored.model.unit_length else embedding_lengths(scored.embeddings)
    qualities = {"embedding length": lengths, "--quality": scored.quality}
    known = {name: quality for name, quality in qualities.items() if quality is not None}
    return rejection_curves(scored.scores, scored.faces.same, scored.faces.pairs, known)


def _facts(snap: str, scored: Scored) -> dict[str, str]:
    return {
        "file": snap,
        **scored.model.facts,
        "preprocessing": scored.model.preprocessing.describe(),
        "embedding": scored.embedding,
        "score": SCORE_NAMES[scored.verification.dist],
        "protocol": scored.verification.protocol,
        "set": scored.pair_set.source,
        "photographs": f"{len(scored.faces):,}",
        "pairs": f"{len(scored.faces.pairs):,}",
        **({"warning": scored.warning} if scored.warning else {}),
    }


def _wrong_pairs(scored: Scored, max_pairs: int) -> Iterator[WrongPair]:
    """Misclassified pairs, at most `max_pairs` of each kind, the worst first."""
    wrong = wrong_pairs(scored.scores, scored.faces.same, scored.verification.right, max_pairs)
    return load_pairs(scored.faces, scored.scores, wrong, scored.model.preprocessing, scored.dali)


if __name__ == "__main__":
    run_plainly("evaluate_lfw.py", main)
