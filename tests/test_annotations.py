"""Lists, tables and pairs in the published formats: joined by name, and refused with file and line."""

import codecs
import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fr.alignment import template_points, umeyama
from fr.data.faces import LabelledFaces
from fr.data.landmark_csv import LANDMARK_COLUMNS
from fr.data.lines import STAYS
from fr.data.pairs.lfw import read_lfw
from fr.data.readers.vgg import read_vgg
from fr.errors import InputError
from fr.files.data_root import DataRoot
from tests.bounds import bounded
from tests.builders.vgg_and_lfw import (
    LFW_PAIRS,
    LFW_ROWS,
    POINTS,
    Lfw,
)
from tests.conftest import vgg_faces

HEADER = "NAME_ID,P1X,P1Y,P2X,P2Y,P3X,P3Y,P4X,P4Y,P5X,P5Y"


def csv_row(name: str, shift: float = 0.0) -> str:
    return ",".join([f'"{name}"', *(f"{value + shift:.6f}" for value in POINTS)])


def points(shift: float = 0.0) -> list[list[float]]:
    return (np.array(POINTS).reshape(5, 2) + shift).tolist()


@dataclass
class Vgg:
    """A VGGFace2 folder under construction."""

    folder: Path

    def __post_init__(self) -> None:
        self.root, self.landmarks = self.folder / "images", self.folder / "bb_landmark"
        self.landmarks.mkdir(parents=True, exist_ok=True)
        self.list_file = self.folder / "train_list.txt"
        self.table = self.landmarks / "loose_landmark_train.csv"
        self.photograph("b/1.jpg")
        self.list_file.write_text("b/1.jpg\na/1.jpg\nb/2.jpg\n")
        self.table.write_text("\n".join([HEADER, csv_row("a/1", 1), csv_row("b/2", 2), csv_row("b/1", 3)]) + "\n")

    def photograph(self, name: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).touch()

    def read(self, landmarks: Path | None = None, list_file: Path | None = None) -> LabelledFaces:
        return read_vgg(DataRoot(self.root), str(list_file or self.list_file), str(landmarks or self.landmarks))

    def problems(self, landmarks: Path | None = None, list_file: Path | None = None) -> tuple[str, ...]:
        with pytest.raises(InputError) as caught:
            self.read(landmarks, list_file)
        return caught.value.problems


@pytest.fixture
def vgg(tmp_path: Path) -> Vgg:
    return Vgg(tmp_path / "vgg")


# --- VGGFace2 -------------------------------------------------------------------------------------------------------


def test_list_and_csv_in_another_row_order_are_joined_by_name(vgg: Vgg) -> None:
    faces = vgg.read()
    assert faces.names.to_pylist() == ["b/1.jpg", "a/1.jpg", "b/2.jpg"]
    assert faces.landmarks.tolist() == [points(3), points(1), points(2)]
    assert faces.path(2) == str(vgg.root / "b/2.jpg")
    assert len(faces) == 3


def test_list_and_csv_in_the_same_row_order_are_joined_by_name_too(vgg: Vgg) -> None:
    rows = [csv_row("b/1", 1), csv_row("a/1", 2), csv_row("b/2", 3)]
    vgg.table.write_text("\n".join([HEADER, *rows]))
    assert vgg.read().landmarks.tolist() == [points(1), points(2), points(3)]
    vgg.table.write_text("\n".join([HEADER, *rows, csv_row("b/3", 4)]))
    assert vgg.read().landmarks.tolist() == [points(1), points(2), points(3)]


def test_labels_count_identities_in_order_of_first_appearance(vgg: Vgg) -> None:
    faces = vgg.read()
    assert faces.identities == ["b", "a"]
    assert faces.labels.tolist() == [0, 1, 0]
    assert faces.labels.dtype == np.int64


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=30, unique=True),
    st.randoms(use_true_random=False),
)
def test_join_and_labels_equal_a_dictionarys_for_any_order(tmp_path: Path, names: list, random) -> None:
    vgg = Vgg(tmp_path)
    listed = [f"n{identity:06d}/{image:04d}_01" for identity, image in names]
    shift = {name: float(index) for index, name in enumerate(listed)}
    table = [*listed, "n999999/0001_01"]
    random.shuffle(table)
    vgg.list_file.write_text("".join(f"{name}.jpg\n" for name in listed))
    vgg.table.write_text("\n".join([HEADER, *(csv_row(name, shift.get(name, 99.0)) for name in table)]))
    vgg.photograph(listed[0] + ".jpg")
    faces = vgg.read()
    assert faces.landmarks.tolist() == [points(shift[name]) for name in listed]
    order = list(dict.fromkeys(name.split("/")[0] for name in listed))
    assert faces.identities == order
    assert faces.labels.tolist() == [order.index(name.split("/")[0]) for name in listed]


