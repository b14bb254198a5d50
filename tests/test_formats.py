"""Every format of training data: what its reader makes of it and refuses, and that it trains as VGGFace2's does."""

import codecs
import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from fr.alignment import procrustes, template_points
from fr.checkpoint import snapshot
from fr.data.faces import Faces
from fr.data.formats import READERS, read_training_faces
from fr.data.landmark_csv import LANDMARK_COLUMNS
from fr.data.lines import STAYS
from fr.data.pipeline import DaliSettings, plain_stream
from fr.data.placement import matrices, scaling
from fr.data.readers.folders import read_folders
from fr.data.readers.source import Source
from fr.data.readers.vgg import label_order
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.options.names import DATASETS, UNLABELLED
from fr.preprocessing import Preprocessing
from tests.builders.training_formats import (
    HUNDREDTHS,
    LINES,
    META,
    POINTS,
    TEN,
    Data,
    converted,
    data,
    option_problems,
    write_table,
)
from tests.conftest import Losses, data_options, same_weights, weights

__all__ = ["data"]  # a fixture

PLAIN = Preprocessing((112, 96), "arcface", "procrustes", "rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CPU = DaliSettings("cpu", None, 1)


def points(shift: float = 0.0) -> list[list[float]]:
    moved: list[list[float]] = (np.array(POINTS).reshape(5, 2) + shift).tolist()
    return moved


# --- what each reader makes of a file ---------------------------------------------------------------------------------


def test_list_by_hand(data: Data) -> None:
    faces = data.read("list", "a/1.jpg 12\nb c/two words.jpg\t7\n\n  d.png   012  \na/3.jpg 7\n")
    assert faces.names.to_pylist() == ["a/1.jpg", "b c/two words.jpg", "d.png", "a/3.jpg"]
    assert faces.identities == ["7", "12"]  # by number, without the gaps; 012 is 12
    assert faces.labels.tolist() == [1, 0, 1, 0]
    assert faces.labels.dtype == np.int64
    assert faces.landmarks.shape == (4, 0, 2)
    assert faces.path(1) == f"{data.root}/b c/two words.jpg"


def test_ids_that_are_not_all_numbers_are_sorted_as_names(data: Data) -> None:
    faces = data.read("list", "a/1.jpg 12\na/2.jpg 7\na/3.jpg zoë\na/4.jpg 7\n")
    assert faces.identities == ["12", "7", "zoë"]
    assert faces.labels.tolist() == [0, 1, 2, 1]


def test_list_with_a_landmark_csv_is_joined_by_name(data: Data) -> None:
    write_table(data.table, {"b/1": 2, "a/1": 1, "x/9": 3})
    faces = data.read("list", "a/1.jpg 1\nb/1.png 0\n", landmarks=str(data.table))
    assert faces.landmarks.tolist() == [points(1), points(2)]


def test_trillion_pairs_by_hand(data: Data) -> None:
    moved = " ".join(str(value + 1) for value in POINTS)
    faces = data.read("trp", f"a/1.jpg 30 {TEN}\nx y/2.jpg 4 {moved}\na/3.jpg 30 {TEN}\n")
    assert faces.names.to_pylist() == ["a/1.jpg", "x y/2.jpg", "a/3.jpg"]
    assert faces.identities == ["4", "30"]
    assert faces.labels.tolist() == [1, 0, 1]
    assert faces.landmarks.tolist() == [points(), points(1), points()]
    assert faces.boxes is None


@pytest.mark.parametrize("dataset", ["ms1m", "imdbface"])
def test_lists_of_detections_by_hand(data: Data, dataset: str) -> None:
    text = (
        f"b/1.jpg |\nm.2/1.jpg | {HUNDREDTHS}  | 7 9 100 80\nb/2.jpg\na/1.jpg| {HUNDREDTHS} |-3 9 100 100\n"
        f"m.2/2.jpg | {HUNDREDTHS} | 0 0 50 60\n"
    )
    data.photographs("m.2/1.jpg")
    faces = data.read(dataset, text)
    assert faces.names.to_pylist() == ["m.2/1.jpg", "a/1.jpg", "m.2/2.jpg"]
    assert faces.identities == ["m.2", "a"]
    assert faces.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(faces.landmarks, np.tile(points(), (3, 1, 1)) / 100, rtol=1e-15)
    whole = [0.0, 0.0, np.inf, np.inf]
    expected = [[7, 9, 100, 80], [0, 9, 100, 100], [0, 0, 50, 60]] if dataset == "ms1m" else [whole] * 3
    assert faces.boxes is not None
    assert faces.boxes.tolist() == expected
    assert faces.notes == (f"2 images of {data.list_file} without a face left out",)


def test_folders_are_imagefolders(data: Data, tmp_path: Path) -> None:
    names = ["b/2.JPG", "b/10.jpeg", "B/1.Png", "a/1.jpg", "a/deep/er/2.bmp", "é/1.webp", "a.b/0.jpg"]
    data.photographs(*names, "b/notes.txt", "README.jpg")
    faces = read_folders(DataRoot(data.root), "")
    reference = ImageFolder(str(data.root))
    assert [faces.path(i) for i in range(len(faces))] == [path for path, _ in reference.samples]
    assert faces.labels.tolist() == reference.targets
    assert faces.identities == reference.classes
    assert faces.landmarks.shape == (7, 0, 2)
    assert faces.notes == (
        f"1 image in {data.root} itself, in no identity's folder, left out: README.jpg",
        f"left out of {data.root} for their endings: 1 .txt",
    )


def test_hidden_and_empty_folders_are_no_classes(data: Data) -> None:
    data.photographs("a/.1.jpg", ".git/1.jpg", "c/notes.txt", "d/1.jpg", "d/.thumbs/1.jpg")
    (data.root / "e").mkdir()
    faces = read_folders(DataRoot(data.root), "")
    assert faces.names.to_pylist() == ["a/1.jpg", "d/1.jpg"]
    assert faces.identities == ["a", "d"]
    assert faces.notes == (
        f"2 folders of {data.root} without images left out: c, e",
        f"left out of {data.root} for their endings: 1 .txt",
    )


def test_what_file_servers_leave_in_folders_is_nobodys_and_other_endings_are_counted(data: Data) -> None:
    """Synology's thumbnails, macOS's and Windows' files; JPEG files under their other endings are read."""
    data.photographs("a/1.jpg", "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/x/1.jpg", "a/._1.jpg", "b/Thumbs.db")
    data.photographs("__MACOSX/a/1.jpg", "lost+found/1.jpg", "b/2.jfif", "b/3.JPE", "b/4.tif", "b/5.HEIC", "b/6.heic")
    faces = data.read("folder")
    assert faces.names.to_pylist() == ["a/1.jpg", "b/2.jfif", "b/3.JPE"]
    assert faces.identities == ["a", "b"]
    assert faces.notes == (f"left out of {data.root} for their endings: 2 .heic, 1 .tif",)


def test_an_identity_with_a_line_break_in_its_name_is_refused(data: Data) -> None:
    """It would train, and its snapshot's list of identities, a line each, would be another one's."""
    data.photographs("a\nb/1.jpg", "c\rd/1.jpg", "e f\u2028/1.jpg")
    with pytest.raises(InputError, match="line break") as caught:
        read_training_faces({"train_dataset": "folder", "train_data_root": str(data.root), "aligned": True})
    assert len(caught.value.problems) == 2


def test_an_image_of_two_identities_is_said(data: Data) -> None:
    data.photographs("a/1.jpg", "a/2.jpg")
    data.list_file.write_text("a/1.jpg 5\na/2.jpg 5\na/1.jpg 6\na/2.jpg 5\n")
    options = {"train_dataset": "list", "train_data_root": str(data.root), "train_list": str(data.list_file)}
    faces = read_training_faces({**options, "aligned": True, "data_cache": "none"})
    assert faces.notes == ("1 image listed under two identities: a/1.jpg (5, 6)",)


def test_links_are_followed_unless_they_lead_back(data: Data, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "9.jpg").touch()
    for link, target in {"b": tmp_path / "elsewhere", "a/up": data.root, "a/self": data.root / "a"}.items():
        (data.root / link).symlink_to(target)
    assert read_folders(DataRoot(data.root, outside_allowed=True), "").names.to_pylist() == ["a/1.jpg", "b/9.jpg"]
    (data.root / "b").unlink()
    (data.root / "b").symlink_to("a")
    assert read_folders(DataRoot(data.root), "").names.to_pylist() == ["a/1.jpg", "b/1.jpg"]


def test_folders_with_a_landmark_csv_are_joined_by_name(data: Data) -> None:
    data.photographs("b/1.PNG")
    write_table(data.table, {"b/1": 2, "a/1": 1})
    assert read_folders(DataRoot(data.root), str(data.table)).landmarks.tolist() == [points(1), points(2)]
    write_table(data.table, {"a/1": 1})
    with pytest.raises(InputError, match=r"b/1\.PNG has no row in .*points\.csv"):
        read_folders(DataRoot(data.root), str(data.table))


# --- identity_meta.csv ------------------------------------------------------------------------------------------------


def test_labels_follow_the_meta_file_flag_1_first(data: Data, tmp_path: Path) -> None:
    data.photographs("c/1.jpg")
    write_table(data.table, {"a/1": 1, "b/1": 2, "c/1": 3})
    meta = tmp_path / "identity_meta.csv"
    meta.write_text(META)
    assert label_order(meta) == ["b", "a", "c"]
    faces = data.read("vgg", "c/1.jpg\na/1.jpg\nc/1.jpg\n", str(data.table), str(meta))
    assert faces.identities == ["a", "c"]  # those of the list alone
    assert faces.labels.tolist() == [1, 0, 1]
    without = data.read("vgg", "c/1.jpg\na/1.jpg\nc/1.jpg\n", str(data.table))
    assert without.identities == ["c", "a"]
    assert without.fingerprint() != faces.fingerprint()


def test_an_identity_without_a_row_in_the_meta_file_is_refused(data: Data, tmp_path: Path) -> None:
    write_table(data.table, {"a/1": 1, "x/1": 2, "y/1": 3})
    meta = tmp_path / "identity_meta.csv"
    meta.write_text(META)
    assert data.problems("vgg", "a/1.jpg\nx/1.jpg\n\ny/1.jpg\nx/1.jpg\n", str(data.table), str(meta)) == (
        f"{data.list_file}:2: the identity x isn't in {meta}",
        f"{data.list_file}:4: the identity y isn't in {meta}",
    )


def test_vggface2s_own_meta_file_reads_the_same_in_both_quotings(shared_data: Path) -> None:
    published, respaced = (
        label_order(shared_data / "vggface2" / name) for name in ("identity_meta.csv", "identity_meta_respaced.csv")
    )
    assert published == respaced
    assert len(published) == len(set(published)) == 9_131
    assert published[0] == "n000002"  # the first with Flag 1
    assert published[8_631] == "n000001"  # the first with Flag 0
    assert published[:8_631] == sorted(published[:8_631])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ":1: expected the header Class_ID, Name, Sample_Num, Flag, Gender"),
        (META.split("\n", 1)[1], ":1: expected the header Class_ID, Name, Sample_Num, Flag, Gender"),
        (META + "d, D, 3, 1\n", ":5: isn't Class_ID, Name, Sample_Num, Flag, Gender with a Flag of 0 or 1"),
        (META + "\nd, D, 3, 2, m\n", ":6: isn't Class_ID, Name, Sample_Num, Flag, Gender with a Flag of 0 or 1"),
        (META + "a, D, 3, 1, m\n", ":5: a for the second time"),
    ],
)
def test_a_bad_meta_file_is_refused_by_line(tmp_path: Path, text: str, expected: str) -> None:
    meta = tmp_path / "identity_meta.csv"
    meta.write_text(text)
    with pytest.raises(InputError) as caught:
        label_order(meta)
    assert caught.value.problems == (f"{meta}{expected}",)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", LINES)
