"""Scores of any matcher from a file: figures against scikit-learn and evaluate_lfw.py, forms of a list, bad lists."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as reference_curve

import evaluate_lfw
from fr.data.pairs.score_list import read_scores
from fr.distributed import open_ranks
from fr.errors import InputError
from fr.evaluation.scoring import score
from fr.options.definitions import evaluation_options
from tests.builders.scored_models import models  # noqa: F401  # a fixture
from tests.conftest import validation_options
from tests.sets import written
from tools import score_file

# label, score, first, second, fold
ROWS = [
    ("1", "0.9", "Ann", "Ann", "7"),
    ("0", "-2e-1", "Ann", "Bo", "7"),
    ("1", "0.25", "Cy", "Cy", "8"),
    ("0", "0.5", "Dee", "Bo", "8"),
]


def judged(path: Path, *options: str) -> dict[str, Any]:
    """The command's --json."""
    out = path.with_suffix(".json")
    assert score_file.main([str(path), "--json", str(out), *options]) == 0
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def test_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    same = np.arange(600) % 2 == 0
    scores = np.round(rng.normal(np.where(same, 60, 40), 12), 1)  # some are equal; of no range in particular
    path = written(tmp_path / "s.txt", "".join(f"{int(kind)} {of}\n" for kind, of in zip(same, scores, strict=True)))
    figures = judged(path, "--bootstrap", "0")
    assert figures["auc"] == pytest.approx(roc_auc_score(same, scores))
    far, tar, thresholds = reference_curve(same, scores, drop_intermediate=False)
    for max_far in (0.1, 0.01):
        last = np.flatnonzero(far <= max_far)[-1]
        assert figures[f"tar@far={max_far:.0e}"] == pytest.approx(tar[last])
        assert figures[f"threshold@far={max_far:.0e}"] == thresholds[last]  # a score, as in the file
    right = []
    fold = np.empty(600, dtype=int)
    fold[same] = fold[~same] = np.arange(300) // 30
    for number in range(10):
        # Any threshold that is right most often will do: of ours, no other may be righter on the nine other folds.
        cuts = [*np.unique(scores), 200]
        hits = [np.sum((scores >= cut)[fold != number] == same[fold != number]) for cut in cuts]
        best = [cut for cut, count in zip(cuts, hits, strict=True) if count == max(hits)]
        right.append({float(np.mean((scores >= cut)[fold == number] == same[fold == number])) for cut in best})
    assert min(map(min, right)) <= figures["accuracy"] <= max(map(max, right))
    low, high = (np.mean([end(one) for one in right]) for end in (min, max))
    assert low <= figures["accuracy"] <= high and high - low < 0.02
    assert min(scores) < figures["threshold"] < max(scores) and "threshold_cosine" not in figures
    errors = [(abs(false - (1 - true)), (false + 1 - true) / 2) for false, true in zip(far, tar, strict=True)]
    assert figures["eer"] == pytest.approx(min(errors)[1], abs=2 / 300)  # interpolated between two points


@pytest.mark.parametrize("dist", ["cos", "l2"])
def test_scores_of_a_model_give_the_json_of_evaluate_lfw(
    dist: str,
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
) -> None:
    options = ["--snap", models[0], *validation_options(sample_data), "--dist", dist, "--device", "cpu"]
    options += ["--bootstrap", "50", "--json", str(tmp_path / "lfw.json")]
    options += ["--roc_fname", str(tmp_path / "lfw.txt"), "--roc_band"]
    evaluate_lfw.main(options)
    with open_ranks("cpu") as ranks:
        (scored,) = score(evaluation_options(options), ranks)
    names, rows = scored.faces.names.to_pylist(), ["note;fold;second;score;first;label"]
    shown = scored.scores if dist == "cos" else -scored.scores
    pairs = zip(scored.faces.pairs, shown.tolist(), scored.faces.same, scored.faces.fold, strict=True)
    rows += [f"x;{fold};{names[b]};{of!r};{names[a]};{int(same)}" for (a, b), of, same, fold in pairs]
    path = written(tmp_path / "s.csv", "\n".join(rows))
    flags = ["--distance"] if dist == "l2" else []
    figures = judged(path, "--bootstrap", "50", "--roc_fname", str(tmp_path / "s_roc"), "--roc_band", *flags)
    expected = json.loads((tmp_path / "lfw.json").read_text())
    if dist == "cos":  # a distance there, a score here
        expected.pop("threshold_cosine")
        turned = {name: 1 - value for name, value in expected.items() if name.startswith("threshold")}
        assert turned and all(figures[name] == pytest.approx(value) for name, value in turned.items())
        figures |= dict.fromkeys(turned)
        expected |= dict.fromkeys(turned)
    assert figures == expected
    assert (tmp_path / "s_roc.txt").read_bytes() == (tmp_path / "lfw.txt").read_bytes()
    with pytest.raises(InputError, match="--roc_band: goes with"):
        judged(path, "--roc_band")