@pytest.mark.parametrize(
    ("list_name", "chosen"),
    [
        ("train_list.txt", "train"),
        ("my_train.txt", "train"),
        ("test_list.txt", "test"),
        ("all.txt", "all"),
        ("training/list.txt", "all"),  # the file name counts, not its folder
        ("training/test_list.txt", "test"),
    ],
)
def test_the_table_of_a_folder_is_chosen_by_the_file_name_of_the_list(vgg: Vgg, list_name: str, chosen: str) -> None:
    list_file = vgg.folder / list_name
    list_file.parent.mkdir(exist_ok=True)
    list_file.write_text("b/1.jpg\n")
    for shift, kind in enumerate(["train", "test", "all"]):
        (vgg.landmarks / f"loose_landmark_{kind}.csv").write_text(f"{HEADER}\n{csv_row('b/1', shift)}\n")
    expected = points({"train": 0.0, "test": 1.0, "all": 2.0}[chosen])
    assert vgg.read(list_file=list_file).landmarks.tolist() == [expected]
    (vgg.landmarks / f"loose_landmark_{chosen}.csv").unlink()
    (problem,) = vgg.problems(list_file=list_file)
    assert problem.startswith(f"{vgg.landmarks}/loose_landmark_{chosen}.csv: no such file")
    assert list_file.name in problem


def test_a_csv_given_itself_is_read_whatever_its_name(vgg: Vgg) -> None:
    table = vgg.table.rename(vgg.folder / "points.csv")
    assert vgg.read(landmarks=table).landmarks[0].tolist() == points(3)


def test_the_only_csv_of_a_folder_is_read_whatever_its_name(vgg: Vgg) -> None:
    """A table of boxes beside it isn't one of landmarks; of two neither is guessed."""
    vgg.table.rename(vgg.landmarks / "points.csv")
    (vgg.landmarks / "loose_bb_train.csv").write_text("NAME_ID,X,Y,W,H\n")
    assert vgg.read().landmarks[0].tolist() == points(3)
    (vgg.landmarks / "other.csv").touch()
    (problem,) = vgg.problems()
    assert problem.startswith(f"{vgg.table}: no such file") and "there: other.csv, points.csv; give the CSV" in problem


def with_tabs(row: list[str]) -> str:
    return "\t".join(row)


SAVED_ANEW: dict[str, Callable[[list[str]], str]] = {
    "tabs": with_tabs,
    "tabs, decimal commas": lambda row: with_tabs([row[0], *(field.replace(".", ",") for field in row[1:])]),
    "semicolons": lambda row: ";".join(row),
    "semicolons, decimal commas": lambda row: ";".join([row[0], *(field.replace(".", ",") for field in row[1:])]),
    "blanks after commas": lambda row: f'"{row[0]}", ' + ", ".join(row[1:]),
    "lower-case header": lambda row: ",".join(row).replace(HEADER, HEADER.lower()),
    "quoted header": lambda row: ",".join(f'"{field}"' for field in row),
    "a column more in front": lambda row: ",".join(["" if row[0] == "NAME_ID" else "7", *row]),
    "a comma at the end": lambda row: ",".join([*row, ""]),
    "endings in the names": lambda row: ",".join([row[0].replace("1", "1.jpg").replace("2", "2.JPG"), *row[1:]]),
    "blanks around the names": lambda row: ",".join([f'" {row[0]} "', *row[1:]]),
    "backslashes": lambda row: ",".join([row[0].replace("/", "\\"), *row[1:]]),
    "./ in front": lambda row: ",".join([row[0].replace("a/", "./a/").replace("b/", "./b/"), *row[1:]]),
    "folders in front": lambda row: ",".join([row[0].replace("a/", "x/y/a/").replace("b/", "x/z/b/"), *row[1:]]),
}


@pytest.mark.parametrize("dialect", SAVED_ANEW)
def test_a_table_that_a_spreadsheet_or_a_script_saved_anew_reads_the_same(vgg: Vgg, dialect: str) -> None:
    expected = vgg.read().landmarks.tolist()
    rows = [line.replace('"', "").split(",") for line in vgg.table.read_text().splitlines()]
    vgg.table.write_text("".join(SAVED_ANEW[dialect](row) + "\n" for row in rows))
    assert vgg.read().landmarks.tolist() == expected


