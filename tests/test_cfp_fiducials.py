"""CFP's fiducials: five points of drawn half faces, whose other half is known, and the files that hold them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fr.data.faces import VerificationFaces
from fr.data.pairs.cfp_fiducials import five_landmarks
from fr.data.verification_set import read_set
from fr.errors import InputError
from tests.sets import written

# A face in a frame of its own: x to the side from the middle line, y downwards. Points on the middle line have x = 0.
EYE = [(-70, -6), (-55, -15), (-40, -15), (-26, -4), (-40, 3), (-55, 3)]
FACE = [
    *[(-100 + 9 * i, -10 + 17 * i) for i in range(8)], (0, 140),  # jaw and chin
    (-85, -40), (-60, -50), (-25, -42),  # eyebrow
    *EYE,
    (0, 0), (0, 18), (0, 35), (0, 52),  # ridge of the nose
    (0, 62), (-9, 61), (-18, 57),
    (-35, 88), (0, 80), (0, 88), (0, 103), (0, 94),  # mouth
]  # fmt: skip


def placed(points: Sequence[tuple[float, float]], degrees: float, mirrored: bool = False) -> NDArray[np.float64]:
    """Points turned in the image plane, twice as large, moved; mirrored first if wished."""
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    flipped = np.array(points, dtype=float) * ([-1, 1] if mirrored else [1, 1])
    return 2 * flipped @ matrix.T + [300, 250]


@pytest.mark.parametrize("degrees", [0, 25, -40])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_other_half_of_a_frontal_face_mirrors_the_one_in_the_file(degrees: float, mirrored: bool) -> None:
    eye_x, eye_y = np.mean(EYE, axis=0)
    whole = [(eye_x, eye_y), (-eye_x, eye_y), (0, 52), (-35, 88), (35, 88)]  # whichever half is in the file
    found = five_landmarks(placed(FACE, degrees, mirrored)[None], np.array([False]))
    np.testing.assert_allclose(found[0], placed(whole, degrees), atol=1e-9)


@pytest.mark.parametrize("mirrored", [False, True])
def test_in_profile_the_hidden_points_are_on_the_outline(mirrored: bool) -> None:
    profile: list[tuple[float, float]] = list(FACE)
    profile[18:22] = [(20, -3), (28, 15), (36, 32), (45, 50)]
    profile[26:30] = [(25, 80), (24, 88), (21, 104), (22, 92)]
    (eye_x, eye_y), bridge, lips = np.mean(EYE, axis=0), (20, -3), ((25 + 24 + 21 + 22) / 4, (80 + 88 + 104 + 92) / 4)
    five = [(eye_x, eye_y), bridge, (45, 50), (-35, 88), lips]
    if mirrored:  # the first point is the eye on the left of the image
        five = [five[1], five[0], five[2], five[4], five[3]]
    found = five_landmarks(placed(profile, 10, mirrored)[None], np.array([True]))
    np.testing.assert_allclose(found[0], placed(five, 10, mirrored), atol=1e-9)


def text_of(points: NDArray[np.float64]) -> str:
    return "".join(f"{x:.5g},{y:.5g}\n" for x, y in points)


@pytest.fixture
def cfp(tmp_path: Path) -> Path:
    """Two people with a frontal and a profile image each, in two folds; the first person's half face is mirrored."""
    for number in (1, 2):
        for kind in ("frontal", "profile"):
            written(tmp_path / f"Data/Images/00{number}/{kind}/01.jpg", "")
            text = text_of(placed(FACE, 5 * number, mirrored=number == 1))
            written(tmp_path / f"Data/Fiducials/00{number}/{kind}/01.txt", text)
    for letter, kind in (("F", "frontal"), ("P", "profile")):
        rows = (f"{number} ../Data/Images/00{number}/{kind}/01.jpg\n" for number in (1, 2))
        written(tmp_path / f"Protocol/Pair_list_{letter}.txt", "".join(rows))
    for fold in ("01", "02"):
        written(tmp_path / f"Protocol/Split/FP/{fold}/same.txt", f"{int(fold)},{int(fold)}\n")
        written(tmp_path / f"Protocol/Split/FP/{fold}/diff.txt", f"{int(fold)},{3 - int(fold)}\n")
    return tmp_path


def faces_at(root: Path) -> VerificationFaces:
    return read_set(str(root)).faces


def test_the_landmarks_of_cfp_are_those_of_its_fiducials(cfp: Path) -> None:
    faces = faces_at(cfp)
    names = faces.names.to_pylist()
    assert sorted(names) == [f"Data/Images/00{n}/{kind}/01.jpg" for n in (1, 2) for kind in ("frontal", "profile")]
    for name, found in zip(names, faces.landmarks, strict=True):
        number = int(name.split("/")[2])
        points = placed(FACE, 5 * number, mirrored=number == 1)
        expected = five_landmarks(points[None], np.array(["profile" in name]))[0]
        np.testing.assert_allclose(found, expected, atol=0.02)  # the files have five digits
    assert not np.allclose(faces.landmarks[names.index("Data/Images/001/frontal/01.jpg")][1],
                           faces.landmarks[names.index("Data/Images/001/profile/01.jpg")][0])  # fmt: skip


def test_a_landmark_file_comes_before_fiducials_and_without_both_images_are_crops(cfp: Path) -> None:
    names = faces_at(cfp).names.to_pylist()
    table = written(cfp / "landmarks.txt", "".join(f"{name}\t1\t2\t9\t2\t5\t5\t2\t8\t8\t8\n" for name in names))
    assert faces_at(cfp).landmarks[:, 0].tolist() == [[1, 2]] * 4
    table.unlink()
    (cfp / "Data/Fiducials").rename(cfp / "Data/Other")
    assert faces_at(cfp).landmarks.shape == (4, 0, 2)


GOOD = text_of(placed(FACE, 0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "002/profile/01.txt: can't be read: No such file"),
        (GOOD.partition("\n")[2], "002/profile/01.txt: 29 points; CFP has 30"),
        (GOOD + "1,1\n", "002/profile/01.txt: 31 points; CFP has 30"),
        (GOOD.replace(",", " ", 1), "002/profile/01.txt:1: '"),
        (GOOD.replace(",", ",,", 1), "isn't `x,y`"),
        ("1e1e1,1\n" * 30, "002/profile/01.txt:1: '1e1e1,1' isn't `x,y`"),
        ("1e400,1\n" * 30, "002/profile/01.txt: not finite"),
        ("3,4\n" * 30, "002/profile/01.txt: all five on one spot"),
        ("1,1\n" * 30_000, "002/profile/01.txt: can't be read"),
    ],
)
def test_a_file_without_30_points_is_named(text: str | None, said: str, cfp: Path) -> None:
    path = cfp / "Data/Fiducials/002/profile/01.txt"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError) as caught:
        faces_at(cfp)
    assert said in caught.value.problems[0] and str(cfp) in caught.value.problems[0]


def test_fiducials_outside_the_folder_are_refused(cfp: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = cfp / "Data/Fiducials/001/frontal/01.txt"
    path.unlink()
    path.symlink_to(written(tmp_path_factory.mktemp("elsewhere") / "x.txt", GOOD))
    with pytest.raises(InputError, match="leads out of"):
        faces_at(cfp)
