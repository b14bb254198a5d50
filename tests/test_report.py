"""The report's files and its self-contained page."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fr.errors import InputError
from fr.evaluation.histogram_protocol import verify_by_histogram
from fr.evaluation.pair_statistics import pair_statistics, record
from fr.evaluation.verification import Verification, verify
from fr.report.failed_pairs import WrongPair, wrong_pairs
from fr.report.plots import histogram_plot
from fr.report.verification_report import write_report
from tests.builders.pages import (
    Page,
)

FACTS = {
    "Model": "mobilenet <256>",
    "Snapshot": 'run "a" & b/<script>alert(1)</script>.pt',
    "Données": "LFW, 測試",
}
FILES = ["det.png", "histogram.png", "index.html", "report.json", "roc.png"]


def lfw_like(seed: int = 0, pairs: int = 1200) -> tuple[NDArray[np.float64], NDArray[np.bool_], Verification]:
    rng = np.random.default_rng(seed)
    fold = np.arange(pairs) // (pairs // 10)
    same = np.arange(pairs) % 2 == 0
    scores = np.tanh(rng.normal(np.where(same, 0.7, 0.05), 0.18))
    return scores, same, verify(scores, same, fold)


def noise_pair(same: bool, name: str = "Ann <i>_0001.jpg") -> WrongPair:
    images = np.random.default_rng(3).integers(0, 256, (2, 12, 10, 3), dtype=np.uint8)
    return WrongPair((name, "Bob & Co_0002.jpg"), 0.61234, same, (images[0], images[1]))


def test_a_report_without_curves_of_rejection_gives_the_reason(tmp_path: Path) -> None:
    scores, same, verification = lfw_like()
    left_out: dict[str, NDArray[np.float64]] = {}
    for rejection in (left_out, None):  # None: not asked for, as by tools/score_file.py
        write_report(tmp_path, verification, scores, same, FACTS, "LFW", rejection=rejection)
        said = "No errors against rejection: they need a quality of each image" in (tmp_path / "index.html").read_text()
        assert said == (rejection is left_out)


def test_report_writes_its_files_and_nothing_else(tmp_path: Path) -> None:
    scores, same, verification = lfw_like()
    folder = tmp_path / "new" / "report"
    for _ in range(2):  # the second time over the files of the first
        assert write_report(folder, verification, scores, same, FACTS, "LFW") == folder / "index.html"
        assert sorted(path.name for path in folder.iterdir()) == FILES
    for name in ("roc.png", "histogram.png", "det.png"):
        with Image.open(folder / name) as picture:
            picture.load()
            assert picture.size == (900, 630)
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_page_is_self_contained_and_escapes_outside_strings(tmp_path: Path) -> None:
    scores, same, verification = lfw_like()
    title = "LFW </title><script>x</script>"
    worst = [noise_pair(False), noise_pair(True)]
    path = write_report(tmp_path, verification, scores, same, FACTS, title, worst)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not re.search(r"https?://|url\(|@import", html)
    assert page.addresses and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert not {"script", "i", "link", "iframe"} & set(page.tags)
    assert page.text.count(title) == 2
    for name, fact in FACTS.items():
        assert name in page.text and fact in page.text
    for text in ("Ann <i>_0001.jpg", "Bob & Co_0002.jpg", "0.6123", "Worst false matches", "non-matches"):
        assert text in page.text
    inline = [base64.b64decode(address.split(",", 1)[1]) for address in page.addresses]
    assert inline[:3] == [(tmp_path / name).read_bytes() for name in ("roc.png", "histogram.png", "det.png")]
    for pair, shown in zip(worst, (inline[3:5], inline[5:7]), strict=True):
        for image, png in zip(pair.images, shown, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), image)


def test_page_shows_every_figure_and_fold(tmp_path: Path) -> None:
    scores, same, verification = lfw_like()
    html = write_report(tmp_path, verification, scores, same, FACTS, "LFW").read_text(encoding="utf-8")
    for value in verification.metrics().values():
        assert f"{value:.4f}" in html
    for i in range(10):
        accuracy, threshold = verification.fold_accuracies[i], verification.fold_thresholds[i]
        assert f"<tr><td>{i + 1}</td><td>{accuracy:.4f}</td><td>{threshold:.4f}</td>" in html
    assert "1,200 (600 / 600)" in html
    assert "Worst" not in html


def test_page_shows_intervals_and_says_what_the_scores_are(tmp_path: Path) -> None:
    scores, same, _ = lfw_like()
    verification = verify_by_histogram(scores - 1, same, np.arange(1200) // 120, "l2")
    people = np.stack([np.arange(1200), np.arange(1200) + 1200 * ~same], axis=1)
    statistics = pair_statistics(scores - 1, same, verification, people, 20)
    write_report(tmp_path, verification, scores - 1, same, FACTS, "LFW", statistics=statistics)
    text = Page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    for figure in statistics.values():
        value = "–" if figure.value is None else f"{figure.value:.4f}"
        between = "–".join(f"{end:.4f}" for end in figure.interval or ())
        assert f"{figure.title}\n{value}\n" + (f"{between}\n" if between else "") in text
        assert figure.threshold is None or f"{figure.threshold:.4f}" in text
        assert figure.note in text
    assert "600 different pairs are too few" in text
    assert "L2 distance, negated" in text and "histograms" in text and "cosine" not in text
    assert json.loads((tmp_path / "report.json").read_text())["statistics"] == record(statistics)


def test_report_json_reads_back_equal(tmp_path: Path) -> None:
    scores, same, verification = lfw_like()
    write_report(tmp_path, verification, scores, same, FACTS, "LFW é")
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert record == {
        "title": "LFW é",
        "figures": verification.metrics(),
        "statistics": {},
        "pairs": 1200,
        "fold_accuracies": list(verification.fold_accuracies),
        "fold_thresholds": list(verification.fold_thresholds),
        "facts": FACTS,
    }


@pytest.mark.parametrize(
    ("scores", "same"),
    [
        ([0.9, 0.8, 0.1, 0.2], [True, True, False, False]),  # perfect
        ([0.1, 0.2, 0.9, 0.8], [True, True, False, False]),  # always wrong
        ([0.5] * 4, [True, False] * 2),  # all scores equal
        ([1.0, 1 - 2**-53, 1.0, 1 - 2**-52], [True, False] * 2),  # collapsed embeddings: a few ulp apart
    ],
)
def test_report_draws_extreme_score_sets(tmp_path: Path, scores: list[float], same: list[bool]) -> None:
    verification = verify(scores, same, [0, 1, 0, 1])
    facts = {"file": "not-utf8-\udcff"}
    write_report(tmp_path, verification, scores, same, facts, "extreme")
    assert json.loads((tmp_path / "report.json").read_text())["facts"] == facts
    assert r"not-utf8-\udcff" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_refused_report_leaves_the_old_one_untouched(tmp_path: Path) -> None:
    scores, same, verification = lfw_like()
    write_report(tmp_path, verification, scores, same, FACTS, "old")
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    images = noise_pair(True).images
    grey = WrongPair(("a", "b"), 0.5, True, (images[0], images[1][..., 0]))
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got uint8 \[12, 10\]"):
        write_report(tmp_path, verification, scores, same, FACTS, "new", [grey])
    with pytest.raises(ValueError, match="1200 pairs, but there are 1199 scores"):
        write_report(tmp_path, verification, scores[1:], same[1:], FACTS, "new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_cosines_that_are_nearly_1_have_a_threshold_and_an_axis_without_offset(tmp_path: Path) -> None:
    """A collapsed model: all embeddings are nearly alike."""
    same = np.arange(40) % 2 == 0
    scores = 1 - np.where(same, 4e-8, 6e-8) - 1e-9 * np.arange(40) / 40
    verification = verify(scores, same, np.arange(40) // 4)
    page = write_report(tmp_path, verification, scores, same, FACTS, "LFW").read_text()
    assert re.search(r"<th>Threshold, distance</th><td>5\.\d+e-08</td>", page) and "<td>0.0000</td>" not in page
    figure = histogram_plot(verification, scores, same)
    figure.draw_without_rendering()
    assert figure.axes[0].xaxis.get_major_formatter().get_offset() == ""


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    scores, same, verification = lfw_like()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"below/roc\.png: can't be written: Not a directory$"):
        write_report(tmp_path / "file" / "below", verification, scores, same, FACTS, "LFW")


def test_worst_pairs_are_the_gravest_errors_in_order() -> None:
    scores = np.array([0.9, 0.6, 0.7, 0.5, 0.1, 0.3, 0.1, 0.4, 0.7])
    same = np.array([True, False, False, False, True, True, True, False, False])
    right = (scores > 0.5) == same
    assert wrong_pairs(scores, same, right, 9).tolist() == [2, 8, 1, 4, 6, 5]
    assert wrong_pairs(scores, same, right, 2).tolist() == [2, 8, 4, 6]
    assert wrong_pairs(scores, same, right, 0).tolist() == []
    assert wrong_pairs(scores, same, ~right, 9).tolist() == [3, 7, 0]  # each fold has a threshold of its own


def test_report_leaves_pyplot_alone() -> None:
    code = "import sys, fr.report.verification_report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