def test_output_and_report_say_what_they_rest_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{label} {10 * int(label) + place % 9} P{place} P{place if label == '1' else place + 1} {place % 2}"
            for place in range(40) for label in "10"]  # fmt: skip
    named = written(tmp_path / "named.txt", "\n".join(rows))
    bare = written(tmp_path / "bare.txt", "\n".join(" ".join(row.split()[:2]) for row in rows))
    report = tmp_path / "page"
    judged(named, "--bootstrap", "20", "--report", str(report))
    printed = capsys.readouterr().out
    assert f"{named}: 80 pairs (40 same)\n" in printed and "note" not in printed
    assert "TAR@FAR=1e-01: 1.0000 [" in printed and "], at score " in printed
    assert "; 41 people resampled 20 times, " in printed
    stored = json.loads((report / "report.json").read_text())
    assert stored["statistics"]["tar@far=1e-01"] == 1 and stored["facts"]["score"] == "score"
    page = (report / "index.html").read_text()
    assert page.count("<th>Threshold, score</th>") == 1 and "Threshold, distance" not in page
    figures = judged(bare, "--bootstrap", "20", "--report", str(report))
    printed = capsys.readouterr().out
    assert "; 80 pairs resampled 20 times, " in printed and "note: no names of people or images: " in printed
    assert "no names of people" in json.loads((report / "report.json").read_text())["facts"]["intervals"]
    assert figures["accuracy"] == 1 and figures["accuracy_low"] < 1
    judged(bare, "--bootstrap", "0")
    assert "resampled" not in (printed := capsys.readouterr().out) and "note" not in printed


@pytest.mark.parametrize("separator", [",", "\t", ";", " ", " \t  ", ", "])
@pytest.mark.parametrize("columns", [(0, 1), (0, 1, 4), (0, 1, 2, 3), (0, 1, 2, 3, 4)])
def test_every_form_is_read_with_a_header_and_without(
    separator: str, columns: tuple[int, ...], tmp_path: Path
) -> None:
    names = ["Label", "score", "first", "second", "fold"]
    rows = [[row[place] for place in columns] for row in ROWS]
    plain = "\n".join(separator.join(row) for row in rows)
    header = separator.join(["other", *(names[place] for place in reversed(columns))])
    turned = "\r\n".join(separator.join(["?", *reversed(row)]) for row in rows)
    for text in (plain, f"\ufeff{header}\r\n{turned}\r\n\r\n"):
        listed = read_scores(written(tmp_path / "s", text))
        assert listed.scores.tolist() == [0.9, -0.2, 0.25, 0.5]
        assert listed.same.tolist() == [True, False, True, False]
        assert listed.fold.tolist() == ([7, 7, 8, 8] if 4 in columns else [0, 0, 5, 5])
        assert (listed.names is None) == (2 not in columns)
        if listed.names is not None:
            found = [[listed.names[row].as_py() for row in pair] for pair in listed.pairs.tolist()]
            assert found == [list(row[2:4]) for row in ROWS]


def test_names_may_hold_what_separates_if_they_are_quoted(tmp_path: Path) -> None:
    rows = ['1,0.9,"Ann, B","Ann, B"', '0,0.1,"Ann, B",C', "1,0.8,C,C", "0,0.2,C,D"]
    names = read_scores(written(tmp_path / "s.csv", "\n".join(rows))).names
    assert names is not None and names.to_pylist() == ["Ann, B", "C", "D"]


GOOD = "\n".join(" ".join(row) for row in ROWS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, r"s: is empty$") for text in ("", "\n \n", "\ufeff")),
        ("0.9 1 Ann Ann 7\n" + GOOD, r"s:1: the label isn't 1 for one person or 0 for two"),
        ("Ann Bo 0.5", r"s:1: 'Ann Bo 0.5': expected label score, or "),
        ("label score", r"s: no pairs"),
        ("label score first\n1 1 a", r"s:1: the header has only one of first and second"),
        ("label score score\n1 1 1", r"s:1: the header names score twice"),
        (GOOD.replace("0.25", "nan"), r"s:3: the score isn't finite"),
        (GOOD.replace("0.25", "high"), r"s:3: '1 high Cy Cy 8' isn't `label score first second fold`"),
        (GOOD.replace(" Cy 8", " 8"), r"s:3: '1 0.25 Cy 8' isn't "),
        (GOOD.replace("\n1 0.25", "\n2 0.25"), r"s:3: the label isn't 1"),
        (GOOD.replace("Ann Bo", "Ann Ann"), r"s:2: a pair of different people with one name"),
        (GOOD.replace("Bo 8", "Bo 7").replace("Cy 8", "Cy 7"), r"s: one fold; "),
        ("1 0.5\n1 0.6", r"s: 2 same pairs of 2; a verification needs both kinds"),
        ("1 0.5\n0 0.6", r"s: 1 same pair; a verification needs two of each kind"),
        ("label,score\n1,0.5\n\n0,0.6", r"s:3: '' isn't `label score`"),
    ],
)
def test_what_is_no_list_of_scores_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "s", text)
    with pytest.raises(InputError, match=said):
        read_scores(path)


def test_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "s.txt", "".join(f"{i % 2} {i}\n" for i in range(40)))
    with pytest.raises(InputError, match=r"^/proc/page: can't be written: No such file or directory$"):
        score_file.main([str(path), "--report", "/proc/page"])
    with pytest.raises(InputError, match=r"s\.txt/c\.txt: can't be written: Not a directory$"):
        score_file.main([str(path), "--roc_fname", str(path / "c.txt")])


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"1 0.5\n0 \0")
    with pytest.raises(InputError, match="s:2: a NUL byte"):
        read_scores(tmp_path / "s")
    with pytest.raises(InputError, match="can't be read: No such file"):
        read_scores(tmp_path / "none")
    (tmp_path / "s").write_bytes(b"1 0.5 \xff b\n0 0.4 c d\n")
    with pytest.raises(InputError, match="s"):
        read_scores(tmp_path / "s")
