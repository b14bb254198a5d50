"""Card of a run, `PREFIX.card.md` beside its snapshots: what was trained on what, on what machine, and how well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.checkpoint.snapshot import SnapshotContents
from fr.data.verification_set import VerificationSet
from fr.evaluation.embedding import people_of_pairs
from fr.evaluation.pair_statistics import PairResult
from fr.evaluation.verification import Verification
from fr.files.durable import replace_file
from fr.report.model_card import markdown_table
from fr.report.plots import curves_plot, png
from fr.report.run_logs import LOG, VALIDATION, read_log
from fr.report.training_report import curve, training_keys, validation_keys

_BOOTSTRAP = 1000
_TERMS = """Terms of the data aren't known to the program that wrote this card: say here whose images they are, what
their licence allows, and whether the people in them agreed. They may restrict the use of the weights."""
_LIMITS = """- The figures hold for images and people like those of the sets above. Others have other rates:
  `tools/choose_threshold.py` measures a threshold on one's own images.
- Intervals redraw the people of a set. They don't know of another choice of data, or of another seed.
- A set of few pairs says nothing about rare errors: rows without a value need more different pairs.
- Whether people of the sets are in the training data: `tools/find_overlap.py`."""


@dataclass(frozen=True)
class ScoredPairs:
    """Scores [P] of a set's pairs by the last validation. averaged: by the averaged weights. by_group: metrics."""

    pair_set: VerificationSet
    averaged: bool
    verification: Verification
    scores: NDArray[np.float64]
    by_group: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EndedRun:
    """What a card tells. contents: of the last snapshot. command: that began it. options: those set, as printed.

    cost: name → value, of machine and time. ended: how.
    """

    contents: SnapshotContents
    snapshot: Path
    iteration: int
    command: str
    options: str
    scored: Sequence[ScoredPairs]
    cost: Mapping[str, str]
    ended: str


def write_card(folder: Path, prefix: str, run: EndedRun, logs: Path) -> Path:
    """Write the card and the picture of its curves; return the card's path. OSError where that fails.

    logs: the run's folder of log.jsonl and validation.jsonl.
    """
    pictures = {}
    for name, keys in ((LOG, training_keys), (VALIDATION, validation_keys)):
        if (logs / name).is_file():
            records = read_log(logs / name).records
            curves = {key: curve(records, key) for key in keys([records]) if key != "lr"}
            if curves:
                pictures[f"{prefix}.card.{Path(name).stem}.png"] = png(curves_plot(curves, "value"))
    for name, picture in pictures.items():
        replace_file(folder / name, picture)
    path = folder / f"{prefix}.card.md"
    replace_file(path, card_text(prefix, run, [*pictures]).encode(errors="backslashreplace"))
    return path


def card_text(prefix: str, run: EndedRun, pictures: Sequence[str]) -> str:
    """The card in Markdown. pictures: names of files beside it."""
    facts = run.contents.run
    about = {
        "images": f"{facts['images']:,}",
        "identities": f"{facts['identities']:,}",
        "SHA-256 of names, labels and landmarks": facts["data"],
        **({"SHA-256 of the teacher's file": facts["teacher"]} if "teacher" in facts else {}),
        **{f"verification set {one.pair_set.name}": one.pair_set.describe() for one in run.scored if not one.averaged},
    }
    parts = [
        f"# {prefix}",
        f"`{run.contents.model}`, embeddings of {run.contents.embed_size} numbers, after {run.iteration:,} iterations: "
        f"`{run.snapshot}`. {run.ended.capitalize()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        "## Figures",
        *(_figures(one) for one in run.scored),
        *([] if run.scored else ["The run had no verification set: `evaluate_lfw.py --snap` scores its snapshots."]),
        "## By group",
        _groups(run.scored),
        *(["## Curves", *(f"![{name}]({name})" for name in pictures)] if pictures else []),
        "## Data",
        markdown_table(about),
        _TERMS,
        "## Recipe",
        f"    {run.command}",
        f"Seed {facts['seed']}. Options that were set; `{prefix}.config.yml` beside this file has all:",
        "```\n" + run.options + "\n```",
        "## Machine and cost",
        markdown_table(run.cost),
        "## Limits",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _figures(one: ScoredPairs) -> str:
    people = people_of_pairs(one.pair_set.faces)
    result = PairResult.of(one.scores, one.pair_set.faces.same, one.verification, people, _BOOTSTRAP)
    rows = [f"{one.pair_set.name}{', averaged weights' * one.averaged}:", ""]
    rows += ["| | value | 95 % interval | threshold | |", "|---|---|---|---|---|"]
    threshold = one.verification.threshold
    for name, metric in result.statistics.items():
        at = threshold if name == "accuracy" else metric.threshold
        cells = [
            metric.title,
            "–" if metric.value is None else f"{metric.value:.4f}",
            "–".join(f"{end:.4f}" for end in metric.interval or ()),
            "" if at is None else f"{metric.unit} {at:.4f}",
            metric.note,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _groups(scored: Sequence[ScoredPairs]) -> str:
    found = {
        f"{one.pair_set.name}{', averaged weights' * one.averaged}: {name}": f"{value:.4g}"
        for one in scored
        for name, value in one.by_group.items()
    }
    return markdown_table(found) if found else "Not measured: the run had no `--groups`. Error rates differ by group."
