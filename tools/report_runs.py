#!/usr/bin/env python3
"""Compare trainings on one HTML page: options that differ, curves, last and best validation, scores.

    python tools/report_runs.py snapshots/a.config.yml snapshots/b.config.yml --out compared
    python tools/report_runs.py snapshots/*.config.yml --out compared --val_data_root /data/lfw --flipped_emb

RUN is SNAP_FOLDER/PREFIX.config.yml, which train.py writes beside the snapshots; logs and snapshots are found by it,
also while the training goes on. With --val_data_root or --val_sets the snapshot of each run that validated best
(without validation: the newest) is scored with these and other options of evaluate_lfw.py, and compared with the first
run's pair by pair as by tools/compare_models.py.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/report_runs.py", "tools.options.report_runs:options")

import os
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fr.checkpoint.snapshot import all_paths, snapshot_path
from fr.console import warn
from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation.paired import check_one_set, compare, drawn_from, embeddings_warning
from fr.evaluation.roc import roc_curve
from fr.evaluation.scoring import Scored, score
from fr.files.durable import write_result
from fr.files.outputs import check_outputs
from fr.options.config_files import read_config_file
from fr.options.variables import expand_variables
from fr.report.run_logs import VALIDATION, Record, RunLog, read_log
from fr.report.training_report import ScoredSet, Training, points, training_page
from fr.train.ending import log_folder
from tools.options.compare_models import scoring_options
from tools.options.report_runs import options as read_options


@dataclass(frozen=True)
class Run:
    """A training's files. snapshot: the one with the best validation, or else the newest; None without any."""

    name: str
    config: Path
    options: dict[str, str]
    logs: Path
    log: RunLog
    validation: dict[int, Record]
    snapshot: Path | None

    def training(self) -> Training:
        """Content of the page about the run."""
        last = f"{max(self.log.records):,}"
        again = len(self.log.disorder)
        facts = {
            "Options": str(self.config),
            "Logs": str(self.logs),
            "Last iteration logged": f"{last}; of {again:,} repeated, the last counts" if again else last,
            "Snapshot": self.snapshot.name if self.snapshot else "none",
        }
        return Training(self.name, self.options, self.log.records, self.validation, facts)


def main(argv: list[str]) -> int:
    arguments, rest = read_options(argv)
    check_outputs(folders=[arguments.out])
    runs = find_runs(arguments.runs)
    scored: list[ScoredSet] = []
    if rest:
        if without := [f"{run.config}: no snapshot to score" for run in runs if not run.snapshot]:
            raise InputError(*without)
        resolved = [scoring_options(str(run.snapshot), rest) for run in runs]
        with open_ranks(resolved[0].values.device) as ranks:
            by_run = [score(one, ranks) for one in resolved]
            if not ranks.is_main:
                return 0
        names = [run.name for run in runs]
        if warning := embeddings_warning({name: sets[0] for name, sets in zip(names, by_run, strict=True)}):
            warn(warning)
        count = resolved[0].values.bootstrap
        scored = [compared_on(one_set, names, count) for one_set in zip(*by_run, strict=True)]
    page = arguments.out / "index.html"
    write_result(page, training_page([run.training() for run in runs], scored))
    print(f"report: {page}")
    return 0


def find_runs(configs: Sequence[Path]) -> list[Run]:
    """Find runs by their option files. A run is named by its prefix, with its folder if prefixes are equal.

    InputError if a file or a log can't be read.
    """
    runs = [_find(config) for config in configs]
    count = Counter(run.name for run in runs)
    folders = [str(config.absolute().parent) for config in configs]
    common = os.path.commonpath(folders)
    return [
        replace(run, name=f"{os.path.relpath(folder, common)}/{run.name}") if count[run.name] > 1 else run
        for run, folder in zip(runs, folders, strict=True)
    ]


def _find(config: Path) -> Run:
    options = read_options_of(config)
    if missing := [name for name in ("snap_folder", "snap_prefix", "log_folder") if name not in options]:
        raise InputError(f"{config}: no {', '.join(missing)}: give SNAP_FOLDER/PREFIX.config.yml, which train.py wrote")
    folder, prefix = config.parent, options["snap_prefix"]
    logs = _start(config, options["snap_folder"]) / log_folder(Namespace(**options))
    log = read_log(logs, growing=True)
    if not log.records:
        raise InputError(f"{log.name}: no records yet")
    validation = read_log(logs / VALIDATION, growing=True).records if (logs / VALIDATION).exists() else {}
    by_accuracy = sorted(((accuracy, at) for at, accuracy in points(validation, "accuracy")), reverse=True)
    best = (snapshot_path(folder, prefix, at) for _, at in by_accuracy)
    snapshot = next((path for path in [*best, *all_paths(folder, prefix)] if path.exists()), None)
    return Run(prefix, config, options, logs, log, validation, snapshot)


def read_options_of(config: Path) -> dict[str, str]:
    """Text of each option in a file that a training wrote, of any version."""
    settings = read_config_file(str(config))
    if problems := [f"{one.origin}: {one.problem}" for one in settings if one.problem]:
        raise InputError(*problems)
    return {one.name: " ".join(map(expand_variables, one.words)) for one in settings}


def _start(config: Path, snap_folder: str) -> Path:
    """Folder in which the training was started, which relative paths in its options refer to."""
    folder, parts = config.absolute().parent, Path(snap_folder).parts
    ends_so = not Path(snap_folder).is_absolute() and folder.parts[-len(parts) :] == parts
    return Path(*folder.parts[: -len(parts)]) if parts and ends_so else Path()


def compared_on(one_set: Sequence[Scored], names: Sequence[str], bootstrap: int) -> ScoredSet:
    """Scores of all runs on a set, and comparisons of the first with the others. bootstrap: replicates, 0 = none."""
    first = one_set[0]
    drawn = [drawn_from(scored, bootstrap) for scored in one_set] if bootstrap else []
    comparisons = {}
    for index, (name, other) in enumerate(zip(names[1:], one_set[1:], strict=True), start=1):
        check_one_set(first, other, (names[0], name))
        comparisons[name] = compare(first, other, (drawn[0], drawn[index]) if drawn else None)
    curves = {name: roc_curve(scored.scores, scored.faces.same) for name, scored in zip(names, one_set, strict=True)}
    return ScoredSet(first.pair_set.describe(), curves, comparisons)


if __name__ == "__main__":
    run_plainly("tools/report_runs.py", main)
