"""tools/align_faces.py: its crops against training's, OpenCV's and NumPy's; landmarks of all kinds; kills, damage."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fr.alignment import Array, template_points
from fr.checkpoint import snapshot
from fr.data.crop_contract import MARK
from fr.data.faces import LabelledFaces
from fr.data.landmark_csv import boxes_of
from fr.data.pipeline import DaliSettings, plain_stream
from fr.data.readers.folders import read_folders
from fr.data.readers.vgg import read_vgg
from fr.data.storage import TarShards
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.images import Pixels
from fr.preprocessing import Preprocessing
from tests.conftest import ROOT, Losses, data_options, kill_when, vgg_faces
from tools.align_faces import UNREADABLE, main
from tools.dataset.crop_files import target_names
from tools.dataset.loose_crops import box_of, cut

SIDE = 48
PLAIN = Preprocessing((SIDE, SIDE), "arcface")
CPU = DaliSettings("cpu", None, 1)
PNG = ["--format", "png", "--data_cache", "none", "--workers", "1"]


@pytest.fixture(scope="module")
def faces(sample_data: Path) -> LabelledFaces:
    return vgg_faces(sample_data)


@pytest.fixture(scope="module")
def crops(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crops") / "out"
    assert main([*data_options(sample_data), *PNG, "--size", str(SIDE), "--out", str(out)]) == 0
    return out


def seen(faces: LabelledFaces) -> Array:
    """Network input of a training without augmentation: [N, 48, 48, 3] grey levels."""
    batches = plain_stream(faces, np.arange(len(faces)), 32, PLAIN, CPU)
    return np.concatenate([np.asarray(batch, dtype=np.float64).transpose(0, 2, 3, 1) * 255 for batch in batches])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("[!.]*")) if p.is_file()}


def pixels(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.array(image)


# --- aligned ----------------------------------------------------------------------------------------------------------


def test_training_sees_in_the_crops_what_it_sees_in_the_photographs(crops: Path, faces: LabelledFaces) -> None:
    aligned = read_folders(DataRoot(crops), "")
    assert aligned.identities == faces.identities
    assert [name.as_py() for name in aligned.names] == [f"{name.as_py()[:-4]}.png" for name in faces.names]
    np.testing.assert_allclose(seen(aligned), seen(faces), atol=1e-3)  # whole levels, in float32 divided by 255


def test_jpeg_crops_are_as_close_as_jpeg_is(sample_data: Path, crops: Path, tmp_path: Path) -> None:
    errors = []
    for quality in ("95", "20"):
        out = tmp_path / quality
        options = ["--size", str(SIDE), "--quality", quality, "--out", str(out), "--data_cache", "none"]
        assert main([*data_options(sample_data), *options]) == 0
        names = sorted(path.relative_to(crops).with_suffix("") for path in crops.rglob("*.png"))
        assert names == sorted(path.relative_to(out).with_suffix("") for path in out.rglob("*.jpg"))
        pairs = [(pixels(out / f"{name}.jpg"), pixels(crops / f"{name}.png")) for name in names]
        errors.append(np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs]))
    assert errors[0] < 4 < errors[1]  # grey levels


def test_a_run_on_the_crops_has_the_losses_of_one_on_the_photographs(
    crops: Path, run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    off = [word for name in ("flip", "rotate", "cutout", "blur") for word in (f"--{name}_prob", "0")]
    common = [*off, "--input_size", str(SIDE), "--data_cache", "none"]
    instead = ["--train_dataset", "folder", "--train_data_root", str(crops), "--aligned"]
    instead += ["--train_list", "", "--train_landmarks", ""]
    from_crops = run_small(*common, *instead, out=tmp_path / "crops")
    common += ["--template", "arcface"]
    assert from_crops == pytest.approx(run_small(*common, out=tmp_path / "photographs"), rel=1e-5)
    # Unasked, it validates through the template of the crops.
    (of_crops,) = (tmp_path / "crops" / "snapshots").glob("*.pt")
    assert Preprocessing.from_dict(snapshot.read(of_crops).preprocessing).template == "arcface"


def test_a_margin_shows_more_around_the_same_face(
    sample_data: Path, faces: LabelledFaces, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--size", "160", "128", "--template", "sphereface", "--alignment", "umeyama", "--margin", "0.25"]
    assert main([*data_options(sample_data), *PNG, *options, "--out", str(out)]) == 0
    inner = template_points("sphereface", (160, 128))
    middle = np.array([127, 159]) / 2
    target = middle + (inner - middle) / 1.5
    for index in range(0, len(faces), 16):
        matrix = _least_squares(faces.landmarks[index], target)
        expected = cv2.warpAffine(pixels(Path(faces.path(index))), matrix, (128, 160))
        found = pixels(out / f"{faces.names[index].as_py()[:-4]}.png")
        difference = np.abs(found.astype(float) - expected)
        assert difference.mean() < 0.5  # OpenCV rounds places to 1/32 of a pixel


def _least_squares(points: Array, target: Array) -> Array:
    """The similarity without constraints on its sign that brings points nearest to a target, [2, 3]."""
    rows = [([x, -y, 1, 0], [y, x, 0, 1]) for x, y in points]
    a, b, c, d = np.linalg.lstsq(np.concatenate(rows), target.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


@pytest.mark.parametrize("dataset", ["trp", "ms1m", "imdbface", "list", "folder"])
def test_landmarks_of_every_format_give_the_same_crops(
    dataset: str, sample_data: Path, crops: Path, faces: LabelledFaces, tmp_path: Path
) -> None:
    rows = list(range(0, len(faces), 8))  # one an identity
    root, listed = tmp_path / "root", tmp_path / "list_train.txt"
    lines = []
    for row in rows:
        name, points = faces.names[row].as_py(), faces.landmarks[row]
        (root / name).parent.mkdir(parents=True)
        shutil.copyfile(faces.path(row), root / name)
        box = {"ms1m": (10, 20, 100, 90), "imdbface": (0, 0, 160, 160)}.get(dataset, (0, 0, 1, 1))
        numbers = " ".join(repr(number) for number in ((points - box[:2]) / box[2:]).ravel().tolist())
        plain = {"trp": f"{name} {row} {numbers}", "list": f"{name} {row}"}
        lines.append(plain.get(dataset, f"{name} | {numbers} | {' '.join(map(str, box))}"))
    listed.write_text("\n".join(lines) + "\n")
    options = ["--train_dataset", dataset, "--train_data_root", str(root)]
    options += [] if dataset == "folder" else ["--train_list", str(listed)]
    table = sample_data / "vggface2/bb_landmark/loose_landmark_train.csv"
    options += ["--train_landmarks", str(table)] if dataset in ("folder", "list") else []
    out = tmp_path / "out"
    assert main([*options, *PNG, "--size", str(SIDE), "--out", str(out)]) == 0
    expected = {f"{faces.names[row].as_py()[:-4]}.png" for row in rows}
    assert {name for name in tree(out) if name.endswith("png")} == expected
    for name in expected:
        difference = np.abs(pixels(out / name).astype(float) - pixels(crops / name))
        assert difference.max() <= (0 if dataset in ("folder", "list") else 1)  # numbers through text and fractions


# --- loose ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("square", [False, True])
def test_loose_crops_are_the_part_of_the_photograph_that_numpy_cuts(
    square: bool, sample_data: Path, faces: LabelledFaces, tmp_path: Path
) -> None:
    table = sample_data / "vggface2/bb_landmark/loose_bb_train.csv"
    out = tmp_path / "out"
    options = ["--crop", "loose", "--boxes", str(table), "--out", str(out), *(["--square"] if square else [])]
    assert main([*data_options(sample_data), *PNG, *options]) == 0
    at_edges = 0
    for line in table.read_text().splitlines()[1:]:
        name, x, y, width, height = line.replace('"', "").split(",")
        left, top, wide, high = int(x), int(y), int(width), int(height)
        half_x = half_y = 1.3 * max(wide, high) / 2
        if not square:
            half_x, half_y = 1.3 * wide / 2, 1.3 * high / 2
        rows = [round(top + high / 2 - half_y), round(top + high / 2 + half_y)]
        columns = [round(left + wide / 2 - half_x), round(left + wide / 2 + half_x)]
        photograph = pixels(faces.root.path / f"{name}.jpg")
        expected = photograph[max(rows[0], 0) : rows[1], max(columns[0], 0) : columns[1]]
        assert np.array_equal(pixels(out / f"{name}.png"), expected)
        at_edges += min(rows[0], columns[0], 160 - rows[1], 160 - columns[1]) < 0
    assert at_edges > 10


def test_enlarge_1_is_the_box_itself(sample_data: Path, faces: LabelledFaces, tmp_path: Path) -> None:
    table = sample_data / "vggface2/bb_landmark/loose_bb_train.csv"
    options = ["--crop", "loose", "--boxes", str(table), "--enlarge", "1", "--out", str(tmp_path / "out")]
    assert main([*data_options(sample_data), *PNG, *options]) == 0
    for line in table.read_text().splitlines()[1::16]:
        name, _, _, width, height = line.replace('"', "").split(",")
        assert pixels(tmp_path / f"out/{name}.png").shape == (int(height), int(width), 3)


def test_without_boxes_a_face_is_where_its_landmarks_are() -> None:
    points = np.array([[-3, -4], [3, -4], [0, 0], [-3, 4], [3, 4]]) + 100.0
    side = 4.2 * np.sqrt(4 * 25 / 5)
    assert box_of(points) == pytest.approx([100.5 - side / 2, 100.5 - side / 2, side, side])


def test_boxes_by_landmarks_are_near_those_of_a_table(shared_data: Path) -> None:
    base = shared_data / "faces-mini/vggface2"
    real = read_vgg(DataRoot(base / "train"), str(base / "meta/train_list.txt"), str(base / "bb_landmark"))
    table = boxes_of(real.names, base / "bb_landmark/loose_bb_train.csv", str)
    own = np.array([box_of(points) for points in real.landmarks])
    low = np.maximum(own[:, :2], table[:, :2])
    high = np.minimum(own[:, :2] + own[:, 2:], table[:, :2] + table[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    overlap = common / (own[:, 2:].prod(axis=1) + table[:, 2:].prod(axis=1) - common)
    assert overlap.mean() > 0.9


def test_cut_by_hand() -> None:
    box = np.array([10.0, 20, 40, 20])
    assert [part.tolist() for part in cut(box, 1.5, False, (200, 200))] == [[0, 15], [60, 45]]
    assert [part.tolist() for part in cut(box, 1.5, True, (50, 50))] == [[0, 0], [50, 50]]
    low, high = cut(np.array([300.0, 0, 10, 10]), 1.3, False, (200, 200))
    assert (high <= low).any()


def test_a_photograph_on_its_side_is_cut_upright(faces: LabelledFaces, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    x, y = faces.landmarks[0].T
    upright = pixels(Path(faces.path(0)))
    for name, stored, places in (("plain", upright, (x, y)), ("turned", np.rot90(upright), (y, 159 - x))):
        Image.fromarray(stored).save(tmp_path / f"{name}.png", exif=exif if name == "turned" else Image.Exif())
        numbers = " ".join(str(number) for number in np.stack(places, axis=1).ravel())
        (tmp_path / f"{name}.txt").write_text(f"{name}.png 0 {numbers}\n")
        options = ["--train_dataset", "trp", "--train_data_root", str(tmp_path), "--crop", "loose"]
        assert main([*options, *PNG, "--train_list", f"{tmp_path}/{name}.txt", "--out", f"{tmp_path}/{name}"]) == 0
    assert np.array_equal(pixels(tmp_path / "turned/turned.png"), pixels(tmp_path / "plain/plain.png"))


# --- interruptions, damage, refusals ----------------------------------------------------------------------------------


def test_killed_and_run_again_it_leaves_the_same_tree(sample_data: Path, faces: LabelledFaces, tmp_path: Path) -> None:
    listed = tmp_path / "train_list.txt"
    listed.write_text("".join(f"{name.as_py()}\n" for name in faces.names[:40]))
    options = [*data_options(sample_data), *PNG, "--train_list", str(listed), "--size", "384"]
    assert main([*options, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "tools/align_faces.py"), *options, "--out", str(out)]
    kill_when(lambda: len(list(out.rglob("*.png"))) >= 5, command)
    left = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(left) < 40  # it was in the middle
    assert main(command[2:]) == 0
    assert tree(out) == tree(tmp_path / "whole")
    assert left == {path: path.stat().st_mtime_ns for path in left}


def test_crops_of_images_that_have_gone_are_removed(
    sample_data: Path, faces: LabelledFaces, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They would be trained on next. What isn't a crop stays."""
    listed = tmp_path / "train_list.txt"
    options = [*data_options(sample_data), *PNG, "--train_list", str(listed)]
    names = [name.as_py() for name in faces.names[:20]]
    kept = [name for name in names if not name.startswith(names[0].split("/")[0])] + names[:1]
    for out, chosen in ((tmp_path / "out", names), (tmp_path / "out", kept), (tmp_path / "fresh", kept)):
        listed.write_text("".join(f"{name}\n" for name in chosen))
        assert main([*options, "--out", str(out)]) == 0
        (out / "notes.txt").write_text("mine")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")
    assert f"removed {len(names) - len(kept)} crops of images that are no longer" in capfd.readouterr().out


