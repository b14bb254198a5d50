"""Curves from evaluate_lfw.py to an image, and files that hold none."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.cbook import is_math_text
from PIL import Image
from scipy.stats import norm
from sklearn.metrics import auc

import evaluate_lfw
from fr.errors import InputError
from fr.evaluation.rejection import SHARES
from fr.evaluation.roc import Roc, area, roc_curve
from fr.report import plots
from tests.builders.scored_models import models  # noqa: F401  # a fixture
from tests.conftest import validation_options
from tools import plot_roc


def test_two_models_in_one_picture(
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = []
    for model, name in zip(models, "ab", strict=True):
        files.append(str(tmp_path / "curves" / f"{name}.txt"))
        wish = files[-1].removesuffix(".txt") if name == "a" else files[-1]  # 001's option goes without
        given = ["--snap", model, *validation_options(sample_data), "--roc_fname", wish, "--bootstrap", "0"]
        assert evaluate_lfw.main([*given, "--device", "cpu"]) == 0
    tar, far = np.loadtxt(files[0]).T
    capsys.readouterr()
    assert plot_roc.main([*files, "--names", "first", "second", "--out", str(tmp_path / "roc.png")]) == 0
    said = capsys.readouterr().out
    assert f"first: AUC {auc(far, tar):.4f}\n" in said and "second: AUC " in said
    with Image.open(tmp_path / "roc.png") as picture:
        assert len(picture.convert("RGB").getcolors(100_000) or []) > 100  # lines and text


@pytest.mark.parametrize("text", ["0.5 0.1\n1 1\n", "1 1\n0.5 0.1\n0.5 0\n", "0 0\n0.5 0.1\n1.0 1\n"])
def test_a_curve_may_lack_its_ends_and_go_either_way(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    roc = plot_roc.read_curve(tmp_path / "a.txt")
    assert (roc.far[0], roc.tar[0], roc.far[-1], roc.tar[-1]) == (0, 0, 1, 1)
    assert area(roc.far, roc.tar) == pytest.approx(auc(roc.far, roc.tar))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no points"),
        ("0.5 0.1\nTPR FPR\n", r"a\.txt:2: expected TPR and FPR"),
        ("0.5\n", r"a\.txt:1: expected"),
        ("0.5 nan\n", r"a\.txt:1: .* from 0 to 1"),
        ("50 10\n", r"a\.txt:1: .* from 0 to 1"),
        ("0.5 0.1\n0.4 0.2\n", "no ROC curve"),
    ],
)
def test_a_file_without_a_curve_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=said):
        plot_roc.main([str(tmp_path / "a.txt"), "--out", str(tmp_path / "roc.png")])


def test_names_are_shown_as_they_are_in_every_plot_that_has_a_legend() -> None:
    """Formulas: $x_$ can't be drawn, and $x$ loses its dollar signs; matplotlib hides names that begin with _."""
    names = ["$x_$", "$x$", "_hidden", "plain"]
    roc = Roc(np.array([0.0, 0.01, 1.0]), np.array([0.0, 0.5, 1.0]), np.array([np.inf, 0.5, 0.0]))
    curves = dict.fromkeys(names, roc)
    figures = [
        plots.roc_overlay(curves),
        plots.det_plot(curves),
        plots.rejection_plot(dict.fromkeys(names, np.linspace(0.2, 0.1, len(SHARES)))),
        plots.curves_plot(dict.fromkeys(names, (np.arange(3), np.arange(3.0))), "$y_$"),
    ]
    for figure in figures:
        assert plots.png(figure).startswith(b"\x89PNG")
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        labels = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
        assert not any(map(is_math_text, labels))
        shown = [label.replace(r"\$", "$").lstrip("\N{ZERO WIDTH SPACE}").partition(",")[0] for label in labels]
        assert shown == names


@pytest.mark.parametrize("quality", [0.05, 3.0])  # of a model that is hardly better than chance, and of a good one
def test_a_det_plot_holds_the_whole_curve_and_no_legend_over_it(quality: float) -> None:
    rng = np.random.default_rng(0)
    same = np.arange(2000) % 2 == 0
    roc = roc_curve(rng.normal(size=2000) + quality * same, same)
    figure = plots.det_plot({"all pairs": roc})
    (axes,) = figure.axes
    assert axes.get_legend() is None and len(figure.legends) == 1
    left, right, bottom, top = (norm.cdf(end) for end in (*axes.get_xlim(), *axes.get_ylim()))
    shown = [(x, y) for x, y in zip(roc.far, 1 - roc.tar, strict=True) if 0 < x < 1 and 0 < y < 1]
    assert all((x > 0.99 or left <= x <= right) and (y > 0.99 or bottom <= y <= top) for x, y in shown)
    assert (top > 0.9) == (quality < 1)  # the tail of a good one takes no room


def test_a_curve_at_0_is_above_the_axis_of_a_rejection_plot() -> None:
    (axes,) = plots.rejection_plot({"a": np.linspace(0.2, 0, len(SHARES))}).axes
    assert -0.02 < axes.get_ylim()[0] < 0


MEGAFACE = {"cmc": [[0, 1, 2], [0.7, 0.8, 0.9]], "roc": [[0.0, 1e-6, 0.1, 1.0], [0.2, 0.5, 0.9, 1.0]], "model": "x"}


def test_a_result_of_megaface_is_a_curve_and_a_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cmc.json").write_text(json.dumps(MEGAFACE))
    assert plot_roc.main([str(tmp_path / "cmc.json"), "--out", str(tmp_path / "roc.png")]) == 0
    # (0, 0) is added before (0, 0.2): no area.
    assert f"cmc: AUC {auc([0, 1e-6, 0.1, 1], [0.2, 0.5, 0.9, 1]):.4f}, rank-1 0.7000\n" in capsys.readouterr().out
    assert (tmp_path / "roc.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[" * 100_000,
        "[]",
        json.dumps(MEGAFACE | {"cmc": [[1, 2], [0.7, 0.8]]}),
        json.dumps(MEGAFACE | {"roc": [[0.0, 1.0], [0.2]]}),
        json.dumps(MEGAFACE | {"roc": [[0.0, 1.0], [0.2, 70]]}),
        json.dumps(MEGAFACE | {"roc": [[0.0, 1.0], [0.2, [1]]]}),
        json.dumps(MEGAFACE | {"roc": [[], []]}),
    ],
)
def test_another_json_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "cmc.json").write_text(content)
    with pytest.raises(InputError, match=r"cmc\.json: no (points|result of MegaFace|JSON of MegaFace)"):
        plot_roc.main([str(tmp_path / "cmc.json"), "--out", str(tmp_path / "roc.png")])


def test_names_are_one_a_curve_and_differ(tmp_path: Path) -> None:
    for names in (["one"], ["same", "same"]):
        with pytest.raises(InputError, match="give 2 different names"):
            plot_roc.main(["a.txt", "b.txt", "--names", *names, "--out", str(tmp_path / "roc.png")])
