"""TinyFace: its lists and folders, rank-k and average precision rank by rank as in its own script, and the command."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from fr.data.pairs.lfw import read_lfw
from fr.data.pairs.tinyface import read_tinyface
from fr.errors import InputError
from fr.evaluation import all_pairs
from fr.files.data_root import DataRoot
from fr.recognition.gallery import normalised_rows
from fr.recognition.retrieval import retrieval_metrics, retrieve
from tests.builders.scored_models import models  # noqa: F401  # a fixture
from tests.sets import written
from tools import evaluate_tinyface


def cells(names: list[Any]) -> Any:
    column = np.empty((len(names), 1), dtype=object)
    column[:, 0] = names
    return column


def write_list(path: Path, variable: str, names: list[Any], ids: list[int]) -> None:
    column = np.array([ids], dtype=np.uint16).T
    savemat(path, {f"{variable}_set": cells(names), f"{variable}_ids": column}, do_compression=True)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    out = tmp_path / "Testing_Set"
    files = {"Probe": ["7_1.jpg", "3_1.jpg"], "Gallery_Match": ["3_2.jpg", "7_2.jpg", "7_3.jpg"]}
    for part, names in (*files.items(), ("Gallery_Distractor", ["b.jpg", "a.jpg", "notes.txt"])):
        for name in names:
            written(out / part / name, "")
    write_list(out / "probe_img_ID_pairs.mat", "probe", files["Probe"], [7, 3])
    write_list(out / "gallery_match_img_ID_pairs.mat", "gallery", files["Gallery_Match"], [3, 7, 7])
    return tmp_path


NAMES = [
    *("Probe/7_1", "Probe/3_1", "Gallery_Match/3_2", "Gallery_Match/7_2", "Gallery_Match/7_3"),
    *("Gallery_Distractor/a", "Gallery_Distractor/b"),
]


def test_images_and_identities_are_those_of_the_lists(tiny: Path, tmp_path: Path) -> None:
    for folder in (tiny, tiny / "Testing_Set"):
        found = read_tinyface(DataRoot(folder))
        assert found.faces.names.to_pylist() == [f"{name}.jpg" for name in NAMES]
        assert found.identity.tolist() == [7, 3, 3, 7, 7, -1, -1] and found.probes == 2
    for name in NAMES:
        written(tmp_path / f"aligned/{name}.png", "")
    found = read_tinyface(DataRoot(tiny), tmp_path / "aligned")
    assert found.faces.path(0) == f"{tmp_path}/aligned/Probe/7_1.png" and found.identity.tolist()[:2] == [7, 3]


@pytest.mark.parametrize(
    ("names", "ids", "said"),
    [
        (["7_1.jpg", "9_9.jpg"], [7, 3], "Probe/9_9.jpg: no such file"),
        (["7_1.jpg", "3_1.jpg"], [7, 4], "the gallery has no image of identity 4, which a probe shows"),
        (["7_1.jpg", "../3_1.jpg"], [7, 3], "probe_img_ID_pairs.mat: image 2 isn't a name and an identity"),
        (["7_1.jpg", 5], [7, 3], "probe_img_ID_pairs.mat: image 2 isn't a name and an identity"),
        (["7_1.jpg"], [7, 3], "probe_img_ID_pairs.mat: no N cells probe_set and N numbers probe_ids"),
    ],
)
def test_what_is_wrong_in_a_list_is_named(names: list[Any], ids: list[int], said: str, tiny: Path) -> None:
    write_list(tiny / "Testing_Set/probe_img_ID_pairs.mat", "probe", names, ids)
    with pytest.raises(InputError) as caught:
        read_tinyface(DataRoot(tiny))
    assert said in caught.value.problems[0] and str(tiny) in caught.value.problems[0]


def test_folders_that_are_missing_are_named(tiny: Path) -> None:
    shutil.rmtree(tiny / "Testing_Set/Gallery_Distractor")
    with pytest.raises(InputError, match="Gallery_Distractor: can't be read: No such file"):
        read_tinyface(DataRoot(tiny))
    with pytest.raises(InputError, match=r"probe_img_ID_pairs\.mat: can't be read: No such file"):
        read_tinyface(DataRoot(tiny / "Testing_Set/Probe"))


def rank_by_rank(scores: list[float], own: list[bool]) -> tuple[int, float]:
    """First rank of an own image, and TinyFace's compute_AP, which walks down the ranks; ties against the own ones."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], own[place]))
    first, area, old_recall, old_precision, hits = 0, 0.0, 0.0, 1.0, 0
    for place, row in enumerate(order):
        hits += own[row]
        if own[row] and not first:
            first = place + 1
        recall, precision = hits / sum(own), hits / (place + 1)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return first, area


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_precisions_are_those_found_rank_by_rank(seed: int) -> None:
    draw = np.random.default_rng(seed)
    # Rows of few quarters: their products are exact in float32, and many are equal.
    gallery = draw.integers(-2, 3, (40, 3)).astype(np.float32) / np.float32(4)
    probes = draw.integers(-2, 3, (25, 3)).astype(np.float32) / np.float32(4)
    people = np.where(np.arange(40) < 15, np.arange(40) % 6, -1)
    person = draw.integers(0, 6, 25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_pairs, "_SCORES", 130)  # several blocks
        rank, precision = retrieve(probes, person, gallery, people)
    expected = [
        rank_by_rank((gallery @ probe).tolist(), (people == own).tolist())
        for probe, own in zip(probes, person, strict=True)
    ]
    assert rank.tolist() == [first for first, _ in expected]
    np.testing.assert_allclose(precision, [area for _, area in expected], rtol=1e-12)
    figures = retrieval_metrics(rank, precision, (1, 5))
    assert figures["rank5"] == np.mean([first <= 5 for first, _ in expected])
    assert figures["map"] == pytest.approx(np.mean([area for _, area in expected]))