@pytest.mark.parametrize("name", ["../a/1.jpg", "/a/1.jpg", "a/../../1.jpg", "a/.."])
def test_paths_out_of_the_root_are_refused(data: Data, dataset: str, name: str) -> None:
    text = "\n".join([LINES[dataset]("a/1.jpg", "1"), "", LINES[dataset](name, "2")])
    (problem,) = data.problems(dataset, text)
    assert problem == f"{data.list_file}:3: {name!r}: {STAYS}"


@pytest.mark.parametrize("dataset", LINES)
def test_bom_and_crlf_change_nothing_and_utf16_is_refused(data: Data, dataset: str) -> None:
    text = "".join(LINES[dataset](name, "1") + "\n" for name in ("a/1.jpg", "a/2.jpg"))
    plain = data.read(dataset, text)
    other = data.read(dataset, codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode())
    assert other.fingerprint() == plain.fingerprint()
    assert data.problems(dataset, text.encode("utf-16")) == (f"{data.list_file}: UTF-16 text; save it as UTF-8",)


def test_utf16_is_refused_in_csv_and_meta_too(data: Data, tmp_path: Path) -> None:
    write_table(data.table, {"a/1": 1})
    meta = tmp_path / "meta.csv"
    meta.write_text(META, "utf-16")
    said = "UTF-16 text; save it as UTF-8"
    assert data.problems("vgg", "a/1.jpg\n", str(data.table), str(meta)) == (f"{meta}: {said}",)
    data.table.write_text(data.table.read_text(), "utf-16")
    assert data.problems("list", "a/1.jpg 1\n", str(data.table)) == (f"{data.table}: {said}",)


