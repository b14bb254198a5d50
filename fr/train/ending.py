"""The end of a run: time taken, best snapshot, its card, and the commands that follow."""

import argparse
import platform
import shlex
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from fr.checkpoint.snapshot import snapshot_path
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.distributed import Ranks, launcher_facts
from fr.errors import InputError
from fr.options.commands import as_called, next_command
from fr.options.parsing import Resolved
from fr.report.run_card import EndedRun, write_card
from fr.train.milestones import Milestones


def closing_lines(
    argv: Sequence[str], options: argparse.Namespace, writer: SnapshotWriter, status: int, seconds: float
) -> list[str]:
    """Lines to print when a run has ended. argv: its command line. status: its exit status. seconds: it took."""
    written = [path for path in writer.written if path.exists()]
    lines = [f"{_ended(status)} after {duration(seconds)}" + ("" if written else "; no snapshot was written")]
    if not written:
        return lines
    shown = written[-1]
    if writer.best and (best := snapshot_path(writer.folder, writer.prefix, writer.best[0])).exists():
        shown = best
        lines.append(f"best snapshot: {best} (accuracy {writer.best[1]:.4f})")
    else:
        lines.append(f"newest snapshot: {shown}")
    no_set = [] if options.val_data_root or options.val_sets else ["--val_data_root", "LFW"]
    return [
        *lines,
        f"see the curves: tensorboard --logdir {shlex.quote(str(log_folder(options)))}",
        f"{'go on' if status else 'train longer'}: {_resuming(argv, options, longer=not status)}",
        next_command("evaluate_lfw.py", "--snap", str(shown), *no_set, "--report", f"{writer.prefix}_report"),
    ]


def leave_card(
    argv: Sequence[str], resolved: Resolved, ranks: Ranks, milestones: Milestones, status: int, seconds: float
) -> str:
    """Write the card of a run with a snapshot; a line that says where it is, or why it isn't. Arguments as above."""
    options, writer = resolved.values, milestones.writer
    written = [path for path in writer.written if path.exists()]
    if not written:
        return "no card without a snapshot"
    iteration = int(written[-1].stem.rpartition("_")[2])
    launch = f"torchrun --nproc_per_node {ranks.local_world_size}" if ranks.world_size > 1 else "python"
    cost = {
        "machine": f"{ranks.world_size} × {_device_name(ranks.device)}",
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
        "time of this start": f"{duration(seconds)}, {seconds * ranks.world_size / 3600:.2f} hours of all devices",
        "images seen": f"{iteration * options.train_batch_size:,}, {options.train_batch_size:,} a step",
    }
    run = EndedRun(
        milestones.contents,
        written[-1],
        iteration,
        f"{as_called(f'{launch} train.py')} {shlex.join(argv)}",
        resolved.table(),
        milestones.validation.latest,
        cost,
        _ended(status),
    )
    try:
        return f"card: {write_card(writer.folder, writer.prefix, run, log_folder(options))}"
    except (OSError, InputError) as error:
        return f"the run's card couldn't be written: {error}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # not on every system
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.machine()


def _ended(status: int) -> str:
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


def _resuming(argv: Sequence[str], options: argparse.Namespace, longer: bool) -> str:
    """The command that resumes the run."""
    facts = launcher_facts()
    launch = f"torchrun --nproc_per_node {facts['LOCAL_WORLD_SIZE']}" if facts["WORLD_SIZE"] > 1 else "python"
    auto = [] if options.snap_to_resume == "auto" else ["--snap_to_resume", "auto"]
    more = ["--max_iterations" if options.max_iterations else "--epoch_total_num", "MORE"] if longer else []
    return f"{as_called(f'{launch} train.py')} {shlex.join([*argv, *auto, *more])}"
