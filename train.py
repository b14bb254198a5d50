#!/usr/bin/env python3
"""Train a face-recognition embedding.

    torchrun --nproc_per_node 4 train.py @configs/mobilenet_arcface.yml    # a process a GPU (or a few on CPUs)
    python train.py @configs/mobilenet_arcface.yml --max_iterations 100    # the same in one process
    python train.py @configs/mobilenet_arcface.yml --snap_to_resume auto   # resume from the newest snapshot

`python train.py --help` lists the options; README.md and docs/ describe data, logs and results.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("train.py", "fr.options.definitions:train_options")

import argparse
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from fr.checkpoint.mirror import STOPPED_S, SnapshotMirror, fetch_newest
from fr.checkpoint.ownership import claim, locked, patience, remove_others
from fr.checkpoint.resuming import changed_options, resume
from fr.checkpoint.snapshot import SnapshotContents
from fr.checkpoint.snapshot_writer import Kept, SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.console import counted
from fr.data.bad_images import BadImages
from fr.data.crop_contract import crop_notes, photograph_warnings, with_crop_contract
from fr.data.distributed_reading import read_on_all_ranks
from fr.data.faces import LabelledFaces
from fr.data.order import Order, training_order
from fr.data.pipeline import DaliSettings, dali_settings
from fr.data.prefetch import Prefetch, files_of, window_warnings
from fr.data.training_stream import TrainingStream
from fr.data.verification_set import FOLDER, read_sets
from fr.distributed import Heartbeat, Ranks, open_ranks, raise_together, resolved_precision
from fr.errors import InputError, os_error_as, run_plainly
from fr.evaluation.embedding import batch_size_on
from fr.evaluation.groups import Groups
from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.models import build_model, training_preprocessing, undecayed
from fr.options.augmentation import Augmentation
from fr.options.definitions import train_options
from fr.options.losses import LossSettings
from fr.options.parsing import Resolved
from fr.options.run_checks import check_batches, check_identities
from fr.options.types import keyword_arguments
from fr.preprocessing import Preprocessing
from fr.report.run_card import EndedRun, leave_card
from fr.train.ema import WeightAverage
from fr.train.ending import closing_lines, command_of_run, duration, ended, log_folder
from fr.train.held_out import read_held_out
from fr.train.learner import Learner, StepSettings
from fr.train.learning_rate import Schedule
from fr.train.loop import LoopSettings, train
from fr.train.milestones import Milestones
from fr.train.monitor import Monitor, Silent
from fr.train.optimizer import OptimizerSettings, build_optimizer, parameter_groups
from fr.train.replicas import checkpoint_blocks, deterministic, synchronise_batch_norms
from fr.train.teacher import Teacher, open_teacher
from fr.train.validation import Validation
from fr.train.watchdog import watched
from fr.weights.initial_weights import InitialWeights, initialise, numbers_note


def main(argv: list[str]) -> int:
    started = time.monotonic()
    resolved = with_crop_contract(train_options(argv))
    options = resolved.values
    folder, prefix = Path(options.snap_folder), options.snap_prefix
    with (
        open_ranks(options.device, options.hang_timeout) as ranks,
        deterministic(options.deterministic),
        ExitStack() as lock,
    ):
        check_batches(options, ranks.world_size)
        look = partial(claim, options.snap_to_resume, folder, prefix, ranks.job, options.overwrite, ranks.start > 1)
        patient, fetched = patience(ranks.start, options.hang_timeout), []
        if options.snap_mirror and options.snap_to_resume == "auto":
            with locked(folder, prefix, patient):
                fetched = fetch_newest(options.snap_mirror, folder, prefix)
        claimed = look()
        faces = read_on_all_ranks(vars(options), ranks)
        check_identities(faces.identities)
        sets = read_sets(_first_set(options), options.val_set, options.val_sets, options.allow_outside)
        groups = Groups.read(options, sets)
        held_out = read_held_out(vars(options), faces.identities, ranks)
        order = training_order(options, faces.labels, files_of(faces))
        preprocessing = training_preprocessing(options)
        losses, aligned = LossSettings.from_options(options), not faces.landmarks.shape[1]
        teacher = open_teacher(losses, options.embed_size, preprocessing, aligned, faces.identities, ranks.device)
        dali = dali_settings(options.dali_device, options.dali_threads, ranks)

        torch.manual_seed(options.seed)
        contents = _snapshot_contents(resolved, preprocessing, faces, order, teacher)
        resuming = bool(claimed.resumable)
        learner, sources = _build_learner(options, ranks, preprocessing, faces.identities, resuming, teacher)
        state = TrainingState(learner)
        resumed = resume(claimed.resumable, state, contents, faces.identities)
        if resumed.contents:
            learner.meters.load(resumed.contents.meters or {})
        contents = replace(contents, run_id=resumed.contents.run_id if resumed.contents else ranks.job)
        lock.enter_context(locked(folder, prefix, patient))
        remove_others(look().others)  # again, since another run may have ended while this one's data were read
        iterations = range(resumed.iteration, _last_iteration(options, order))

        heartbeat = Heartbeat()
        monitor = _open_monitor(resolved, ranks, iterations)
        summary = _summary(ranks, faces, order, preprocessing, learner.backbone, iterations, dali)
        schedule = _schedule(options, order)
        warnings = schedule.warnings(iterations.stop) + window_warnings(faces, order)
        if options.precision == "fp16" and ranks.device.type == "cpu":
            warnings.append("--precision fp16 is for GPUs: on most CPUs it is slower than fp32")
        if ranks.is_main:
            warnings += photograph_warnings(faces, options.train_data_root, options.aligned)
            warnings += [*(one.warning for one in sets if one.warning), *groups.notes]
        warnings = [f"warning: {warning}" for warning in warnings]
        crops = crop_notes(options.train_data_root, options.aligned) if sets else []
        changed = changed_options(resumed, resolved.as_dict())
        matched = numbers_note(faces.identities) if teacher and teacher.head else ""
        taught = [f"distilling from {options.teacher}: {teacher.describe()}{matched}"] if teacher else []
        monitor.say("\n".join([summary, *taught, *crops, *warnings, *fetched, *resumed.notes, *changed, *sources]))
        mirror = SnapshotMirror(options.snap_mirror, contents.run_id, options.hang_timeout or 1200, monitor.say)
        kept = Kept(options.keep_snapshots, options.keep_every)
        writer = SnapshotWriter(
            folder, prefix, state, faces.identities, monitor.say, kept, options.async_snapshots, resumed, mirror
        )
        models = {"": learner.backbone} | ({"ema_": learner.average.model} if learner.average else {})
        batch_size, flipped = batch_size_on(ranks.device, options.val_batch_size), options.flipped_emb
        validation = Validation(
            sets, models, preprocessing, dali, ranks, batch_size, flipped, heartbeat, held_out, learner.head, groups
        )
        milestones = Milestones(contents, state, writer, learner.meters, validation, monitor)
        bad = BadImages(options.max_bad_images)
        augmentation = Augmentation.from_options(options)
        of_teacher, prefetch = teacher.preprocessing if teacher else None, Prefetch(faces, order)
        accumulate, how = options.accumulate, (preprocessing, augmentation, dali, bad, of_teacher, prefetch)
        stream = TrainingStream(faces, order, iterations, ranks, accumulate, *how)
        settings = replace(LoopSettings.from_options(options), val_step=options.val_step or order.iterations_per_epoch)
        watch = watched(ranks, options.hang_timeout, heartbeat, log_folder(options))
        with closing(monitor), closing(mirror), closing(writer), watch:
            status = train(learner, stream, schedule, settings, milestones, heartbeat)
            mirror.patience = min(mirror.patience, STOPPED_S) if status else mirror.patience
        seconds = time.monotonic() - started
        if options.card and ranks.is_main:
            end = f"{ended(status)} after {duration(seconds)}"
            command, logs = command_of_run(argv), log_folder(options)
            run = EndedRun(contents, sets, validation.latest, resolved, ranks, command, logs, end, seconds)
            monitor.say(leave_card(writer, run))
        monitor.say("\n".join(closing_lines(argv, options, writer, status, seconds, iterations.stop)))
        return status


def _build_learner(
    options: argparse.Namespace,
    ranks: Ranks,
    preprocessing: Preprocessing,
    identities: Sequence[str],
    resumed: bool,
    teacher: Teacher | None,
) -> tuple[Learner, list[str]]:
    """Build the learner by the options; also return lines about its initial weights. resumed: a snapshot follows."""
    memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
    kwargs = keyword_arguments(options.model_kwargs)
    backbone = build_model(options.model, options.embed_size, preprocessing.input_size, kwargs)
    backbone.to(ranks.device).to(memory_format=memory_format)
    if options.sync_bn:
        backbone = synchronise_batch_norms(backbone, ranks.device)
    losses = LossSettings.from_options(options)
    head = MarginSoftmax(len(identities), options.embed_size, losses, options.seed, teacher.head if teacher else None)
    head.to(ranks.device)
    if not losses.trains_centres:  # weight decay alone would shrink them
        head.weight.requires_grad_(False)
    sources = initialise(backbone, head, identities, InitialWeights.from_options(options), resumed)
    average = WeightAverage(backbone, options.ema_decay) if options.ema_decay else None
    named = _named_parameters(backbone, head)
    kept = {f"backbone.{name}" for name in undecayed(backbone)}
    groups = parameter_groups(named, options.freeze, options.lr_scale, options.decay_norm_and_bias, kept)
    optimizer = build_optimizer(groups, OptimizerSettings.from_options(options))
    if options.activation_checkpointing:
        checkpoint_blocks(backbone)
    precision = resolved_precision(options.precision, ranks.device)
    settings = StepSettings(options.clip_norm, precision, options.freeze_bn, memory_format, options.seed)
    network = teacher.network if teacher else None
    return Learner(backbone, head, optimizer, settings, average, options.compile, network), sources


def _first_set(options: argparse.Namespace) -> tuple[str, str, str]:
    return options.val_data_root, options.val_list, options.val_landmarks


def _named_parameters(backbone: torch.nn.Module, head: MarginSoftmax) -> dict[str, torch.nn.Parameter]:
    """Parameters by the names of --freeze and --lr_scale."""
    return {
        f"{part}.{name}": parameter
        for part, module in (("backbone", backbone), ("head", head))
        for name, parameter in module.named_parameters()
    }


def _schedule(options: argparse.Namespace, order: Order) -> Schedule:
    epoch = order.iterations_per_epoch
    return Schedule(
        options.lr,
        options.warmup_iterations or round(options.warmup_epochs * epoch),
        [number * epoch for number in options.lr_drops],
        options.epoch_total_num * epoch,
        options.lr_schedule,
        options.lr_end,
        options.lr_power,
    )


def _last_iteration(options: argparse.Namespace, order: Order) -> int:
    last: int = options.epoch_total_num * order.iterations_per_epoch
    return min(last, options.max_iterations or last)


def _snapshot_contents(
    resolved: Resolved, preprocessing: Preprocessing, faces: LabelledFaces, order: Order, teacher: Teacher | None
) -> SnapshotContents:
    """The part of the run's snapshots that is the same at every iteration."""
    options = resolved.values
    run = {
        "train_batch_size": options.train_batch_size,
        "seed": options.seed,
        "images": len(faces),
        "identities": len(faces.identities),
        "data": faces.fingerprint(),
        **({"images_per_identity": order.balance.images} if order.balance else {}),
        **({"shuffle_window": order.windows.files} if order.windows else {}),
        **({"teacher": teacher.digest, "teacher_preprocessing": teacher.preprocessing.as_dict()} if teacher else {}),
    }
    config = resolved.as_dict() | {FOLDER: os.getcwd()}
    kwargs = keyword_arguments(options.model_kwargs) or None
    stored = preprocessing.as_dict()
    return SnapshotContents(options.model, options.embed_size, stored, run, config, model_kwargs=kwargs)