def test_a_list_with_the_split_in_front_of_its_paths_is_joined(vgg: Vgg) -> None:
    """`train/n000002/0001_01.jpg`, with the folder above the split as root."""
    expected = vgg.read().landmarks.tolist()
    vgg.list_file.write_text("".join(f"train/{name}\n" for name in vgg.list_file.read_text().split()))
    vgg.photograph("train/b/1.jpg")
    assert vgg.read().landmarks.tolist() == expected
    vgg.list_file.write_text("train/b/1.jpg\ntest/b/1.jpg\n")  # which of them the row is of, nobody knows
    (problem,) = vgg.problems()
    assert "test/b/1.jpg and train/b/1.jpg would share a row" in problem


def test_the_root_that_the_paths_start_from_is_named(vgg: Vgg) -> None:
    top = vgg.root
    vgg.photograph("train/b/1.jpg")
    (vgg.root / "b/1.jpg").unlink()
    (problem,) = vgg.problems()
    assert problem == f"{top}/b/1.jpg: no such file; it is in {top}/train: give --train_data_root {top}/train"
    vgg.list_file.write_text("train/b/1.jpg\n")
    vgg.root = top / "train"
    (problem,) = vgg.problems()
    assert problem == f"{top}/train/train/b/1.jpg: no such file; it is in {top}: give --train_data_root {top}"


def test_names_that_cannot_be_joined_are_shown_beside_what_is_sought(vgg: Vgg) -> None:
    vgg.table.write_text(f"{HEADER}\n{csv_row('0001')}\n")
    *_, last = vgg.problems()
    assert last == f"{vgg.table}: its names look like '0001', but those of the images like 'b/1'"
    vgg.table.write_text(csv_row("b/1") + "\n")
    (problem,) = vgg.problems()
    assert problem.startswith(f"{vgg.table}:1: expected the header {HEADER}; the file begins with '\"b/1\",30.5")


def test_a_csv_put_together_with_cat_holds_a_second_header(vgg: Vgg) -> None:
    first, second = vgg.folder / "1.csv", vgg.folder / "2.csv"
    first.write_text(f"{HEADER}\n{csv_row('b/1', 1)}\n{csv_row('a/1', 2)}\n")
    second.write_text(f"{HEADER}\n{csv_row('b/2', 3)}\n")
    vgg.table.write_bytes(first.read_bytes() + second.read_bytes())
    assert vgg.read().landmarks.tolist() == [points(1), points(2), points(3)]


