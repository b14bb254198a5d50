"""McNemar's test against scipy, false alarms by simulation, and two snapshots compared as the command does it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from fr.errors import InputError
from fr.evaluation.bootstrap import Replicates, replicates
from fr.evaluation.intervals import paired_difference
from fr.evaluation.paired import accuracy_interval, mcnemar
from fr.evaluation.verification import Verification, verify
from tests.builders.scored_models import models
from tools import compare_models

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


def of_two_models(
    seed: int, people: int, pairs: int
) -> tuple[Verification, Verification, tuple[Replicates, Replicates]]:
    """Two models of the same skill on one set, each with people of its own whom it takes for others."""
    rng = np.random.default_rng(seed)
    who = rng.integers(people, size=(pairs, 2))
    same = np.arange(pairs) % 2 == 0
    who[same, 1] = who[same, 0]
    results, drawn = [], []
    for _ in range(2):
        lean = rng.normal(0, 0.2, people)
        scores = np.where(same, 0.75, 0.1) + lean[who].sum(axis=1) + rng.normal(0, 0.15, pairs)
        results.append(verify(scores, same, np.arange(pairs) * 10 // pairs))
        drawn.append(replicates(scores, same, results[-1], who, 200))
    return results[0], results[1], (drawn[0], drawn[1])


@pytest.mark.thorough
def test_two_equal_models_are_seldom_told_apart_though_people_are_in_twenty_pairs() -> None:
    """By the intervals. By McNemar's test, for which pairs are independent, far more often than its 5 %."""
    alarms, of_mcnemar = 0, 0
    for seed in range(200):
        a, b, drawn = of_two_models(seed, 80, 800)
        low, high = accuracy_interval(a, b, drawn) or (0.0, 0.0)
        alarms += low > 0 or high < 0
        of_mcnemar += mcnemar(a.right, b.right)[2] < 0.05
    # Meant are 10 of 200; 19 or more come by chance once in two hundred times.
    assert alarms < 19 < of_mcnemar, (alarms, of_mcnemar)


def test_few_disagreements_are_no_verdict() -> None:
    """Five pairs of five people that only B gets right: the bootstrap excludes 0, a coin five times heads doesn't."""
    scores = np.where(np.arange(100) % 2 == 0, 0.9, 0.1)
    same = np.arange(100) % 2 == 0
    people = np.stack([np.arange(100), np.arange(100) + 100 * ~same], axis=1)
    b = verify(scores, same, np.arange(100) % 10)
    a = replace(b, right=~np.isin(np.arange(100), [0, 2, 4, 6, 8]))
    drawn = replicates(scores, same, a, people, 500), replicates(scores, same, b, people, 500)
    assert np.quantile(drawn[1]["accuracy"] - drawn[0]["accuracy"], 0.025) > 0
    low, high = accuracy_interval(a, b, drawn) or (1.0, 0.0)
    assert low < 0 < 0.05 <= high
    # The ends of Clopper and Pearson's interval for 5 of 5, times 5 pairs of 100.
    share = binomtest(5, 5).proportion_ci(0.95, "exact")
    assert low == pytest.approx(0.05 * (2 * share.low - 1))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_the_interval_of_equal_gains_excludes_0_where_mcnemar_does(only_a: int, only_b: int, both: int) -> None:
    gains = np.repeat([-0.01, 0.01, 0.0], [only_a, only_b, both])
    low, high = paired_difference(gains)
    right_a, right_b = gains <= 0, gains >= 0
    assert (low > 0 or high < 0) == (mcnemar(right_a, right_b)[2] < 0.05)
    if only_a + only_b:
        share = binomtest(only_b, only_a + only_b).proportion_ci(0.95, "exact")
        ends = [0.01 * (only_a + only_b) * (2 * end - 1) for end in (share.low, share.high)]
        assert [low, high] == pytest.approx(ends, abs=1e-9)


def test_both_are_scored_alike_and_subtracted(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(*options: str) -> list[list[str]]:
        assert compare_models.main([*options, "--bootstrap", "100"]) == 0
        of_a, of_b, *table = capsys.readouterr().out.splitlines()
        assert (of_a[:3], of_b[:3]) == ("A: ", "B: ")
        return [line.split() for line in table]

    picture = tmp_path / "deep" / "roc.png"
    forwards = compare(*models, "--roc", str(picture), "--protocol", "histogram")
    with Image.open(picture) as image:
        assert image.size == (900, 630)
    backwards = compare(*models[::-1], "--protocol", "histogram")
    for name, row, mirrored in zip(("accuracy", "auc"), forwards[1:3], backwards[1:3], strict=True):
        assert row[0] == mirrored[0] == name
        a, b, difference = map(float, row[1:4])
        assert difference == pytest.approx(b - a, abs=1.5e-4)  # each rounded to four places
        low, high = (float(word.strip("[],:")) for word in row[4:6])
        # The same people are redrawn for both: changing places changes signs alone.
        assert [float(word.strip("[],:")) for word in mirrored[3:6]] == [-difference, -high, -low]
        assert low <= difference <= high
        assert " ".join(row[6:]) == ("may be chance" if low <= 0 <= high else "isn't chance")
    itself = compare(models[0], models[0])
    assert itself[1][3:] == itself[2][3:] == ["+0.0000", "[+0.0000,", "+0.0000]:", "may", "be", "chance"]
    assert itself[3][4:8] == ["0,", "only", "by", "B:"] and itself[3][-2:] == ["independent:", "1"]


def test_embeddings_computed_differently_are_named_and_warned_of(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default each model has mirror images as in its training."""
    contents = torch.load(models[1], weights_only=True)
    mirrored = str(tmp_path / "m.pt")
    torch.save(contents | {"config": contents["config"] | {"flipped_emb": True}}, mirrored)
    alone, both = "of the image alone", "mean of the image's and its mirror image's"
    for words, a, b in (("", alone, both), ("--flipped_emb", both, both), ("--flipped_emb false", alone, alone)):
        assert compare_models.main([models[0], mirrored, "--bootstrap", "0", *words.split()]) == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines()[:2] == [
            f"A: {models[0]}, embedding {a}",
            f"B: {mirrored}, embedding {b}",
        ]
        warning = f"warning: the embeddings are computed differently (A: {a}; B: {b}): give --flipped_emb, or "
        assert printed.err.startswith(warning) == (a != b) and ("warning" in printed.err) == (a != b)


def test_what_can_not_be_compared_is_refused(models: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--json: not for several models"):
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