def _open_monitor(resolved: Resolved, ranks: Ranks, iterations: range) -> Silent:
    """On rank 0, print the options that were set, write all options beside the snapshots, and open the logs.

    Returns a no-op monitor on the other ranks. InputError on every rank if rank 0 can't write there.
    """
    options, monitor, failure = resolved.values, Silent(), None
    if ranks.is_main:
        config, logs = Path(options.snap_folder, f"{options.snap_prefix}.config.yml"), log_folder(options)
        try:
            with os_error_as(f"{config}: can't be written"):
                resolved.write(config)
            with os_error_as(f"--log_folder {logs}: can't be written to"):
                monitor = Monitor(logs, iterations.start, iterations.stop)
            print("\n".join([resolved.table(), *resolved.notes]), flush=True)
        except InputError as error:
            failure = error
    raise_together(failure, "rank 0 can't write to the folders of snapshots and logs")
    return monitor


def _summary(
    ranks: Ranks,
    faces: LabelledFaces,
    order: Order,
    preprocessing: Preprocessing,
    backbone: torch.nn.Module,
    iterations: range,
    dali: DaliSettings,
) -> str:
    """Global quantities of the run, as lines to print."""
    _, rows = shard_rows(len(faces.identities), ranks.world_size, 0)
    weights = sum(parameter.numel() for parameter in backbone.parameters())
    return "\n".join([
        f"{counted(len(faces), 'image')} of {counted(len(faces.identities), 'identity')}; "
        f"{preprocessing.describe(aligned=not faces.landmarks.shape[1])}",
        *faces.notes,
        f"{counted(order.batch_size, 'image')} a step on {ranks.world_size} × {ranks.device.type}, "
        f"{counted(rows, 'class')} a rank; {counted(weights, 'weight')} in the backbone",
        dali.describe(),
        f"{_plan(iterations)}, {order.iterations_per_epoch:,} an epoch",
    ])


def _plan(iterations: range) -> str:
    if iterations:
        return f"iterations {iterations.start:,} … {iterations.stop:,}"
    larger = "a larger --max_iterations or --epoch_total_num continues the training"
    return f"nothing left to train: {iterations.start:,} iterations are done of {iterations.stop:,}; {larger}"


if __name__ == "__main__":
    run_plainly("train.py", main, prints_results=False)
