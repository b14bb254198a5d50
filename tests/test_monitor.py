"""Logs of a run: records once an iteration, TensorBoard figures read back with TensorBoard's own reader."""

import io
import json
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from fr.preprocessing import Preprocessing
from fr.train.monitor import Monitor, Silent, Stopwatch


@pytest.fixture(autouse=True)
def first_files_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads files of the same second in order of their names, which end in the process's count of them:
    the tenth stands before the ninth."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def record(iteration: int, loss: float = 1.0) -> dict[str, float]:
    return {
        "iteration": iteration,
        "loss": loss,
        "softmax_loss": loss / 2,
        "lr": 0.4,
        "classification_accuracy": 0.25,
        "images_per_s": 50.0,
        "data_wait": 0.125,
        "gradient_norm": 3.0,
        "skipped_steps": 0.0,
    }


FIGURES = {"same_accuracy": 0.5, "diff_accuracy": 0.75, "accuracy": 0.625, "auc": 0.875, "threshold": 0.25}


def run(folder: Path, first: int, iterations: list[int], loss: float) -> None:
    """A run that logs at these iterations and validates at the even ones."""
    monitor = Monitor(folder, first, 100)
    for iteration in iterations:
        monitor.log(record(iteration, loss))
        monitor.advance()
        if iteration % 2 == 0:
            monitor.validated(iteration, FIGURES | {"accuracy": loss}, ["a line"])
    monitor.close()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_after_a_resume_each_iteration_is_there_once(tmp_path: Path) -> None:
    run(tmp_path, 0, [1, 2, 3, 4, 5], loss=1.0)
    run(tmp_path, 2, [3, 4, 5, 6], loss=2.0)
    log, validation = read(tmp_path / "log.jsonl"), read(tmp_path / "validation.jsonl")
    assert [(line["iteration"], line["loss"]) for line in log] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2)]
    assert [(line["iteration"], line["accuracy"]) for line in validation] == [(2, 1), (4, 2), (6, 2)]
    assert log[0] == record(1)  # whole, as it was given
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == ["log.jsonl", "validation.jsonl"]
    assert not list(tmp_path.glob(".*"))


def test_a_log_folder_that_is_removed_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs/run"
    monitor = Monitor(folder, 0, 100)
    monitor.log(record(1))
    (tmp_path / "logs").rename(tmp_path / "gone")  # at once, or TensorBoard's thread makes a file meanwhile
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    for iteration in (2, 3):
        monitor.log(record(iteration))
    monitor.validated(3, FIGURES, [])
    monitor.close()
    assert [line["iteration"] for line in read(folder / "log.jsonl")] == [2, 3]
    assert [event.step for event in board(folder).Scalars("Loss/train_loss")] == [2, 3]
    assert capsys.readouterr().err.count(f"{folder} was removed; the logs continue in a new one") == 1


