"""--quality of evaluate_lfw.py: a table of scores of the images, to the curves of the report; refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluate_lfw
from fr.distributed import open_ranks
from fr.errors import InputError
from fr.evaluation.rejection import SHARES
from fr.evaluation.scoring import score
from fr.options.definitions import evaluation_options
from fr.report.verification_report import write_report
from tests.builders.scored_models import models  # noqa: F401  # a fixture
from tests.builders.verification_faces import faces_of
from tests.conftest import validation_options


def test_the_pairs_of_the_lowest_scores_are_rejected(
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = faces_of(sample_data).names.to_pylist()
    quality = dict(zip(names, np.random.default_rng(0).permutation(len(names)).tolist(), strict=True))
    lines = [f'"{name.removesuffix(".jpg")}",{quality[name]}' for name in reversed(names)]
    (tmp_path / "q.csv").write_text("\n".join(["NAME_ID,SCORE", *lines]) + "\n")
    options = ["--snap", models[0], *validation_options(sample_data), "--device", "cpu", "--bootstrap", "0"]
    options += ["--report", str(tmp_path / "page"), "--quality", str(tmp_path / "q.csv")]
    given: list[Any] = []

    def write(*some: Any) -> Path:
        given.extend(some)
        return write_report(*some)

    monkeypatch.setattr(evaluate_lfw, "write_report", write)
    assert evaluate_lfw.main(options) == 0
    assert (tmp_path / "page/rejection.png").is_file()
    rejection = next(one for one in given if isinstance(one, dict) and "--quality, FMR 0.1" in one)
    assert [*rejection] == ["embedding length, FMR 0.1", "--quality, FMR 0.1"]  # of 20 different pairs
    with open_ranks("cpu") as ranks:
        (scored,) = score(evaluation_options(options), ranks)
    capsys.readouterr()
    same, scores = scored.faces.same, scored.scores
    place = min(one for one in scores if (scores[~same] >= one).mean() <= 0.1)
    poorest = [min(quality[names[row]] for row in pair) for pair in scored.faces.pairs.tolist()]
    for share, fnmr in zip(SHARES, rejection["--quality, FMR 0.1"], strict=True):
        rejected = sorted(range(40), key=lambda i: (poorest[i], -i))[: round(40 * share)]
        left = [i for i in range(40) if same[i] and i not in rejected]
        assert fnmr == pytest.approx(np.mean([scores[i] < place for i in left]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NAME_ID,SCORE\nnobody,1\n", "has no row in"),
        ("NAME_ID,QUALITY\nnobody,1\n", "expected the header NAME_ID,SCORE"),
        ("all", r"q\.csv: the row of .*: no number"),
    ],
)
def test_an_image_without_a_score_is_refused_before_the_first_is_embedded(
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    said: str,
) -> None:
    lines = ["NAME_ID,SCORE", *(f"{name},nan" for name in faces_of(sample_data).names.to_pylist())]
    (tmp_path / "q.csv").write_text("\n".join(lines) if text == "all" else text)
    monkeypatch.setattr("fr.evaluation.scoring.embed", None)
    options = ["--snap", models[0], *validation_options(sample_data), "--device", "cpu"]
    with pytest.raises(InputError, match=said):
        evaluate_lfw.main([*options, "--report", str(tmp_path / "p"), "--quality", str(tmp_path / "q.csv")])
    with pytest.raises(InputError, match="--quality: goes with --report"):
        evaluate_lfw.main([*options, "--quality", str(tmp_path / "q.csv")])
