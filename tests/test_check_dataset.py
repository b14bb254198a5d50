"""tools/check_dataset.py: planted faults of every kind are found, nothing else is, and the cleaned list trains."""

import csv
import io
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fr.alignment import template_points, transform
from fr.data.readers.vgg import person_names
from fr.errors import InputError
from fr.files.images import StoredImage
from tests.builders.damaged_images import encoded, picture
from tests.builders.pages import Page
from tests.builders.tar_shards import sample, write_shard
from tests.builders.training_formats import LINES, Data, write_table
from tests.conftest import Losses, data_options, launch, losses, validation_options
from tests.planted_faults import EXPECTED, Planted, spoil
from tools.check_dataset import list_lines, main
from tools.dataset import image_facts, registration
from tools.dataset.checks import _suspicious, check, plain_name, same_names
from tools.dataset.image_facts import ImageFacts
from tools.options.check_dataset import DROPPED, KINDS, Limits


@pytest.fixture(scope="module")
def planted(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    made = Planted(sample_data, tmp_path_factory.mktemp("planted"))
    spoil(made)
    made.write()
    return made


@pytest.fixture(scope="module")
def options(planted: Planted) -> list[str]:
    return [*data_options(planted.data), "--train_meta", str(planted.meta), *validation_options(planted.data)]


@pytest.fixture(scope="module")
def checked(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a run of the command."""
    out = tmp_path_factory.mktemp("checked") / "out"
    ran = launch("tools/check_dataset.py", str(out), *options, "--workers", "2")
    assert ran.returncode == 1, ran.stderr
    assert "few_images                    1\n" in ran.stdout and "not checked" not in ran.stdout
    return out


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """No workers, which take seconds to start; but how many there should have been."""
    asked: list[int] = []

    def here(function: Callable[[Any], Any], items: list[Any], workers: int, *_: str) -> Iterator[Any]:
        asked.append(workers)
        return map(function, items)

    for module in (image_facts, registration):
        monkeypatch.setattr(module, "map_in_processes", here)
    return asked


@pytest.fixture
def again(checked: Path, options: list[str], tmp_path: Path, in_this_process: list[int]) -> Callable[..., Path]:
    """again(*options): OUT of another run, with what the first one knows of the images."""

    def run(*more: str, status: int = 1) -> Path:
        out = tmp_path / "again"
        shutil.copytree(checked / "facts", out / "facts", dirs_exist_ok=True)
        assert main([str(out), *options, *more]) == status
        return out

    return run


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "findings.csv").read_text())))


def counts(out: Path) -> dict[str, int]:
    found = [row["kind"] for row in rows(out)]
    return {kind: found.count(kind) for kind in KINDS if kind in found}


def test_every_planted_fault_is_found_and_nothing_else(planted: Planted, checked: Path) -> None:
    expected = {
        (kind, planted.name(of) if "/" in of else of, detail, other and planted.name(other))
        for kind, of, detail, other in EXPECTED
    }
    found = {
        (row["kind"], row["path"] or row["identity"], row["detail"].split(": off by")[0], row["other"])
        for row in rows(checked)
    }
    assert found == expected
    assert len(rows(checked)) == len(EXPECTED)
    assert {kind for kind, *_ in EXPECTED} == set(KINDS)
    for row in rows(checked):
        assert not row["path"] or row["path"].startswith(f"{row['identity']}/")


def cleaned(out: Path) -> list[str]:
    return (out / "cleaned_train_list.txt").read_text().splitlines()


def test_the_cleaned_list_is_the_list_without_what_is_dropped(planted: Planted, checked: Path) -> None:
    gone = {planted.name(of) for kind, of, *_ in EXPECTED if kind in DROPPED and "/" in of}
    left = [name for name in planted.names if name not in gone and name[:7] not in ("n000009", "n000010")]
    assert cleaned(checked) == left
    assert planted.name("5/1") in left
    assert planted.name("3/8") in left


def test_the_cleaned_list_trains_and_is_clean(
    planted: Planted, checked: Path, options: list[str], run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    use = ["--train_list", str(checked / "cleaned_train_list.txt")]
    run_small(*data_options(planted.data), *use, "--max_iterations", "10", "--max_bad_images", "0", out=tmp_path)
    assert len(losses(tmp_path)) == 10
    out = tmp_path / "out"
    shutil.copytree(checked / "facts", out / "facts")
    assert main([str(out), *options, *use]) == 0
    assert set(counts(out)) == {"small_face", "greyscale", "turned"}
    assert (out / "cleaned_cleaned_train_list.txt").read_text() == (checked / "cleaned_train_list.txt").read_text()


def test_a_second_run_gives_the_same_files(checked: Path, again: Callable[..., Path]) -> None:
    out = again()
    assert {path.name for path in out.iterdir()} == {path.name for path in checked.iterdir()}
    for path in checked.glob("*.*"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_each_option_has_its_effect(
    planted: Planted, checked: Path, again: Callable[..., Path], in_this_process: list[int]
) -> None:
    before = counts(checked)
    assert counts(again("--min_face", "0")) == {kind: n for kind, n in before.items() if kind != "small_face"}
    assert counts(again("--landmark_misfit", "1000"))["landmarks"] == 3  # 3/3 is nothing but unlike a face
    assert counts(again("--near", "0")).keys() == before.keys() - {"near_duplicate", "near_duplicate_across"}
    assert counts(again("--min_images", "8"))["few_images"] == 8  # n000001 … n000008 lost at least one
    none = again("--drop", status=0)
    assert cleaned(none) == planted.names
    assert counts(none) == before
    faces_alone = again("--drop", "greyscale", "few_images")
    assert set(planted.names) - set(cleaned(faces_alone)) == {planted.name("4/2"), planted.name("9/1")}
    again("--workers", "3")
    assert in_this_process[-1] == 3


def test_the_page_needs_nothing_else_and_shows_so_many_pictures(checked: Path, again: Callable[..., Path]) -> None:
    page = Page((checked / "index.html").read_text())
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "script" not in page.tags
    for kind in KINDS:
        assert f"{kind}: " in page.text
    fewer = Page((again("--thumbnails", "1") / "index.html").read_text())
    # One finding of a kind: three of the kinds show two images, the one unusable image none.
    assert len(fewer.addresses) == len(KINDS) - 1 + 4 + 1
    assert "The first 1 are shown." in fewer.text


@pytest.mark.parametrize("dataset", [*LINES, "folder", "vgg"])
def test_lines_of_a_cleaned_list_read_back_as_they_were(dataset: str, tmp_path: Path) -> None:
    data = Data(tmp_path)
    names = ["a/1.jpg", "b c/2  2.jpg", "a/3.jpg", "b c/4.jpg"]
    data.photographs(*names)
    write_table(data.table, {name.removesuffix(".jpg"): place for place, name in enumerate(names)})
    table = str(data.table) if dataset in ("folder", "vgg") else ""
    line = LINES.get(dataset, lambda name, _: name)
    given = [line(name, "7" if name[0] == "a" else "12") for name in names]
    faceless = "b c/no face.jpg |" if dataset in ("ms1m", "imdbface") else ""
    text = "\ufeff" + "\r\n\r\n".join([given[0], faceless, *given[1:]])
    faces = data.read(dataset, text, table)
    lines = list_lines(Namespace(train_dataset=dataset, train_list=str(data.list_file)), faces)
    assert lines is not None
    read_as = "list" if dataset == "folder" else dataset
    for keep in ([0, 1, 2, 3], [1, 2], [3]):
        back = data.read(read_as, "\n".join(lines[row] for row in keep), table)
        assert back.names.to_pylist() == [faces.names[row].as_py() for row in keep]
        assert np.array_equal(back.landmarks, faces.landmarks[keep])
        same = back.labels[:, None] == back.labels
        assert np.array_equal(same, faces.labels[keep][:, None] == faces.labels[keep])
        data.list_file.write_text(text)


def test_what_cannot_be_used_is_refused(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/facts: can't be used: "):
        main([str(tmp_path / "file"), *options])
    with pytest.raises(InputError, match="--train_data_root is required"):
        main([str(tmp_path / "out"), "--train_list", "x"])


# --- checks by themselves ---------------------------------------------------------------------------------------------


def blank_facts(count: int, side: int = 64) -> ImageFacts:
    """Images that are all different."""
    rng = np.random.default_rng(0)
    return ImageFacts(
        {},
        np.array([bytes([1 + row] * 32) for row in range(count)]),
        rng.integers(0, 2**64, (count, 4), dtype=np.uint64),
        np.full((count, 2), side),
        np.zeros(count, dtype=bool),
        np.ones(count, dtype=np.int64),
    )


def test_aligned_crops_have_a_size_and_no_landmarks(tmp_path: Path) -> None:
    data = Data(tmp_path)
    data.photographs("a/1.jpg", "a/2.jpg")
    faces = data.read("list", "a/1.jpg 0\na/2.jpg 0\n")
    facts = blank_facts(2)
    facts.sizes[1] = 40, 10  # a side of 20
    (finding,) = check(faces, facts, Limits(), {}).found
    assert (finding.kind, finding.row, finding.detail) == ("small_face", 1, "20 pixels")


@pytest.mark.parametrize("dataset", ["ms1m", "imdbface"])
def test_landmarks_in_boxes_are_checked_in_pixels(dataset: str, tmp_path: Path) -> None:
    """The box ends at the edge of the image, so that the landmarks of its second half lie outside."""
    data = Data(tmp_path)
    data.photographs("a/1.jpg", "a/2.jpg", "a/3.jpg")
    line = "| 0.3 0.4 0.7 0.4 0.5 0.6 0.35 0.8 0.65 0.8 |"
    wide = "| 0.3 0.4 1.2 0.4 0.5 0.6 0.35 0.8 0.65 0.8 |"
    faces = data.read(dataset, f"a/1.jpg {line} 10 10 50 50\na/2.jpg {wide} 0 0 64 64\na/3.jpg {line} 0 0 64 64\n")
    found = check(faces, blank_facts(3), Limits(misfit=1000), {}).found
    assert [(of.kind, of.row, of.detail) for of in found] == [("landmarks", 1, "outside the image: 1 of 5")]


def test_nothing_usable_is_a_finding_and_no_failure(
    tmp_path: Path, in_this_process: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    data = Data(tmp_path)
    data.photographs("a/1.jpg")
    (data.root / "b").mkdir()
    out = tmp_path / "out"
    words = ["--train_dataset", "folder", "--train_data_root", str(data.root), "--aligned"]
    assert main([str(out), *words]) == 1
    assert counts(out) == {"unusable": 1, "few_images": 1}
    assert (out / "cleaned_images.txt").read_text() == ""
    note = f"1 folder of {data.root} without images left out: b"
    printed, page = capsys.readouterr().out, Page((out / "index.html").read_text()).text
    assert note in printed and note in page
    assert "\n1 image of 1 identity; 0 images stay\n" in printed
    assert "in_verification       not checked: no --val_list was given\n" in printed
    assert "not checked: no --val_list was given" in page and "not checked: aligned crops" in page


def test_shards_have_findings_and_no_list(tmp_path: Path, in_this_process: list[int]) -> None:
    photograph = encoded(picture(0))
    files = sample("p/1", "0", photograph) | sample("p/2", "1", b"") | sample("q/3", "1", photograph)
    write_shard(tmp_path / "shards/a.tar", files)
    out = tmp_path / "out"
    assert main([str(out), "--train_dataset", "tar", "--train_data_root", str(tmp_path / "shards")]) == 1
    assert counts(out) == {"unusable": 1, "landmarks": 2, "duplicate_across": 2, "few_images": 2}
    assert {row["path"] for row in rows(out) if row["kind"] == "duplicate_across"} == {"p/1.jpg", "q/3.jpg"}
    assert {path.name for path in out.iterdir()} == {"findings.csv", "index.html", "facts"}


def test_people_of_vggface2_are_found_in_lfw_by_name(shared_data: Path) -> None:
    """463 of the 4,281 people in LFW's pairs; 410 if names were compared as they are written."""
    rows = [line.split("\t") for line in (shared_data / "lfw/pairs.txt").read_text().splitlines()[1:]]
    people = {row[0] for row in rows} | {row[2] for row in rows if len(row) == 4}
    assert len(people) == 4_281
    for meta in ("identity_meta.csv", "identity_meta_respaced.csv"):
        names = list(person_names(shared_data / "vggface2" / meta).values())
        assert len(set(names) & people) == 410
        found = same_names(names, people)
        assert len(found) == len(set(found.values())) == 463
        assert {names[label]: person for label, person in found.items()}["Aleksander_Kwaśniewski"] in people


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Recep_Tayyip_Erdoğan", "receptayyiperdogan"),
        ("Adam_Nawałka", "adamnawalka"),
        ('"J._J. Redick"', "jjredick"),
        ("Acun_Ilıcalı", "acunilicali"),
        ("İlham", "ilham"),
        ("Strauß", "strauss"),
        ("馬英九", "馬英九"),
        ("__", "__"),
    ],
)
def test_names_are_compared_without_case_accents_and_punctuation(name: str, plain: str) -> None:
    assert plain_name(name) == plain


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_face_is_upright_where_the_image_is_shown(orientation: int) -> None:
    """Landmarks as detect_faces.py writes them: in the image as stored, left and right as seen there."""
    turned = orientation > 4
    image = StoredImage(np.zeros((100, 80, 3) if turned else (80, 100, 3), dtype=np.uint8), orientation)
    tilted = transform(np.array([[[0.8, -0.6, 40], [0.6, 0.8, 10]]]), template_points("arcface", (40, 40))[None])
    points = image.stored_places(tilted)
    if image.mirrored:
        points = points[:, [1, 0, 2, 4, 3]]
    size = np.array([image.stored.shape[1::-1]])
    none = np.zeros(1)
    assert _suspicious(points, size, np.array([orientation]), none, 6) == {}
    opposite = {1: 3, 2: 4, 3: 1, 4: 2, 5: 7, 6: 8, 7: 5, 8: 6}[orientation]  # shown upside down
    assert _suspicious(points, size, np.array([opposite]), none, 6) == {0: "the eyes are below the mouth"}