def test_logs_on_a_disk_that_is_full_for_a_while_end_nothing_and_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = Monitor(tmp_path, 0, 100)
    monitor.log(record(1))
    size = (tmp_path / "log.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))  # half a record more
    try:
        for iteration in (2, 3):
            monitor.log(record(iteration))
        monitor.validated(3, FIGURES, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    for iteration in range(4, 12):
        monitor.log(record(iteration))
    monitor.close()
    assert [line["iteration"] for line in read(tmp_path / "log.jsonl")] == [1, *range(4, 12)]  # no half lines
    assert board(tmp_path).Scalars("Loss/train_loss")[-1].step == 11
    assert capsys.readouterr().err.count("the logs can't be written: ") == 1


TORN = ['{"iteration": 3, "los', '{"iteration": 3', "{", '{"iteration": 3, "loss": 1.0}']
NO_RECORDS = ["[3]", "3", "{}", '{"iteration": "3"}', "\xff", "\0\0\0", "[" * 100_000]


@pytest.mark.parametrize("torn", TORN + NO_RECORDS)
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    run(tmp_path, 0, [1, 2], loss=1.0)
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(torn.encode("latin-1"))  # no line end: the process died while writing
    run(tmp_path, 2, [3, 4], loss=2.0)
    assert [(line["iteration"], line["loss"]) for line in read(tmp_path / "log.jsonl")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
        (4, 2.0),
    ]


def test_a_run_from_the_start_keeps_the_earlier_files(tmp_path: Path) -> None:
    contents = []
    for attempt in range(3):
        run(tmp_path, 0, [1, 2], loss=float(attempt))
        contents.append((tmp_path / "log.jsonl").read_text())
    assert [path.read_text() for path in (tmp_path / "log.1.jsonl", tmp_path / "log.2.jsonl")] == contents[:2]
    assert (tmp_path / "log.jsonl").read_text() == contents[2]
    assert read(tmp_path / "validation.1.jsonl") == [{"iteration": 2, **FIGURES, "accuracy": 0.0}]


def board(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_shows_the_figures_under_the_names_of_the_reference(tmp_path: Path) -> None:
    run(tmp_path, 0, [1, 2], loss=4.0)
    events = board(tmp_path)
    # face_recognition.pytorch's names.
    wanted = {
        "Loss/train_loss": 4.0,
        "Loss/softmax_loss": 2.0,
        "Learning_rate": np.float32(0.4),
        "Accuracy/classification_with_margin": 0.25,  # a name of our own: there it is a mean without the margin
    }
    for name, value in wanted.items():
        assert [(event.step, event.value) for event in events.Scalars(name)] == [(1, value), (2, value)], name
    validation = {
        "Accuracy/Val_same_accuracy": 0.5,
        "Accuracy/Val_diff_accuracy": 0.75,
        "Accuracy/Val_accuracy": 4.0,
        "Accuracy/AUC": 0.875,
        "Estimated_threshold": 0.25,
    }
    for name, value in validation.items():
        assert [(event.step, event.value) for event in events.Scalars(name)] == [(2, value)], name


@pytest.mark.parametrize(
    "name",
    [
        *("center_loss", "push_loss", "push_plus_loss", "global_push_loss"),
        *("min_margin_loss", "triplet_loss", "magnitude_loss"),
    ],
)
def test_an_auxiliary_loss_is_shown_where_it_is_on(tmp_path: Path, name: str) -> None:
    monitor = Monitor(tmp_path, 0, 100)
    monitor.log(record(1))
    monitor.log(record(2) | {name: 0.75})
    monitor.close()
    assert [line.get(name) for line in read(tmp_path / "log.jsonl")] == [None, 0.75]
    events = board(tmp_path)
    shown = {"global_push_loss": "global_push_plus_loss"}.get(name, name)  # face_recognition.pytorch's
    assert [(event.step, event.value) for event in events.Scalars(f"Loss/{shown}")] == [(2, 0.75)]
    companions = {tag for tag in events.Tags()["scalars"] if tag.startswith("Loss/")}
    assert companions == {"Loss/train_loss", "Loss/softmax_loss", f"Loss/{shown}"}


def test_tensorboard_drops_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    run(tmp_path, 0, [1, 2, 3, 4], loss=1.0)
    run(tmp_path, 2, [3, 4, 5], loss=2.0)
    events = [(event.step, event.value) for event in board(tmp_path).Scalars("Loss/train_loss")]
    assert events == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


@pytest.mark.parametrize("torn", [1, 3, 20])
def test_a_torn_tensorboard_file_hides_nothing_of_the_run_that_goes_on(tmp_path: Path, torn: int) -> None:
    run(tmp_path, 0, [1, 2, 3], loss=1.0)
    (file,) = tmp_path.glob("events.*")
    file.write_bytes(file.read_bytes()[:-torn])
    run(tmp_path, 2, [3, 4], loss=2.0)
    events = [(event.step, event.value) for event in board(tmp_path).Scalars("Loss/train_loss")]
    assert events == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


@pytest.mark.parametrize("color_order", ["rgb", "bgr"])
def test_one_grid_shows_the_images_as_they_looked_before_normalisation(tmp_path: Path, color_order: str) -> None:
    torch.manual_seed(0)
    count, height, width = 40, 6, 5
    pixels = torch.randint(0, 256, (count, 3, height, width))  # RGB, of which the first 32 are shown
    given = pixels if color_order == "rgb" else pixels.flip(1)
    mean, std = (0.25, 0.5, 0.125), (0.5, 0.25, 2.0)
    images = (given / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    monitor = Monitor(tmp_path, 0, 10)
    monitor.shows(images, Preprocessing((height, width), color_order=color_order, mean=mean, std=std))
    monitor.close()
    events = board(tmp_path)
    assert events.Tags()["images"] == ["Input"]
    (event,) = events.Images("Input")
    assert event.step == 1
    grid = np.asarray(Image.open(io.BytesIO(event.encoded_image_string))).astype(int)
    # torch.utils.tensorboard's grid: 8 a row, side by side.
    for number in range(32):
        top, left = number // 8 * height, number % 8 * width
        shown = grid[top : top + height, left : left + width]
        # Normalised, undone and cut to whole numbers: one grey level.
        assert np.abs(shown - pixels[number].permute(1, 2, 0).numpy()).max() <= 1
    assert grid.shape == (4 * height, 8 * width, 3)


def test_the_other_ranks_monitor_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    silent = Silent()
    silent.shows(torch.zeros(1, 3, 4, 4), Preprocessing((4, 4)))
    silent.advance()
    silent.log(record(1))
    silent.validated(1, FIGURES, ["a line"])
    silent.say("a line")
    silent.close()
    assert not list(tmp_path.iterdir())


def test_the_stopwatch_divides_by_the_time_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch(torch.device("cpu"))

    def fetch(images: int, seconds: float) -> None:
        with watch.fetching():
            now[0] += seconds
        watch.images += images

    for _ in range(3):
        fetch(40, 0.5)
    now[0] += 4.5
    assert watch.lap()() == {"images_per_s": 20.0, "data_wait": 0.25}
    now[0] += 1
    fetch(10, 1.0)
    assert watch.lap()() == {"images_per_s": 5.0, "data_wait": 0.5}  # nothing of the first lap
    fetch(1000, 1.0)
    now[0] += 60  # a validation, left out by restarting
    watch.restart()
    now[0] += 1
    fetch(8, 0.0)
    assert watch.lap()() == {"images_per_s": 8.0, "data_wait": 0.0}
