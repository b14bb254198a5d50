"""IJB: the reader, the pooling of templates against insightface's steps one by one, and the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evaluate_lfw
from fr.data.pairs.ijb import Ijb, read_ijb
from fr.data.pairs.lfw import read_lfw
from fr.errors import InputError
from fr.evaluation.template_verification import pool, template_metrics, template_scores
from fr.files.data_root import DataRoot
from tests.conftest import SPREAD, data_options, trained_briefly, validation_options
from tests.sets import written
from tools import evaluate_ijb

POINTS = "30 40 70 41 50 60 35 80 65 81.5"


def write_ijb(
    out: Path, members: list[tuple[str, int, int]], points: list[str], pairs: list[tuple[int, int, int]]
) -> Path:
    """points: ten numbers and a score of each image; the images must be there already."""
    written(out / "meta/ijbc_face_tid_mid.txt", "".join(f"{name} {tid} {mid}\n" for name, tid, mid in members))
    rows = (f"{name} {of}\n" for (name, _, _), of in zip(members, points, strict=True))
    written(out / "meta/ijbc_name_5pts_score.txt", "".join(rows))
    written(out / "meta/ijbc_template_pair_label.txt", "".join(f"{a} {b} {same}\n" for a, b, same in pairs))
    return out


MEMBERS = [("1.jpg", 7, 1), ("2.jpg", 7, 2), ("3.jpg", 7, 2), ("4.jpg", 3, 2), ("5.jpg", 9, 5)]
PAIRS = [(7, 3, 1), (9, 3, 0), (3, 7, 1), (9, 9, 0)]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three templates; media 2 occurs in two of them."""
    (tmp_path / "ijb/loose_crop").mkdir(parents=True)
    for name, _, _ in MEMBERS:
        (tmp_path / "ijb/loose_crop" / name).touch()
    return write_ijb(tmp_path / "ijb", MEMBERS, [f"{POINTS} 0.{i}" for i in range(5, 10)], PAIRS)


def test_columns_by_hand(small: Path) -> None:
    ijb = read_ijb(DataRoot(small))
    assert ijb.name == "ijbc"
    assert ijb.faces.names.to_pylist() == [name for name, _, _ in MEMBERS]
    assert ijb.faces.landmarks[4].ravel().tolist() == [float(of) for of in POINTS.split()]
    assert ijb.template.tolist() == [1, 1, 1, 0, 2]  # 3, 7 and 9 in ascending order
    assert ijb.media.tolist() == [1, 2, 2, 2, 5]
    assert ijb.detector.tolist() == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert ijb.pairs.tolist() == [[1, 0], [2, 0], [0, 1], [2, 2]]
    assert ijb.same.tolist() == [True, False, True, False]


def test_blanks_and_an_empty_last_line_change_nothing(small: Path) -> None:
    expected = read_ijb(DataRoot(small))
    for path in sorted((small / "meta").iterdir()):
        lines = path.read_text().splitlines()
        path.write_text("\ufeff" + "".join(line.replace(" ", "\t") + " \t\r\n" for line in lines) + "\n\n")
    ijb = read_ijb(DataRoot(small))
    assert ijb.faces.names.equals(expected.faces.names)
    assert ijb.faces.landmarks.tolist() == expected.faces.landmarks.tolist()
    for name in ("template", "media", "detector", "pairs", "same"):
        assert getattr(ijb, name).tolist() == getattr(expected, name).tolist()


def test_a_score_that_rounding_made_more_than_1_is_1(small: Path) -> None:
    write_ijb(small, MEMBERS, [f"{POINTS} {score}" for score in ("1.0000001", "1", "1e-3", "1.00005", ".5")], PAIRS)
    assert read_ijb(DataRoot(small)).detector.tolist() == [1, 1, 1e-3, 1, 0.5]
    write_ijb(small, MEMBERS, [f"{POINTS} 1.001"] * 5, PAIRS)
    with pytest.raises(InputError, match=r"a score of 1\.001; it must be above 0 and at most 1"):
        read_ijb(DataRoot(small))


