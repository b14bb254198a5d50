"""tools/detect_faces.py on real images: its tables, several faces and none, damage, kills and settings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fr.data.faces import LabelledFaces
from fr.data.landmark_csv import qualities_of
from fr.data.readers.vgg import read_vgg
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.options.detection import DetectorSettings
from tests.conftest import ROOT, kill_when, vgg_faces
from tools.dataset.face_journal import Found
from tools.dataset.face_names import key_of, refuse_ambiguous
from tools.detect_faces import JOURNAL, _names, find_face, main

PEOPLE = 12
PATIENCE = 120  # seconds until a run is taken for one that hangs
TABLES = ("train_list.txt", "loose_bb_train.csv", "loose_landmark_train.csv", "no_face.txt", "unreadable.txt")


@pytest.fixture(scope="module")
def given(shared_data: Path) -> LabelledFaces:
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch isn't installed: bash init_venv.sh --with detect")
    return vgg_faces(shared_data / "faces-mini")


@pytest.fixture(scope="module")
def photographs(given: LabelledFaces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve people's, and beside them: two faces, none, one on its side, a damaged and an empty file."""
    root = tmp_path_factory.mktemp("photographs")
    rows = np.unique(given.labels, return_index=True)[1][: 12 * PEOPLE : PEOPLE].tolist()
    for row in rows:
        target = root / given.names[row].as_py()
        target.parent.mkdir()
        shutil.copyfile(given.path(row), target)
    first, second = (Image.open(given.path(row)).convert("RGB") for row in rows[:2])
    both = Image.new("RGB", (600, 600))
    both.paste(first, (0, 0))
    both.paste(second.resize((150, 150)), (220, 220))
    odd = root / "odd"
    odd.mkdir()
    both.save(odd / "both.png")
    Image.new("RGB", (100, 100), (90, 120, 60)).save(odd / "meadow.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    first.transpose(Image.Transpose.ROTATE_90).save(odd / "side.jpg", quality=95, exif=exif)
    (odd / 'cut "off".jpg').write_bytes(Path(given.path(rows[2])).read_bytes()[:5000])
    (odd / "empty.jpg").touch()
    return root


@pytest.fixture(scope="module")
def out(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    assert main([str(photographs), str(folder), "--workers", "2"]) == 0
    return folder


def found_in(out: Path, photographs: Path) -> LabelledFaces:
    return read_vgg(DataRoot(photographs), str(out / "train_list.txt"), str(out))


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


def test_landmarks_are_within_two_and_a_half_pixels_of_the_given(
    out: Path, photographs: Path, given: LabelledFaces
) -> None:
    found = found_in(out, photographs)
    known = {name: row for row, name in enumerate(given.names.to_pylist())}
    both = [(row, known[name]) for row, name in enumerate(found.names.to_pylist()) if name in known]
    assert len(both) == PEOPLE
    mine, theirs = (of.landmarks[list(rows)] for of, rows in zip((found, given), zip(*both, strict=True), strict=True))
    assert np.linalg.norm(mine - theirs, axis=2).mean() < 2.5


def test_a_stray_image_beside_folders_is_left_out_by_name_and_flat_folders_are_searched(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.HEIC", "a/3.tif", "a/4.heic", "stray.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    root = DataRoot(tmp_path)
    note = f"1 image in {tmp_path} itself, in no identity's folder, left out: stray.jpg"
    endings = f"left out of {tmp_path} for their endings: 2 .heic, 1 .tif"
    assert _names(root, "") == (["a/1.jpg"], (endings, note))
    shutil.rmtree(tmp_path / "a")
    assert _names(root, "") == (["stray.jpg"], ())


def test_boxes_hold_their_landmarks(out: Path, photographs: Path) -> None:
    found = found_in(out, photographs)
    lines = (out / "loose_bb_train.csv").read_text().splitlines()
    assert lines[0] == "NAME_ID,X,Y,W,H,SCORE"
    rows = dict(line.rsplit('",', 1) for line in lines[1:])
    for name, points in zip(found.names.to_pylist(), found.landmarks, strict=True):
        *box, score = rows[f'"{key_of(name)}'].split(",")
        x, y, width, height = map(int, box)
        assert ((points >= (x, y)) & (points <= (x + width, y + height))).all()
        assert 0.7 < float(score) <= 1  # the least that the detector lets pass
    scores = qualities_of(found.names, out / "loose_bb_train.csv", str)
    assert scores.tolist() == [float(rows[f'"{key_of(name)}'].split(",")[-1]) for name in found.names.to_pylist()]


def test_a_photograph_on_its_side_has_its_landmarks_where_they_are_stored(out: Path, photographs: Path) -> None:
    found = found_in(out, photographs)
    names = found.names.to_pylist()
    left, right = found.landmarks[names.index("odd/side.jpg"), :2]
    assert abs(left[0] - right[0]) < 10 and left[1] - right[1] > 25  # turned a quarter, the left eye is the lower one


def test_photographs_without_a_face_and_unreadable_ones_are_listed(out: Path, photographs: Path) -> None:
    assert (out / "no_face.txt").read_text() == "odd/meadow.png\n"
    damaged = "can't be decoded: cut off, damaged, or of an unknown format"
    assert (out / "unreadable.txt").read_text().splitlines() == [
        f'{photographs}/odd/cut "off".jpg: {damaged}',
        f"{photographs}/odd/empty.jpg: {damaged}",
    ]


def test_of_several_faces_the_one_asked_for(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", int)  # what a worker does for itself
    for choice, place in {"center": 200, "largest": 0}.items():
        found = find_face(DataRoot(photographs), DetectorSettings(), "cpu", choice, "odd/both.png")
        assert isinstance(found, Found) and found.faces == 2
        assert place < min(found.points) < max(found.points) < place + 200


def test_running_again_tries_what_is_missing(
    out: Path, photographs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    again = shutil.copytree(out, tmp_path / "again")
    assert main([str(photographs), str(again), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert f"{PEOPLE + 3} of {PEOPLE + 5} images were done before" in said
    assert f"{PEOPLE + 2} images with a face, 2 of them with several; 1 without" in said  # one has a bystander
    assert "2 unreadable (unreadable.txt)" in said and "odd/empty.jpg: can't be decoded" in said
    assert tables(again) == tables(out)
    assert (again / JOURNAL).read_bytes() == (out / JOURNAL).read_bytes()


@pytest.mark.thorough
def test_images_that_have_gone_leave_the_tables_and_come_back_with_their_rows(
    out: Path, photographs: Path, tmp_path: Path
) -> None:
    """The outcome is that of the images there, whatever was there before; those found once aren't looked at again."""
    again, fewer = shutil.copytree(out, tmp_path / "again"), shutil.copytree(photographs, tmp_path / "fewer")
    journal = again / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(str(photographs).encode(), str(fewer).encode()))
    listed = (out / "train_list.txt").read_text().splitlines()
    (fewer / listed[0]).rename(tmp_path / "gone.jpg")
    assert main([str(fewer), str(again), "--workers", "1"]) == 0
    assert (again / "train_list.txt").read_text().splitlines() == listed[1:]
    rows = (out / "loose_landmark_train.csv").read_text().splitlines()
    assert (again / "loose_landmark_train.csv").read_text().splitlines() == [rows[0], *rows[2:]]
    (tmp_path / "gone.jpg").rename(fewer / listed[0])
    assert main([str(fewer), str(again), "--workers", "1"]) == 0
    assert (again / "train_list.txt").read_text().splitlines() == listed
    assert (again / "loose_landmark_train.csv").read_text().splitlines() == rows


@pytest.mark.thorough
def test_killed_and_run_again_it_has_the_same_tables(out: Path, photographs: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/detect_faces.py"), str(photographs), str(tmp_path), "--workers", "1"]
    journal = tmp_path / JOURNAL
    kill_when(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 3, command)
    assert journal.read_bytes().count(b"\n") < PEOPLE + 4  # it was in the middle
    with journal.open("ab") as file:
        file.write(b'{"name": "n0')
    assert main(command[2:]) == 0
    assert tables(tmp_path) == tables(out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min_face", "40"], "min_face 20, not 40"),
        (["--thresholds", ".6", ".7", ".8"], "thresholds [0.6, 0.7, 0.7], not [0.6, 0.7, 0.8]"),
        (["--max_side", "500"], "max_side 1600, not 500"),
        (["--face", "largest"], "face 'center', not 'largest'"),
    ],
)
def test_other_settings_than_the_journals_are_refused(
    out: Path, photographs: Path, options: list[str], said: str
) -> None:
    before = tables(out)
    with pytest.raises(InputError) as caught:
        main([str(photographs), str(out), *options])
    assert said in str(caught.value)
    assert tables(out) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to use")
def test_a_device_that_is_not_there_is_refused(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--device cuda: .*no GPU"):
        main([str(photographs), str(tmp_path / "out"), "--device", "cuda"])
    assert not (tmp_path / "out").exists()


def test_a_list_says_which_photographs_and_a_split_what_the_tables_are_called(
    photographs: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("odd/side.jpg 7\nodd/both.png 7\nodd/side.jpg 7\n")
    assert main([str(photographs), str(tmp_path), "--list", str(listed), "--split", "test", "--workers", "1"]) == 0
    faces = read_vgg(DataRoot(photographs), str(tmp_path / "test_list.txt"), str(tmp_path))
    assert faces.names.to_pylist() == ["odd/side.jpg", "odd/both.png"]


def test_what_is_not_there_or_can_not_be_told_apart_is_refused(given: LabelledFaces, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^PHOTOS .*/none: no such folder$"):
        main([str(tmp_path / "none"), str(tmp_path / "out")])
    with pytest.raises(InputError, match=r"^PHOTOS .*: no image in it$"):
        main([str(tmp_path), str(tmp_path / "out")])
    for name in ("a.b.jpg", "a.b.png"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"^a\.b\.png: differs from a\.b\.jpg by its ending at most"):
        main([str(tmp_path), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    (tmp_path / "a.b.png").unlink()
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"out: can't be written: File exists$"):
        main([str(tmp_path), str(tmp_path / "out")])


def test_names_are_keys_without_their_ending() -> None:
    assert [key_of(name) for name in ("a/1.jpg", "a.b/1", "a/1.2.PNG")] == ["a/1", "a.b/1", "a/1.2"]
    refuse_ambiguous(["a.b/1", "a.c/1", "a.d"])
    with pytest.raises(InputError, match=r"^'a\\nb\.jpg': a line break in the name; rename it$"):
        refuse_ambiguous(["a\nb.jpg"])


def test_without_the_package_the_command_ends_with_status_2(tmp_path: Path) -> None:
    code = "import sys; sys.modules['facenet_pytorch'] = None; sys.argv = sys.argv[1:]; import runpy; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(ROOT / "tools/detect_faces.py"), str(tmp_path), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=dict(os.environ))
    assert result.returncode == 2
    assert result.stderr == (
        "tools/detect_faces.py: the face detector isn't installed: bash init_venv.sh --with detect\n"
    )
