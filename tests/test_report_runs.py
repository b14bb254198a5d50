"""Page that compares trainings: its tables and curves against the given logs, its scores against compare_models.py."""

import json
import re
import shutil
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fr.errors import InputError
from fr.options.definitions import train_options
from fr.report.plots import curves_plot, png
from fr.report.run_logs import curve
from fr.report.training_report import last_and_best
from tests.builders.pages import Page
from tests.builders.scored_models import models
from tests.conftest import REQUIRED, validation_options
from tools import compare_models
from tools.report_runs import find_runs, main

__all__ = ["models"]  # a fixture

Records = Sequence[dict[str, Any]]
LOG: Records = [
    {"iteration": i, "loss": 9.0 - i, "softmax_loss": 8.0 - i, "lr": 0.5, "data_wait": 0.1} for i in (1, 2, 3)
]
SCORES: Records = [
    {"iteration": 10, "accuracy": 0.75, "accuracy_std": 0.1, "same_accuracy": 0.7, "auc": 0.8125, "calfw_auc": 0.5},
    {"iteration": 20, "accuracy": 0.875, "accuracy_std": 0.1, "same_accuracy": 0.9, "auc": 0.9375, "calfw_auc": 0.75},
    {"iteration": 30, "accuracy": 0.8, "accuracy_std": 0.1, "same_accuracy": 0.9, "auc": 0.95, "calfw_auc": None},
]


def jsonl(records: Records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def left_by_a_run(
    root: Path, prefix: str, *options: str, log: Records = LOG, validation: Records = (), snapshots: Sequence[int] = ()
) -> Path:
    """Files of a run that was started in `root`; returns the path of its options."""
    config = root / "snapshots" / f"{prefix}.config.yml"
    logs = root / "logs" / prefix
    for folder in (config.parent, logs):
        folder.mkdir(parents=True, exist_ok=True)
    train_options([*REQUIRED, "--snap_prefix", prefix.replace("$", "$$"), *options]).write(config)
    (logs / "log.jsonl").write_text(jsonl(log))
    if validation:
        (logs / "validation.jsonl").write_text(jsonl(validation))
    for iteration in snapshots:
        (config.parent / f"{prefix}_{iteration}.pt").touch()
    return config


def page_of(out: Path, *words: str | Path) -> str:
    assert main([*map(str, words), "--out", str(out)]) == 0
    return (out / "index.html").read_text(encoding="utf-8")


def rows(html: str) -> list[list[str]]:
    cells = (re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html))
    return [[unescape(cell) for cell in row] for row in cells]


def test_the_tables_have_the_options_that_differ_and_the_last_and_best_of_each_metric(tmp_path: Path) -> None:
    first = left_by_a_run(tmp_path, "a", "--lr", "0.2", "--lr_drops", "3", "5", validation=SCORES, snapshots=[10, 20])
    second = left_by_a_run(tmp_path, "b", "--mean", "0.5", "0.5", "0.5", validation=SCORES[:1])
    lines = second.read_text().splitlines()
    second.write_text("\n".join(line for line in lines if not line.startswith("t: ")))  # of a version without it
    html = page_of(tmp_path / "out", first, second)
    table = rows(html)
    start, end = table.index(["Option", "a", "b"]), table.index(["Metric", "Run", "Last", "Best"])
    assert table[start + 1 : end] == [
        ["mean", "empty", "0.5 0.5 0.5"],
        ["t", "1.1", "–"],
        ["lr", "0.2", "0.4"],
        ["lr_drops", "3 5", "3 6 9 13"],
    ]
    assert table[end + 1 :] == [
        ["accuracy", "a", "0.8000 at 30", "0.8750 at 20"],
        ["", "b", "0.7500 at 10", "0.7500 at 10"],
        ["auc", "a", "0.9500 at 30", "0.9500 at 30"],
        ["", "b", "0.8125 at 10", "0.8125 at 10"],
        ["calfw_auc", "a", "0.7500 at 20", "0.7500 at 20"],  # that of 30 wasn't finite
        ["", "b", "0.5000 at 10", "0.5000 at 10"],
    ]
    assert table[1:5] == [
        ["Options", str(first), str(second)],
        ["Logs", str(tmp_path / "logs/a"), str(tmp_path / "logs/b")],
        ["Last iteration logged", "3", "3"],
        ["Snapshot", "a_20.pt", "none"],
    ]
    captions = re.findall("<figcaption>(.*?) over the iteration</figcaption>", html)
    assert captions == ["loss", "softmax_loss", "lr", "accuracy", "auc", "calfw_auc"]


