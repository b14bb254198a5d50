"""McNemar's test against scipy, and two snapshots compared as the command does it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from fr.errors import InputError
from tests.builders.scored_models import models
from tools import compare_models
from tools.compare_models import mcnemar

__all__ = ["models"]  # a fixture


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 5))
def test_p_is_that_of_the_exact_binomial_test(only_a: int, only_b: int, both: int) -> None:
    right_a = np.repeat([True, False, True, False], [only_a, only_b, both, both])
    right_b = np.repeat([False, True, True, False], [only_a, only_b, both, both])
    expected = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    # Both sum the same tail, by other series.
    *counts, p = mcnemar(right_a, right_b)
    assert counts == [only_a, only_b]
    assert p == pytest.approx(expected, rel=1e-9)


def test_disagreement_counted_by_hand() -> None:
    a, b = (np.array([letter == "1" for letter in verdicts]) for verdicts in ("1111100", "0000010"))
    # Five against one: (1 + 6) / 2**6 of the splits are as uneven to one side.
    *counts, p = mcnemar(a, b)
    assert counts == [5, 1]
    assert p == pytest.approx(2 * 7 / 64)


def test_both_are_scored_alike_and_subtracted(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(*options: str) -> list[list[str]]:
        assert compare_models.main([*options, "--bootstrap", "100"]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    picture = tmp_path / "deep" / "roc.png"
    forwards = compare(*models, "--roc", str(picture), "--protocol", "histogram")
    with Image.open(picture) as image:
        assert image.size == (900, 630)
    backwards = compare(*models[::-1], "--protocol", "histogram")
    for name, row, mirrored in zip(("accuracy", "auc"), forwards[1:3], backwards[1:3], strict=True):
        assert row[0] == mirrored[0] == name
        a, b, difference = map(float, row[1:4])
        assert difference == pytest.approx(b - a, abs=1.5e-4)  # each rounded to four places
        low, high = (float(word.strip("[],")) for word in row[4:6])
        # The same people are redrawn for both: changing places changes signs alone.
        assert [float(word.strip("[],")) for word in mirrored[3:]] == [-difference, -high, -low]
        assert low <= difference <= high
    itself = compare(models[0], models[0])
    assert itself[1][3:] == itself[2][3:] == ["+0.0000", "[+0.0000,", "+0.0000]"]
    assert itself[3][4:8] == ["0,", "only", "by", "B:"] and itself[3][-2:] == ["p", "1"]


def test_what_can_not_be_compared_is_refused(models: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--json: not for two models"):
        compare_models.main([*models, "--json", "x.json"])
    contents = torch.load(models[1], weights_only=True)
    lines = Path(contents["config"]["val_list"]).read_text().splitlines()
    other = tmp_path / "pairs.txt"
    other.write_text("\n".join([lines[0].replace("10", "9"), *lines[1:37]]))
    torch.save(contents | {"config": contents["config"] | {"val_list": str(other)}}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="name one set with --val_data_root"):
        compare_models.main([models[0], str(tmp_path / "c.pt")])
    with pytest.raises(InputError, match="--margin"):
        compare_models.main([*models, "--margin", "1"])
