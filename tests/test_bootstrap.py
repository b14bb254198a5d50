"""Intervals: weights against copying people by hand, statistics against plain counting, cover against a simulation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from fr.evaluation.bootstrap import draws, replicates
from fr.evaluation.histogram_protocol import verify_by_histogram
from fr.evaluation.intervals import clopper_pearson, newcombe, percentile
from fr.evaluation.pair_statistics import lines, pair_statistics, record
from fr.evaluation.roc import area, equal_error_rate, roc_curve, tar_at
from fr.evaluation.verification import Verification, shares_of_pairs, verify

Set = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]


def pairs_of(seed: int, people: int, pairs: int, apart: float = 0.35, spread: float = 0.1) -> Set:
    """Scores, same and people of a set whose scores depend on the people in it, as faces' do.

    apart: of the means of both kinds. spread: of the people.
    """
    rng = np.random.default_rng(seed)
    who = rng.integers(people, size=(pairs, 2))
    same = np.arange(pairs) % 2 == 0
    who[same, 1] = who[same, 0]
    who[~same, 1] = (who[~same, 0] + 1 + rng.integers(people - 1, size=int((~same).sum()))) % people
    lean = rng.normal(0, spread, people)
    scores = np.where(same, 0.1 + apart, 0.1) + lean[who].sum(axis=1) + rng.normal(0, 0.15, pairs)
    return scores, same, who.astype(np.int64)


def judged(right: NDArray[np.bool_], cell: NDArray[np.int64] | None = None) -> Verification:
    """A result with these verdicts; by default all pairs are one fold."""
    cell = np.zeros((right.size, 2), dtype=np.int64) if cell is None else cell
    return Verification(0, 0, 0, 0, 0, 0, (), (), right.size, right, cell)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 12))
def test_a_pair_counts_as_often_as_its_people_were_drawn(seed: int, people: int, pairs: int) -> None:
    who = pairs_of(seed, people, pairs)[2] * 7 - 3  # any numbers may stand for people
    known = sorted(set(who.ravel().tolist()))
    weights = np.concatenate(list(draws(who, 20, seed)))
    drawn = np.random.default_rng(seed).integers(len(known), size=(20, len(known)))
    for row, sample in zip(weights, drawn, strict=True):
        times = [sample.tolist().count(known.index(person)) for person in known]
        count = dict(zip(known, times, strict=True))
        expected = [count[a] * (count[b] if a != b else 1) for a, b in who.tolist()]
        assert row.tolist() == expected


def test_a_replicate_is_the_figure_of_the_copied_pairs() -> None:
    scores, same, who = pairs_of(1, 30, 400)
    scores = scores.round(1)  # ties
    right = (scores > 0.35) == same
    found = replicates(scores, same, judged(right), who, 25, (0.1,), seed=3)
    for index, weights in enumerate(np.concatenate(list(draws(who, 25, 3)))):
        copies = np.repeat(np.arange(400), weights)
        # Sums of the same terms in another order.
        assert found["auc"][index] == pytest.approx(roc_auc_score(same[copies], scores[copies]), abs=1e-12)
        assert found["accuracy"][index] == pytest.approx(right[copies].mean(), abs=1e-12)
        kind, value = same[copies], scores[copies]
        best = max(
            (value[kind] >= t).mean() for t in [np.inf, *np.unique(value)] if (value[~kind] >= t).mean() <= 0.1
        )
        assert found["tar@far=1e-01"][index] == pytest.approx(best, abs=1e-12)


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    who = pairs_of(2, 9, 50)[2]
    whole = np.concatenate(list(draws(who, 40, 5)))
    monkeypatch.setattr("fr.evaluation.bootstrap.BLOCK", 150)
    blocks = list(draws(who, 40, 5))
    assert [len(block) for block in blocks] == [3] * 13 + [1]
    assert np.array_equal(np.concatenate(blocks), whole)
    assert not np.array_equal(np.concatenate(list(draws(who, 40, 6))), whole)


def test_sets_without_a_kind_are_left_out() -> None:
    scores, same = np.array([0.9, 0.1]), np.array([True, False])
    found = replicates(scores, same, judged(np.array([True, True])), np.array([[0, 0], [1, 2]]), 200)
    # All three people must be drawn: 3! of 27 draws.
    assert 0 < found["auc"].size < 100
    assert set(found["auc"].tolist()) == {1.0} and np.isfinite(found["eer"]).all()
    assert percentile(np.array([])) is None
    assert percentile(np.arange(201.0)) == pytest.approx((5.0, 195.0))


@pytest.mark.parametrize("protocol", [verify, verify_by_histogram])
def test_a_replicates_accuracy_is_the_protocols_with_unequal_folds_and_kinds(protocol: Any) -> None:
    """Verdicts fixed; the copied pairs averaged by a plain loop over folds, and over kinds as the protocol does."""
    scores, same, who = pairs_of(6, 40, 300)
    same[30:250] = False  # few same pairs, all in a part of the folds
    fold = np.repeat([7, 2, 9], [20, 60, 220])
    result = protocol(scores, same, fold)
    found = replicates(scores, same, result, who, 40, seed=1)["accuracy"]
    plain = []
    for weights in np.concatenate(list(draws(who, 40, 1))):
        copies = np.repeat(np.arange(300), weights)
        if not 0 < same[copies].sum() < copies.size:
            continue
        of_folds = []
        for number in (2, 7, 9):
            inside = copies[fold[copies] == number]
            kinds = [inside[same[inside]], inside[~same[inside]]] if protocol is verify_by_histogram else [inside]
            of_folds.append(np.mean([result.right[kind].mean() for kind in kinds if kind.size]))
        plain.append(np.mean(of_folds))
    assert found == pytest.approx(plain, abs=1e-12)
    shares = shares_of_pairs(result.cell)
    assert (shares.sum(), shares[result.right].sum()) == pytest.approx((1, result.accuracy), abs=1e-12)
    statistics = pair_statistics(scores, same, result, who, 200)
    low, high = statistics["accuracy"].interval or (1.0, 0.0)
    assert low < result.accuracy < high
    # The mean of all pairs is another figure, outside of what the interval used to be about.
    assert abs(result.right.mean() - result.accuracy) > 0.02
    assert ("auc_exact" in statistics) == (protocol is verify_by_histogram) == ("auc" not in statistics)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 700), st.integers(0, 700))
def test_ends_of_a_share_are_those_of_scipys_exact_interval(hits: int, misses: int) -> None:
    count = hits + misses
    if count:
        expected = binomtest(hits, count).proportion_ci(0.95, "exact")
        assert clopper_pearson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_ends_of_an_area_are_newcombes() -> None:
    """Roots of his equation by bisection, and what it gives for as many thousand pairs of one area: Wald's ends."""
    for value, same, different in ((0.9, 20, 60), (0.997, 300, 300), (0.5, 5, 5), (1.0, 300, 300), (0.0, 10, 20)):
        grid = np.linspace(0, 1, 200_001)[1:-1]
        more = (same + different) / 2 - 1
        variance = grid * (1 - grid) / (same * different)
        variance *= 1 + more * (1 - grid) / (2 - grid) + more * grid / (1 + grid)
        inside = grid[(value - grid) ** 2 <= norm.ppf(0.975) ** 2 * variance]
        low, high = newcombe(value, same, different)
        assert low == pytest.approx(0.0 if value == 0 else inside.min(), abs=1e-5)
        assert high == pytest.approx(1.0 if value == 1 else inside.max(), abs=1e-5)
    low, high = newcombe(0.8, 10**6, 10**6)
    wald = 1.96 * (0.16 * (0.2 / 1.2 + 0.8 / 1.8) / 10**6) ** 0.5
    assert (low, high) == pytest.approx((0.8 - wald, 0.8 + wald), abs=1e-6)


