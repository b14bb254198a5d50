"""Every verification set: what its reader makes of it and refuses, and that the commands score it as LFW's."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate_lfw
from fr.checkpoint import snapshot
from fr.data.faces import VerificationFaces
from fr.data.pairs.lfw import read_lfw
from fr.data.verification_set import read_set, read_sets, sets_to_score
from fr.errors import InputError
from fr.evaluation.embedding import people_of_pairs
from fr.files.data_root import DataRoot
from tests.conftest import SPREAD, data_options, trained_briefly, validation_options
from tests.hostile_pickles import gadgets, pushed
from tests.sets import Drawn, folds_of, python2_pack, written

FORMS: dict[str, tuple[str, Callable[[Drawn, Path], Path]]] = {
    "lfw": ("", Drawn.lfw),
    "mine": ("", Drawn.pair_list),
    "agedb_30": ("", Drawn.annotations),
    "calfw": ("", Drawn.calfw),
    "cfp_fp": ("", Drawn.cfp),
    "cfp_ff": ("cfp_ff=", Drawn.cfp),
    "lfw_2": ("", Drawn.pack),
    "cplfw": ("cplfw=", lambda drawn, out: drawn.pack(out, python2=True)),
}


@pytest.fixture(scope="session")
def drawn(sample_data: Path) -> Drawn:
    data = sample_data / "lfw"
    faces = read_lfw(DataRoot(data / "lfw"), f"{data}/pairs.txt", f"{data}/lfw_landmark.txt")
    return Drawn.of(faces, "sphereface", 32)


@pytest.fixture(scope="session")
def published(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same set in each of FORMS, as words of --val_sets."""
    out = tmp_path_factory.mktemp("sets")
    return [f"{prefix}{write(drawn, out / name)}" for name, (prefix, write) in FORMS.items()]


