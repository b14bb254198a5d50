"""tools/identify.py on real images: names and strangers, turned and damaged ones, videos, windows, thresholds."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import matplotlib
import numpy as np
import onnx
import pytest
from PIL import Image

from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.files.images import decode
from fr.files.model_metadata import CONTRACT_KEY, FACTS_KEY
from fr.options.detection import DetectorSettings
from fr.preprocessing import Preprocessing
from fr.report import font as fonts
from tools.identify import main
from tools.identifying import portraits, sources
from tools.identifying.drawing import annotated, undrawable
from tools.identifying.portraits import Looking, read_portraits
from tools.identifying.results import JOURNAL, Console

PEOPLE, STRANGERS, THRESHOLD = 10, 4, 0.7
PREPARED = ["--template", "arcface", "--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225"]
Pictures = list[tuple[str, list[Path]]]


@pytest.fixture(scope="module")
def lfw(shared_data: Path) -> Pictures:
    """People and their images; those with two or more first."""
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch isn't installed: bash init_venv.sh --with detect")
    folders = sorted((shared_data / "faces-mini/lfw/lfw").iterdir())
    people = [(folder.name, sorted(folder.iterdir())) for folder in folders]
    return sorted(people, key=lambda of: len(of[1]) < 2)


@pytest.fixture(scope="module")
def model(shared_data: Path) -> list[str]:
    return ["--snap", str(shared_data / "models/mobilefacenet.onnx"), *PREPARED, "--device", "cpu"]


@pytest.fixture(scope="module")
def gallery(lfw: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each of ten people; of the first two in folders of theirs, of the second two."""
    root = tmp_path_factory.mktemp("gallery")
    for number, (name, pictures) in enumerate(lfw[:PEOPLE]):
        if number < 2:
            (root / name / "more").mkdir(parents=True)
            shutil.copyfile(pictures[0], root / name / "first.jpg")
        else:
            shutil.copyfile(pictures[0], root / f"{name}.jpg")
    other = Image.open(lfw[PEOPLE][1][0]).convert("RGB")
    other.save(root / lfw[1][0] / "more/other.png")  # somebody else's image, filed as the second one's
    return root


@pytest.fixture(scope="module")
def four(lfw: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small gallery, an image each: a detection takes a tenth of a second or more."""
    root = tmp_path_factory.mktemp("four")
    for name, pictures in lfw[2:6]:
        shutil.copyfile(pictures[0], root / f"{name}.jpg")
    return root


@pytest.fixture(scope="module")
def probes(lfw: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of the ten people, one of each, and of strangers."""
    root = tmp_path_factory.mktemp("probes")
    (root / "strangers").mkdir()
    for name, pictures in lfw[:PEOPLE]:
        shutil.copyfile(pictures[1], root / f"{name}.jpg")
    for name, pictures in lfw[-STRANGERS:]:
        shutil.copyfile(pictures[0], root / "strangers" / f"{name}.jpg")
    return root


def identify(model: list[str], gallery: Path, what: Path | str, out: Path, *more: str) -> list[dict[str, Any]]:
    """The records of faces.jsonl."""
    options = [*model, "--gallery", str(gallery), "--input", str(what), "--out", str(out)]
    assert main([*options, "--threshold", str(THRESHOLD), *more]) == 0
    return records(out)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / JOURNAL).read_text(encoding="utf-8").splitlines()]


def names(record: dict[str, Any]) -> list[str | None]:
    return [face["name"] for face in record["faces"]]


def nearest(record: dict[str, Any]) -> Any:
    """The face that is most like somebody; there may be bystanders."""
    return min(record["faces"], key=lambda face: face["distance"])