def test_a_curve_has_the_newest_value_of_each_iteration_in_order(tmp_path: Path) -> None:
    resumed = [*LOG, {"iteration": 2, "loss": 5.0}, {"iteration": 4, "loss": None}]
    config = left_by_a_run(tmp_path, "a", log=resumed)
    (run,) = find_runs([config])
    iterations, values = curve(run.log.records, "loss")
    assert iterations.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(values, [8.0, 5.0, 6.0, np.nan])
    assert curve(run.log.records, "lr")[0].tolist() == [1, 3]  # the newer record of 2 has none
    assert last_and_best(run.log.records, "loss") == ((3, 6.0), (1, 8.0))
    assert ["Last iteration logged", "4; of 1 repeated, the last counts"] in rows(page_of(tmp_path / "out", config))


def test_of_equal_metrics_the_last_is_the_best_and_its_snapshot_is_taken(tmp_path: Path) -> None:
    def chosen(accuracies: Sequence[float | None], snapshots: Sequence[int]) -> str:
        scores = [{"iteration": 10 * i, "accuracy": value} for i, value in enumerate(accuracies, start=1)]
        shutil.rmtree(tmp_path / "snapshots", ignore_errors=True)
        (run,) = find_runs([left_by_a_run(tmp_path, "a", validation=scores, snapshots=snapshots)])
        return run.snapshot.name if run.snapshot else "none"

    assert chosen([0.5, 0.9, 0.9, 0.7], [10, 20, 30, 40]) == "a_30.pt"
    assert chosen([0.5, 0.9, 0.9, 0.7], [10, 20, 40]) == "a_20.pt"  # that of 30 was removed
    assert chosen([0.5, None, 0.7, 0.9], [10, 20]) == "a_10.pt"
    assert chosen([0.5], [20, 9, 100]) == "a_100.pt"  # none that was validated: the newest
    assert chosen([0.5], []) == "none"


def test_drawn_curves_are_those_values_under_names_of_any_kind() -> None:
    names = ["_a", "b$x_$"] + [f"run {i}" for i in range(8)]
    curves = {n: (np.array([1, 2, 5]), np.array([i, np.nan, 2.0])) for i, n in enumerate(names)}
    figure = curves_plot(curves, "loss of $x_$")
    png(figure)  # a formula or a name that matplotlib hides would fail here or lack below
    (axes,) = figure.axes
    assert axes.get_ylabel() == r"loss of \$x_\$"
    for index, line in enumerate(axes.lines):
        assert np.asarray(line.get_xdata()).tolist() == [1, 2, 5]
        np.testing.assert_array_equal(line.get_ydata(), [index, np.nan, 2.0])
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(figure.legends[0].get_texts()) == len(names)


def test_the_page_is_self_contained_and_escapes_names(tmp_path: Path) -> None:
    name, value = "a <script> & $b", "</td><script>x</script>"
    first = left_by_a_run(tmp_path, name, "--train_list", value, validation=SCORES)
    page = Page(page_of(tmp_path / "out", first, left_by_a_run(tmp_path, "b", validation=SCORES)))
    assert f"Trainings compared: {name}, b" in page.text and f"\ntrain_list\n{value}\nx\n" in page.text
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert len(page.addresses) == 6 and all(one.startswith("data:image/png;base64,") for one in page.addresses)


def test_runs_are_found_from_any_folder_and_equal_prefixes_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [left_by_a_run(tmp_path / name, "a") for name in ("one", "two")]
    configs.append(left_by_a_run(tmp_path, "c", "--log_folder", str(tmp_path / "logs/c"), "--snap_folder", "elsewhere"))
    monkeypatch.chdir(tmp_path / "one")
    runs = find_runs([Path("snapshots/a.config.yml"), *configs[1:]])
    assert [run.name for run in runs] == ["one/snapshots/a", "two/snapshots/a", "c"]
    assert [run.logs for run in runs] == [tmp_path / name for name in ("one/logs/a", "two/logs/a", "logs/c")]