def test_a_set_without_errors_has_an_interval() -> None:
    """400 pairs, none wrong: Clopper and Pearson's lower end is .9908; percentiles alone were [1.0000, 1.0000]."""
    same = np.arange(400) % 2 == 0
    scores = np.where(same, 0.9, 0.1) + np.linspace(0, 0.1, 400)
    people = np.stack([np.arange(400), np.where(same, np.arange(400), np.arange(400) + 400)], axis=1)
    statistics = pair_statistics(scores, same, verify(scores, same, np.arange(400) % 10), people, 100)
    assert statistics["accuracy"].text() == "1.0000 [0.9908, 1.0000]"
    assert statistics["tar@far=1e-01"].text().startswith("1.0000 [0.9817, 1.0000], at")  # of 200 same pairs
    assert statistics["eer"].text() == "0.0000 [0.0000, 0.0183]"
    low, high = statistics["auc"].interval or (0.0, 0.0)
    assert 0.98 < low < 0.995 and high == 1


def cover(
    sets: int, people: int, pairs: int, apart: float, spread: float, count: int
) -> tuple[dict[str, float], float]:
    """Share of `sets` sets whose intervals hold the truth, by metric; and the true accuracy at the middle threshold."""
    middle, fars = 0.1 + apart / 2, (1e-1, 1e-2)
    scores, same, _ = pairs_of(100, 4000, 400_000, apart, spread)
    roc, accuracy = roc_curve(scores, same), float(((scores > middle) == same).mean())
    values = {"auc": area(roc.far, roc.tar), "eer": equal_error_rate(roc.far, roc.tar)}
    values |= {f"tar@far={far:.0e}": tar_at(roc.far, roc.tar, far) for far in fars}
    truth = {"accuracy": accuracy} | {name: float(value) for name, value in values.items()}
    hits = dict.fromkeys(truth, 0)
    for seed in range(sets):
        scores, same, who = pairs_of(seed, people, pairs, apart, spread)
        right = (scores > middle) == same
        found = pair_statistics(scores, same, replace(judged(right), accuracy=float(right.mean())), who, count)
        for name, value in truth.items():
            low, high = found[name].interval or (1.0, 0.0)
            hits[name] += low <= value <= high
    return {name: hit / sets for name, hit in hits.items()}, accuracy