NINE = HUNDREDTHS.rsplit(" ", 1)[0]


@pytest.mark.parametrize(
    ("dataset", "line", "expected"),
    [
        ("list", "a/1.jpg", "'a/1.jpg' isn't `path id`"),
        ("trp", "a/1.jpg 3", "'a/1.jpg 3' isn't `path label x1 y1 … x5 y5`"),
        ("trp", "a/1.jpg x 1 2 3 4 5 6 7 8 9 0", None),
        ("trp", "a/1.jpg -1 1 2 3 4 5 6 7 8 9 0", None),
        ("trp", f"a/1.jpg 3 {TEN} 5", None),  # a label of 30.5
        ("trp", "a/1.jpg 3 1 2 3 4 x 6 7 8 9 0", "'x' isn't a number"),
        ("trp", "a/1.jpg 3 1 2 3 4 nan 6 7 8 9 0", "not finite, or a million pixels away"),
        ("trp", "a/1.jpg 3 1 2 3 4 1e7 6 7 8 9 0", "not finite, or a million pixels away"),
        ("trp", "a/1.jpg 3 5 5 5 5 5 5 5 5 5 5", "all five on one spot"),
        ("ms1m", f"a/1.jpg | {NINE} | 0 0 9 9", None),
        ("ms1m", f"a/1.jpg | {HUNDREDTHS} | 0 0 9", None),
        ("ms1m", f"a/1.jpg | {HUNDREDTHS} | 0 0 9 9.5", None),
        ("ms1m", f"a/1.jpg | {HUNDREDTHS} | 0 0 9 9 | 1", None),
        ("ms1m", f"a/1.jpg | {HUNDREDTHS} | 0 0 9 0", "the box is empty"),
        ("ms1m", f"1.jpg | {HUNDREDTHS} | 0 0 9 9", "not <identity>/<file>"),
        ("ms1m", f"a/1.jpg | {TEN} | 0 0 9 9", "not finite, or ten boxes away (they are fractions of the box, not pi"),
        ("imdbface", f"a/1.jpg | {NINE} 1 2 | ", None),
        ("imdbface", f"a/1.jpg | {HUNDREDTHS} | 0 0 9 9 | 1", None),
        ("imdbface", f"a/1.jpg | {NINE} wide | ", "'wide' isn't a number"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(data: Data, dataset: str, line: str, expected: str | None) -> None:
    good = LINES[dataset]("a/1.jpg", "1")
    expected = expected or f"{line[:80].strip()!r} isn't " + ("`path label" if dataset == "trp" else "`id/img")
    found = data.problems(dataset, f"{good}\n\n{line}\n{line}\n{good}\n")
    assert len(found) == 2
    assert found[0].startswith(f"{data.list_file}:3: {expected}")
    assert found[1].startswith(f"{data.list_file}:4: {expected}")


def test_a_list_of_another_format_is_not_taken_for_failed_detections(data: Data) -> None:
    for text in ("a/1.jpg\na/2.jpg\n", "a/1.jpg |\n"):
        (problem,) = data.problems("ms1m", text)
        assert problem == (
            f"{data.list_file}: no face in any line; a line with one is `id/img | x1 y1 … x5 y5 | x y w h`"
        )


def test_a_root_without_pictures_or_absent_is_refused(data: Data) -> None:
    (data.root / "a/1.jpg").unlink()
    with pytest.raises(InputError, match=r"images: no folder in it holds an image \(\.jpg, "):
        read_folders(DataRoot(data.root), "")
    for dataset in READERS:
        with pytest.raises(InputError, match=r"--train_data_root nowhere: no such folder"):
            data.list_file.write_text(LINES.get(dataset, lambda name, _: name)("a/1.jpg", "1"))
            READERS[dataset](Source("nowhere", str(data.list_file), "", ""))


def test_file_names_that_are_not_utf8_are_refused(data: Data) -> None:
    with open(os.path.join(os.fsencode(data.root), b"a", b"\xff.jpg"), "w"):
        pass
    with pytest.raises(InputError, match=r"a/\\udcff\.jpg': the name isn't UTF-8"):
        read_folders(DataRoot(data.root), "")


# --- anything at all --------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *("a/1.jpg", "a/1", "1", "12", "007", "x", "..", "/", "|", "||", ",", '"', "\t", " ", "  ", "\n", "\r\n", "\r"),
        *(TEN, HUNDREDTHS, NINE, "7 9 100 100", "-1 -1 5 5", "0 0 0 0", "nan", "inf", "1e999", "1_0", "²", "१", "0x10"),
        *("9" * 18, "9" * 5_000, "\0", "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "\ufeff", "é", "😀"),
        *(line("a/1.jpg", "1") for line in LINES.values()),
        *("n1, N, 3, 1, m", 'a, "N, M", 3, 0, f', META, "NAME_ID," + ",".join(LANDMARK_COLUMNS)),
        ",".join(["a/1", *map(str, POINTS)]),
    ]
)
CONTENT = st.one_of(
    st.lists(PIECES, max_size=12).map("".join).map(str.encode),
    st.lists(st.lists(PIECES, max_size=4).map(" ".join), max_size=4).map("\n".join).map(str.encode),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=80),
)
GOOD = {dataset: line("a/1.jpg", "1") for dataset, line in LINES.items()}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("which", [*LINES, "meta", "table of list", "table of folder"])
@given(content=CONTENT, after_a_good_line=st.booleans())
def test_any_content_is_read_or_refused(data: Data, which: str, content: bytes, after_a_good_line: bool) -> None:
    """All that is read is fit to train on; all else raises InputError and nothing else."""
    write_table(data.table, {"a/1": 0})
    meta = data.root.parent / "meta.csv"
    meta.write_text(META)
    good = {**GOOD, "meta": META}.get(which, data.table.read_text()).encode()
    content = good + b"\n" + content if after_a_good_line else content
    try:
        if which in LINES:
            faces = data.read(which, content)
        elif which == "meta":
            meta.write_bytes(content)
            faces = data.read("vgg", b"a/1.jpg\n", str(data.table), str(meta))
        else:
            data.table.write_bytes(content)
            faces = data.read(which.split()[-1], b"a/1.jpg 1\n", str(data.table))
    except InputError as error:
        assert 1 <= len(error.problems) <= 12
        assert str(data.root.parent) in error.problems[0]
        return
    assert len(faces) == len(faces.labels) > 0
    assert set(faces.labels.tolist()) == set(range(len(faces.identities)))
    assert len(set(faces.identities)) == len(faces.identities)
    picture = encoded(np.zeros((120, 130, 3), np.uint8))
    found, _ = matrices(faces, np.arange(len(faces)), [picture] * len(faces), PLAIN)
    assert np.isfinite(found).all()


# --- options ----------------------------------------------------------------------------------------------------------


LISTS = ": a file with a line for each image, as of tools/detect_faces.py and tools/make_list.py"


def test_each_format_has_a_reader_and_its_options() -> None:
    assert DATASETS.keys() | UNLABELLED.keys() == READERS.keys()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", [f"--train_list is required by --train_dataset vgg{LISTS}",
              "--train_landmarks is required by --train_dataset vgg: CSV files with landmarks, as of "
              "tools/detect_faces.py"]),
        ("--train_dataset trp", [f"--train_list is required by --train_dataset trp{LISTS}"]),
        (
            "--train_dataset folder --train_list l --aligned",
            ["command line: --train_list: not used by --train_dataset folder"],
        ),
        (
            "--train_dataset ms1m --train_list l --train_landmarks p --train_meta m --aligned",
            [f"command line: --{name}: not used by --train_dataset ms1m" for name in ("train_landmarks", "train_meta")]
            + ["command line: --aligned: not used by --train_dataset ms1m"],
        ),
        (
            "--train_dataset folder --train_landmarks l --aligned",
            ["command line: --aligned: not with --train_landmarks, which align the images"],
        ),
        (
            "--train_dataset folder",
            [
                "--train_dataset folder needs to know where the faces are: give --train_landmarks (CSV files, as of "
                "tools/detect_faces.py), or --aligned if the images are aligned crops, or the network takes centre "
                "crops (--alignment center_crop)"
            ],
        ),
        (
            "--train_dataset list --train_list l --aligned --template arcface --alignment center_crop",
            [
                *(
                    f"command line: --{name}: not with --alignment center_crop, which uses no landmarks"
                    for name in ("aligned", "template")
                ),
                "--cutout_prob: boxes over landmarks, and --alignment center_crop has none: give 0",
            ],
        ),
    ],
)
def test_a_format_without_what_it_needs_or_with_what_it_does_not_use_is_refused(
    words: str, expected: list[str]
) -> None:
    assert list(option_problems(*words.split())) == expected