def step_by_step(rows: Any, template: Any, media: Any, weight: Any) -> Any:
    """The steps of insightface's eval_ijbc.py, template by template."""
    pooled = []
    for tid in sorted(set(template)):
        parts: dict[int, list[Any]] = {}
        for row, of, mid, by in zip(rows, template, media, weight, strict=True):
            if of == tid:
                parts.setdefault(mid, []).append(row.astype(np.float64) * by)
        whole = sum(np.mean(part, axis=0) for part in parts.values())
        pooled.append(whole / np.linalg.norm(whole))
    return np.array(pooled)


@pytest.mark.parametrize("weighted", [False, True])
def test_templates_are_pooled_as_step_by_step(weighted: bool) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(500, 70)).astype(np.float32)
    template = np.concatenate([np.arange(40), generator.integers(40, size=460)])
    media, weight = generator.integers(30, size=500), generator.uniform(0.1, 1, size=500)
    got = pool(rows, template, media, weight if weighted else None)
    expected = step_by_step(rows, template, media, weight if weighted else np.ones(500))
    np.testing.assert_allclose(got, expected, atol=1e-7)  # the rounding to float32 of numbers below 1
    pairs = generator.integers(40, size=(5000, 2), dtype=np.int32)
    cosines = [expected[a] @ expected[b] for a, b in pairs]
    np.testing.assert_allclose(template_scores(got, pairs), cosines, atol=1e-6)


