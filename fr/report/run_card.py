"""Card of a run, `PREFIX.card.md` beside its snapshots: model, data, machine, and results."""

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from fr.checkpoint.snapshot import SnapshotContents
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.console import counted
from fr.data.verification_set import VerificationSet
from fr.distributed import Ranks
from fr.errors import InputError
from fr.evaluation.embedding import people_of_pairs
from fr.evaluation.pair_statistics import PairResult, ScoredPairs
from fr.evaluation.verification import metric_text, threshold_text
from fr.files.durable import replace_file
from fr.options.parsing import Resolved
from fr.report.model_card import markdown_table
from fr.report.run_logs import LOG, VALIDATION, curve, read_log, validation_keys

_BOOTSTRAP = 1000
_NO_SETS, _SCORES = "The run had no verification set", "`evaluate_lfw.py --snap` scores its snapshots."
_TERMS = """The terms of the data are unknown to the program that wrote this card. Describe them here: the source of the
images, their license, and the consent of the people in them. They may restrict the use of the weights."""
_LIMITS = """- The metrics hold for images and people like those of the sets above. Error rates on others differ:
  `tools/choose_threshold.py` measures a threshold on your own images.
- The intervals come from resampling the people of a set. They don't include the variation between sets or seeds.
- A set of few pairs can't measure rare errors: rows without a value need more different pairs.
- `tools/find_overlap.py` checks whether people of the sets are in the training data."""


@dataclass(frozen=True)
class EndedRun:
    """Facts for the card of a run that has ended.

    contents: the part of its snapshots that is the same at every iteration. sets: of the validations. scored: results
    of the last validation since this start. command: command line of the run. logs: folder of log.jsonl and
    validation.jsonl. ended: text on how and after what time the run ended; seconds: that time.
    """

    contents: SnapshotContents
    sets: Sequence[VerificationSet]
    scored: Sequence[ScoredPairs]
    resolved: Resolved
    ranks: Ranks
    command: str
    logs: Path
    ended: str
    seconds: float


def leave_card(writer: SnapshotWriter, run: EndedRun) -> str:
    """Write the card, and plots of the curves, beside the last snapshot; returns a line with its path or the error."""
    written = [path for path in writer.written if path.exists()]
    if not written:
        return "no card without a snapshot"
    path = writer.folder / f"{writer.prefix}.card.md"
    if run.sets and not run.scored and path.exists():
        return f"card: {path}, of an earlier start: this one hasn't validated"
    try:
        pictures = _pictures(writer.prefix, run.logs)
        for name, picture in pictures.items():
            replace_file(writer.folder / name, picture)
        text = card_text(writer.prefix, written[-1], run, [*pictures])
        replace_file(path, text.encode(errors="backslashreplace"))
    except (OSError, InputError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"{path}: can't be written: {reason}"
    return f"card: {path}"


def _pictures(prefix: str, logs: Path) -> dict[str, bytes]:
    """PNGs of the loss and of the validations, by file name, as far as there are records."""
    from fr.report.plots import curves_plot, png  # imports matplotlib, which would slow the start of a training

    pictures = {}
    for name, label in ((LOG, "loss"), (VALIDATION, "share")):
        if (logs / name).is_file():
            records = read_log(logs / name).records
            keys = ["loss"] if name == LOG else validation_keys([records])
            if keys:
                curves = {key: curve(records, key) for key in keys}
                pictures[f"{prefix}.card.{Path(name).stem}.png"] = png(curves_plot(curves, label))
    return pictures


def card_text(prefix: str, last: Path, run: EndedRun, pictures: Sequence[str]) -> str:
    """The card in Markdown. last: the newest snapshot. pictures: names of files beside it."""
    iteration, batch = int(last.stem.rpartition("_")[2]), run.contents.run["train_batch_size"]
    hours = run.seconds * run.ranks.world_size / 3600
    cost = {
        "machine": f"{run.ranks.world_size} × {_device_name(run.ranks.device)}",
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
        "the last start": f"{run.ended}, {hours:.2f} hours of all devices",
        "images seen": f"{iteration * batch:,}, {batch:,} a step",
    }
    facts = run.contents.run
    about = {
        "images": f"{facts['images']:,}",
        "identities": f"{facts['identities']:,}",
        "SHA-256 of names, labels and landmarks": facts["data"],
        **({"SHA-256 of the teacher's file": facts["teacher"]} if "teacher" in facts else {}),
        **{f"verification set {one.name}": one.describe().removeprefix(f"{one.name}: ") for one in run.sets},
    }
    parts = [
        f"# {prefix}",
        f"`{run.contents.model}`, embeddings of {run.contents.embed_size} numbers, after "
        f"{counted(iteration, 'iteration')} of all starts: `{last}`. The last start: {run.ended}, "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        "## Metrics",
        *(_metrics(one) for one in run.scored),
        *([] if run.scored else [f"{_NO_SETS if not run.sets else 'No validation yet'}: {_SCORES}"]),
        "## By group",
        _groups(run.scored),
        *(["## Curves", *(f"![{name}]({name})" for name in pictures)] if pictures else []),
        "## Data",
        markdown_table(about),
        _TERMS,
        "## Recipe",
        f"    {run.command}",
        f"Seed {facts['seed']}. Options that were set; `{prefix}.config.yml` beside this file has all:",
        "```\n" + run.resolved.table() + "\n```",
        "## Machine and cost",
        markdown_table(cost),
        "## Limits",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _metrics(one: ScoredPairs) -> str:
    people = people_of_pairs(one.pair_set.faces)
    result = PairResult.of(one.scores, one.pair_set.faces.same, one.verification, people, _BOOTSTRAP)
    rows = [f"{one.pair_set.name}{', averaged weights' * one.averaged}, at iteration {one.iteration:,}:", ""]
    rows += ["| | value | 95 % interval | threshold | |", "|---|---|---|---|---|"]
    threshold = one.verification.threshold
    for name, metric in result.statistics.items():
        at = threshold if name == "accuracy" else metric.threshold
        cells = [
            metric.title,
            metric_text(metric.value),
            "–".join(f"{end:.4f}" for end in metric.interval or ()),
            "" if at is None else f"{metric.unit} {threshold_text(at)}",
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


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # the file doesn't exist on every system
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.machine()