def test_intervals_of_all_metrics_cover_the_truth() -> None:
    covered, _ = cover(60, 50, 600, 0.35, 0.1, 200)
    # Meant are 57 of 60; fewer than 51 come by chance once in a thousand times. Redrawing pairs alone gave 47 (AUC).
    assert all(share >= 51 / 60 for share in covered.values()), covered


def test_intervals_near_1_cover_the_truth() -> None:
    """Truth .998 and about one error: percentiles alone covered accuracy in 75 %, the AUC in 48 % of such sets."""
    covered, accuracy = cover(40, 300, 600, 1.05, 0.06, 60)
    assert 0.9975 < accuracy < 0.9985
    # Meant are 38 of 40; fewer than 34 come by chance less than once in a hundred times.
    assert all(share >= 34 / 40 for share in covered.values()), covered


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("people", "pairs", "apart", "spread"),
    [(50, 600, 0.35, 0.1), (200, 600, 0.85, 0.1), (80, 600, 0.9, 0.1), (300, 600, 1.05, 0.06), (60, 400, 1.3, 0.1)],
)
def test_intervals_cover_the_truth_from_many_errors_to_none(
    people: int, pairs: int, apart: float, spread: float
) -> None:
    covered, _ = cover(400, people, pairs, apart, spread, 400)
    # Meant are 95 %; fewer than 91.5 % of 400 come by chance once in a thousand times.
    assert all(share >= 0.915 for share in covered.values()), covered


def test_one_false_match_gives_a_tar_no_interval() -> None:
    for different, known in ((100, False), (199, False), (200, True)):
        same = np.arange(2 * different) % 2 == 0
        scores = np.random.default_rng(0).normal(same, 0.5)
        verification = verify(scores, same, np.arange(len(same)) * 10 // len(same))
        found = pair_statistics(scores, same, verification, np.stack([np.arange(len(same))] * 2, axis=1), 50)
        assert (found["tar@far=1e-02"].interval is not None) == known
        assert found["tar@far=1e-02"].value is not None and found["tar@far=1e-01"].interval is not None


def test_what_a_far_rests_on_is_said() -> None:
    scores, same, who = pairs_of(4, 60, 600)
    verification = verify(scores, same, np.arange(600) * 10 // 600)
    found = pair_statistics(scores, same, verification, who, 50)
    text = lines(found, "60 people", 50)
    assert text[0].startswith("EER: 0.") and text[0].endswith("]")
    different = np.sort(scores[~same])
    for line, far in ((text[1], 0.1), (text[2], 0.01)):  # the lowest score at which so few are accepted
        distance = found[f"tar@far={far:.0e}"].threshold
        assert distance is not None and f"], at distance {distance:.4f}" in line
        assert (different >= 1 - distance).mean() <= far < (different >= 1 - distance - 1e-3).mean() + 0.02
    assert text[1].startswith("TAR@FAR=1e-01: 0.")
    assert text[2].startswith("TAR@FAR=1e-02: 0.") and text[2].endswith(", rests on 3 false matches")
    assert text[3] == "TAR@FAR=1e-03, 1e-04, 1e-05, 1e-06: –, 300 different pairs are too few"
    accuracy, auc = (found[name].interval for name in ("accuracy", "auc"))
    assert accuracy and auc
    assert text[4:] == [
        f"95 % intervals: Accuracy {accuracy[0]:.4f} to {accuracy[1]:.4f}, AUC {auc[0]:.4f} to {auc[1]:.4f}; "
        "60 people resampled 50 times, at least as wide as for independent pairs"
    ]
    flat = record(found)
    assert flat["tar@far=1e-03"] is None and "tar@far=1e-03_low" not in flat
    for name in ("accuracy", "auc", "eer", "tar@far=1e-01"):
        low, value, high = (flat[name + end] for end in ("_low", "", "_high"))
        assert low is not None and value is not None and high is not None and low <= value <= high
    assert pair_statistics(scores, same, verification, who, 50) == found
    assert pair_statistics(scores, same, verification, who, 50, seed=1) != found


def test_without_replicates_there_are_no_intervals() -> None:
    scores, same, who = pairs_of(5, 20, 40)
    found = pair_statistics(scores, same, verify(scores, same, np.arange(40) * 4 // 40), who, 0)
    assert all(figure.interval is None for figure in found.values())
    assert len(lines(found, "20 people", 0)) == 3
    assert not any(name.endswith(("_low", "_high")) for name in record(found))