@pytest.mark.parametrize("tail", ['{"iteration": 4, "lo', '{"iteration": 4, "loss": 1.0}', "\0"])
def test_a_line_that_is_being_written_is_left_out(tail: str, tmp_path: Path) -> None:
    config = left_by_a_run(tmp_path, "a")
    with (tmp_path / "logs/a/log.jsonl").open("a") as file:
        file.write(tail)
    if tail == "\0":  # no text: damage, not a line amid its writing
        with pytest.raises(InputError, match=r"log.jsonl:4: a NUL byte"):
            find_runs([config])
    else:
        assert sorted(find_runs([config])[0].log.records) == [1, 2, 3]


def test_what_is_no_run_is_refused_by_file_and_line(tmp_path: Path) -> None:
    config = left_by_a_run(tmp_path, "a", validation=SCORES)
    out = ["--out", str(tmp_path / "out")]

    def refused(match: str, *words: str) -> None:
        with pytest.raises(InputError, match=match):
            main([str(config), *words, *out])

    refused("given twice", str(config))
    refused("--val_data_root or --val_sets", "--flipped_emb")
    refused("--snap: the models are named without it", "--val_data_root", "x", "--snap", "y.pt")
    refused("--json: not for several models", "--val_data_root", "x", "--json", "y.json")
    refused("no such option; the closest: --val_sets", "--val_set_s", "x")
    refused("a.config.yml: no snapshot to score", "--val_data_root", "x")
    refused("none.yml: can't be read: No such file", str(tmp_path / "none.yml"))
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("lr: 0.1\nsnap_prefix: x\n")
    refused("recipe.yml: no snap_folder, log_folder: give SNAP_FOLDER/PREFIX.config.yml", str(recipe))
    recipe.write_text("lr: {}\n")
    refused("recipe.yml:1: expected a value", str(recipe))
    (tmp_path / "logs/a/validation.jsonl").write_text('{"iteration": 1}\nx\n')
    refused("validation.jsonl:2: not a record of numbers")
    (tmp_path / "logs/a/validation.jsonl").unlink()
    (tmp_path / "logs/a/log.jsonl").write_text("")
    refused("log.jsonl: no records")
    (tmp_path / "logs/a/log.jsonl").unlink()
    refused("log.jsonl: can't be read: No such file")
    assert not (tmp_path / "out").exists()


def test_scores_are_those_of_compare_models(
    models: list[str], sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best snapshot of each run, with the set that the options name."""
    configs = []
    for name, model in zip("ab", models, strict=True):
        configs.append(left_by_a_run(tmp_path, name, validation=SCORES, snapshots=[10, 30]))
        shutil.copy(model, tmp_path / f"snapshots/{name}_20.pt")
    options = [*validation_options(sample_data), "--flipped_emb", "--bootstrap", "100"]
    table = rows(page_of(tmp_path / "out", *configs, *options))
    capsys.readouterr()
    assert compare_models.main([*models, *options]) == 0
    _, _, _, *printed, last = capsys.readouterr().out.splitlines()
    start = table.index(["", "accuracy", "auc"])
    assert [row[0] for row in table[start + 1 :]] == ["a", "b", "difference", "95 % interval"]
    for column, line in enumerate(printed, start=1):
        words = line.split()
        shown = [row[column] for row in table[start + 1 :]]
        low, high = words[4].strip("[,"), words[5].strip("]:")
        assert shown == [*words[1:4], f"{low} to {high}: {' '.join(words[6:])}"]
    named = last.replace("only by A", "only by a").replace("only by B", "only by b")
    html = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert named in Page(html).text
    assert main([*map(str, configs), *options[:-1], "0", "--out", str(tmp_path / "out")]) == 0
    assert ["95 % interval", "–", "–"] in rows((tmp_path / "out/index.html").read_text(encoding="utf-8"))
