"""The last lines of a run: time taken, best snapshot, and the commands that follow."""

import argparse
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

from fr.checkpoint.snapshot import snapshot_path
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.distributed import launcher_facts
from fr.options.commands import command_line, next_command
from fr.options.config_files import is_option


def closing_lines(
    argv: Sequence[str], options: argparse.Namespace, writer: SnapshotWriter, status: int, seconds: float, last: int
) -> list[str]:
    """Lines to print at the end of a run.

    argv: its command line. status: its exit status. seconds: its duration. last: iteration at which it was to end.
    """
    written = [path for path in writer.written if path.exists()]
    lines = [f"{ended(status)} after {duration(seconds)}" + ("" if written else "; no snapshot was written")]
    if not written:
        return lines
    shown = written[-1]
    if writer.best and (best := snapshot_path(writer.folder, writer.prefix, writer.best[0])).exists():
        shown = best
        lines.append(f"best snapshot: {best} (accuracy {writer.best[1]:.4f})")
    else:
        lines.append(f"newest snapshot: {shown}")
    limit = "--max_iterations" if options.max_iterations == last else "--epoch_total_num"
    no_set = {} if options.val_data_root or options.val_sets else {"val_data_root": "LFW"}
    return [
        *lines,
        f"see the curves: tensorboard --logdir {shlex.quote(str(log_folder(options)))}",
        f"{'resume' if status else 'train longer'}: {_resuming(argv, options, '' if status else limit)}",
        next_command("evaluate_lfw.py", snap=str(shown), **no_set, report=f"{writer.prefix}_report"),
    ]


def ended(status: int) -> str:
    """Text on the end of a run, by its exit status."""
    return f"stopped by {signal.Signals(status - 128).name}" if status > 128 else "done"


def log_folder(options: argparse.Namespace) -> Path:
    """Folder of the run's logs."""
    return Path(options.log_folder or f"logs/{options.snap_prefix}")


def duration(seconds: float) -> str:
    """`1 h 02 min 03 s`, without leading parts that are 0."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min {rest:02} s"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def command_of_run(words: Sequence[str]) -> str:
    """The command that started this process, with these arguments instead of its own."""
    facts = launcher_facts()
    launch = f"torchrun --nproc_per_node {facts['LOCAL_WORLD_SIZE']}" if facts["WORLD_SIZE"] > 1 else "python"
    return command_line("train.py", *words, launch=launch)


def _resuming(argv: Sequence[str], options: argparse.Namespace, longer: str) -> str:
    """The command that resumes the run. longer: the option that ended it, if it is to go beyond its end."""
    words = without(argv, "--overwrite")  # a command to keep: it mustn't remove what it is to resume from
    words = without(words, longer) if longer else words
    auto = [] if options.snap_to_resume == "auto" else ["--snap_to_resume", "auto"]
    return command_of_run([*words, *auto, *([longer, "MORE"] if longer else [])])


def without(words: Sequence[str], option: str) -> list[str]:
    """The words of a command line without an option, such as `--lr`, and its values."""
    kept, dropped = [], False
    for word in words:
        dropped = word.partition("=")[0] == option or (dropped and not is_option(word) and not word.startswith("@"))
        kept += [] if dropped else [word]
    return kept