@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8], ids=["no BOM", "BOM"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_crlf_and_bom_and_blank_lines_change_nothing(vgg: Vgg, bom: bytes, newline: bytes) -> None:
    plain = vgg.read()
    for path in (vgg.list_file, vgg.table):
        path.write_bytes(bom + path.read_bytes().replace(b"\n", newline) + newline)
    faces = vgg.read()
    assert faces.names.to_pylist() == plain.names.to_pylist()
    assert faces.landmarks.tolist() == plain.landmarks.tolist()
    assert faces.fingerprint() == plain.fingerprint()


def test_only_newlines_end_a_line_of_a_list(vgg: Vgg) -> None:
    """Lines are counted as editors do; what else Python splits text at may stand in a file's name."""
    odd = ["b/1\x0b.jpg", "b/1\x1c.jpg", "b/1\x85.jpg", "b/1\u2028.jpg"]
    vgg.list_file.write_bytes("\r".join([*odd, "z/9.jpg"]).encode())
    with vgg.table.open("a") as table:
        table.writelines(csv_row(name.removesuffix(".jpg")) + "\n" for name in odd)
    assert vgg.problems() == (f"{vgg.list_file}:5: z/9.jpg has no row in {vgg.table}",)
    vgg.list_file.write_bytes("\n\n".join(odd).encode())
    vgg.photograph(odd[0])
    assert vgg.read().names.to_pylist() == odd


@pytest.mark.parametrize("names", [["b/1.jpg", "a.b/1.jpg"], ["b/1.jpg", "a.b/1.JPG"], ["b/1.jpg", "a.b/1"]])
def test_the_table_holds_names_without_their_ending_of_whatever_kind(vgg: Vgg, names: list[str]) -> None:
    vgg.list_file.write_text("\n".join(names))
    vgg.table.write_text("\n".join([HEADER, csv_row("a.b/1", 1), csv_row("b/1", 2)]))
    assert vgg.read().landmarks.tolist() == [points(2), points(1)]


def test_a_name_in_another_unicode_form_is_told_from_the_one_that_is_there(vgg: Vgg) -> None:
    """They look the same: the message must say more than that the name has no row."""
    vgg.list_file.write_text("jos\u00e9/1.jpg\n")
    vgg.table.write_text("\n".join([HEADER, csv_row("jose\u0301/1", 1)]))
    with pytest.raises(InputError, match=r"in another Unicode form: 'jose\\u0301/1' \(NFD\), and not 'jos\\xe9/1'"):
        vgg.read()
    vgg.table.write_text("\n".join([HEADER, csv_row("jos\u00e9/1", 1)]))
    vgg.photograph("jose\u0301/1.jpg")
    with pytest.raises(InputError, match=r"no such file; it is there in another Unicode form: .*u0301/1\.jpg' \(NFD\)"):
        vgg.read()


def test_two_rows_of_an_image_that_differ_are_refused(vgg: Vgg) -> None:
    """The first would win silently; the same row twice is harmless, and so are rows of images that aren't listed."""
    rows = vgg.table.read_text().splitlines()
    unlisted = [f"unlisted/1,{x},1,9,1,5,5,2,8,8,8" for x in (1, 2)]
    vgg.table.write_text("\n".join([*rows, rows[1], *unlisted]))
    assert len(vgg.read()) == len(vgg.list_file.read_text().split())
    name, x, rest = rows[1].split(",", 2)
    vgg.table.write_text("\n".join([*rows, f"{name},{float(x) + 1},{rest}"]))
    with pytest.raises(InputError, match=rf"rows 1 and {len(rows)} are both of .*, and differ"):
        vgg.read()


def test_photographs_that_differ_by_their_ending_alone_share_no_row(vgg: Vgg) -> None:
    vgg.list_file.write_text("b/1.jpg\na/1.jpg\nb/1.png\na/1\nb/1.jpg\n")
    assert vgg.problems() == (
        f"{vgg.list_file}:3: b/1.png and b/1.jpg would share a row of {vgg.table}; rename one of them",
        f"{vgg.list_file}:4: a/1 and a/1.jpg would share a row of {vgg.table}; rename one of them",
    )
    vgg.list_file.write_text("b/1.jpg\na/1.png\nb/1.jpg\n")  # the same one twice is no such two
    assert vgg.read().landmarks.tolist() == [points(3), points(1), points(3)]


def test_a_compressed_table_is_not_unpacked(vgg: Vgg) -> None:
    """100 MB of rows in a file of 300 kB, which Arrow would unpack by its name."""
    table = vgg.folder / "points.csv.gz"
    with gzip.open(table, "wb") as file:
        file.write(vgg.table.read_bytes())
        for _ in range(10):
            file.write((csv_row("c/1") + "\n").encode() * 100_000)
    told = r"points\.csv\.gz:\d+: (not UTF-8 text|a NUL byte)"  # the line is where the compressor puts such a byte
    with bounded(megabytes=50), pytest.raises(InputError, match=told):
        vgg.read(landmarks=table)


def test_a_line_without_end_is_refused_in_few_words(vgg: Vgg) -> None:
    whole = vgg.table.read_text()
    for endless in ("9" * 10_000_000, "9" * 100_000, '"' + "x" * 10_000_000):
        vgg.table.write_text(whole + endless)
        with bounded():
            (problem,) = vgg.problems()
        assert problem.startswith(f"{vgg.table}:5: ")
        assert len(problem) < 400
    vgg.table.write_text(whole)
    vgg.list_file.write_text("b/1.jpg\na/" + "x" * 10_000_000 + "\n")
    with bounded():
        assert vgg.problems() == (f"{vgg.list_file}:2: {'a/' + 'x' * 78!r}: {STAYS}",)


def test_fingerprint_changes_with_names_labels_and_landmarks(vgg: Vgg) -> None:
    prints = [vgg.read().fingerprint()]
    vgg.list_file.write_text("b/1.jpg\nb/2.jpg\na/1.jpg\n")
    prints.append(vgg.read().fingerprint())
    vgg.table.write_text(vgg.table.read_text().replace("33.500000", "33.500001"))
    prints.append(vgg.read().fingerprint())
    assert len(set(prints)) == 3
    assert vgg.read().fingerprint() == prints[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "{list}: the list is empty"),
        ("\n \n", "{list}: the list is empty"),
        ("b/1.jpg\n1.jpg\n", "{list}:2: '1.jpg' isn't <identity>/<file>"),
        ("b/1.jpg\n\n../secret/1.jpg\n", "{list}:3: '../secret/1.jpg': {stays}"),
        ("b/1.jpg\nb/../../1.jpg\n", "{list}:2: 'b/../../1.jpg': {stays}"),
        ("/etc/1.jpg\n", "{list}:1: '/etc/1.jpg': {stays}"),
        ("b/1.jpg\n\nz/9.jpg\n", "{list}:3: z/9.jpg has no row in {table}"),
    ],
)
def test_a_bad_list_is_refused_by_file_and_line(vgg: Vgg, text: str, expected: str) -> None:
    vgg.list_file.write_text(text)
    assert vgg.problems() == (expected.format(list=vgg.list_file, table=vgg.table, stays=STAYS),)


