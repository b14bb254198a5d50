"""Lists from folders: what reads back, what is held out, what is refused."""

import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fr.data.crop_contract import MARK
from fr.data.faces import LabelledFaces
from fr.data.readers.folders import read_folders
from fr.data.readers.lists import read_labelled_list
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.options.definitions import train_options
from fr.options.recipes import first_recipe
from tests.conftest import Losses, launch, losses
from tools.make_list import main, split

Split = dict[str, list[str]]


def photographs(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def people(root: Path, counts: dict[str, int]) -> Path:
    """Folders of so many (empty) files."""
    return photographs(root, *(f"{name}/{number:03}.jpg" for name, count in counts.items() for number in range(count)))


def made(root: Path, out: Path, *options: str) -> Split:
    """Content of the lists, line by line."""
    assert main([str(root), str(out), *options]) == 0
    return {path.stem: path.read_text().splitlines() for path in sorted(out.iterdir())}


def labels(faces: LabelledFaces) -> dict[str, int]:
    return dict(zip(faces.names.to_pylist(), faces.labels.tolist(), strict=True))


COUNTS = {"a": 30, "b c": 20, "d": 1, "é": 10}


def test_lists_read_back_with_the_labels_of_the_folders(tmp_path: Path) -> None:
    root, out = people(tmp_path / "root", COUNTS), tmp_path / "out"
    photographs(root, "b c/deep er/two  words.PNG", "a/1 2")
    made(root, out)
    reference = labels(read_folders(DataRoot(root), ""))
    trained = read_labelled_list(DataRoot(root), str(out / "train.txt"), "")
    assert trained.identities == ["a", "b c", "d", "é"]  # each has an image to train on
    assert labels(trained).items() <= reference.items()
    listed: dict[str, str] = {}
    for part in ("train", "val", "test"):
        found = dict(line.split("\t") for line in (out / f"{part}.txt").read_text().splitlines())
        assert list(found) == sorted(found)  # the order of the folders
        assert not listed.keys() & found.keys()
        listed |= found
    assert listed == {name: trained.identities[label] for name, label in reference.items()}


def test_an_identity_is_split_8_1_1_and_always_trained_on(tmp_path: Path) -> None:
    parts = made(people(tmp_path / "root", COUNTS), tmp_path / "out")
    counts = {part: Counter(line.partition("/")[0] for line in parts[part]) for part in ("train", "val", "test")}
    assert counts["train"] == {"a": 24, "b c": 16, "d": 1, "é": 8}
    assert counts["val"] == counts["test"] == {"a": 3, "b c": 2, "é": 1}


@settings(deadline=None)
@given(
    count=st.integers(1, 40), val=st.floats(0, 0.49), test=st.floats(0, 0.49), seed=st.integers(0, 2**32 - 1)
)
def test_parts_are_disjoint_whole_and_within_one_of_their_fraction(
    count: int, val: float, test: float, seed: int
) -> None:
    names = [f"p/{number}.jpg" for number in range(count)]
    trained, validated, tested = split(names, val, test, seed)
    assert sorted(trained + validated + tested) == sorted(names)
    assert trained
    # One more image than the fraction says, or one less, by chance; fewer where one must be left to train on.
    assert len(tested) < count * test + 1
    assert len(validated) < count * val + 2
    assert count * (1 - val - test) <= len(trained) + 1
    assert split(names[::-1], val, test, seed) == tuple(part[::-1] for part in (trained, validated, tested))


def test_fractions_hold_over_many_identities_of_few_photographs() -> None:
    """2,000 × 3 images: 600 expected in val, and 300 in test; five standard deviations (of a Bernoulli an
    identity) are 103 and 75."""
    parts = [split([f"{person}/{number}.jpg" for number in range(3)], 0.1, 0.05, 0) for person in range(2_000)]
    assert abs(sum(len(validated) for _, validated, _ in parts) - 600) < 103
    assert abs(sum(len(tested) for *_, tested in parts) - 300) < 75


def without_ids(parts: Split) -> dict[str, set[str]]:
    return {part: {line.partition("\t")[0] for line in parts[part]} for part in ("train", "val", "test")}


def test_other_identities_do_not_move_a_photograph_and_another_seed_does(tmp_path: Path) -> None:
    few = without_ids(made(people(tmp_path / "few", COUNTS), tmp_path / "1"))
    more = without_ids(made(people(tmp_path / "more", COUNTS | {"A": 9, "c": 25}), tmp_path / "2"))
    assert {part: {name for name in names if name[:2] not in ("A/", "c/")} for part, names in more.items()} == few
    assert without_ids(made(tmp_path / "few", tmp_path / "3", "--seed", "1")) != few


def test_a_second_run_gives_the_same_bytes_and_clears_what_it_no_longer_holds_out(tmp_path: Path) -> None:
    root, out = people(tmp_path / "root", COUNTS), tmp_path / "out"
    first = made(root, out)
    assert made(root, out) == first
    assert made(root, out, "--test", "0", "--val", "0")["test"] == []
    assert made(root, out) == first


def test_identities_of_few_photographs_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = people(tmp_path / "root", {"a": 2, "b": 5, "c": 1})
    parts = made(root, tmp_path / "out", "--min_images", "2", "--val", "0", "--test", "0")
    assert [line[0] for line in parts["train"]] == list("aabbbbb")
    assert "2 identities; train 7, val 0, test 0; 1 with too few images left out" in capsys.readouterr().out


def test_vgg_lists_have_a_path_a_line(tmp_path: Path) -> None:
    root = people(tmp_path / "root", {"b c": 2, "a": 1})
    parts = made(root, tmp_path / "out", "--format", "vgg", "--val", "0", "--test", "0")
    assert parts["train"] == ["a/000.jpg", "b c/000.jpg", "b c/001.jpg"]
    photographs(root, "a/deeper/1.jpg")
    with pytest.raises(InputError, match=r"'a/deeper/1\.jpg': in a folder of its identity's folder; --format list"):
        main([str(root), str(tmp_path / "out"), "--format", "vgg"])


@pytest.mark.parametrize("name", [" a/1.jpg", "\xa0a/1.jpg", "\ufeffa/1.jpg", "a/1\n.jpg", "a\r/1.jpg", "a/\u2028.jpg"])
def test_names_that_no_list_can_hold_are_refused(tmp_path: Path, name: str) -> None:
    root = photographs(tmp_path / "root", name)
    with pytest.raises(InputError, match=re.escape(f"{name!r}: begins with a space or holds a line break")):
        main([str(root), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: not name.startswith(".")
)


def test_a_space_at_the_end_of_an_identity_and_equal_numbers_are_refused(tmp_path: Path) -> None:
    root = photographs(tmp_path / "root", "a /1.jpg")
    with pytest.raises(InputError, match=r"'a /1\.jpg': the identity ends with a space or holds a tab"):
        main([str(root), str(tmp_path / "out")])
    root = photographs(tmp_path / "tab", "a\tb/1.jpg", "c/1.jpg")
    (tmp_path / "list.txt").write_text("a\tb/1.jpg\nc/1.jpg\n")  # of a detector
    with pytest.raises(InputError, match=r"'a\\tb/1\.jpg': the identity ends with a space or holds a tab"):
        main([str(root), str(tmp_path / "out"), "--list", str(tmp_path / "list.txt")])
    root = photographs(tmp_path / "numbers", "7/1.jpg", "07/1.jpg")  # numbers are identities by their value
    with pytest.raises(InputError, match="folders with equal numbers as names"):
        main([str(root), str(tmp_path / "out")])


TABLE = "NAME_ID," + ",".join(f"P{point}{axis}" for point in range(1, 6) for axis in "XY") + "\n"


def test_images_without_a_row_in_the_detectors_table_and_not_in_the_list_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, tables = people(tmp_path / "root", {"a b": 3, "c": 2}), tmp_path / "tables"
    photographs(root, "stray.jpg")
    tables.mkdir()
    rows = {"a b/000": 1, "a b/001": 2, "c/000": 3, "c/001": 4}
    table = tables / "loose_landmark_train.csv"
    table.write_text(TABLE + "".join(f'"{key}"' + f",{at},0,9,0,5,5,1,9,9,9\n" for key, at in rows.items()))
    (tmp_path / "kept.txt").write_text("a b/000.jpg\nc/000.jpg\nc/001.jpg\tc\n")
    options = ["--landmarks", str(tables), "--list", str(tmp_path / "kept.txt"), "--val", "0", "--test", "0.5"]
    parts = made(root, tmp_path / "out", *options)
    names = sorted(parts["train"] + parts["test"])
    assert names == ["a b/000.jpg\ta b", "c/000.jpg\tc", "c/001.jpg\tc"]
    for part in ("train", "test"):  # the folder's one table, whatever the list is called
        if parts[part]:
            read = read_labelled_list(DataRoot(root), str(tmp_path / f"out/{part}.txt"), str(tables))
            keys = [name.removesuffix(".jpg") for name in read.names.to_pylist()]
            assert read.landmarks[:, 0, 0].tolist() == [rows[key] for key in keys]
    told = capsys.readouterr().out
    assert f"1 image in {root} itself, in no identity's folder, left out: stray.jpg" in told
    assert f"2 images not in {tmp_path}/kept.txt left out" in told
    with pytest.raises(InputError, match=r"kept\.txt:1: 'stray\.jpg' is no image in a folder of"):
        (tmp_path / "kept.txt").write_text("stray.jpg\n")
        main([str(root), str(tmp_path / "out"), *options])


def test_people_held_out_are_in_pairs_alone_each_pair_once_and_as_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = people(tmp_path / "root", {f"p {number}": 6 for number in range(10)})
    parts = made(root, tmp_path / "out", "--people", "0.3")
    pairs = [line.split("\t") for line in parts["pairs"]]
    held = {name.partition("/")[0] for *names, _ in pairs for name in names}
    trained = {line.partition("\t")[2] for part in ("train", "val", "test") for line in parts[part]}
    assert (len(held), len(trained), held & trained) == (3, 7, set())
    assert len({frozenset(names) for *names, _ in pairs}) == len(pairs) == 90  # 3 · 6 · 5 / 2 of the same, and as many
    assert all((first.split("/")[0] == second.split("/")[0]) == (same == "1") for first, second, same in pairs)
    assert sum(same == "1" for *_, same in pairs) == 45
    assert made(root, tmp_path / "again", "--people", "0.3") == parts
    *_, advice, _, last_line = capsys.readouterr().out.splitlines()
    last = shlex.split(last_line)
    assert last[:6] == ["next:", "python", "train.py", "@configs/fine_tune.yml", "--init_from", "backbone.pth"]
    assert "fewer than about 100 identities" in advice
    assert train_options(last[3:]).values.train_list == str(tmp_path / "again/train.txt")
    assert last[last.index("--val_list") + 1] == str(tmp_path / "again/pairs.txt")
    with pytest.raises(InputError, match=r"--people 0\.9: holds out 9 of 10 identities"):
        main([str(root), str(tmp_path / "out"), "--people", "0.9"])


def test_a_hundred_people_are_trained_from_scratch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = people(tmp_path / "root", {f"p {number}": 1 for number in range(100)})
    made(root, tmp_path / "out")
    said = capsys.readouterr().out
    assert "without --landmarks the images are taken for aligned crops; " in said and "tools/detect_faces.py" in said
    last = shlex.split(said.splitlines()[-1])
    assert last[:4] == ["next:", "python", "train.py", "@configs/own_faces.yml"] and "fewer than" not in said
    assert train_options(last[3:]).values.aligned
    monkeypatch.delenv("LFW_ROOT", raising=False)
    many, _ = first_recipe(1_000_000)
    large = train_options([*many, *last[4:]]).values  # nothing of the recipe's own data is left
    assert (large.model, large.train_data_root, large.val_data_root) == ("mobilenet", str(root), "")
    (root / MARK).write_text("{}")
    made(root, tmp_path / "out")
    assert "taken for aligned crops" not in capsys.readouterr().out


@settings(deadline=None)
@given(folder=NAMES, file=NAMES)
def test_any_name_reads_back_as_it_is_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, folder: str, file: str
) -> None:
    base = tmp_path_factory.mktemp("any")
    photographs(base / "root", f"{folder}/{file}.jpg", "z/1.jpg")
    for form in ("list", "vgg"):
        try:
            main([str(base / "root"), str(base / form), "--format", form])
        except InputError:
            continue
        if form == "list":
            read = labels(read_labelled_list(DataRoot(base / "root"), str(base / form / "train.txt"), ""))
            assert read == labels(read_folders(DataRoot(base / "root"), ""))
        else:
            assert (base / form / "train.txt").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val", "0.6", "--test", "0.4"], "--val 0.6 and --test 0.4 together leave nothing to train on"),
        (["--min_images", "31"], "no folder holds 31 images (--min_images)"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: list[str], message: str) -> None:
    root = people(tmp_path / "root", COUNTS)
    with pytest.raises(InputError, match=re.escape(message)):
        main([str(root), str(tmp_path / "out"), *options])


def test_the_command_ends_plainly(tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.touch()
    root = people(tmp_path / "root", COUNTS)
    failed = launch("tools/make_list.py", str(root), str(out))
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1] == f"tools/make_list.py: {out}: can't be written: File exists"


def test_a_network_trains_on_the_list(sample_data: Path, run_small: Callable[..., Losses], tmp_path: Path) -> None:
    made(sample_data / "vggface2/train", tmp_path / "lists")
    options = ["--train_dataset", "list", "--train_list", str(tmp_path / "lists/train.txt"), "--max_iterations", "10"]
    assert np.isfinite(run_small(*options, out=tmp_path)).all()
    assert len(losses(tmp_path)) == 10
