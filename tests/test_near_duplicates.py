"""Signatures of images, and the search for pairs of them, against brute force."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from fr.data.faces import LabelledFaces
from fr.data.readers import vgg
from fr.files.data_root import DataRoot
from fr.options.detection import DetectorSettings
from tools.dataset import near_duplicates, registration
from tools.dataset.checks import SURE
from tools.dataset.checks import near_duplicates as near_duplicates_of
from tools.dataset.face_journal import Found
from tools.dataset.image_facts import Fact, ImageFacts, measure_facts
from tools.dataset.near_duplicates import (
    BITS,
    Signatures,
    conflicts,
    near_pairs,
    near_pairs_within,
    repeats,
    signature,
)
from tools.dataset.registration import View, registered_correlation
from tools.detect_faces import find_face
from tools.options.check_dataset import Limits

Grey = NDArray[np.uint8]


def bits(signatures: Signatures) -> NDArray[np.uint8]:
    return np.unpackbits(signatures.view(np.uint8), axis=-1)


def test_a_signature_is_the_signs_of_the_cosine_transform() -> None:
    """Against SciPy's, of the 256 lowest frequencies but the mean: by their distance from it, then by row."""
    picture = np.random.default_rng(0).uniform(0, 255, (32, 32))
    row, column = np.indices((32, 32)).reshape(2, -1)
    lowest = np.lexsort((column, row, row**2 + column**2))[1 : BITS + 1]
    assert bits(signature(picture)).tolist() == (dctn(picture).ravel()[lowest] > 0).tolist()


def test_brightness_and_contrast_do_not_count_and_an_even_picture_has_no_bits() -> None:
    picture = np.random.default_rng(1).uniform(0, 255, (32, 32))
    assert (signature(picture * 0.4 + 30) == signature(picture)).all()
    for level in (0.0, 77.3, 255.0):
        assert not bits(signature(np.full((32, 32), level))).any()


def all_pairs(signatures: Signatures, radius: int) -> list[list[int]]:
    every = bits(signatures).astype(int)
    apart = np.abs(every[:, None] - every[None]).sum(axis=2)
    found: list[list[int]] = np.argwhere(np.triu(apart <= radius, 1)).tolist()
    return found


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15)), max_size=20), st.integers(0, 3), st.integers(1, 40))
def test_pairs_of_one_label_are_those_that_comparing_all_finds(rows, radius, compared) -> None:
    labels, patterns = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    made = np.zeros((len(rows), 4), dtype=np.uint64)
    made[:, 1] = patterns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_COMPARED", compared)
        found = near_pairs_within(made, labels, radius).tolist()
    assert sorted(found) == [[a, b] for a, b in all_pairs(made, radius) if labels[a] == labels[b]]