FIELDS = csv_row("b/1").split(",")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (",".join([*FIELDS[:3], "wide", *FIELDS[4:]]), "{table}:3: 'wide' isn't a number"),
        (",".join(FIELDS[:-1]), "{table}:3: 10 fields, where the header has 11"),
        (",".join([*FIELDS, "1.0"]), "{table}:3: 12 fields, where the header has 11"),
        ("b/1", "{table}:3: 1 field, where the header has 11"),
        (
            ",".join([*FIELDS[:3], "nan", *FIELDS[4:]]),
            "{table}: the row of b/1.jpg: not finite, or a million pixels away",
        ),
        (
            ",".join([*FIELDS[:3], "-inf", *FIELDS[4:]]),
            "{table}: the row of b/1.jpg: not finite, or a million pixels away",
        ),
        (
            ",".join([*FIELDS[:3], "1e200", *FIELDS[4:]]),
            "{table}: the row of b/1.jpg: not finite, or a million pixels away",
        ),
        (",".join([FIELDS[0], *["7.5"] * 10]), "{table}: the row of b/1.jpg: all five on one spot"),
    ],
)
def test_a_bad_row_of_the_table_is_refused(vgg: Vgg, row: str, expected: str) -> None:
    vgg.list_file.write_text("b/1.jpg\n")
    vgg.table.write_text(f"{HEADER}\n{csv_row('a/1')}\n{row}\n{csv_row('c/1')}\n")
    assert vgg.problems() == (expected.format(table=vgg.table),)


def test_missing_files_and_folders_are_refused_by_name(vgg: Vgg) -> None:
    missing = vgg.folder / "nowhere"
    assert vgg.problems(list_file=missing) == (f"{missing}: can't be read: No such file or directory",)
    assert vgg.problems(landmarks=missing) == (f"--train_landmarks {missing}: no such file or folder",)
    vgg.list_file.write_text("a/1.jpg\n")
    (problem,) = vgg.problems()
    assert problem == f"{vgg.root}/a/1.jpg: no such file; is --train_data_root {vgg.root} right?"
    vgg.root = missing
    assert vgg.problems() == (f"--train_data_root {missing}: no such folder",)


def test_a_folder_in_the_place_of_a_list_is_refused(vgg: Vgg) -> None:
    assert vgg.problems(list_file=vgg.landmarks) == (f"{vgg.landmarks}: can't be read: Is a directory",)


def test_several_problems_come_together_and_at_most_ten_by_name(vgg: Vgg) -> None:
    vgg.list_file.write_text("".join(f"z/{number}.jpg\n" for number in range(3)))
    assert vgg.problems() == tuple(
        [f"{vgg.list_file}:{number + 1}: z/{number}.jpg has no row in {vgg.table}" for number in range(3)]
        + [f"{vgg.table}: its names look like 'a/1', but those of the images like 'z/0'"]
    )
    vgg.list_file.write_text("".join(f"z/{number}.jpg\n" for number in range(10)))
    assert len(vgg.problems()) == 10 + 1
    vgg.list_file.write_text("".join(f"z/{number}.jpg\n" for number in range(2_345)))
    problems = vgg.problems()
    assert len(problems) == 11 + 1
    assert problems[-2] == "… and 2,335 more like these"


@pytest.mark.parametrize("which", ["list", "table"])
def test_text_that_is_not_utf8_is_refused_by_file(vgg: Vgg, which: str) -> None:
    path = vgg.list_file if which == "list" else vgg.table
    path.write_bytes(path.read_bytes().replace(b"b/2", b"b/\xff2"))
    assert vgg.problems() == (f"{path}:3: not UTF-8 text",)


