"""1:N figures against a search person by person and against hand-made tables: ranks, ties, strangers, no face."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fr.evaluation import all_pairs
from fr.recognition.gallery import Gallery, new_gallery, normalised_rows
from fr.recognition.identification import Searches, cmc, fpir, identification_metrics, search, tpir


def one_by_one(gallery: Gallery, probes, person, searched) -> list[tuple[bool, int, float]]:
    """Mated, rank and highest score of each probe, by sorting everybody in a list."""
    found, rows = [], iter(probes)
    for own, has_face in zip(person.tolist(), searched.tolist(), strict=True):
        scores: dict[int, float] = {}
        row = next(rows) if has_face else None
        for of, picture in zip(gallery.person.tolist(), gallery.rows, strict=True):
            if row is not None:
                scores[of] = max(scores.get(of, -2.0), float(row @ picture))
        worst_first = sorted(scores, key=lambda of: (-scores[of], of == own))  # of equals the own person comes last
        rank = worst_first.index(own) + 1 if own in scores else 0
        found.append((own >= 0, rank, max(scores.values(), default=-1.0)))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_search_finds_what_a_search_person_by_person_finds(seed: int) -> None:
    draw = np.random.default_rng(seed)
    people, pictures, probes = draw.integers(1, 8), draw.integers(1, 20), draw.integers(1, 30)
    # Vectors of few quarters: their products are exact in float32, and many are equal.
    rows = draw.integers(-2, 3, (pictures, 3)).astype(np.float32) / np.float32(4)
    gallery = Gallery([f"p{n}" for n in range(people)], np.sort(draw.integers(0, people, pictures)), rows)
    person, searched = draw.integers(-1, people, probes), draw.random(probes) < 0.8
    looked_up = draw.integers(-2, 3, (int(searched.sum()), 3)).astype(np.float32) / np.float32(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_pairs, "_SCORES", int(draw.integers(1, 60)))  # several blocks
        found = search(gallery, looked_up, person, searched)
        named, scores = gallery.best(looked_up)
    expected = one_by_one(gallery, looked_up, person, searched)
    assert list(zip(found.mated.tolist(), found.rank.tolist(), found.top.tolist(), strict=True)) == expected
    assert scores.tolist() == [top for (_, _, top), there in zip(expected, searched, strict=True) if there]
    for row, name, score in zip(looked_up, named, scores, strict=True):
        assert score == max(float(row @ picture) for picture in rows[gallery.person == name])


def searches(*of: tuple[bool, int, float]) -> Searches:
    mated, rank, top = zip(*of, strict=True)
    return Searches(np.array(mated), np.array(rank), np.array(top))


def test_rank_and_cmc_by_hand() -> None:
    found = searches(
        *((True, rank, 0.5) for rank in (1, 1, 2, 5, 6)),
        (True, 0, 0.9),  # the own person isn't found at all
        (True, 0, -1.0),  # no face
        (True, 1, 0.1),
        (False, 0, 0.8),
    )
    np.testing.assert_allclose(cmc(found, 7), np.array([3, 4, 4, 4, 5, 6, 6]) / 8)
    figures = identification_metrics(found)
    assert (figures["rank1"], figures["rank5"]) == (3 / 8, 5 / 8)


def test_tpir_at_fpir_by_hand() -> None:
    strangers = [(False, 0, score) for score in (0.9, 0.6, 0.6, *[0.3] * 17)]
    mated = [(True, 1, 0.95), (True, 1, 0.7), (True, 1, 0.6), (True, 2, 0.99), (True, 1, 0.2), (True, 0, -1.0)]
    figures = identification_metrics(searches(*strangers, *mated))
    # Two of twenty may get a name: above 0.6 only one does, since two strangers have 0.6, and so do three mates; the
    # one on rank 2 isn't found however high the score.
    assert figures["tpir@fpir=1e-01"] == pytest.approx(2 / 6)
    assert figures["threshold@fpir=1e-01"] == pytest.approx(0.4)
    assert figures["tpir@fpir=1e-02"] is None and figures["threshold@fpir=1e-03"] is None  # of twenty, not one


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_tpir_is_the_highest_whose_fpir_is_not_above_the_one_named(seed: int) -> None:
    draw = np.random.default_rng(seed)
    count = int(draw.integers(20, 150))
    mated = draw.random(count) < 0.5
    mated[:12] = np.arange(12) < 2  # ten strangers at least
    found = Searches(mated, np.where(mated, draw.integers(0, 4, count), 0), draw.integers(-1, 9, count) / 8)
    best = max(
        float(np.mean((found.rank[mated] == 1) & (found.top[mated] > cut)))
        for cut in np.arange(-2, 10) / 8
        if np.mean(found.top[~mated] > cut) <= 0.1
    )
    figures = identification_metrics(found)
    assert figures["tpir@fpir=1e-01"] == best
    at = 1 - (figures["threshold@fpir=1e-01"] or 0)
    assert tpir(found, at) == best and (fpir(found, at) or 0) <= 0.1


def test_metrics_of_nothing_are_none() -> None:
    strangers = identification_metrics(searches(*[(False, 0, 0.5)] * 10))
    assert strangers["rank1"] is None and strangers["tpir@fpir=1e-01"] is None
    mates = identification_metrics(searches(*[(True, 1, 0.5)] * 10))
    assert mates["rank1"] == 1 and mates["tpir@fpir=1e-01"] is None
    assert tpir(searches((False, 0, 0.5)), 0.1) is None and fpir(searches((True, 1, 0.5)), 0.1) is None


def test_a_network_that_finds_everybody_equal_finds_nobody() -> None:
    gallery = Gallery(["a", "b", "c"], np.arange(3), np.ones((3, 1), dtype=np.float32))
    found = search(gallery, np.ones((3, 1), dtype=np.float32), np.arange(3), np.ones(3, dtype=bool))
    assert found.rank.tolist() == [3, 3, 3]


def test_a_person_with_several_pictures_is_as_like_as_the_most_like_one() -> None:
    rows = np.array([[3, 0], [0, 5], [0, 0], [-2, 0]], dtype=np.float32)
    gallery = new_gallery(["empty", "b", "a"], ["a", "b", "b", "a"], rows)
    assert gallery.person.tolist() == [1, 1, 2, 2]
    assert gallery.rows.tolist() == [[0, 1], [0, 0], [1, 0], [-1, 0]]
    named, scores = gallery.best(normalised_rows(np.array([[-1, 0.1], [0.2, 7]], dtype=np.float32)))
    assert [gallery.people[name] for name in named] == ["a", "b"]
    np.testing.assert_allclose(scores, [1 / 1.01**0.5, 7 / 49.04**0.5], rtol=1e-6)