def test_an_older_snapshots_options_still_name_their_faces(sample_data: Path) -> None:
    words = data_options(sample_data)
    old = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert len(read_training_faces(old)) == 96
    with pytest.raises(InputError, match="--train_dataset celeba: unknown; one of vgg, folder, list"):
        read_training_faces(old | {"train_dataset": "celeba"})


# --- images ---------------------------------------------------------------------------------------------------------


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth, with something to see everywhere."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + phase) * np.cos(y / 11 - phase) for phase in (0.0, 1.0, 2.0)]
    return np.round(127.5 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def encoded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return np.frombuffer(file.getvalue(), np.uint8)


def aligned_levels(faces: Faces) -> NDArray[np.float64]:
    """Output of the pipeline, [N, H, W, 3] from 0 to 255."""
    batches = [np.asarray(batch) for batch in plain_stream(faces, np.arange(len(faces)), 8, PLAIN, CPU)]
    return np.concatenate(batches).transpose(0, 2, 3, 1).astype(np.float64) * 255


@pytest.mark.parametrize("size", [(112, 96), (96, 80), (130, 110), (112, 112), (300, 260)])
def test_an_aligned_crop_is_resized_to_the_input(tmp_path: Path, size: tuple[int, int]) -> None:
    """By cv2.resize: bilinear, by area where that averages more than a pixel (there the pipeline blurs first)."""
    (tmp_path / "a").mkdir()
    image = picture(*size)
    Image.fromarray(image).save(tmp_path / "a" / "1.png")
    (found,) = aligned_levels(read_folders(DataRoot(tmp_path), ""))
    shrinks = size[0] / 112 > 1.2
    expected = cv2.resize(image, (96, 112), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    difference = np.abs(found - expected)
    # Both round to whole levels, and may round a half differently: 1. A Gaussian in place of a box of the same variance
    # brings another level or so. The outermost pixel of a crop that is enlarged is mixed with the black around it.
    assert difference[1:-1, 1:-1].max() < (2.5 if shrinks else 1.001)
    assert difference.mean() < (0.7 if shrinks else 0.2 if size[0] >= 112 else 1)
    if size == (112, 96):
        np.testing.assert_allclose(found, image, atol=1e-3)  # float32 of whole levels


def test_the_matrix_of_a_crop_takes_corners_to_corners() -> None:
    (matrix,) = scaling(np.array([[200, 50]]), (112, 96))
    corners = np.array([[-0.5, -0.5, 1], [199.5, 49.5, 1]])  # the outer edges of pixels
    np.testing.assert_allclose(corners @ matrix.T, [[-0.5, -0.5], [95.5, 111.5]], atol=1e-12)


def test_fractions_of_a_box_are_those_of_the_slice_that_face_recognition_pytorch_takes(data: Data) -> None:
    """Boxes inside, across the edge on either side; the reference slices the array, and scales by what that leaves."""
    size = height, width = 120, 130
    boxes = [(7, 9, 100, 80), (60, 50, 100, 100), (-3, -8, 90, 90), (0, 0, 130, 120)]
    text = "".join(f"a/1.jpg | {HUNDREDTHS} | {x} {y} {w} {h}\n" for x, y, w, h in boxes)
    image = picture(*size)
    for dataset in ("ms1m", "imdbface"):
        faces = data.read(dataset, text)
        found, placed = matrices(faces, np.arange(4), [encoded(image)] * 4, PLAIN)
        assert placed.all()
        for box, matrix in zip(boxes, found, strict=True):
            x, y, w, h = (max(value, 0) for value in box) if dataset == "ms1m" else (0, 0, width, height)
            slice_height, slice_width = image[y : y + h, x : x + w].shape[:2]
            expected = np.array(points()) / 100 * (slice_width, slice_height) + (x, y)
            template = template_points("arcface", (112, 96))
            np.testing.assert_allclose(matrix, procrustes(expected[None], template)[0], rtol=1e-9, atol=1e-9)


def test_a_box_outside_the_picture_is_named_when_its_turn_comes(data: Data) -> None:
    Image.fromarray(picture(120, 130)).save(data.root / "a/1.jpg")
    faces = data.read("ms1m", f"a/1.jpg | {HUNDREDTHS} | 130 0 50 50\n")
    with pytest.raises(InputError, match=r"a/1\.jpg"):
        aligned_levels(faces)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg_losses(run_small: Callable[..., Losses], tmp_path_factory: pytest.TempPathFactory) -> Losses:
    return run_small("--max_iterations", "10", out=tmp_path_factory.mktemp("vgg"))


@pytest.mark.parametrize("dataset", ["list", "folder", "trp", "ms1m", "imdbface"])
def test_ten_iterations_lose_what_vggface2s_format_loses(
    dataset: str, run_small: Callable[..., Losses], vgg_losses: Losses, sample_data: Path, tmp_path: Path
) -> None:
    found = run_small(*converted(dataset, sample_data, tmp_path), "--max_iterations", "10", out=tmp_path)
    assert len(found) == 10
    if dataset in ("ms1m", "imdbface"):
        # Landmarks of 1e-16 · 100 pixels beside the others: places in the image may round to the next 1e-5 pixel of
        # float32, whose effect on a loss is of the order of float32's rounding.
        assert found == pytest.approx(vgg_losses, rel=1e-5)
    else:
        assert found == vgg_losses


def test_aligned_crops_train_and_resume_to_the_last_bit(
    run_small: Callable[..., Losses],
    vgg_losses: Losses,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fr.data.crop_contract.size_warning", lambda faces: f"{len(faces)} of them differ")
    words = ["--train_dataset", "folder", "--train_list", "", "--train_landmarks", "", "--aligned"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run_small(*words, "--max_iterations", "10", out=whole)
    assert expected != vgg_losses
    assert "warning: --aligned: the images are taken for aligned crops, but 96 of them" in capsys.readouterr().err
    run_small(*words, "--max_iterations", "4", out=parts)
    assert run_small(*words, "--max_iterations", "10", "--snap_to_resume", "auto", out=parts) == expected
    assert same_weights(weights(parts, 10), weights(whole, 10))


def test_centre_crops_train_without_landmarks_and_say_so_in_the_snapshot(
    run_small: Callable[..., Losses], sample_data: Path, tmp_path: Path
) -> None:
    words = ["--train_landmarks", "", "--val_landmarks", "", "--alignment", "center_crop", "--cutout_prob", "0"]
    found = run_small(*words, "--train_dataset", "folder", "--train_list", "", out=tmp_path / "folder")
    assert found == run_small(*words, out=tmp_path / "vgg")
    assert snapshot.read(tmp_path / "vgg/snapshots/tiny_3.pt").preprocessing["alignment"] == "center_crop"
    tables = ["--train_landmarks", str(sample_data / "vggface2/bb_landmark")]
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"train_landmarks: {tables[1]}\ntemplate: arcface\n")
    replaced = [f"@{recipe}", "--alignment", "center_crop", "--cutout_prob", "0"]
    assert run_small(*replaced, "--train_dataset", "vgg", out=tmp_path / "recipe") == found
    with pytest.raises(InputError, match="--train_landmarks: not with --alignment center_crop"):
        run_small(*replaced, *tables, out=tmp_path / "refused")


def test_resume_refuses_the_same_faces_otherwise_placed(
    run_small: Callable[..., Losses], sample_data: Path, tmp_path: Path
) -> None:
    """The fingerprint covers the boxes: ms1m's fractions taken as imdbface's are other faces."""
    words = converted("ms1m", sample_data, tmp_path)
    run_small(*words, out=tmp_path)
    with pytest.raises(InputError, match=r"run\.data is"):
        run_small(*words, "--train_dataset", "imdbface", "--snap_to_resume", "auto", out=tmp_path)


def test_a_meta_file_changes_the_labels_of_a_run(
    run_small: Callable[..., Losses], vgg_losses: Losses, sample_data: Path, tmp_path: Path
) -> None:
    published = sample_data / "vggface2/meta/identity_meta.csv"
    assert run_small("--train_meta", str(published), "--max_iterations", "10", out=tmp_path / "a") == vgg_losses
    header, *rows = published.read_text().splitlines()
    other = tmp_path / "meta.csv"
    other.write_text("\n".join([header, *reversed(rows)]))
    assert run_small("--train_meta", str(other), "--max_iterations", "10", out=tmp_path / "b") != vgg_losses


def test_the_summary_counts_what_was_left_out(
    run_small: Callable[..., Losses], sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = converted("imdbface", sample_data, tmp_path)
    with (tmp_path / "imdbface.txt").open("a") as file:
        file.write("\nn000001/none.jpg |\nn000001/none.jpg\n")
    run_small(*words, out=tmp_path)
    assert f"2 images of {tmp_path}/imdbface.txt without a face left out" in "".join(capsys.readouterr())
