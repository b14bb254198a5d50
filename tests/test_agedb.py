"""AgeDB's protocol in a MAT file, with photographs and 68 landmarks each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from fr.data.verification_set import read_set
from fr.errors import InputError

PAIRS = [  # of two splits: two names and a kind each
    [("Ann_1_20_f", "Ann_2_50_f", 1), ("Ann_1_20_f", "Bo_1_60_m", -1)],
    [("Bo_1_60_m", "Bo_2_30_m", 1), ("Bo_2_30_m", "Ann_2_50_f", -1), ("Cy_1_9_f", "Cy_2_39_f", 1)],
]
NAMES = ["Ann_1_20_f", "Ann_2_50_f", "Bo_1_60_m", "Bo_2_30_m", "Cy_1_9_f", "Cy_2_39_f"]  # by first appearance


def cells(shape: tuple[int, int]) -> Any:
    return np.empty(shape, dtype=object)


def write_protocol(path: Path, splits: Any = PAIRS) -> Path:
    """The nesting that insightface's package reads: a cell of structures of cells of structures."""
    whole = cells((len(splits), 1))
    for place, pairs in enumerate(splits):
        images = cells((2, len(pairs)))
        for column, pair in enumerate(pairs):
            for row in (0, 1):
                images[row, column] = {"image": pair[row], "age": float(str(pair[row]).split("_")[2])}
        whole[place, 0] = {"pairs": images, "kinds": np.array([[float(pair[2]) for pair in pairs]])}
    savemat(path, {"splits": whole})
    return path


def points_of(number: int) -> Any:
    """Points of an image; every one another."""
    return np.random.default_rng(number).uniform(0, 200, (68, 2))


@pytest.fixture
def agedb(tmp_path: Path) -> Path:
    (tmp_path / "03_Protocol_Images").mkdir()
    for number, name in enumerate(NAMES):
        image = tmp_path / f"03_Protocol_Images/{name}.jpg"
        image.touch()
        rows = "".join(f"{x:.6f} {y:.6f}\n" for x, y in points_of(number))
        image.with_suffix(".pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}}}\n")
    write_protocol(tmp_path / "04_FINAL_protocol_30_years.mat")
    return tmp_path


def test_pairs_folds_and_landmarks_are_those_of_the_files(agedb: Path) -> None:
    read = read_set(str(agedb))
    faces = read.faces
    assert read.name == "agedb_30"
    assert faces.names.to_pylist() == [f"{name}.jpg" for name in NAMES]
    pairs = [[NAMES[row] for row in pair] for pair in faces.pairs.tolist()]
    assert pairs == [list(pair[:2]) for split in PAIRS for pair in split]
    assert faces.same.tolist() == [True, False, True, False, True]
    assert faces.fold.tolist() == [0, 0, 1, 1, 1]
    for number, found in enumerate(faces.landmarks):
        mark = points_of(number)
        # iBUG's 68 points, from 1: 37 and 40 the corners of one eye, 43 and 46 of the other; 31 the tip of the nose;
        # 49 and 55 the corners of the mouth.
        expected = [(mark[36] + mark[39]) / 2, (mark[42] + mark[45]) / 2, mark[30], mark[48], mark[54]]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_other_protocols_and_crops_are_read_too(agedb: Path) -> None:
    path = write_protocol(agedb / "04_FINAL_protocol_5_years.mat", PAIRS[::-1])
    read = read_set(f"agedb={path}")
    assert read.name == "agedb_5" and read.faces.same.tolist() == [True, False, True, True, False]
    for points in (agedb / "03_Protocol_Images").glob("*.pts"):
        points.unlink()
    assert read_set(str(agedb)).faces.landmarks.shape == (6, 0, 2)
    with pytest.raises(InputError, match="not lfw, but AgeDB's protocol"):
        read_set(f"lfw={path}")


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ([], "no pairs"),
        ([[("Ann_1_20_f", "Ann_2_50_f", 2)]], "split 1: pair 1 isn't two names and 1 or -1"),
        ([PAIRS[0], [("Ann_1_20_f", "_2_50", float("nan"))]], "split 2: pair 1 isn't"),
        ([[("../x_1_2", "Bo_1_60_m", 1), ("Ann_1_20_f", "Bo_1_60_m", -1)]], "a path must start from "),
        ([[("Dee_1_2_f", "Bo_1_60_m", 1), ("Ann_1_20_f", "Bo_1_60_m", -1)]], "split 1: pair 1: "),
    ],
)
def test_what_is_wrong_in_a_protocol_is_named(splits: Any, said: str, agedb: Path) -> None:
    for points in (agedb / "03_Protocol_Images").glob("*.pts"):
        points.unlink()
    write_protocol(agedb / "04_FINAL_protocol_30_years.mat", splits)
    with pytest.raises(InputError) as caught:
        read_set(str(agedb))
    assert said in caught.value.problems[0] and str(agedb) in caught.value.problems[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"splits": np.zeros((10, 1))}, "splits isn't a cell array"),
        ({"splits": {"a": 1}}, "splits isn't a cell array"),
        ({"other": 1}, "no variable splits"),
        ({"splits": np.array([["a"], [1]], dtype=object)}, "split 1: no structure with 2 x N cells"),
        ({"splits": np.array([[{"a": np.array([["x"], ["y"]], dtype=object), "b": 1.0}]])}, "split 1: pair 1 isn't"),
        ({"splits": np.array([[{"a": np.array([["x", "y"]], dtype=object), "b": 1.0}]])}, "split 1: no structure"),
    ],
)
def test_another_mat_file_is_refused(content: Any, said: str, agedb: Path) -> None:
    path = agedb / "04_FINAL_protocol_30_years.mat"
    savemat(path, content)
    with pytest.raises(InputError) as caught:
        read_set(str(path))
    assert f"{path}: {said}" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("}", "1 2\n}", "Bo_1_60_m.pts: 69 points between braces; AgeDB has 68"),
        ("{\n", "{\nx y\n", "Bo_1_60_m.pts:4: 'x y' isn't `x y`"),
        ("{", "", "Bo_1_60_m.pts: 0 points between braces"),
    ],
)
def test_points_that_are_not_68_are_named(old: str, new: str, said: str, agedb: Path) -> None:
    path = agedb / "03_Protocol_Images/Bo_1_60_m.pts"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError) as caught:
        read_set(str(agedb))
    assert said in caught.value.problems[0]
    path.unlink()
    with pytest.raises(InputError, match="can't be read: No such file"):
        read_set(str(agedb))
