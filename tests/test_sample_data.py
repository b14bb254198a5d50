"""The drawn sample data: layouts, determinism, landmarks, hardness, and what the tool refuses."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fr.errors import InputError
from tools import make_sample_data as tool
from tools.make_sample_data import LFW, TRAIN, Options, main, make_sample_data, person_of, plan_pictures
from tools.sample.faces import HEAD_SCALE, SUPERSAMPLING, draw_face
from tools.sample.people import draw_shot

TINY = Options(identities=3, images_per_identity=4, lfw_identities=20, pairs_per_fold=2, size=96)
TINY_FLAGS = [f"--{name}={value}" for name, value in vars(TINY).items()]
# SphereFace's points over the edge of the crop; x, then y.
TEMPLATE = np.transpose([
    [0.315569, 0.682623, 0.500262, 0.349472, 0.653436],
    [0.461574, 0.459834, 0.640505, 0.824692, 0.823251],
])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "tiny"
    assert make_sample_data(out, TINY, workers=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def lfw_landmarks(out: Path) -> dict[str, np.ndarray]:
    lines = [line.split("\t") for line in (out / "lfw/lfw_landmark.txt").read_text().splitlines()]
    return {name: np.array(numbers, float).reshape(5, 2) for name, *numbers in lines}


def pair_folds(out: Path) -> tuple[list[list[tuple[str, str]]], list[list[tuple[str, str]]]]:
    """Same and different pairs by fold, as image paths."""
    header, *lines = (out / "lfw/pairs.txt").read_text().splitlines()
    folds, n = map(int, header.split("\t"))
    assert folds == 10 and len(lines) == folds * 2 * n
    same, different = [], []
    for i in range(0, len(lines), 2 * n):
        fold = [line.split("\t") for line in lines[i : i + 2 * n]]
        assert [len(row) for row in fold] == [3] * n + [4] * n
        same.append([(image(a, i), image(a, j)) for a, i, j in fold[:n]])
        different.append([(image(a, i), image(b, j)) for a, i, b, j in fold[n:]])
    return same, different


def image(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}.jpg"


def test_same_seed_gives_same_bytes_whatever_the_workers(tiny, tmp_path):
    make_sample_data(tmp_path / "again", TINY, workers=2)
    assert contents(tmp_path / "again") == contents(tiny)


def test_another_seed_gives_other_pictures(tiny, tmp_path):
    make_sample_data(tmp_path / "other", replace(TINY, seed=1), workers=1)
    ours, theirs = contents(tiny), contents(tmp_path / "other")
    pictures = [name for name in ours if name.endswith(".jpg")]
    assert pictures and all(ours[name] != theirs[name] for name in pictures)


def test_counts_do_not_change_the_pictures_they_share(tiny, tmp_path):
    fewer = replace(TINY, identities=2, images_per_identity=2)
    make_sample_data(tmp_path / "fewer", fewer, workers=1)
    ours, theirs = contents(tiny), contents(tmp_path / "fewer")
    pictures = [name for name in theirs if name.endswith(".jpg")]
    assert all(ours[name] == theirs[name] for name in pictures)


def test_training_part_has_vggface2_layout(tiny):
    base = tiny / "vggface2"
    listed = (base / "meta/train_list.txt").read_text().split()
    assert listed == sorted(p.relative_to(base / "train").as_posix() for p in base.glob("train/*/*.jpg"))
    assert len(listed) == TINY.identities * TINY.images_per_identity
    landmark_header, *landmarks = rows(base / "bb_landmark/loose_landmark_train.csv")
    box_header, *boxes = rows(base / "bb_landmark/loose_bb_train.csv")
    assert landmark_header == ["NAME_ID", "P1X", "P1Y", "P2X", "P2Y", "P3X", "P3Y", "P4X", "P4Y", "P5X", "P5Y"]
    assert box_header == ["NAME_ID", "X", "Y", "W", "H"]
    assert [f"{row[0]}.jpg" for row in landmarks] == [f"{row[0]}.jpg" for row in boxes] == listed
    for name, (_, *numbers), (_, *box) in zip(listed, landmarks, boxes, strict=True):
        points, (x, y, w, h) = np.array(numbers, float).reshape(5, 2), map(int, box)
        assert np.asarray(cv2.imread(str(base / "train" / name))).shape == (TINY.size, TINY.size, 3)
        assert (points >= 0).all() and (points < TINY.size).all()
        assert x >= 0 and x + w <= TINY.size and y >= 0 and y + h <= TINY.size
        assert (points.mean(0) > (x, y)).all() and (points.mean(0) < (x + w, y + h)).all()
    header, *people = (base / "meta/identity_meta.csv").read_text().splitlines()
    assert header == "Class_ID, Name, Sample_Num, Flag, Gender"
    assert [line.split(", ")[0] for line in people] == sorted({name.split("/")[0] for name in listed})
    assert all(line.split(", ")[2:4] == [str(TINY.images_per_identity), "1"] for line in people)


def test_verification_part_has_lfw_layout_and_folds_share_no_one(tiny):
    landmarks = lfw_landmarks(tiny)
    assert sorted(landmarks) == sorted(p.relative_to(tiny / "lfw/lfw").as_posix() for p in tiny.glob("lfw/lfw/*/*.jpg"))
    assert all((p >= 0).all() and (p < TINY.size).all() for p in landmarks.values())
    same, different = pair_folds(tiny)
    pairs = [pair for part in (same, different) for fold in part for pair in fold]
    assert all(a in landmarks and b in landmarks and a != b for a, b in pairs)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(Path(a).parent != Path(b).parent for fold in different for a, b in fold)
    folds = [{Path(name).parent for pair in s + d for name in pair} for s, d in zip(same, different, strict=True)]
    assert sum(map(len, folds)) == len(set().union(*folds))
    trained = {row.split('"')[1] for row in (tiny / "vggface2/meta/identity_meta.csv").read_text().splitlines()[1:]}
    assert trained.isdisjoint(p.name for p in (tiny / "lfw/lfw").iterdir())


@pytest.mark.parametrize("identity", range(12))
def test_landmarks_sit_where_the_features_are_drawn(identity):
    """Irises and lips painted in colours nothing else has are found again in the image."""
    green, blue, grey, size = np.array([0.0, 255.0, 0.0]), np.array([255.0, 0.0, 0.0]), np.full(3, 120.0), 320
    person = person_of(Options(), TRAIN, identity)
    traits = {**person.traits, "upper_lip": 0.04, "lower_lip": 0.05}
    plain = replace(person, skin=grey, hair=grey, beard="none", glasses=0.0, marks=np.empty((0, 4)))
    painted = replace(plain, traits=traits, iris=green, lips=blue)
    pose = draw_shot(np.random.default_rng(identity))
    # a face turned further hides a part of its far eye behind its nose
    yaw = float(np.clip(pose.yaw, -0.35, 0.35))
    pose = replace(pose, yaw=yaw, cover="", gaze=0.0, lids=1.0, mouth_open=0.0)
    background = np.full((size * SUPERSAMPLING, size * SUPERSAMPLING, 3), 120, np.uint8)
    picture, landmarks, _ = draw_face(painted, pose, background, grey)
    b, g, r = (picture[..., i].astype(int) for i in range(3))
    upright = rotation(-pose.roll)
    eyes, corners = landmarks[:2] @ upright.T, landmarks[3:] @ upright.T
    irises = np.argwhere((g > 150) & (b < 100) & (r < 100))[:, ::-1] @ upright.T
    middle = eyes[:, 0].mean()
    for eye, side in zip(eyes, (irises[:, 0] < middle, irises[:, 0] > middle), strict=True):
        # lids cut an iris above and below, by unequal parts: only its width is centred. 2 of 320 pixels: a slanted
        # eye, and the face's curvature, shift it by up to one; a pixel is another
        assert abs((irises[side, 0].min() + irises[side, 0].max()) / 2 - eye[0]) < 2
        assert abs(irises[side, 1].mean() - eye[1]) < 0.04 * size * pose.zoom * HEAD_SCALE + 2
    lips = np.argwhere((b > 90) & (g < 60) & (r < 60))[:, ::-1] @ upright.T
    # the last pixels of a corner are thinner than the line between the lips
    assert abs(lips[:, 0].min() - corners[0, 0]) < 5 and abs(lips[:, 0].max() - corners[1, 0]) < 5


def rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def aligned(path: Path, points: np.ndarray, edge: int = 64) -> np.ndarray:
    """A crop (edge, edge, 3) by the least-squares similarity from the landmarks to the template."""
    source = (points - points.mean(0)) @ (1, 1j)
    goal = TEMPLATE * edge - 0.5
    factor = np.vdot(source, (goal - goal.mean(0)) @ (1, 1j)) / np.vdot(source, source).real
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    matrix = np.column_stack([turn, goal.mean(0) - turn @ points.mean(0)])
    return cv2.warpAffine(np.asarray(cv2.imread(str(path))), matrix, (edge, edge))


def test_pixels_alone_do_not_tell_people_apart(tmp_path):
    """400 pairs: the standard error of an AUC of 0.65 is 0.027, so 0.80 is far off."""
    make_sample_data(tmp_path / "data", Options(identities=1, images_per_identity=1, pairs_per_fold=20), workers=2)
    landmarks = lfw_landmarks(tmp_path / "data")
    crops = {name: aligned(tmp_path / "data/lfw/lfw" / name, points) for name, points in landmarks.items()}
    same, different = (list(chain.from_iterable(part)) for part in pair_folds(tmp_path / "data"))
    greys = {name: crop.mean(2) - crop.mean() for name, crop in crops.items()}
    for vectors in (greys, crops):
        unit = {name: v.ravel() / np.linalg.norm(v.astype(float)) for name, v in vectors.items()}
        cosines = [unit[a] @ unit[b] for a, b in same + different]
        assert 0.5 < roc_auc_score([1] * len(same) + [0] * len(different), cosines) < 0.8


def test_complete_folder_is_left_alone(tiny, capsys):
    before = {p: p.stat().st_mtime_ns for p in tiny.rglob("*")}
    assert main([str(tiny), *TINY_FLAGS]) == 0
    assert "already complete" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in tiny.rglob("*")} == before


def test_other_arguments_are_refused_unless_forced(tmp_path, capsys):
    out = tmp_path / "data"
    small = [str(out), *TINY_FLAGS, "--identities=1", "--workers=1"]
    assert main(small) == 0
    assert main([*small, "--seed=3"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("--force replaces it")
    assert json.loads((out / "sample_data.json").read_text())["seed"] == 0
    assert main([*small, "--seed=3", "--force"]) == 0
    assert json.loads((out / "sample_data.json").read_text())["seed"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_force_does_not_replace_what_is_not_sample_data(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("keep")
    assert main([str(tmp_path), "--force"]) == 2
    assert "not sample data" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text() == "keep"


@pytest.mark.parametrize(
    "flag", ["--identities=0", "--lfw_identities=19", "--pairs_per_fold=0", "--size=8", "--seed=-1", "--workers=-1"]
)
def test_bad_values_are_one_plain_line(tmp_path, capsys, flag):
    assert main([str(tmp_path / "data"), flag]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and flag.split("=")[0] in error
    assert not list(tmp_path.iterdir())


def test_all_options_out_of_range_are_named_together():
    with pytest.raises(InputError, match=r"--size 8 .*--seed -1"):
        replace(TINY, size=8, seed=-1).check()


def test_failing_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "plan_pairs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_sample_data(tmp_path / "deep" / "data", replace(TINY, identities=1), workers=1)
    assert not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_killed_run_leaves_nothing(tmp_path, number):
    command = [sys.executable, tool.__file__, str(tmp_path / "data"), "--workers=2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=os.sep) as run:
        while not list(tmp_path.glob(".data.*/new/vggface2/train/*")) and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(number)
        assert run.wait(30) != 0
    assert not list(tmp_path.iterdir())


def test_lfw_people_have_images_enough_for_the_pairs():
    for options in (Options(), replace(TINY, pairs_per_fold=40)):
        people, images = options.lfw_identities // 10, options.lfw_images()
        assert people * images * (images - 1) // 2 >= options.pairs_per_fold
        assert len([p for p in plan_pictures(options) if p.split == LFW]) == options.lfw_identities * images
