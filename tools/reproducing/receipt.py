"""Receipts: metrics of a recipe's runs with different seeds, with the options and data of these runs."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from fr.checkpoint import snapshot
from fr.checkpoint.snapshot import SnapshotContents
from fr.errors import InputError
from fr.files.durable import write_json
from fr.files.untrusted import read_text
from fr.options.definitions import train_options

FIGURES = ("accuracy", "auc")  # of the first verification set, at the end of a run
_LONGEST = 1 << 16  # bytes
# Options about paths, output and kept files, which don't change results; data are compared by their hash.
_FREE = frozenset({
    "seed", "device", "dali_device", "dali_threads", "compile", "activation_checkpointing", "deterministic",
    "hang_timeout", "data_cache", "train_dataset", "train_data_root", "train_list", "train_landmarks",
    "train_meta", "allow_outside", "held_out_list", "teacher", "val_data_root", "val_set", "val_sets",
    "val_list", "val_landmarks", "val_step", "val_batch_size", "max_bad_steps", "max_bad_images", "snap_folder",
    "snap_prefix", "snap_to_resume", "overwrite", "card", "groups", "groups_columns", "groups_pairs", "groups_fmr",
    "groups_threshold", "shard_cache", "shard_cache_gb", "async_snapshots", "keep_snapshots", "keep_every",
    "snap_mirror", "log_folder", "log_step",
})
_OF_THE_RUN = ("images", "identities", "data", "teacher")


@dataclass(frozen=True)
class Receipt:
    """Receipt of several runs.

    options: from `deciding`. data: counts and hashes of the training data, and of a teacher's file. runs: seed and
    FIGURES of each.
    """

    recipe: str
    iterations: int
    options: dict[str, Any]
    data: dict[str, Any]
    runs: list[dict[str, float]]
    note: str = ""

    def write(self, path: Path) -> None:
        """Write the file; InputError if that fails."""
        write_json(path, asdict(self), indent=2)


@dataclass(frozen=True)
class Predicted:
    """Mean and standard deviation of some runs, and the 95 % interval of a further one."""

    mean: float
    std: float
    low: float
    high: float


def predicted(values: Sequence[float]) -> Predicted:
    """Prediction interval of a normal variable, mean ± t s √(1 + 1/n) with n - 1 degrees of freedom (Student), in
    [0, 1]. values: of n ≥ 2 runs.
    """
    mean, std, count = statistics.mean(values), statistics.stdev(values), len(values)
    reach = float(stdtrit(count - 1, 0.975)) * std * math.sqrt(1 + 1 / count)
    return Predicted(mean, std, max(0.0, mean - reach), min(1.0, mean + reach))


def receipt_of(paths: Sequence[Path], recipe: str, note: str) -> Receipt:
    """Receipt of finished runs, from their last snapshots; InputError unless they differ only in seed and metrics."""
    all_contents = [snapshot.read(path) for path in paths]
    first = all_contents[0]
    runs = []
    for path, contents in zip(paths, all_contents, strict=True):
        if missing := [name for name in FIGURES if name not in contents.metrics]:
            raise InputError(f"{path}: has no {missing[0]}: a snapshot of the end of a run with a verification set")
        runs.append({"seed": contents.run["seed"], **{name: contents.metrics[name] for name in FIGURES}})
    receipt = Receipt(recipe, first.iteration, deciding(first.config), _data(first), runs, note)
    problems = [
        f"{path}: unlike {paths[0]}: {one}"
        for path, contents in zip(paths, all_contents, strict=True)
        for one in differences(receipt, contents)
    ]
    if len({run["seed"] for run in runs}) < len(runs):
        problems.append("two of the runs have the same seed")
    if problems:
        raise InputError(*problems)
    return receipt


def read_receipt(path: Path) -> Receipt:
    """Read a receipt; InputError if the file isn't one."""
    if not path.is_file():
        raise InputError(f"{path}: no such file: this recipe has no receipt; write one with --record")
    try:
        receipt = Receipt(**json.loads(read_text(path, _LONGEST)))
        if [type(receipt.iterations), type(receipt.options), type(receipt.data)] != [int, dict, dict]:
            raise ValueError("iterations, options or data are of another type")
        for name in FIGURES:
            predicted([run[name] for run in receipt.runs])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a receipt: {error}") from error
    return receipt


def differences(receipt: Receipt, contents: SnapshotContents) -> list[str]:
    """Reasons for which a run's metrics can't be compared with the receipt's, one line each."""
    problems = []
    if contents.iteration != receipt.iterations:
        problems.append(f"is of iteration {contents.iteration:,}, the receipt of {receipt.iterations:,}")
    problems += differing(receipt, deciding(contents.config))
    for name, value in receipt.data.items():
        if (found := contents.run.get(name)) != value:
            problems.append(f"its training has other data: {name} {found}, of the receipt {value}")
    if missing := [name for name in FIGURES if name not in contents.metrics]:
        problems.append(f"has no {', '.join(missing)}: it wasn't validated")
    return problems


def differing(receipt: Receipt, options: Mapping[str, Any]) -> list[str]:
    """Differences of the options of `deciding` from the receipt's, one line each."""
    problems = []
    for name in sorted(options.keys() | receipt.options.keys()):
        one, other = (of.get(name, "at its default") for of in (options, receipt.options))
        if one != other:
            problems.append(f"--{name} is {one}, of the receipt {other}")
    return problems


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that change a result and aren't at their default."""
    defaults = train_options(["--train_dataset", "folder", "--train_data_root", "DATA", "--aligned"]).defaults
    return {
        name: value
        for name, value in config.items()
        if name in defaults and name not in _FREE and value != defaults[name]
    }


def _data(contents: SnapshotContents) -> dict[str, Any]:
    return {name: contents.run[name] for name in _OF_THE_RUN if name in contents.run}