def test_the_sample_data_reads_as_its_options_say(sample_data: Path) -> None:
    faces = vgg_faces(sample_data)
    assert Counter(faces.labels.tolist()) == dict.fromkeys(range(12), 8)
    assert np.isfinite(faces.landmarks).all()


# --- LFW ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lfw(tmp_path: Path) -> Lfw:
    return Lfw(tmp_path / "lfw_set")


def test_pairs_of_both_kinds_in_folds_by_hand(lfw: Lfw) -> None:
    faces = lfw.read()
    names = faces.names.to_pylist()
    assert sorted(names) == sorted(LFW_ROWS)
    shift = {name: float(index) for index, name in enumerate(LFW_ROWS)}
    assert faces.landmarks.tolist() == [points(shift[name]) for name in names]
    ann1, ann2, bob1, bob2 = (f"{n}/{n}_000{i}.jpg" for n in ("Ann", "Bob") for i in (1, 2))
    expected = [(ann1, ann2), (ann1, bob1), (bob1, bob2), (bob2, ann2)]
    assert [(names[i], names[j]) for i, j in faces.pairs.tolist()] == expected
    assert faces.same.tolist() == [True, False, True, False]
    assert faces.fold.tolist() == [0, 0, 1, 1]


@pytest.mark.thorough
def test_the_official_view_2_has_6000_pairs_of_7701_images_in_10_folds(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "lfw"
    for row in (source / "lfw_landmark.txt").read_text().splitlines():
        photograph = tmp_path / row.split("\t")[0]
        photograph.parent.mkdir(exist_ok=True)
        photograph.touch()
    for landmark_file in ("lfw_landmark.txt", "lfw_deepfunneled_landmark.txt"):  # whole and decimal pixels
        faces = read_lfw(DataRoot(tmp_path), str(source / "pairs.txt"), str(source / landmark_file))
        names = faces.names.to_pylist()
        assert len(faces) == len(set(names)) == 7_701
        assert np.unique(faces.pairs).tolist() == list(range(7_701))
        people = [name.split("/")[0] for name in names]
        assert [people[i] == people[j] for i, j in faces.pairs.tolist()] == faces.same.tolist()
        assert Counter(zip(faces.fold.tolist(), faces.same.tolist(), strict=True)) == dict.fromkeys(
            [(fold, same) for fold in range(10) for same in (True, False)], 300
        )
        rows = dict(line.split("\t", 1) for line in (source / landmark_file).read_text().splitlines())
        expected = np.array([rows[name].split("\t") for name in names], dtype=np.float64).reshape(-1, 5, 2)
        np.testing.assert_array_equal(faces.landmarks, expected)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_lfw_files_with_bom_and_crlf_read_the_same(lfw: Lfw, newline: bytes) -> None:
    plain = lfw.read()
    for path in (lfw.pairs, lfw.landmarks):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", newline) + newline)
    assert lfw.read().landmarks.tolist() == plain.landmarks.tolist()
    assert lfw.read().pairs.tolist() == plain.pairs.tolist()


@pytest.mark.parametrize("header", ["", "10", "ten\t300", "0\t300", "10\t-1", "10\t300\t1", "Ann\t1\t2", "²\t1"])
def test_a_bad_header_of_pairs_is_refused_with_its_line(lfw: Lfw, header: str) -> None:
    lfw.pairs.write_text(f"{header}\nAnn\t1\t2\n")
    assert lfw.problems() == (
        f"{lfw.pairs}:1: expected the number of folds and of pairs of a kind in each, such as 10 300",
    )


@pytest.mark.parametrize(
    "line",
    [
        "Ann",
        "Ann\t1",
        "Ann\t1\tx",
        "Ann 1 2 3 4",
        "Ann\t1\tBob\tx",
        "Ann\t1\t2\t3\t4",
        "Ann\t1\t²",
        "Ann\t1\t-1",
        f"Ann\t1\t{'9' * 5_000}",
        "\t1\t2",
        "../Ann\t1\t2",
        "..\t1\t2",
        "Ann\t1\t.\t2",
    ],
)
def test_malformed_pairs_are_refused_with_their_lines(lfw: Lfw, line: str) -> None:
    lfw.pairs.write_text(LFW_PAIRS.replace("Ann\t1\t2\n", f"{line}\n") + "Ann\n")
    complaint = "neither `name i j` nor `name i other j`, separated by tabs"
    assert lfw.problems() == (f"{lfw.pairs}:2: {complaint}", f"{lfw.pairs}:6: {complaint}")


def test_a_count_of_pairs_unlike_the_header_is_refused(lfw: Lfw) -> None:
    lfw.pairs.write_text(LFW_PAIRS.replace("2\t1\n", "2\t2\n", 1))
    assert lfw.problems() == (f"{lfw.pairs}: 4 pairs where the header says 2 × 2 × 2",)


@pytest.mark.parametrize("separator", [" ", "  ", "\t", " \t"])
@pytest.mark.parametrize("end", ["", " ", "\t", " \t \r"])
def test_blanks_between_the_words_of_lfws_files_and_at_their_lines_ends(lfw: Lfw, separator: str, end: str) -> None:
    expected = lfw.read()
    for path in (lfw.pairs, lfw.landmarks):
        lines = path.read_text().splitlines()
        path.write_text("".join(line.replace("\t", separator) + end + "\n" for line in lines))
    faces = lfw.read()
    assert faces.landmarks.tolist() == expected.landmarks.tolist()
    assert faces.pairs.tolist() == expected.pairs.tolist() and faces.same.tolist() == expected.same.tolist()


def test_a_name_with_a_blank_in_lfws_files(lfw: Lfw) -> None:
    expected = lfw.read()
    for name in LFW_ROWS:
        path = lfw.root / name.replace("Ann", "Ann Lee")
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for separator in ("\t", " "):
        for path in (lfw.pairs, lfw.landmarks):
            text = path.read_text().replace("Ann Lee", "Ann").replace("Ann", "Ann Lee")
            path.write_text(text.replace("\t", separator))
        faces = lfw.read()
        assert [name.replace(" Lee", "") for name in faces.names.to_pylist()] == expected.names.to_pylist()
        assert faces.landmarks.tolist() == expected.landmarks.tolist()
        assert faces.pairs.tolist() == expected.pairs.tolist()


@pytest.mark.parametrize("old", [".jpg", "Ann/", "Bob/"])
def test_endings_and_folders_of_lfws_landmarks_need_not_be_those_of_the_pairs(lfw: Lfw, old: str) -> None:
    expected = lfw.read().landmarks.tolist()
    new = {".jpg": ".JPG", "Ann/": "./Ann/", "Bob/": "lfw/Bob/"}[old]
    text = lfw.landmarks.read_text().replace(old, new)
    lfw.landmarks.write_text(text.replace("Ann/", "lfw/Ann/") if old == "Bob/" else text)
    for name in LFW_ROWS:
        (lfw.root / name).rename((lfw.root / name).with_suffix(".JPG"))
    assert lfw.read().landmarks.tolist() == expected


def test_pairs_without_landmarks_are_refused_with_their_first_line(lfw: Lfw) -> None:
    lfw.landmarks.write_text(lfw.row(LFW_ROWS[0], 0) + lfw.row(LFW_ROWS[3], 0))
    assert lfw.problems() == (
        f"{lfw.pairs}:2: Ann/Ann_0002.jpg has no row in {lfw.landmarks}",
        f"{lfw.pairs}:3: Bob/Bob_0001.jpg has no row in {lfw.landmarks}",
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["x"] * 10, ":5: a landmark isn't a number"),
        (["1"] * 9, ":5: 9 numbers instead of ten after the name"),
        ([], ":5: 0 numbers instead of ten after the name"),
        (["nan", *["1"] * 9], ": the row of Ann/Ann_0001.jpg: not finite, or a million pixels away"),
        (["3"] * 10, ": the row of Ann/Ann_0001.jpg: all five on one spot"),
    ],
)
def test_bad_lfw_landmarks_are_refused(lfw: Lfw, fields: list[str], expected: str) -> None:
    with lfw.landmarks.open("a") as file:
        file.write("\t".join(["Ann/Ann_0001.jpg", *fields]) + "\n")
    assert lfw.problems() == (f"{lfw.landmarks}{expected}",)


