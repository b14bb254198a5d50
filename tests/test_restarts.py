"""Logs of a run that is killed and resumed again and again: each step once, in every form."""

import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from fr.train.monitor import _SCALARS
from tests.conftest import TINY, data_options, folders, records, small_network, validation_options

ITERATIONS, VAL_STEP = 24, 5
SHOWN = {"loss", "softmax_loss", "lr", "classification_accuracy", "gradient_norm", "skipped_steps"}
TIMES = {"images_per_s", "data_wait"}
# Steps of each process before the one in which it is killed. The first has no snapshot yet, the third doesn't come to
# the next one, so that two go on from the same.
KILLED_AFTER = [2, 12, 1, 8]


def train_until_killed(argv: list[str], killed_after: int | None) -> None:
    killed_at = 0 if killed_after is None else killed_after + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_model", small_network(killed_at, signal.SIGKILL))
        raise SystemExit(train.main(argv))


def status_of_own_process(argv: list[str], killed_after: int | None) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.conftest", "torch._dynamo"])
    process = context.Process(target=train_until_killed, args=(argv, killed_after))
    process.start()
    process.join(timeout=120)
    return process.exitcode


@pytest.fixture(scope="module", params=["without", pytest.param("with validations", marks=pytest.mark.thorough)])
def killed_run(request: pytest.FixtureRequest, sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a run of four SIGKILLs, beside those (`whole`) of one without."""
    out = tmp_path_factory.mktemp("killed")
    argv = [*data_options(sample_data), *TINY, "--train_batch_size", "8", "--snap_to_resume", "auto"]
    argv += ["--max_iterations", str(ITERATIONS), "--val_step", str(VAL_STEP)]
    argv += validation_options(sample_data) if request.param == "with validations" else []
    for killed_after in KILLED_AFTER:
        assert status_of_own_process([*argv, *folders(out)], killed_after) == -signal.SIGKILL
    assert status_of_own_process([*argv, *folders(out)], None) == 0
    assert status_of_own_process([*argv, *folders(out / "whole")], None) == 0
    return out / "logs"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def board(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})  # 0 = all
    events.Reload()
    return events


def test_the_log_has_each_step_once_and_as_if_nothing_had_happened(killed_run: Path) -> None:
    log, whole = records(killed_run), records(killed_run.parent / "whole/logs")
    assert [record["iteration"] for record in log] == list(range(1, ITERATIONS + 1))
    for record, wanted in zip(log, whole, strict=True):
        assert record | dict.fromkeys(TIMES) == wanted | dict.fromkeys(TIMES)
    assert [record["iteration"] for record in lines(killed_run / "log.1.jsonl")] == [1, 2]  # of the first process
    validations = killed_run / "validation.jsonl"
    if validations.exists():
        assert [record["iteration"] for record in lines(validations)] == [5, 10, 15, 20, 24]
        assert validations.read_text() == (killed_run.parent / "whole/logs/validation.jsonl").read_text()


def test_tensorboard_shows_each_step_once_and_what_the_log_has(killed_run: Path) -> None:
    events = board(killed_run)
    for key in SHOWN | TIMES:
        shown = [(event.step, event.value) for event in events.Scalars(_SCALARS[key])]
        assert shown == [(record["iteration"], np.float32(record[key])) for record in records(killed_run)], key
    validations = killed_run / "validation.jsonl"
    if validations.exists():
        shown = [(event.step, event.value) for event in events.Scalars("Accuracy/AUC")]
        assert shown == [(line["iteration"], np.float32(line["auc"])) for line in lines(validations)]


def test_tensorboard_shows_no_two_pictures_of_a_step(killed_run: Path) -> None:
    steps = [event.step for event in board(killed_run).Images("Input")]
    assert steps == [1, 11, 16]  # the first batch of each process whose steps count