def test_people_of_the_gallery_are_named_and_strangers_are_not(
    model: list[str], gallery: Path, probes: Path, lfw: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {record["picture"]: record for record in identify(model, gallery, probes, tmp_path)}
    said = capsys.readouterr().out.splitlines()
    assert sorted(found) == sorted(path.relative_to(probes).as_posix() for path in probes.rglob("*.jpg"))
    for name, _ in lfw[:PEOPLE]:
        assert name in names(found[f"{name}.jpg"])
        face = nearest(found[f"{name}.jpg"])
        assert face["nearest"] == name and face["distance"] < THRESHOLD
        told = f"{name} (distance {face['distance']:.2f})"
        assert any(line.startswith(f"{name}.jpg: ") and told in line for line in said)
    for name, _ in lfw[-STRANGERS:]:
        of = found[f"strangers/{name}.jpg"]
        assert of["faces"] and not any(names(of))
        assert all(face["distance"] >= THRESHOLD for face in of["faces"])
    assert f"gallery: {PEOPLE} people, {PEOPLE + 1} images" in said
    assert said[-1] == f"wrote {tmp_path / JOURNAL} and the annotated images beside it"


def test_annotated_pictures_have_a_box_where_the_record_says(
    model: list[str], four: Path, probes: Path, lfw: Pictures, tmp_path: Path
) -> None:
    name = f"{lfw[3][0]}.jpg"
    (record,) = identify(model, four, probes / name, tmp_path)
    before, after = (np.array(Image.open(folder / name)).astype(int) for folder in (probes, tmp_path))
    assert after.shape == before.shape
    x, y, width, height = map(round, record["faces"][0]["box"])
    left = np.abs(after - [31, 111, 159])[y + 5 : y + height - 5, x]
    assert left.mean() < 25  # the colour of the named, but for what JPEG makes of a thin line
    inside = (slice(y + 8, y + height - 8), slice(x + 8, x + width - 8))
    assert np.abs(after - before)[inside].mean() < 4


def test_the_pictures_of_a_person_may_lie_in_folders_and_count_each(
    model: list[str], gallery: Path, lfw: Pictures, tmp_path: Path
) -> None:
    (record,) = identify(model, gallery, lfw[PEOPLE][1][1], tmp_path)  # of whom there is an image, filed wrongly
    assert lfw[1][0] in names(record)


def test_the_galleries_own_picture_is_at_distance_0_turned_or_not(
    model: list[str], four: Path, lfw: Pictures, tmp_path: Path
) -> None:
    name, pictures = lfw[2]
    upright = Image.open(pictures[0]).convert("RGB")
    turned = tmp_path / "turned"
    turned.mkdir()
    upright.save(turned / "1.png")
    exif = Image.Exif()
    for orientation, way in ((6, Image.Transpose.ROTATE_90), (2, Image.Transpose.FLIP_LEFT_RIGHT)):
        exif[0x0112] = orientation
        upright.transpose(way).save(turned / f"{orientation}.png", exif=exif)
    upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(turned / "mirror.png")
    found = {record["picture"]: record["faces"] for record in identify(model, four, turned, tmp_path / "out")}
    assert all(nearest({"faces": faces})["name"] == name for faces in found.values())
    assert found["1.png"] == found["6.png"] == found["2.png"]  # places, too, are those that a viewer sees
    own, mirrored = (nearest({"faces": found[picture]})["distance"] for picture in ("1.png", "mirror.png"))
    assert own < 1e-4 < mirrored
    assert decode(np.fromfile(tmp_path / "out/6.png", dtype=np.uint8), "6.png").stored.shape[1::-1] == upright.size


@pytest.fixture(scope="module")
def odd(lfw: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people beside each other, nobody, a damaged file; names that aren't ASCII."""
    root = tmp_path_factory.mktemp("odd")
    both = Image.new("RGB", (500, 250))
    for place, number in ((0, 4), (250, 5)):
        both.paste(Image.open(lfw[number][1][1]), (place, 0))
    both.save(root / "beide ü.png")
    Image.new("RGB", (100, 100), (90, 120, 60)).save(root / "meadow.bmp")
    (root / "cut.jpg").write_bytes(lfw[0][1][0].read_bytes()[:3000])
    (root / "scan.tif").touch()
    return root


def test_two_faces_no_face_and_a_damaged_file(
    model: list[str], four: Path, odd: Path, lfw: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {record["picture"]: record for record in identify(model, four, odd, tmp_path)}
    said = capsys.readouterr().out
    assert sorted(found) == ["beide ü.png", "meadow.bmp"]
    assert {lfw[4][0], lfw[5][0]} <= {*names(found["beide ü.png"])}
    places = {face["name"]: face["box"][0] for face in found["beide ü.png"]["faces"]}
    assert places[lfw[4][0]] < 200 and places[lfw[5][0]] > 250
    assert found["meadow.bmp"]["faces"] == []
    assert "meadow.bmp: no face\n" in said and f"{odd}/cut.jpg: can't be decoded" in said
    assert f"left out of {odd} for their endings: 1 .tif\n" in said
    count, unknown = len(found["beide ü.png"]["faces"]), names(found["beide ü.png"]).count(None)
    assert f"2 images, 1 without a face; {count} faces, {unknown} unknown" in said


def test_gallery_pictures_of_no_use_are_named(
    model: list[str], lfw: Pictures, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = tmp_path / "people"
    shutil.copytree(odd, people)
    shutil.copyfile(lfw[0][1][0], people / "Ångström Ω.jpg")
    (record,) = identify(model, people, lfw[0][1][1], tmp_path / "out")
    said = capsys.readouterr().out
    assert "Ångström Ω" in names(record)
    assert "Ångström Ω" in (tmp_path / "out" / JOURNAL).read_text(encoding="utf-8")
    assert f"{people}/meadow.bmp: no face found\n" in said and "meadow: no usable image\n" in said
    assert re.search(r"/beide ü.png: [2-4] faces; used: center\n", said)
    assert f"{people}/cut.jpg: can't be decoded" in said and "cut: no usable image\n" in said
    assert f"left out of {people} for their endings: 1 .tif\n" in said and "gallery: 4 people, 2 images" in said


def test_aligned_crops_are_used_whole(model: list[str], lfw: Pictures, tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    for name, pictures in lfw[:2]:
        # What deep-funneled images have in their middle is nearly a crop; there is no other face to be found.
        Image.open(pictures[0]).convert("RGB").crop((67, 67, 183, 183)).save(tmp_path / "crops" / f"{name}.png")
    (record,) = identify(model, tmp_path / "crops", lfw[1][1][1], tmp_path / "out", "--aligned")
    (detected,) = identify(model, tmp_path / "crops", lfw[1][1][1], tmp_path / "out", "--threshold", "2")
    assert nearest(record)["nearest"] == lfw[1][0]
    assert nearest(record)["distance"] != nearest(detected)["distance"]


def test_labels_are_drawn_in_any_european_script_and_never_outside() -> None:
    plain = np.full((120, 200, 3), 90, dtype=np.uint8)
    boxes = np.array([[-30.0, -30, 500, 500]])
    drawn = [annotated(plain, boxes, [label], [True]) for label in ("Žофи", "Юлия", "Ωμέγα", "Αθήνα")]
    assert all((of != 90).any() for of in drawn)
    assert len({of.tobytes() for of in drawn}) == 4  # letters that the font lacks would all look the same
    at_the_corner = annotated(plain, np.array([[190.0, 110, 50, 50]]), ["a long name"], [False])
    ground = (at_the_corner == [196, 87, 44]).all(axis=2)
    assert ground[:, :140].any() and ground[80:].any()  # it was moved to the left, and stands above its box


def test_a_font_with_the_letters_is_taken_and_a_name_without_one_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    serif = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSerif.ttf")
    monkeypatch.setattr(fonts, "_system_files", lambda: [str(serif)])
    fonts._file_with.cache_clear()
    assert fonts.font(11, "Αθήνα 12").path == fonts.font(11, "").path
    assert fonts.font(11, "\u1d2f").path == str(serif)  # a letter that DejaVu Sans lacks
    assert fonts.font(11, "Chen 陈").path == fonts.font(11, "").path
    (line,) = undrawable(["Fatima فاطمة", "Chen 陈"])
    assert line.startswith("Chen 陈: boxes stand for letters of it in images")
    fonts._file_with.cache_clear()


# --- thresholds -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_facts(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as tools/export_onnx.py writes one that was validated."""
    path = tmp_path_factory.mktemp("model") / "t.onnx"
    exported = onnx.load(shared_data / "models/mobilefacenet.onnx")
    contract = Preprocessing((112, 112), "arcface", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    facts = {"model": "mobilefacenet", "threshold": THRESHOLD}
    onnx.helper.set_model_props(exported, {CONTRACT_KEY: json.dumps(contract.as_dict()), FACTS_KEY: json.dumps(facts)})
    onnx.save(exported, path)
    return path


def test_the_threshold_is_the_model_s_unless_said(
    with_facts: Path, four: Path, probes: Path, lfw: Pictures, tmp_path: Path
) -> None:
    name = lfw[3][0]
    options = ["--snap", str(with_facts), "--gallery", str(four), "--device", "cpu", "--out", str(tmp_path)]
    named = []
    for what, more in (
        (f"{name}.jpg", []),
        (f"strangers/{lfw[-1][0]}.jpg", []),
        (f"{name}.jpg", ["--threshold", "0.05"]),
        (f"strangers/{lfw[-1][0]}.jpg", ["--threshold", "2"]),
    ):
        assert main([*options, "--input", str(probes / what), *more]) == 0
        named.append(nearest(records(tmp_path)[0])["name"] is not None)
    assert named == [True, False, False, True]


def test_without_a_threshold_it_says_how_to_get_one(model: list[str], four: Path, probes: Path) -> None:
    with pytest.raises(InputError, match=r"no threshold: give --threshold, .*\"Estimated threshold\" of evaluate_lfw"):
        main([*model, "--gallery", str(four), "--input", str(probes)])


# --- videos -----------------------------------------------------------------------------------------------------------

SHOWN = (0, 0, None, 1)  # who is on each frame


@pytest.fixture(scope="module")
def video(lfw: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "lobby.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (250, 250))
    for number in SHOWN:
        meadow = np.full((250, 250, 3), 90, dtype=np.uint8)
        frame = meadow if number is None else np.array(Image.open(lfw[number + 2][1][1]).convert("RGB"))[:, :, ::-1]
        writer.write(frame)
    writer.release()
    return path


def frames_of(path: Path) -> list[Any]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def test_a_video_has_its_names_frame_by_frame(
    model: list[str], four: Path, video: Path, lfw: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = identify(model, four, video, tmp_path)
    expected: list[list[str | None]] = [[] if number is None else [lfw[number + 2][0]] for number in SHOWN]
    assert [names(record) for record in found] == expected
    assert [(record["frame"], record["seconds"]) for record in found] == [(0, 0), (1, 0.25), (2, 0.5), (3, 0.75)]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"wrote {tmp_path / JOURNAL} and the annotated video beside it"
    said = [line for line in printed if " s: " in line]
    assert said == [f"0.00 s: {lfw[2][0]}", "0.50 s: nobody", f"0.75 s: {lfw[3][0]}"]
    before, after = frames_of(video), frames_of(tmp_path / "lobby.mp4")
    changes = [np.abs(a.astype(int) - b).max() for a, b in zip(before, after, strict=True)]
    assert min(changes[0], changes[1], changes[3]) > 60 > changes[2]  # boxes, and where nobody is, none
    assert cv2.VideoCapture(str(tmp_path / "lobby.mp4")).get(cv2.CAP_PROP_FPS) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [JOURNAL, "lobby.mp4"]


def test_ctrl_c_keeps_what_is_done(
    model: list[str], four: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Console.take

    def interrupted(self: Console, seen: Any) -> bool:
        if seen.shot.name == "2":
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, seen)

    monkeypatch.setattr(Console, "take", interrupted)
    options = [*model, "--gallery", str(four), "--input", str(video), "--out", str(tmp_path)]
    assert main([*options, "--threshold", "1"]) == 130
    assert [record["frame"] for record in records(tmp_path)] == [0, 1, 2]
    assert len(frames_of(tmp_path / "lobby.mp4")) == 3


def test_a_camera_s_minute_stays_a_minute(
    model: list[str], four: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, capture = [], cv2.VideoCapture

    def camera(number: int) -> Any:
        opened.append(number)
        return capture(str(video))

    times = iter([100.0, 100.1, 101.0, 102.0, 102.25])
    monkeypatch.setattr(cv2, "VideoCapture", camera)
    monkeypatch.setattr(sources, "time", SimpleNamespace(monotonic=lambda: next(times)))  # other threads keep theirs
    monkeypatch.chdir(tmp_path)
    found = identify(model, four, "3", tmp_path / "out")
    assert opened == [3]
    assert [record["seconds"] for record in found] == [0.1, 1.0, 2.0, 2.25]
    monkeypatch.undo()
    assert len(frames_of(tmp_path / "out/camera_3.mp4")) == 2.25 * 4 + 1


def test_an_error_leaves_no_half_video(
    model: list[str], four: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Console, seen: Any) -> bool:
        raise InputError("disk full")

    monkeypatch.setattr(Console, "take", full)
    with pytest.raises(InputError, match="disk full"):
        identify(model, four, video, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


# --- windows ----------------------------------------------------------------------------------------------------------


def test_a_window_shows_each_picture_until_q(
    model: list[str], four: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("namedWindow", "destroyAllWindows"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda wait: ord("q") if wait == 1 and len(shown) == 2 else -1)
    found = identify(model, four, video, tmp_path, "--show")
    assert len(found) == len(shown) == 2
    before = frames_of(video)[0].astype(int)
    assert shown[0].shape == before.shape and 0 < np.abs(shown[0] - before).mean() < 20  # blue, green, red


@pytest.mark.parametrize(("display", "said"), [("", "no display"), (":99", "this OpenCV has no windows")])
def test_where_there_is_no_window_it_says_so(
    model: list[str], four: Path, probes: Path, display: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if display and "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(InputError, match=f"^--show: {said}"):
        main([*model, "--gallery", str(four), "--input", str(probes), "--threshold", "1", "--show"])


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_probes_give_the_figures_that_their_names_and_distances_add_up_to(
    model: list[str], gallery: Path, probes: Path, lfw: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = tmp_path / "probes"
    shutil.copytree(probes, people)
    for place, name in enumerate([*(name for name, _ in lfw[-STRANGERS:])]):
        shutil.move(people / f"strangers/{name}.jpg", people / f"stranger {place}.jpg")
    wrong = lfw[7][0]
    shutil.copyfile(lfw[8][1][1], people / f"{wrong}.jpg")  # somebody else's image: the person's own comes later
    faceless = people / lfw[9][0]
    faceless.mkdir()
    Image.new("RGB", (90, 90), (90, 120, 60)).save(faceless / "meadow.png")
    options = [*model, "--gallery", str(gallery), "--evaluate", str(people), "--face", "certain"]
    figures_file, out = tmp_path / "figures.json", tmp_path / "out"
    assert main([*options, "--threshold", "0.7", "--json", str(figures_file), "--out", str(out)]) == 0
    figures, said = json.loads(figures_file.read_text()), capsys.readouterr().out
    assert (figures["mated_probes"], figures["strangers"]) == (PEOPLE + 1, STRANGERS)
    assert figures["rank1"] == figures["tpir"] == figures["cmc"][0] == 9 / 11  # neither the wrong nor the faceless one
    assert figures["fpir"] == 0 and figures["threshold"] == 0.7
    assert figures["tpir@fpir=1e-01"] is None  # of four strangers not one
    assert len(figures["cmc"]) == PEOPLE and figures["cmc"][-1] == 10 / 11  # who has no face is never found
    assert "rank-1: 0.8182\n" in said and "TPIR@FPIR=1e-01: –\n" in said
    assert "at the threshold 0.7000: TPIR 0.8182, FPIR 0.0000\n" in said
    assert f"{faceless}/meadow.png: no face found\n" in said
    with Image.open(out / "cmc.png") as picture:
        assert picture.size == (900, 630)
    assert main(options) == 0  # there needs to be no threshold
    assert "at the threshold" not in capsys.readouterr().out


def test_aligned_probes_and_strangers_alone(
    model: list[str], lfw: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, people in (("gallery", lfw[:1]), ("probes", lfw[1:2])):
        (tmp_path / folder).mkdir()
        for name, pictures in people:
            Image.open(pictures[0]).convert("RGB").crop((67, 67, 183, 183)).save(tmp_path / folder / f"{name}.png")
    options = ["--gallery", str(tmp_path / "gallery"), "--evaluate", str(tmp_path / "probes"), "--aligned"]
    assert main([*model, *options, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "0 mated probes, 1 unmated probe\n" in said and "rank-1: –\n" in said
    assert not (tmp_path / "out").exists()  # there is no curve


# --- what can't be ----------------------------------------------------------------------------------------------------


def test_what_is_not_there_or_can_not_be_read_is_refused(
    model: list[str], four: Path, odd: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "nobody").mkdir()
    shutil.copyfile(odd / "meadow.bmp", tmp_path / "nobody/meadow.bmp")
    common = [*model, "--threshold", "1"]
    for what, wrong in {
        tmp_path / "none.jpg": "none.jpg: can't be read: No such file",
        tmp_path / "empty": "empty: no image in it",
        tmp_path / "text.mp4": "text.mp4: neither an image by its name nor a video",
        odd / "cut.jpg": "cut.jpg: can't be decoded",
        Path("99"): "--input 99: no such camera",
    }.items():
        with pytest.raises(InputError, match=wrong):
            main([*common, "--gallery", str(four), "--input", str(what)])
    for folder, wrong in {"none": "no such folder", "empty": "no image in it", "nobody": "no face found"}.items():
        with pytest.raises(InputError, match=f"^--gallery .*{folder}: {wrong}"):
            main([*common, "--gallery", str(tmp_path / folder), "--input", str(odd)])


def test_out_may_not_be_where_it_would_be_read_or_written_over(model: list[str], four: Path, probes: Path) -> None:
    picture = next(probes.glob("*.jpg"))
    common = [*model, "--threshold", "1"]
    for what, out, wrong in (
        (picture, four / "seen", "lies in the gallery"),
        (probes, probes / "seen", "lies in --input"),
        (picture, probes, "would take the place of --input"),
    ):
        with pytest.raises(InputError, match=wrong):
            main([*common, "--gallery", str(four), "--input", str(what), "--out", str(out)])


def test_options_without_effect_are_refused(model: list[str], four: Path, probes: Path) -> None:
    common = [*model, "--gallery", str(four), "--threshold", "1"]
    for options, wrong in {
        ("--input", str(probes), "--dist", "l2"): r"^command line: --dist: not for identification$",
        ("--input", str(probes), "--json", "x.json"): r"^command line: --json: goes with --evaluate",
        ("--evaluate", str(probes), "--show"): r"^--show: not with --evaluate",
        ("--input", str(probes), "--alignment", "center_crop", "--template", "auto"): "takes the centre of an image",
    }.items():
        with pytest.raises(InputError, match=wrong):
            main([*common, *options])


@pytest.mark.thorough
def test_many_pictures_are_looked_at_by_several_processes_with_the_same_result(
    lfw: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, pictures in lfw[:2]:
        shutil.copyfile(pictures[0], tmp_path / f"{name}.jpg")
    looking = Looking(DetectorSettings(), "cpu", "center")
    here = read_portraits("--gallery", DataRoot(tmp_path), looking)
    monkeypatch.setattr(portraits, "FEW", 1)
    there = read_portraits("--gallery", DataRoot(tmp_path), looking)
    assert there.people == here.people
    np.testing.assert_allclose(there.faces.landmarks, here.faces.landmarks, atol=0.01)