def test_missing_lfw_files_and_a_wrong_root_are_refused_by_name(lfw: Lfw) -> None:
    for name in LFW_ROWS:
        (lfw.root / name).unlink()
    assert lfw.problems() == (f"{lfw.root}/Ann/Ann_0001.jpg: no such file; is --val_data_root {lfw.root} right?",)
    lfw.landmarks.unlink()
    assert lfw.problems() == (f"{lfw.landmarks}: can't be read: No such file or directory",)
    lfw.pairs.unlink()
    assert lfw.problems() == (f"{lfw.pairs}: can't be read: No such file or directory",)
    lfw.root = lfw.folder / "nowhere"
    assert lfw.problems() == (f"--val_data_root {lfw.root}: no such folder",)


# --- anything at all ------------------------------------------------------------------------------------------------

# Pieces that the formats are made of, and what breaks them.
PIECES = st.sampled_from(
    [
        *("b/1.jpg", "a/1", "b/1", "Ann", "Bob", "Ann/Ann_0001.jpg", "2\t1", "1\t2", HEADER, csv_row("b/1")),
        *("P1X", "1", "-7.5", "nan", "1e999", "²", "१", "99999999999999999999", "9" * 5_000, "NULL", "0x10", "1_0"),
        *(",", ",,", "\t", "/", "..", '"', "'", "\\", "#", " ", "\n", "\r", "\r\n", "\n\n", "\0", "\x85", "\u2028"),
        *("\ufeff", "\x0c", "é", "人", "😀"),
    ]
)
CONTENT = st.one_of(
    *(
        st.lists(st.lists(PIECES, min_size=3, max_size=4).map(tab.join), max_size=4).map("\n".join).map(str.encode)
        for tab in "\t,"
    ),
    st.lists(PIECES, max_size=25).map("".join).map(str.encode),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=80),
)
MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def spoil(path: Path, content: bytes, place: str) -> None:
    """The content alone, or as a line in the middle or at the end of a good file."""
    lines = path.read_bytes().splitlines()
    mixed = {"alone": [content], "inside": [lines[0], content, *lines[1:]], "last": [*lines, content]}[place]
    path.write_bytes(b"\n".join(mixed))