def test_figures_by_hand() -> None:
    """Ten different pairs allow one false match at a FAR of 0.1, and none at 0.01."""
    scores = np.array([0.9, 0.6, 0.3, *[0.7, 0.5, *[0.1] * 8]])
    figures = template_metrics(scores, np.arange(13) < 3)
    assert figures["tar@far=1e-01"] == pytest.approx(2 / 3)
    assert figures["tar@far=1e-02"] is None
    assert figures["auc"] == pytest.approx((10 + 9 + 8) / 30)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snap(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_briefly(data_options(sample_data), tmp_path_factory.mktemp("trained"), SPREAD)


@pytest.fixture(scope="module")
def lfw_as_ijb(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each image of LFW's pairs is a template, and has a score of its own."""
    data, out = sample_data / "lfw", tmp_path_factory.mktemp("ijb")
    faces = read_lfw(DataRoot(Path(f"{data}/lfw")), f"{data}/pairs.txt", f"{data}/lfw_landmark.txt")
    (out / "loose_crop").symlink_to(data / "lfw")
    members = [(name, 100 + 2 * i, i % 3) for i, name in enumerate(faces.names.to_pylist())]
    points = [f"{' '.join(map(str, of.ravel()))} {1 / (2 + i % 7)}" for i, of in enumerate(faces.landmarks)]
    rows = zip(faces.pairs.tolist(), faces.same.tolist(), strict=True)
    return write_ijb(out, members, points, [(100 + 2 * a, 100 + 2 * b, int(same)) for (a, b), same in rows])


def figures(path: Path, *options: str) -> dict[str, float]:
    evaluate_ijb.main([*options, "--json", str(path)])
    found: dict[str, float] = json.loads(path.read_text())
    return found


def test_templates_of_one_picture_have_the_metrics_of_pairs_of_pictures(
    snap: Path, lfw_as_ijb: Path, sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the detector's score, since a template has length 1 in the end."""
    path = tmp_path / "f.json"
    for flip in ("--flipped_emb", "true"), ("--flipped_emb", "false"):
        evaluate_lfw.main(["--snap", str(snap), *validation_options(sample_data), "--json", str(path), *flip])
        expected = json.loads(path.read_text())
        got = figures(path, str(lfw_as_ijb), "--snap", str(snap), *flip)
        # Float32 templates: a cosine that moves by 1e-7 turns no pair of these few, unless two scores tie.
        assert got == {name: expected[name] and pytest.approx(expected[name], abs=1e-3) for name in got}
    assert "ijbc: 40 pairs (20 same) of " in capsys.readouterr().out


def test_options_of_the_command_have_their_effects_or_are_refused(
    snap: Path, lfw_as_ijb: Path, tmp_path: Path
) -> None:
    meta = lfw_as_ijb / "meta/ijbc_face_tid_mid.txt"
    rows = [line.split(" ") for line in meta.read_text().splitlines()]
    points = [line.split(" ", 1)[1] for line in (lfw_as_ijb / "meta/ijbc_name_5pts_score.txt").read_text().splitlines()]
    (tmp_path / "ijb").mkdir()
    (tmp_path / "ijb/loose_crop").symlink_to(lfw_as_ijb / "loose_crop")
    members = [(name, index // 3, int(mid)) for index, (name, _, mid) in enumerate(rows)]
    templates = len(rows) // 3
    pairs = [(a, b, (a + b) % 2) for a in range(templates) for b in range(a)]
    grouped = write_ijb(tmp_path / "ijb", members, points, pairs)
    base = [str(grouped), "--snap", str(snap)]
    plain = figures(tmp_path / "f.json", *base)
    assert plain["auc"] != figures(tmp_path / "f.json", *base, "--no_detector_score")["auc"]
    assert plain["auc"] != figures(tmp_path / "f.json", *base, "--flipped_emb")["auc"]
    with pytest.raises(InputError) as refusal:
        evaluate_ijb.main([*base, "--center", "--val_sets", "x"])
    assert {*refusal.value.problems} == {"command line: --center: not for IJB", "command line: --val_sets: not for IJB"}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("face_tid_mid", "2.jpg 7 2", "2.jpg 7", ":2: '2.jpg 7' isn't 3 words with blanks between"),
        ("face_tid_mid", "2.jpg 7 2", "2.jpg x 2", ":2: '2.jpg x 2' isn't 3 words with blanks between"),
        ("face_tid_mid", "2.jpg 7 2", "9.jpg 7 2", "_name_5pts_score.txt:2: 2.jpg, where "),
        ("face_tid_mid", "5.jpg 9 5\n", "", "_name_5pts_score.txt: 5 images, where "),
        ("name_5pts_score", "0.5\n", "1.5\n", ":1: a score of 1.5; it must be above 0 and at most 1"),
        ("name_5pts_score", "0.5\n", "nan\n", ":1: a score of nan; "),
        ("name_5pts_score", "30 40", "nan 40", ":1: not finite, or a million pixels away"),
        ("template_pair_label", "9 3 0", "9 3 2", ":2: 2 where 0 or 1 is due"),
        ("template_pair_label", "9 3 0", "9 4 0", ":2: 9 or 4 is no template of "),
        ("template_pair_label", " 0\n", " 1\n", ": 4 same pairs of 4; a verification needs both kinds"),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_line(
    file: str, old: str, new: str, expected: str, small: Path
) -> None:
    path = small / f"meta/ijbc_{file}.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError) as refusal:
        read_ijb(DataRoot(small))
    assert expected in refusal.value.problems[0] and str(small) in refusal.value.problems[0]


def test_missing_pictures_and_folders_are_named(small: Path) -> None:
    for name in ("2.jpg", "4.jpg"):
        (small / "loose_crop" / name).unlink()
    with pytest.raises(InputError) as refusal:
        read_ijb(DataRoot(small))
    meta, crops = small / "meta/ijbc_face_tid_mid.txt", small / "loose_crop"
    assert refusal.value.problems == tuple(f"{meta}:{i}: {crops}/{i}.jpg: no such file" for i in (2, 4))
    with pytest.raises(InputError, match=r"meta: 0 files \*_template_pair_label\.txt; a folder holds one set"):
        read_ijb(DataRoot(crops))


PIECES = st.sampled_from([b" ", b"\n", b"\t", b"\r", b"\0", b"-1", b"nan", b"1e9", b"9" * 25, b'"', b"\xff", b"../x"])
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(PIECES, st.binary(max_size=5))), min_size=1, max_size=3
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EDITS, st.sampled_from(["face_tid_mid", "name_5pts_score", "template_pair_label"]))
def test_any_content_is_read_or_refused(small: Path, edits: list[tuple[float, int, bytes]], file: str) -> None:
    write_ijb(small, MEMBERS, [f"{POINTS} 0.{i}" for i in range(5, 10)], PAIRS)
    path = small / f"meta/ijbc_{file}.txt"
    content = path.read_bytes()
    for where, gone, new in edits:
        place = int(where * len(content))
        content = content[:place] + new + content[place + gone :]
    path.write_bytes(content)
    try:
        ijb: Ijb = read_ijb(DataRoot(small))
    except InputError as error:
        assert 1 <= len(error.problems) <= 11 and str(small) in error.problems[0]
        return
    templates = pool(np.ones((len(ijb.faces), 3), dtype=np.float32), ijb.template, ijb.media, ijb.detector)
    assert np.isfinite(template_scores(templates, ijb.pairs)).all()