@pytest.fixture(scope="module")
def trained(sample_data: Path, published: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of a short training that was validated on LFW and on two other sets."""
    options = [*data_options(sample_data), *validation_options(sample_data), "--val_sets", published[3], published[6]]
    return trained_briefly([*options, "--ema_decay", "0.5"], tmp_path_factory.mktemp("trained"), SPREAD)


# --- one set in all forms ---------------------------------------------------------------------------------------------


def pictures_of_pairs(faces: VerificationFaces) -> list[tuple[bytes, bytes, bool]]:
    """Sorted, since a form may have an order of its own."""
    rows = zip(faces.pairs.tolist(), faces.same.tolist(), strict=True)
    return sorted((faces.read(i).tobytes(), faces.read(j).tobytes(), same) for (i, j), same in rows)


def test_every_form_is_recognised_and_gives_the_same_pictures_pairs_and_folds(
    drawn: Drawn, published: list[str]
) -> None:
    sets = read_sets(["", "", ""], "auto", published)
    assert [of.name for of in sets] == list(FORMS)
    expected = sorted((drawn.crops[first], drawn.crops[second], same) for first, second, same in drawn.pairs)
    folds = sorted((index // drawn.per_fold, same) for index, (_, _, same) in enumerate(drawn.pairs))
    for of in sets:
        assert of.faces.landmarks.shape == (len(drawn.crops), 0, 2)
        assert pictures_of_pairs(of.faces) == expected
        assert folds_of(of.faces) == folds
        assert np.unique(of.faces.pairs).tolist() == list(range(len(of.faces)))


def test_people_are_as_many_in_every_form_whether_or_not_folders_are_theirs(
    sample_data: Path, published: list[str]
) -> None:
    """A person may be several where no pair connects the images, never fewer."""
    data = sample_data / "lfw"
    lfw = people_of_pairs(read_lfw(DataRoot(Path(f"{data}/lfw")), f"{data}/pairs.txt", f"{data}/lfw_landmark.txt"))
    for word in published:
        faces = read_set(word).faces
        people = people_of_pairs(faces)
        assert np.array_equal(people[:, 0] == people[:, 1], faces.same)
        assert len(np.unique(people)) >= len(np.unique(lfw))
    by_folder = people_of_pairs(read_set(published[1]).faces)
    assert len(np.unique(by_folder)) == len(np.unique(lfw))


@pytest.mark.thorough
def test_the_command_scores_every_form_alike(
    trained: Path, published: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", f"{tmp_path}/f.json", "--report", f"{tmp_path}/page"]
    assert evaluate_lfw.main(["--snap", str(trained), "--bootstrap", "20", "--val_sets", *published, *files]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert list(figures) == list(FORMS)
    exact = {name: value for name, value in figures["lfw"].items() if not name.endswith(("_low", "_high"))}
    for name, of in figures.items():
        assert {key: of[key] for key in exact} == exact, name
        assert "AUC" in (tmp_path / "page" / name / "index.html").read_text()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("lfw: 40 pairs of ") and "aligned crops" in printed[0]
    table = printed[-len(FORMS) :]
    assert [line.split()[0] for line in table] == list(FORMS)
    assert {line.split()[1] for line in table} == {f"{exact['accuracy']:.4f}"}


def test_crops_score_as_the_photographs_they_were_cut_from(
    trained: Path, sample_data: Path, published: list[str], tmp_path: Path
) -> None:
    """Both ways the network gets the same pixels but for rounding to a byte, which moves a cosine by far less."""

    def auc(*options: str) -> float:
        evaluate_lfw.main(["--snap", str(trained), "--json", f"{tmp_path}/f.json", "--bootstrap", "0", *options])
        return float(json.loads((tmp_path / "f.json").read_text())["auc"])

    # 400 pairs of pairs decide the AUC of 20 × 20; rounding may turn a few of them.
    assert auc("--val_sets", published[6]) == pytest.approx(auc(*validation_options(sample_data)), abs=0.02)


@pytest.mark.thorough
def test_a_published_network_reaches_its_figures_on_a_pack_of_real_faces(shared_data: Path, tmp_path: Path) -> None:
    """Same as in test_onnx.py, with images; metrics and their tolerance: ../shared/data/README.md."""
    data = shared_data / "faces-mini/lfw"
    faces = read_lfw(DataRoot(Path(f"{data}/lfw")), f"{data}/pairs.txt", f"{data}/lfw_landmark.txt")
    pack = Drawn.of(faces, "arcface", 112).pack(tmp_path)
    options = ["--snap", str(shared_data / "models/mobilefacenet.onnx"), "--flipped_emb", "--template", "arcface"]
    options += ["--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225", "--val_batch_size", "32"]
    evaluate_lfw.main([*options, "--val_data_root", str(pack), "--json", f"{tmp_path}/f.json", "--bootstrap", "0"])
    got = json.loads((tmp_path / "f.json").read_text())
    assert got["accuracy"] == pytest.approx(0.9863, abs=0.004)
    assert got["auc"] == pytest.approx(0.9998, abs=0.0003)


# --- several sets, in training and after ------------------------------------------------------------------------------


def test_a_training_validates_on_every_set_and_the_first_keeps_the_plain_names(trained: Path) -> None:
    logged = json.loads((trained.parent / "logs/validation.jsonl").read_text())
    plain = [name for name in logged if name.startswith("accuracy")]
    assert plain == ["accuracy", "accuracy_std"]
    stored = snapshot.read(trained).metrics
    for prefix in ("", "ema_"):
        # One set in two forms; LFW itself is its images.
        assert stored[f"{prefix}calfw_auc"] == stored[f"{prefix}lfw_2_auc"]
        assert stored[f"{prefix}auc"] == pytest.approx(stored[f"{prefix}calfw_auc"], abs=0.02)
    assert logged == {"iteration": 2} | stored


def test_tensorboard_has_the_metrics_of_every_set(trained: Path) -> None:
    board = EventAccumulator(str(trained.parent / "logs"))
    board.Reload()
    stored = snapshot.read(trained).metrics
    tags = {"Accuracy/AUC": "auc", "Sets/calfw_auc": "calfw_auc", "Sets/ema_lfw_2_accuracy": "ema_lfw_2_accuracy"}
    for tag, name in tags.items():
        assert board.Scalars(tag)[-1].value == pytest.approx(stored[name])
    assert not {tag for tag in board.Tags()["scalars"] if tag.startswith("Sets/") and "std" in tag}


def test_a_snapshot_is_scored_on_the_sets_of_its_training_unless_others_are_said(
    trained: Path, sample_data: Path, published: list[str]
) -> None:
    config = snapshot.read(trained).config

    def names(**said: object) -> list[str]:
        return [of.name for of in sets_to_score(said, config, "t.pt")]

    assert names() == ["lfw", "calfw", "lfw_2"]
    assert names(val_sets=[published[4]]) == ["cfp_fp"]
    assert names(val_data_root=str(sample_data / "lfw")) == ["lfw"]
    assert names(val_data_root=published[4], val_set="cfp_ff") == ["cfp_ff"]
    assert names(val_data_root=published[4], val_sets=[published[6]]) == ["cfp_fp", "lfw"]
    assert [of.name for of in sets_to_score({}, {"val_sets": [published[4]]}, "t.pt")] == ["cfp_fp"]
    whole = {"val_data_root": published[4], "val_set": "cfp_ff"}
    assert [of.name for of in sets_to_score({}, whole, "t.pt")] == ["cfp_ff"]
    with pytest.raises(InputError, match=r"t\.pt names no verification set"):
        sets_to_score({}, {}, "t.pt")


def test_relative_paths_of_a_training_are_found_from_another_folder(
    sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sample_data)
    places = {"val_data_root": "lfw/lfw", "val_list": "lfw/pairs.txt", "val_landmarks": "lfw/lfw_landmark.txt"}
    words = [word for name, path in places.items() for word in (f"--{name}", path)]
    snap = trained_briefly([*data_options(sample_data), *words, "--val_sets", "lfw=lfw"], tmp_path)
    monkeypatch.chdir(tmp_path)
    config = snapshot.read(snap).config
    assert {name: config[name] for name in places} == places
    assert [len(one.faces) for one in sets_to_score({}, config, str(snap))] == [
        len(one.faces) for one in read_sets([str(sample_data / path) for path in places.values()], "auto", [])
    ] * 2


def test_names_that_would_hide_figures_get_a_number(drawn: Drawn, tmp_path: Path) -> None:
    pack = drawn.pack(tmp_path).rename(tmp_path / "same.bin")
    assert [of.name for of in read_sets(["", "", ""], "auto", [str(pack), str(pack)])] == ["same_2", "same_3"]


@pytest.mark.parametrize("name", ["landmark5.txt", "lfw_landmarks.txt", "bb_landmark", "x_lmk.csv", "cfp-5pts.txt"])
def test_landmarks_under_another_name_are_refused_before_the_first_image(
    drawn: Drawn, tmp_path: Path, name: str
) -> None:
    """They were passed over: the photographs, taken for crops, gave an AUC of 0.658 where 0.969 was right."""
    root = drawn.cfp(tmp_path)
    (root / name).mkdir() if "." not in name else written(root / name, "")
    with pytest.raises(InputError) as caught:
        read_set(f"cfp_fp={root}")
    assert name in str(caught.value) and "lfw_landmark.txt or landmarks.txt or landmarks.csv" in str(caught.value)
    (root / name).rename(root / "other")
    assert read_set(f"cfp_fp={root}").faces.landmarks.shape[1] == 0


def test_images_of_several_sizes_are_doubted_before_the_first_is_embedded(
    trained: Path, drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_set(str(drawn.calfw(tmp_path / "crops"))).warning == ""
    root = drawn.calfw(tmp_path / "photographs")
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        with Image.open(path) as image:
            image.resize((40 + number % 7, 50)).save(path)
    doubt = read_set(str(root)).warning
    assert doubt.startswith("calfw: no landmarks (lfw_landmark.txt") and "their sizes differ, from 40×50 to" in doubt

    def stop(*_: Any, **__: Any) -> None:
        raise InputError("the first image")

    monkeypatch.setattr("fr.evaluation.scoring.embed", stop)
    with pytest.raises(InputError, match="the first image"):
        evaluate_lfw.main(["--snap", str(trained), "--val_sets", str(root)])
    assert f"warning: {doubt}" in capsys.readouterr().err


def test_crops_of_lfw_need_the_list_alone_and_photographs_are_doubted(drawn: Drawn, tmp_path: Path) -> None:
    root = drawn.lfw(tmp_path)
    pairs = (root / "pairs.txt").rename(tmp_path / "elsewhere.txt")
    (crops,) = read_sets([str(root / "people"), str(pairs), ""], "auto", [])
    assert crops.faces.landmarks.shape == (len(drawn.crops), 0, 2) and crops.warning == ""
    beside = written(tmp_path / "lfw_landmark.txt", "")
    (crops,) = read_sets([str(root / "people"), str(pairs), ""], "auto", [])
    assert f"{beside} isn't used; give it as --val_landmarks" in crops.warning
    beside.unlink()
    for path in sorted((root / "people").rglob("*.png")):
        with Image.open(path) as image:
            image.resize((250, 250)).save(path)
    (photographs,) = read_sets([str(root / "people"), str(pairs), ""], "auto", [])
    assert photographs.warning.endswith("but they are 250×250, as LFW's photographs are")


def test_the_folder_of_lfw_is_enough_for_a_training_too(sample_data: Path) -> None:
    data = sample_data / "lfw"
    (expected,) = read_sets([f"{data}/lfw", f"{data}/pairs.txt", f"{data}/lfw_landmark.txt"], "auto", [])
    (whole,) = read_sets([str(data), "", ""], "auto", [])
    assert whole.name == expected.name == "lfw"
    assert whole.faces.names.equals(expected.faces.names)
    assert np.array_equal(whole.faces.landmarks, expected.faces.landmarks)
    assert np.array_equal(whole.faces.pairs, expected.faces.pairs)


def test_the_landmarks_of_a_set_may_be_given_by_their_folder(sample_data: Path, tmp_path: Path) -> None:
    data = sample_data / "lfw"
    expected = read_sets([f"{data}/lfw", f"{data}/pairs.txt", f"{data}/lfw_landmark.txt"], "auto", [])[0]
    by_folder = read_sets([f"{data}/lfw", f"{data}/pairs.txt", str(data)], "auto", [])[0]
    assert np.array_equal(by_folder.faces.landmarks, expected.faces.landmarks)
    head = ",".join(["NAME_ID", *(f"P{i}{axis}" for i in range(1, 6) for axis in "XY")])
    rows = (data / "lfw_landmark.txt").read_text().replace("\t", ",")
    written(tmp_path / "bb/any.csv", f"{head}\n{rows}")
    by_table = read_sets([f"{data}/lfw", f"{data}/pairs.txt", f"{tmp_path}/bb"], "auto", [])[0]
    assert np.array_equal(by_table.faces.landmarks, expected.faces.landmarks)
    written(tmp_path / "bb/second.csv", head)
    with pytest.raises(InputError, match=r"a folder; give the file itself; its CSV files: any\.csv, second\.csv"):
        read_sets([f"{data}/lfw", f"{data}/pairs.txt", f"{tmp_path}/bb"], "auto", [])


def test_landmarks_with_left_and_right_swapped_are_doubted(sample_data: Path, tmp_path: Path) -> None:
    data = sample_data / "lfw"
    place = [f"{data}/lfw", f"{data}/pairs.txt"]
    assert read_sets([*place, f"{data}/lfw_landmark.txt"], "auto", [])[0].warning == ""
    rows = [line.split("\t") for line in (data / "lfw_landmark.txt").read_text().splitlines()]
    swapped = (row[:1] + row[3:5] + row[1:3] + row[5:7] + row[9:] + row[7:9] for row in rows)
    path = written(tmp_path / "swapped.txt", "".join("\t".join(row) + "\n" for row in swapped))
    (one,) = read_sets([*place, str(path)], "auto", [])
    count = len(one.faces)
    assert one.warning.startswith(f"lfw: left and right are swapped in the landmarks of {count} of {count} images")


@pytest.mark.parametrize("form", ["mine", "agedb_30", "calfw"])
def test_paths_with_blanks_in_lists_without_tabs(form: str, drawn: Drawn, tmp_path: Path) -> None:
    path = FORMS[form][1](drawn, tmp_path / "set")
    expected = read_set(str(path)).faces
    list_file = path if path.is_file() else next(path.glob("*.txt"))
    folder = list_file.parent
    images = sorted(folder.rglob("*.png"))
    for image in images:
        new = image.with_name(f"a {image.name}")
        image.rename(new)
    text = list_file.read_text()
    for image in images:
        for ending in (".png", ".jpg"):
            text = text.replace(f"{image.stem}{ending}", f"a {image.stem}{ending}")
    list_file.write_text(text)
    faces = read_set(str(path)).faces
    assert [name.replace("a ", "") for name in faces.names.to_pylist()] == expected.names.to_pylist()
    assert faces.pairs.tolist() == expected.pairs.tolist() and faces.same.tolist() == expected.same.tolist()


def test_pictures_with_landmarks_are_aligned_in_any_form(sample_data: Path, drawn: Drawn, tmp_path: Path) -> None:
    """A pair list beside LFW's images and landmarks gives LFW's faces, by its text file and by a CSV."""
    data = f"{sample_data}/lfw"
    lfw = read_lfw(DataRoot(Path(f"{data}/lfw")), f"{data}/pairs.txt", f"{data}/lfw_landmark.txt")
    rows = "\n".join(f"{first}.jpg\t{second}.jpg\t{int(same)}" for first, second, same in drawn.pairs)
    path = written(tmp_path / "list.txt", rows)
    (tmp_path / "photographs").symlink_to(sample_data / "lfw/lfw")
    text = (sample_data / "lfw/lfw_landmark.txt").read_text()
    written(tmp_path / "landmarks.txt", text)
    assert np.array_equal(read_set(str(path)).faces.landmarks, lfw.landmarks)
    (tmp_path / "landmarks.txt").unlink()
    head = ",".join(["NAME_ID", *(f"P{i}{axis}" for i in range(1, 6) for axis in "XY")])
    written(tmp_path / "landmarks.csv", f"{head}\n" + text.replace(".jpg", "").replace("\t", ","))
    assert np.array_equal(read_set(str(path)).faces.landmarks, lfw.landmarks)
    said = [str(sample_data / "lfw/lfw"), str(path), str(sample_data / "lfw/lfw_landmark.txt")]
    assert np.array_equal(read_sets(said, "auto", [])[0].faces.landmarks, lfw.landmarks)


# --- what is refused --------------------------------------------------------------------------------------------------


def problems(word: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read_set(word)
    return caught.value.problems


@pytest.mark.parametrize(
    ("form", "old", "new", "expected"),
    [
        ("lfw", "10\t2", "10\t3", "{0}/pairs.txt: 40 pairs where the header says 10 × 2 × 3"),
        ("mine", ".png 1\n", ".png 2\n", "{0}:1: "),
        ("mine", ".png 1\n", " 1\n", ""),  # another ending is looked for
        ("mine", "1\n", "1 1\n", "{0}:1: "),
        ("agedb_30", "1 agedb_30_112x112/", "1 agedb_30_112x112/no", "{0}/agedb_30_ann.txt:1: "),
        ("agedb_30", "1 agedb_30_112x112/", "1 agedb_30_112x112/../../", "{0}/agedb_30_ann.txt:1: "),
        ("calfw", ".jpg 1\n", ".jpg 0\n", "{0}/pairs_CALFW.txt:1: the two lines of a pair end with 0 and 1"),
        ("calfw", ".jpg 1\n", ".jpg\n", "{0}/pairs_CALFW.txt:1: "),
        ("cfp_fp", "1 ../Data", "2 ../Data", "{0}/Protocol/Pair_list_F.txt:2: '2 "),
        ("cfp_fp", "1 ../Data", "1 ../../Data", "{0}/Protocol/Split/FP/"),
    ],
)
def test_what_is_wrong_in_a_list_is_named_by_file_and_line(
    form: str, old: str, new: str, expected: str, drawn: Drawn, tmp_path: Path
) -> None:
    word = FORMS[form][1](drawn, tmp_path / "set")
    path = next(of for of in sorted(tmp_path.rglob("*.txt")) if "Split" not in of.parts)
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    if not expected:
        read_set(str(word))
        return
    assert problems(str(word))[0].startswith(expected.format(word))


def test_missing_pictures_are_named_all_together_with_their_lines(drawn: Drawn, tmp_path: Path) -> None:
    path = drawn.pair_list(tmp_path)
    gone = [drawn.pairs[3][0], drawn.pairs[5][1]]
    for name in gone:
        (tmp_path / f"{name}.png").unlink()
    lines = path.read_text().splitlines()
    first = {name: next(i for i, line in enumerate(lines, start=1) if f"{name}.png" in line) for name in gone}
    assert problems(str(path)) == tuple(
        f"{path}:{number}: {tmp_path}/{name}.png: no such file" for name, number in first.items()
    )


def test_a_list_of_one_kind_and_a_line_too_many_are_refused(drawn: Drawn, tmp_path: Path) -> None:
    path = drawn.pair_list(tmp_path / "pairs")
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if line.endswith("1\n")))
    assert problems(str(path)) == (f"{path}: 0 different pairs; a verification needs two of each kind at least",)
    calfw = drawn.calfw(tmp_path / "calfw") / "pairs_CALFW.txt"
    calfw.write_text(calfw.read_text() + "A_0001.jpg 0\n")
    assert problems(str(calfw)) == (f"{calfw}:81: the last pair has one line; 81 lines are no pairs",)


@pytest.mark.parametrize(
    ("folds", "kinds", "message"), [(1, "sd", "1 fold"), (2, "ss", "no different pairs"), (2, "dd", "no same pairs")]
)
def test_a_list_that_cannot_be_scored_is_refused_when_it_is_read(
    folds: int, kinds: str, message: str, sample_data: Path, tmp_path: Path
) -> None:
    """Not at the first validation: found by the reader of train.py, evaluate_lfw.py and tools/compare_models.py."""
    people = sorted(path.name for path in (sample_data / "lfw/lfw").iterdir())[:2]
    lines = {"s": f"{people[0]}\t1\t2", "d": f"{people[0]}\t1\t{people[1]}\t1"}
    listed = [lines[kind] for kind in kinds * folds]
    (tmp_path / "pairs.txt").write_text("\n".join([f"{folds}\t1", *listed]) + "\n")
    place = [f"{sample_data}/lfw/lfw", f"{tmp_path}/pairs.txt", f"{sample_data}/lfw/lfw_landmark.txt"]
    with pytest.raises(InputError, match=message):
        read_sets(place, "auto", [])


def test_what_is_no_set_or_another_kind_is_refused(published: list[str], tmp_path: Path) -> None:
    assert problems("nowhere") == ("--val_sets nowhere: no such file or folder",)
    none = f"--val_sets {tmp_path}: no verification set: expected a folder with Protocol"
    assert problems(str(tmp_path))[0].startswith(none)
    path = written(tmp_path / "any.txt", "once upon a time there was a list\n")
    assert problems(str(path))[0].startswith(f"{path}:1: no list of pairs: expected two numbers")
    cfp, pack = published[4], published[6]
    assert problems(f"lfw={cfp}") == (f"{cfp}: not lfw, but CFP: cfp_fp or cfp_ff",)
    assert problems(f"pairs={pack}") == (f"{pack}: not pairs, but of the form bin",)
    assert problems(f"bin={published[1]}") == (f"{published[1]}: not bin, but of the form pairs",)


@pytest.mark.parametrize("first", ["Ann\t2\t1", "Ann 1 Bob 0", "Ann\t1\tBob\t7"])
def test_lfws_pairs_without_their_first_line_are_told_what_is_due(first: str, tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.txt", f"{first}\nBob\t4\t5\n")
    due = "the number of folds and of pairs of a kind in each, such as 10 300"
    assert problems(str(path)) == (f"{path}:1: LFW's pairs without the line before them: {due}",)


def test_packs_whose_numbers_do_not_fit_or_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    pictures, same = [b"a", b"b", b"c", b"d"] * 2, [True, True, False, False]
    for content, expected in (
        ((pictures[:7], same), "7 images for 4 pairs, where each has two"),
        ((pictures, [True, True, False, 7]), "pair 3 is neither True nor False"),
        (([*pictures[:7], 5], same), "image 7 isn't the bytes of an encoded image, such as a JPEG's"),
        (
            ([*pictures[:7], np.zeros((4, 4, 3), np.uint8)], same),
            "image 7 isn't the bytes of an encoded image, such as a JPEG's",
        ),
        ((pictures, np.array([1.0, 0, 0, np.nan])), "pair 3 is neither True nor False"),
        ((pictures, [True] * 4), "0 different pairs; a verification needs two of each kind at least"),
        ({"a": 1}, "no pack of pairs: expected a list of images and one of True and False"),
    ):
        path.write_bytes(pickle.dumps(content))
        assert problems(str(path)) == (f"{path}: {expected}",)
    path.write_bytes(pickle.dumps((pictures, same))[:-9])
    assert problems(str(path))[0].startswith(f"{path}: damaged, or no pack of pairs (")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", ["row", "column", "verdicts", "verdict array"])
def test_a_pack_with_arrays_of_numpy_is_the_one_with_bytes_and_booleans(
    kind: str, protocol: int, tmp_path: Path
) -> None:
    """The pickle of insightface's build_eval_pack.py: what cv2.imencode returned, and a comparison of arrays."""
    pictures, same = [f"picture {i}".encode() * 100 for i in range(8)], [True, True, False, False]
    shape = {"row": (-1,), "column": (-1, 1)}.get(kind)
    images = [np.frombuffer(one, np.uint8).reshape(shape) for one in pictures] if shape else pictures
    verdicts = {"verdicts": [np.bool_(one) for one in same], "verdict array": np.array(same)}.get(kind, same)
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps((images, verdicts), protocol))
    faces = read_set(str(path)).faces
    assert [faces.read(row).tobytes() for row in faces.pairs.ravel().tolist()] == pictures
    assert faces.same.tolist() == same