PLACES = st.sampled_from(["alone", "inside", "last"])


@MANY
@given(CONTENT, PLACES, st.sampled_from(["list_file", "table"]))
def test_any_content_of_vgg_files_is_read_or_refused(tmp_path: Path, content: bytes, place: str, which: str) -> None:
    vgg = Vgg(tmp_path)
    spoil(getattr(vgg, which), content, place)
    try:
        faces = vgg.read()
    except InputError as error:
        assert 1 <= len(error.problems) <= 12
        assert str(vgg.folder) in error.problems[0]
        return
    assert faces.landmarks.shape == (len(faces), 5, 2)
    assert np.isfinite(umeyama(faces.landmarks, template_points("arcface", (112, 112)))).all()
    assert len(faces.labels) == len(faces) > 0
    assert set(faces.labels.tolist()) == set(range(len(faces.identities)))


@MANY
@given(CONTENT, PLACES, st.sampled_from(["pairs", "landmarks"]))
def test_any_content_of_lfw_files_is_read_or_refused(tmp_path: Path, content: bytes, place: str, which: str) -> None:
    lfw = Lfw(tmp_path)
    spoil(getattr(lfw, which), content, place)
    try:
        faces = lfw.read()
    except InputError as error:
        assert 1 <= len(error.problems) <= 12
        assert str(lfw.folder) in error.problems[0]
        return
    assert faces.landmarks.shape == (len(faces), 5, 2)
    assert np.isfinite(umeyama(faces.landmarks, template_points("arcface", (112, 112)))).all()
    assert len(faces.pairs) == len(faces.same) == len(faces.fold) > 0
    assert np.unique(faces.pairs).tolist() == list(range(len(faces)))


def test_landmark_columns_are_found_by_their_header(tmp_path: Path) -> None:
    """Another order and more columns are fine; a table without a header is refused, not read a row short."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    (tmp_path / "list.txt").write_text("a/1.jpg\n")
    table = tmp_path / "landmarks.csv"
    columns = [*reversed(LANDMARK_COLUMNS), "SCORE", "NAME_ID"]
    table.write_text(",".join(columns) + "\n" + ",".join(map(str, range(10))) + ',0.5,"a/1"\n')
    faces = read_vgg(DataRoot(tmp_path), str(tmp_path / "list.txt"), str(table))
    assert faces.landmarks.tolist() == [[[9, 8], [7, 6], [5, 4], [3, 2], [1, 0]]]
    table.write_text('"a/1",' + ",".join(map(str, range(10))) + "\n")
    with pytest.raises(InputError, match=r"landmarks.csv:1: expected the header NAME_ID,P1X,P1Y"):
        read_vgg(DataRoot(tmp_path), str(tmp_path / "list.txt"), str(table))