def skewed(count: int, seed: int) -> Signatures:
    """Bits of which most are the same in most images, and some copies with up to 40 of them changed."""
    rng = np.random.default_rng(seed)
    made = rng.random((count, BITS)) < rng.beta(0.3, 0.3, BITS)
    for row in range(count // 2, count):
        made[row] = made[row // 2]
        made[row, rng.choice(BITS, rng.integers(0, 40), replace=False)] ^= True
    return np.packbits(made, axis=1).view(np.uint64)


@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize(("words", "radius"), [(4, 0), (4, 1), (4, 5), (4, 16), (2, 0), (2, 7)])
@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_the_search_finds_the_pairs_that_comparing_all_finds(
    count: int, words: int, radius: int, sorts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "_FEW", 0 if sorts else 300)
    made = np.ascontiguousarray(skewed(count, seed=radius)[:, :words])
    expected = all_pairs(made, radius)
    assert near_pairs(made, radius).tolist() == expected
    assert len(expected) > radius or count < 300  # there was something to find


def test_among_many_signatures_nearly_all_pairs_are_found_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair of the 1,000 at 32 bits is missed with a probability of 1 to 1,100: more than six of them, never."""
    monkeypatch.setattr(near_duplicates, "_FEW", 0)
    rng = np.random.default_rng(0)
    made = rng.random((2_000, BITS)) < 0.5  # unlike ones differ in 128 ± 8 bits
    made[1_000:] = made[:1_000]
    for row in made[1_000:]:
        row[rng.choice(BITS, 32, replace=False)] ^= True
    found = near_pairs(np.packbits(made, axis=1).view(np.uint64), 32).tolist()
    assert {(first, first + 1_000) for first, _ in found} == {tuple(pair) for pair in found}
    assert len(found) >= 994


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, BITS - 1), max_size=12), max_size=12), st.integers(0, 8))
def test_the_search_finds_any_pairs(chosen: list[list[int]], radius: int) -> None:
    made = np.zeros((len(chosen), BITS), dtype=np.uint8)
    for row, ones in enumerate(chosen):
        made[row, ones] = 1
    packed = np.packbits(made, axis=1).view(np.uint64).reshape(-1, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_FEW", 0)
        assert near_pairs(packed, radius).tolist() == all_pairs(packed, radius)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=14),
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8),
    st.randoms(),
)
def test_repeats_and_conflicts_are_those_of_their_definition(pictures, edges, random) -> None:
    nodes, labels = np.array(pictures, dtype=np.int64).reshape(-1, 2).T
    alike = {n: sorted({b for a, b in edges if a == n} | {a for a, b in edges if b == n}) for n in range(6)}
    rows = list(range(len(pictures)))
    random.shuffle(rows)

    def same(a: int, b: int) -> bool:
        return nodes[a] == nodes[b] or nodes[b] in alike[nodes[a]]

    gone = repeats(nodes, alike, labels, rows)
    for place, row in enumerate(rows):
        stay = [other for other in rows[:place] if other not in gone and labels[other] == labels[row]]
        assert (row in gone) == any(same(row, other) for other in stay)
        assert row not in gone or (gone[row] in stay and same(row, gone[row]))
    found = conflicts(nodes, alike, labels, rows)
    for row in rows:
        others = [other for other in rows if labels[other] != labels[row] and same(row, other)]
        assert (row in found) == bool(others)
        assert row not in found or found[row] in others


# --- real images -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(shared_data: Path) -> LabelledFaces:
    data = shared_data / "faces-mini/vggface2"
    return vgg.read_vgg(DataRoot(data / "train"), str(data / "meta/train_list.txt"), str(data / "bb_landmark"))


def signatures_of(faces: LabelledFaces) -> Signatures:
    facts = [fact for fact in measure_facts(faces) if isinstance(fact, Fact)]
    assert len(facts) == len(faces)
    return np.frombuffer(b"".join(fact.signature for fact in facts), dtype=np.uint64).reshape(-1, 4)


@pytest.fixture(scope="module")
def photographed(people: LabelledFaces) -> Signatures:
    return signatures_of(people)


# Found by looking at the pairs in the order of their distance, up to 60 bits: the same image in two files. The fifth
# pair was published with landmarks found apart.
TWICE = {
    ("n000011/0006_01.jpg", "n000011/0011_01.jpg"),
    ("n000084/0001_01.jpg", "n000084/0008_01.jpg"),
    ("n000085/0004_01.jpg", "n000085/0006_01.jpg"),
    ("n000124/0010_01.jpg", "n000124/0013_01.jpg"),
}
APART = ("n000135/0002_01.jpg", "n000135/0016_01.jpg")


def pairs_of(faces: LabelledFaces, signatures: Signatures) -> set[tuple[str, str]]:
    """The names of near-duplicates as the check finds them, without worker processes."""
    blank: Any = np.zeros(len(faces))
    facts = ImageFacts({}, blank, signatures, blank, blank, blank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "map_in_processes", lambda function, items, *_: map(function, items))
        found = near_duplicates_of(faces, facts, np.arange(len(faces)), Limits.near, 1)
    names = faces.names.to_pylist()
    return {(names[a], names[b]) for a, b in found.tolist()}


def test_of_2254_photographs_those_that_are_there_twice_are_found_and_no_others(
    people: LabelledFaces, photographed: Signatures
) -> None:
    names = people.names.to_pylist()
    for radius in (SURE, 24):
        found = {(names[a], names[b]) for a, b in near_pairs(photographed, radius).tolist()}
        assert found == TWICE
    assert pairs_of(people, photographed) == TWICE | {APART}


COPIES = {
    "quality 50": lambda image: (cv2.imdecode(cv2.imencode(".jpg", image, [1, 50])[1], 1), 1.0, 0),
    "half as large": lambda image: (cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 0.5, 0),
    "twice as large": lambda image: (cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), 2.0, 0),
    "cropped": lambda image: (image[12:-12, 12:-12], 1.0, 12),
    "darker": lambda image: ((image * 0.7 + 10).astype(np.uint8), 1.0, 0),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found(kind: str, people: LabelledFaces, photographed: Signatures, tmp_path: Path) -> None:
    """Every fortieth image, changed and written again as JPEG of quality 60, landmarks moved along."""
    rows = np.arange(0, len(people), 40)
    landmarks = people.landmarks[rows].copy()
    for place, row in enumerate(rows.tolist()):
        changed, scale, cut = COPIES[kind](cv2.imread(people.path(row)))
        landmarks[place] = (landmarks[place] - cut + 0.5) * scale - 0.5
        path = tmp_path / people.names[row].as_py()
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), changed, [cv2.IMWRITE_JPEG_QUALITY, 60])
    names = people.names.take(rows)
    copies = signatures_of(LabelledFaces(DataRoot(tmp_path), names, landmarks, people.labels[rows], people.identities))
    assert (bits(copies) != bits(photographed[rows])).sum(axis=1).max() <= SURE


RESIZED = {
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "large": lambda image: image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC),
    "crop": lambda image: image.crop((12, 5, image.width - 8, image.height - 10)),
}


@pytest.mark.parametrize("count", [4, pytest.param(14, marks=pytest.mark.thorough)])
def test_copies_at_other_sizes_are_found_by_what_the_detector_finds_in_each(
    count: int, people: LabelledFaces, tmp_path: Path
) -> None:
    """Three copies of an image each of so many people: 40 of 42 at least, 36 under other identities; and no others."""
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch isn't installed: bash init_venv.sh --with detect")
    firsts = np.unique(people.labels, return_index=True)[1]
    names, points = [], []
    for place in range(count):
        row = int(firsts[11 * place]) + place % 10
        image = Image.open(people.path(row)).convert("RGB")
        for kind, copy in {"": lambda image: image, **RESIZED}.items():
            names.append(f"{place}{kind}.jpg")
            copy(image).save(tmp_path / names[-1], quality=90)
            found = find_face(DataRoot(tmp_path), DetectorSettings(), "cpu", "center", names[-1])
            assert isinstance(found, Found)
            points.append(np.reshape(found.points, (5, 2)))
    planted = {(f"{place}.jpg", f"{place}{kind}.jpg") for place in range(count) for kind in RESIZED}
    one_identity, each_its_own = np.zeros(len(names), dtype=np.int64), np.arange(len(names))
    for labels, least in ((one_identity, 40), (each_its_own, 36)):
        faces = LabelledFaces(DataRoot(tmp_path), pa.array(names), np.array(points), labels, names)
        pairs = pairs_of(faces, signatures_of(faces))
        assert len(planted & pairs) >= int(len(planted) * least / 42)
        assert [pair for pair in pairs if len({re.sub("[^0-9]", "", name) for name in pair}) > 1] == []


def view(grey: Grey, edge: int = 0) -> View:
    shown = np.zeros(grey.shape, dtype=bool)
    shown[edge : 96 - edge, edge : 96 - edge] = True
    return View(grey * shown, shown)


def test_pictures_are_compared_once_registered_and_where_both_are_shown() -> None:
    rng = np.random.default_rng(0)
    one, other = (cv2.GaussianBlur(rng.uniform(0, 255, (120, 120)), (0, 0), 4) for _ in range(2))
    one, other = (np.clip((grey - 127) * 6 + 127, 0, 255).astype(np.uint8) for grey in (one, other))
    place = np.array([[0.95, 0.03, -9.0], [-0.03, 0.95, -12.0]])
    moved = np.asarray(cv2.warpAffine(one, place, (96, 96)), dtype=np.uint8)
    plain, unlike = one[12:108, 12:108], other[12:108, 12:108]
    assert registered_correlation(view(plain), view(moved)) > 0.98
    darker = (moved * 0.6 + 20).astype(np.uint8)
    assert registered_correlation(view(plain), view(darker, edge=14)) > 0.98
    # Frames of black, as around crops of faces, are no part of the pictures.
    assert np.corrcoef(view(plain, 20).grey.ravel(), view(unlike, 20).grey.ravel())[0, 1] > 0.5
    assert registered_correlation(view(plain, 20), view(unlike, 20)) < 0.7
    assert registered_correlation(view(plain), view(unlike)) < 0.9
    assert registered_correlation(view(plain), view(np.full((96, 96), 90, dtype=np.uint8))) == 0
    assert registered_correlation(view(plain, 40), view(plain, 40)) == 0  # too little to tell