def test_a_pack_runs_nothing_that_it_names(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for module, name, args in gadgets(str(mark)):
        path = tmp_path / "x.bin"
        path.write_bytes(b"(" + f"c{module}\n{name}\n".encode() + pushed(args) + b"R](\x88\x88\x89\x89et.")
        problems(str(path))
        assert not mark.exists()


# --- anything at all --------------------------------------------------------------------------------------------------

MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = st.sampled_from(
    [
        *(b"Ann/Ann_0001.png", b"0", b"1", b"10\t2", b"1,2", b"99999999999", b"a.png 0", b"../../x", b"/x"),
        *(b"\t", b" ", b",", b"\n", b"\r", b"\0", b"\xff", b"\xc2\x85", b"nan", b"\xe2\x80\xa8", b"x" * 300, b"\x88"),
    ]
)
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 30), st.one_of(PIECES, st.binary(max_size=6)))


def spoilt(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Some bytes taken out and others put in, at places that are fractions of the whole."""
    for where, gone, new in edits:
        place = int(where * len(content))
        content = content[:place] + new + content[place + gone :]
    return content


def read_or_refused(word: str) -> None:
    try:
        faces = read_set(word).faces
    except InputError as error:
        assert 1 <= len(error.problems) <= 12
        assert all("\n" not in of and len(of) < 1500 for of in error.problems)
        return
    assert len(faces.pairs) == len(faces.same) == len(faces.fold) > 3
    assert np.unique(faces.pairs).tolist() == list(range(len(faces)))
    assert len(np.unique(faces.fold)) >= 2 and 0 < faces.same.sum() < len(faces.same)
    assert people_of_pairs(faces).shape == faces.pairs.shape


SMALL = Drawn(
    {f"{name}/{name}_000{i}": f"{name}{i}".encode() for name in ("Ann", "Bob") for i in (1, 2)},
    [
        ("Ann/Ann_0001", "Ann/Ann_0002", True),
        ("Ann/Ann_0001", "Bob/Bob_0001", False),
        ("Bob/Bob_0001", "Bob/Bob_0002", True),
        ("Bob/Bob_0002", "Ann/Ann_0002", False),
    ],
    2,
)


@pytest.mark.parametrize("form", FORMS)
@MANY
@given(st.lists(EDIT, min_size=1, max_size=3), st.data())
def test_any_content_of_a_set_is_read_or_refused(
    form: str, tmp_path: Path, edits: list[tuple[float, int, bytes]], data: st.DataObject
) -> None:
    prefix, write = FORMS[form]
    path = write(SMALL, tmp_path / "set")
    files = sorted([*(tmp_path / "set").rglob("*.txt"), *(tmp_path / "set").rglob("*.bin")])
    file = data.draw(st.sampled_from(files))
    file.write_bytes(spoilt(file.read_bytes(), edits))
    read_or_refused(f"{prefix}{path}")


@MANY
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_pack_or_refused(tmp_path: Path, content: bytes, wrapped: bool) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"\x80\x02](" + content + b"\x86." if wrapped else content)
    read_or_refused(str(path))


def test_a_pack_of_python_2_is_read(tmp_path: Path) -> None:
    long = bytes(range(256)) * 2
    path = tmp_path / "old.bin"
    path.write_bytes(python2_pack([b"\xff\xd8a", b"b", long, b"b", b"c", b"d", b"e", b"f"], [True, True, False, False]))
    faces = read_set(str(path)).faces
    assert [faces.read(i).tobytes() for i in range(len(faces))] == [b"\xff\xd8a", b"b", long, b"c", b"d", b"e", b"f"]
    assert faces.pairs.tolist() == [[0, 1], [2, 1], [3, 4], [5, 6]]
    assert faces.path(3) == f"{path}: picture 4"


def test_no_two_sets_have_one_name(drawn: Drawn, tmp_path: Path) -> None:
    for name in ("a/x_2", "b/x", "c/x"):
        drawn.pack(tmp_path / name).rename(tmp_path / f"{name}.bin")
    places = (tmp_path / f"{name}.bin" for name in ("a/x_2", "b/x", "c/x"))
    assert [of.name for of in read_sets(["", "", ""], "auto", [*map(str, places)])] == ["x_2", "x", "x_3"]