def test_a_network_that_finds_all_images_equal_finds_nobody() -> None:
    rows = normalised_rows(np.ones((5, 2), dtype=np.float32))
    rank, _ = retrieve(rows[:1], np.array([1]), rows, np.array([-1, 1, -1, 1, -1]))
    assert rank.tolist() == [4]


def test_the_command_prints_and_writes_its_metrics(
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = sample_data / "lfw"
    faces = read_lfw(DataRoot(Path(f"{data}/lfw")), f"{data}/pairs.txt", f"{data}/lfw_landmark.txt")
    parts: dict[str, list[tuple[str, int]]] = {"Probe": [], "Gallery_Match": [], "Gallery_Distractor": []}
    people: list[str] = []
    for row, name in enumerate(faces.names.to_pylist()):
        person = name.split("/")[0]
        part = "Probe" if person in people else "Gallery_Match"
        people += [person] * (person not in people)
        copy = tmp_path / part / f"{row}.jpg"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(faces.path(row), copy)
        parts[part].append((copy.name, people.index(person)))
    (tmp_path / "Gallery_Distractor").mkdir()
    shutil.copy(faces.path(0), tmp_path / "Gallery_Distractor/x.jpg")
    for part, file, variable in (("Probe", "probe", "probe"), ("Gallery_Match", "gallery_match", "gallery")):
        names, ids = ([row[place] for row in parts[part]] for place in (0, 1))
        write_list(tmp_path / f"{file}_img_ID_pairs.mat", variable, names, [int(one) for one in ids])
    out = tmp_path / "f.json"
    options = ["--snap", models[0], "--device", "cpu", "--json", str(out)]
    assert evaluate_tinyface.main([str(tmp_path), *options]) == 0
    figures, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert list(figures) == ["rank1", "rank5", "rank10", "rank20", "rank50", "map"]
    assert 0 <= figures["rank1"] <= figures["rank5"] <= figures["rank50"] <= 1 and 0 < figures["map"] < 1
    gallery = len(people) + 1
    assert f"TinyFace: {len(parts['Probe'])} probes, gallery of {gallery} images, 1 of them distractors" in printed
    assert f"MAP: {figures['map']:.4f}\n" in printed
    with pytest.raises(InputError, match="--center: not for TinyFace"):
        evaluate_tinyface.main([str(tmp_path), *options, "--center"])