@pytest.mark.parametrize("crop", ["aligned", "loose"])
def test_unusable_photographs_are_named_and_tried_again(
    crop: str, sample_data: Path, faces: LabelledFaces, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "train", tmp_path / "out"
    shutil.copytree(faces.root.path, root)
    names = [faces.names[row].as_py() for row in (3, 4, 70)]
    for name, content in zip(names, (b"", Path(faces.path(4)).read_bytes()[:700], None), strict=True):
        (root / name).unlink()
        if content is not None:
            (root / name).write_bytes(content)
    options = [*data_options(sample_data), "--train_data_root", str(root), "--crop", crop, "--out", str(out), *PNG]
    assert main(options) == 0
    said = (out / UNREADABLE).read_text().splitlines()
    assert [line.split(": ")[0] for line in said] == [str(root / name) for name in names]
    assert ["decoded" in line for line in said] == [True, True, False] and "No such file" in said[2]
    printed, beside = capfd.readouterr()
    assert f"{len(faces) - 3} crops; 3 unusable images" in printed and said[0] in printed
    assert "WARN" not in beside
    assert len(list(out.rglob("*.png"))) == len(faces) - 3
    shutil.copyfile(faces.path(3), root / names[0])
    assert main(options) == 0
    assert len(list(out.rglob("*.png"))) == len(faces) - 2
    assert len((out / UNREADABLE).read_text().splitlines()) == 2


def test_other_settings_and_other_folders_are_refused(sample_data: Path, crops: Path) -> None:
    options = [*data_options(sample_data), *PNG, "--size", str(SIDE)]
    before = tree(crops)
    with pytest.raises(InputError, match=r"crops\.json: the crops there have other settings; give another --out"):
        main([*options, "--margin", "0.1", "--out", str(crops)])
    assert json.loads((crops / MARK).read_text())["size"] == [SIDE]
    (crops / MARK).write_bytes(b"\xff" + (whole := (crops / MARK).read_bytes()))
    with pytest.raises(InputError, match=r"crops\.json: the crops there have other settings; give another --out"):
        main([*options, "--out", str(crops)])
    (crops / MARK).write_bytes(whole)
    with pytest.raises(InputError, match=r"train: holds other files; give a new folder"):
        main([*options, "--out", str(sample_data / "vggface2/train")])
    with pytest.raises(InputError, match=r"train_list\.txt: can't be used: Not a directory"):
        main([*options, "--out", str(sample_data / "vggface2/meta/train_list.txt")])
    assert tree(crops) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--crop", "loose", "--margin", "0.1"], "--margin: goes with --crop aligned; here loose"),
        (["--boxes", "x.csv"], "--boxes: goes with --crop loose; here aligned"),
        (["--square"], "--square: goes with --crop loose; here aligned"),
        (["--format", "png", "--quality", "90"], "--quality: goes with --format jpg; here png"),
        (["--size", "64", "64", "64"], "--size: takes 1 or 2 values, got 3"),
        (["--quality", "101"], "--quality: expected a whole number in [1, 100], got '101'"),
        (["--train_landmarks", ""], "--train_landmarks is required by --train_dataset vgg: CSV files"),
        (["--lr", "0.1"], "--lr: no such option"),
    ],
)
def test_options_without_effect_are_refused(sample_data: Path, tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        main([*data_options(sample_data), "--out", str(tmp_path / "out"), *options])
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_aligned_crops_are_not_cut_again(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no landmarks to crop by; tools/detect_faces\.py finds them$"):
        main(["--train_dataset", "folder", "--train_data_root", str(crops), "--aligned", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("NAME_ID,X,Y,W\n", ":1: expected the header NAME_ID,X,Y,W,H"),
        ('NAME_ID,X,Y,W,H\n"n000001/0001_01",1,2,3\n', ":2: 4 fields, where the header has 5"),
        ('NAME_ID,X,Y,W,H\n"n000001/0001_01",1,2,3,x\n', ":2: 'x' isn't a number"),
        ('NAME_ID,X,Y,W,H\n"n000001/0001_01",1,2,0,3\n', "the row of n000001/0001_01.jpg: no box"),
        ('NAME_ID,X,Y,W,H\n"n000001/0001_01",1,nan,2,3\n', "the row of n000001/0001_01.jpg: no box"),
        ('NAME_ID,X,Y,W,H\n"n000001/0002_01",1,1,2,3\n', "n000001/0001_01.jpg has no row in"),
    ],
)
def test_tables_of_boxes_are_refused_by_line_or_name(
    table: str, said: str, faces: LabelledFaces, sample_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "boxes.csv").write_text(table)
    (tmp_path / "train_list.txt").write_text("n000001/0001_01.jpg\n")
    options = [*data_options(sample_data), "--train_list", str(tmp_path / "train_list.txt"), "--crop", "loose"]
    with pytest.raises(InputError) as caught:
        main([*options, "--boxes", str(tmp_path / "boxes.csv"), "--out", str(tmp_path / "out")])
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


TABLE = b'NAME_ID,X,Y,W,H\n"a/1",10,20,30,40\n"b/2",-5,0,60,70\nNAME_ID,X,Y,W,H\n"c/3",1,2,3,4\n'


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, len(TABLE) - 1), st.integers(0, 255), max_size=6), st.binary(max_size=40))
def test_any_table_of_boxes_is_read_or_refused(tmp_path: Path, changes: dict[int, int], more: bytes) -> None:
    content = bytearray(TABLE)
    for place, byte in changes.items():
        content[place] = byte
    (tmp_path / "boxes.csv").write_bytes(content + more)
    try:
        boxes = boxes_of(pa.array(["a/1.jpg", "b/2.png"]), tmp_path / "boxes.csv", "list:{}".format)
    except InputError as error:
        assert str(tmp_path) in str(error)
    else:
        assert boxes.shape == (2, 4) and np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()


def test_crops_stay_below_their_folder_and_apart(faces: LabelledFaces) -> None:
    def named(*names: str, storage: TarShards | None = None) -> list[str]:
        labels = np.zeros(len(names), dtype=np.int64)
        some = replace(faces, names=pa.array(names), labels=labels, identities=["7"], storage=storage)
        return target_names(some, "png")

    assert named("a/1.jpg", "a.b/2", "c d/3.x.PNG") == ["a/1.png", "a.b/2.png", "c d/3.x.png"]
    none = np.zeros(0, dtype=np.int64)
    assert named("1", "2.jpg", storage=TarShards([], none.astype(np.int32), none, none)) == ["7/1.png", "7/2.png"]
    for stray in ("../a.jpg", "/a.jpg", "a/../../b.jpg", "a\0.jpg"):
        with pytest.raises(InputError, match="would lead out of the folder"):
            named(stray)
    with pytest.raises(InputError, match=r"^a/1\.png: differs from a/1\.jpg by its ending at most"):
        named("a/1.jpg", "a/1.png")
