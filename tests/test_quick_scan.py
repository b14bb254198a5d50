"""The scan of a large gallery finds what the product of matrices finds, and is left alone where that is better."""

import numpy as np
import pytest

from fr.recognition import gallery as gallery_module
from fr.recognition import quick_scan
from fr.recognition.gallery import Rows, new_gallery, normalised_rows

pytest.importorskip("faiss", reason="faiss-cpu isn't installed: bash init_venv.sh --with faiss")
COUNT, SIZE = 4000, 64


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Of a large gallery; the last thousand stand in it twice."""
    monkeypatch.setattr(quick_scan, "LARGE", COUNT)
    drawn = np.random.default_rng(0).standard_normal((COUNT, SIZE), dtype=np.float32)
    drawn[: COUNT // 4] = drawn[-(COUNT // 4) :]
    return drawn


def test_it_finds_what_a_product_of_matrices_finds(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:04}" for number in range(COUNT)]
    gallery = new_gallery(names, names, rows)
    draw = np.random.default_rng(1)
    # Strangers, who are almost as unlike as anybody, and people with another picture; some of them stand there twice.
    strangers = draw.standard_normal((200, SIZE), dtype=np.float32)
    probes = normalised_rows(np.concatenate([strangers, rows[::20] + 0.5 * strangers]))
    monkeypatch.setattr(gallery_module, "FEW", 0)
    expected, cosines = gallery.best(probes)
    monkeypatch.undo()
    parts = [gallery.best(probes[first : first + 4]) for first in range(0, len(probes), 4)]
    same = np.concatenate([person for person, _ in parts]) == expected
    # Where somebody stands there twice, the product's rounding decides which of the two comes first.
    twice = expected % (COUNT - COUNT // 4) == np.concatenate([p for p, _ in parts]) % (COUNT - COUNT // 4)
    assert (same | twice).all() and same.mean() > 0.9
    np.testing.assert_allclose(np.concatenate([scores for _, scores in parts]), cosines, atol=1e-6)


def test_small_galleries_and_many_probes_are_left_to_the_product(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:04}" for number in range(COUNT)]
    assert new_gallery(names[1:], names[1:], rows[1:]).scan is None
    gallery = new_gallery(names, names, rows)
    asked: list[int] = []

    def best(_: quick_scan.QuickScan, probes: Rows) -> tuple[list[int], list[float]]:
        asked.append(len(probes))
        return [0], [1.0]

    monkeypatch.setattr(quick_scan.QuickScan, "best", best)
    for count in (0, 1, 4, 5):
        gallery.best(normalised_rows(rows[:count]))
    assert asked == [1, 4]


def test_without_faiss_there_is_none(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_scan, "find_spec", lambda name: None)
    assert quick_scan.quick_scan(rows) is None
