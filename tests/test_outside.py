"""Images outside of the data root: refused however they are come to, unless --allow_outside is given."""

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.data.formats import READERS
from fr.data.landmark_csv import LANDMARK_COLUMNS
from fr.data.lines import STAYS
from fr.data.order import Order
from fr.data.pairs.lfw import read_lfw
from fr.data.pipeline import plain_stream
from fr.data.readers.folders import images_below
from fr.data.readers.source import Source
from fr.distributed import Ranks
from fr.errors import InputError
from fr.evaluation import scoring
from fr.evaluation.scored_model import ScoredModel
from fr.files.data_root import DataRoot
from fr.files.untrusted import OutsideRoot
from fr.options.definitions import evaluation_options
from tests.builders.damaged_images import BATCH, CPU, SMALL, assert_equal, encoded, faces, picture, reported, stream
from tests.builders.recordio import alone
from tests.builders.recordio import write as write_records
from tests.builders.training_formats import LINES, POINTS
from tests.conftest import Losses, data_options, validation_options
from tools.align_faces import main as align_faces
from tools.check_dataset import main as check_dataset
from tools.detect_faces import find_face
from tools.make_list import main as make_list
from tools.pack_dataset import main as pack_dataset

__all__ = ["faces"]  # a fixture

ONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
TEN = " ".join(map(str, POINTS)).encode()
LISTED = {**LINES, "vgg": lambda name, _identity: name}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with an image, and a landmark CSV beside it; elsewhere another image."""
    for folder in ("root/a", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.jpg").write_bytes(encoded(picture(1)))
    rows = [",".join([f'"{name}"', *map(str, POINTS)]) for name in ("a/1", "a/2", f"{tmp_path}/elsewhere/1")]
    (tmp_path / "points.csv").write_text("\n".join([",".join(["NAME_ID", *LANDMARK_COLUMNS]), *rows]))
    return tmp_path / "root"


def read(dataset: str, root: Path, text: str, outside: bool) -> LabelledFaces:
    listed, table = root.parent / "list.txt", root.parent / "points.csv"
    listed.write_text(text)
    landmarks = str(table) if dataset in ("vgg", "list", "folder") else ""
    return READERS[dataset](Source(str(root), str(listed), landmarks, "", aligned=False, allow_outside=outside))


def linked(link: Path, target: Path, root: Path | None = None) -> str:
    """Makes a link; what is said of it when it is met."""
    link.symlink_to(target)
    root = root or next(folder for folder in link.parents if folder.name == "root")
    return f"{link}: leads out of {root}, to {target.resolve()}; if the data may lie there, give --allow_outside"


@pytest.mark.parametrize("dataset", LISTED)
@pytest.mark.parametrize("which", [0, 1])
def test_a_link_out_of_the_root_is_refused_in_every_list_unless_allowed(dataset: str, which: int, root: Path) -> None:
    """The first image's before the first iteration, any other's when it is read."""
    names = ["a/2.jpg", "a/1.jpg"][:: -1 if which else 1]
    said = linked(root / "a/2.jpg", root.parent / "elsewhere/1.jpg")
    text = "\n".join(LISTED[dataset](name, "1") for name in names)
    with pytest.raises(OutsideRoot) as caught:
        read(dataset, root, text, outside=False).read(which)
    assert caught.value.problems == (said,)
    allowed = read(dataset, root, text, outside=True)
    assert allowed.read(which).tobytes() == (root.parent / "elsewhere/1.jpg").read_bytes()


@pytest.mark.parametrize("dataset", LISTED)
def test_a_path_out_of_the_root_is_refused_in_every_list_unless_allowed(dataset: str, root: Path) -> None:
    for name in ("../elsewhere/1.jpg", f"{root.parent}/elsewhere/1.jpg"):
        text = "\n".join(LISTED[dataset](one, "1") for one in ("a/1.jpg", name))
        with pytest.raises(InputError) as caught:
            read(dataset, root, text, outside=False)
        assert caught.value.problems == (f"{root.parent}/list.txt:2: {name[:80]!r}: {STAYS}",)
    if dataset in ("vgg", "list"):  # whose tables know of absolute paths no less
        text = LISTED[dataset](name, "1")
    assert read(dataset, root, text, outside=True).read(-1).tobytes() == encoded(picture(1))


@pytest.mark.parametrize("folder", [True, False])
def test_links_in_a_tree_are_refused_unless_allowed(folder: bool, root: Path) -> None:
    (root.parent / "elsewhere/0.txt").touch()
    link, target = ("a/0", "elsewhere") if folder else ("a/0.jpg", "elsewhere/1.jpg")
    said = linked(root / link, root.parent / target)
    source = Source(str(root), "", "", "", aligned=True)
    with pytest.raises(OutsideRoot) as caught:
        READERS["folder"](source)
    assert caught.value.problems == (said,)
    if folder:
        with pytest.raises(OutsideRoot):
            images_below(DataRoot(root))
    name = "a/0/1.jpg" if folder else "a/0.jpg"
    assert images_below(DataRoot(root, outside_allowed=True)) == [name, "a/1.jpg"]
    allowed = READERS["folder"](Source(str(root), "", "", "", aligned=True, allow_outside=True))
    assert allowed.names.to_pylist() == [name, "a/1.jpg"]
    assert allowed.read(0).tobytes() == encoded(picture(1))


def write_tar(path: Path, key: str) -> None:
    with tarfile.open(path, "w") as shard:
        for ending, content in {"cls": b"7", "landmarks": TEN, "jpg": b"picture"}.items():
            member = tarfile.TarInfo(f"{key}.{ending}")
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("listed", [True, False])
def test_a_shard_that_is_a_link_is_refused_unless_allowed(listed: bool, root: Path) -> None:
    write_tar(root.parent / "elsewhere/1.tar", "1")
    said = linked(root / "1.tar", root.parent / "elsewhere/1.tar")
    (root.parent / "shards.txt").write_text("1.tar")
    source = Source(str(root), str(root.parent / "shards.txt") if listed else "", "", "")
    with pytest.raises(OutsideRoot) as caught:
        READERS["tar"](source)
    assert caught.value.problems == (said,)
    assert READERS["tar"](replace(source, allow_outside=True)).read(0).tobytes() == b"picture"
    if listed:
        (root.parent / "shards.txt").write_text("../elsewhere/1.tar")
        with pytest.raises(InputError, match=r"shards\.txt:1: '\.\./elsewhere/1\.tar': a path must start from"):
            READERS["tar"](source)
        assert READERS["tar"](replace(source, allow_outside=True)).read(0).tobytes() == b"picture"


@pytest.mark.parametrize("key", ["../1", "/1", "a/../../1"])
def test_members_that_would_lead_out_are_refused_unless_allowed(key: str, root: Path) -> None:
    write_tar(root / "1.tar", key)
    source = Source(str(root), "", "", "")
    with pytest.raises(InputError) as caught:
        READERS["tar"](source)
    assert caught.value.problems == (f"{root}/1.tar: {key}.jpg: {STAYS}",)
    assert READERS["tar"](replace(source, allow_outside=True)).read(0).tobytes() == b"picture"


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "property"])
def test_records_that_are_links_are_refused_unless_allowed(name: str, root: Path) -> None:
    write_records(root, alone([[b"picture"]]), 1)
    shutil.move(root / name, root.parent / "elsewhere")
    said = linked(root / name, root.parent / "elsewhere" / name)
    with pytest.raises(OutsideRoot) as caught:
        READERS["rec"](Source(str(root), "", "", ""))
    assert caught.value.problems == (said,)
    found = READERS["rec"](Source(str(root), "", "", "", allow_outside=True))
    assert found.read(0).tobytes() == b"picture"


def test_records_are_checked_again_when_they_are_read(root: Path) -> None:
    write_records(root, alone([[b"picture"]]), 1)
    found = READERS["rec"](Source(str(root), "", "", ""))
    shutil.move(root / "train.rec", root.parent / "elsewhere")
    said = linked(root / "train.rec", root.parent / "elsewhere/train.rec")
    with pytest.raises(OutsideRoot) as caught:
        found.read(0)
    assert caught.value.problems == (said,)


def test_links_inside_the_root_and_a_root_that_is_a_link_are_fine(root: Path, tmp_path: Path) -> None:
    (root / "b").symlink_to("a")
    (root / "a/2.jpg").symlink_to(root / "b/1.jpg")
    (tmp_path / "data").symlink_to(root)
    names = ("b/1.jpg", "a/2.jpg", "a/1.jpg")
    found = read("trp", tmp_path / "data", "\n".join(LINES["trp"](name, "1") for name in names), outside=False)
    assert [found.read(row).tobytes() for row in range(3)] == [encoded(picture(1))] * 3


def test_a_folder_whose_name_begins_like_the_roots_is_outside(root: Path) -> None:
    shutil.copytree(root, f"{root}2")
    (root / "a/2.jpg").symlink_to(f"{root}2/a/1.jpg")
    with pytest.raises(OutsideRoot):
        read("trp", root, LINES["trp"]("a/2.jpg", "1"), outside=False)


def test_a_verification_refuses_links_unless_they_are_allowed(sample_data: Path, tmp_path: Path) -> None:
    _, root, _, pairs, _, points = validation_options(sample_data)
    shutil.copytree(root, tmp_path / "root", symlinks=True)
    name = read_lfw(DataRoot(Path(root)), pairs, points).names[1].as_py()
    (tmp_path / "root" / name).unlink()
    said = linked(tmp_path / "root" / name, Path(root) / name)
    found = read_lfw(DataRoot(tmp_path / "root"), pairs, points)
    with pytest.raises(OutsideRoot) as caught:
        list(plain_stream(found, np.arange(4), 4, SMALL, CPU))
    assert caught.value.problems == (said,)
    allowed = read_lfw(DataRoot(tmp_path / "root", outside_allowed=True), pairs, points)
    assert len(list(plain_stream(allowed, np.arange(4), 4, SMALL, CPU))) == 1


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_nothing_stands_in_for_a_photograph_outside(faces: LabelledFaces, tmp_path: Path) -> None:
    """A damaged one would be replaced: the batches before it come, and then the run ends."""
    index = int(Order(len(faces), BATCH, seed=3).share(1, 0, 1).indices[0])
    expected = next(stream(faces, BadImages(0)))
    outside = tmp_path.parent / f"{tmp_path.name}.jpg"
    shutil.move(faces.path(index), outside)
    said = linked(Path(faces.path(index)), outside, tmp_path)
    bad = BadImages(100)
    running = stream(faces, bad)
    assert_equal([next(running)], [expected])  # while the next ones are read already
    with pytest.raises(OutsideRoot) as caught:
        next(running)
    assert caught.value.problems == (said,)
    assert not reported(bad)


def farm(sample_data: Path, folder: Path) -> list[str]:
    """Training data of which each image is a link: the options that name them."""
    _, root, *others = data_options(sample_data)
    for path in Path(root).rglob("*.jpg"):
        link = folder / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return ["--train_data_root", str(folder), *others]


def test_a_farm_of_links_trains_when_it_is_allowed_and_not_before(
    sample_data: Path, run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    words = farm(sample_data, tmp_path / "farm")
    with pytest.raises(InputError, match=r"\.jpg: leads out of .*/farm, to .*, give --allow_outside"):
        run_small(*words, out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    expected = run_small(out=tmp_path / "files")
    assert run_small(*words, "--allow_outside", out=tmp_path / "allowed") == expected
    # Nor does what the cache keeps of an allowed reading stand for one that isn't.
    with pytest.raises(InputError, match="--allow_outside"):
        run_small(*words, out=tmp_path / "refused")


def test_a_link_among_photographs_ends_a_run_with_a_snapshot(
    sample_data: Path, run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    words = farm(sample_data, tmp_path / "root")
    names = Path(words[3]).read_text().split()
    for name in names[:-1]:
        photograph = (tmp_path / "root" / name).resolve()
        (tmp_path / "root" / name).unlink()
        shutil.copy(photograph, tmp_path / "root" / name)
    with pytest.raises(InputError, match=rf"{names[-1]}: leads out of"):
        run_small(*words, "--max_iterations", "12", "--max_bad_images", "100", out=tmp_path / "out")
    assert list((tmp_path / "out/snapshots").glob("tiny_*.pt"))


def test_a_validation_says_why_it_has_no_figures_or_is_allowed_to(
    sample_data: Path, run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    options = validation_options(sample_data)
    shutil.copytree(options[1], tmp_path / "root")
    options[1] = str(tmp_path / "root")
    for path in (tmp_path / "root").rglob("*.jpg"):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    with pytest.raises(InputError, match=r"leads out of .*/root, to"):
        run_small(*options, out=tmp_path / "refused")
    run_small(*options, "--allow_outside", out=tmp_path / "allowed")
    assert (tmp_path / "allowed/logs/validation.jsonl").exists()


# --- tools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        lambda words, out: align_faces([*words, "--out", str(out), "--workers", "1"]),
        lambda words, out: align_faces([*words, "--out", str(out), "--crop", "loose", "--workers", "1"]),
        lambda words, out: pack_dataset([*words, "--out", str(out), "--workers", "1"]),
        lambda words, out: check_dataset([str(out), *words, "--workers", "1", "--near", "0"]),  # compares none
    ],
    ids=["align", "align loose", "pack", "check"],
)
def test_tools_refuse_links_unless_they_are_allowed(
    command: Callable[[list[str], Path], int], sample_data: Path, tmp_path: Path
) -> None:
    words = farm(sample_data, tmp_path / "root")
    name = Path(words[3]).read_text().split()[0]
    photograph = (tmp_path / "root" / name).resolve()
    (tmp_path / "root" / name).unlink()
    shutil.copy(photograph, tmp_path / "root" / name)  # the first: the tools themselves come upon the next one
    with pytest.raises(InputError, match=r"leads out of .*/root, to .*, give --allow_outside"):
        command(words, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert command([*words, "--allow_outside"], tmp_path / "out") == 0
    assert command(words, tmp_path / "out") == 0  # what is there needs no reading, and is of no other settings


def test_a_check_of_people_refuses_links_unless_they_are_allowed(sample_data: Path, tmp_path: Path) -> None:
    options = validation_options(sample_data)
    (tmp_path / "root").mkdir()
    for person in Path(options[1]).iterdir():
        (tmp_path / "root" / person.name).symlink_to(person)
    words = [str(tmp_path / "out"), "--workers", "1", *data_options(sample_data), *options[2:]]
    words += ["--val_data_root", str(tmp_path / "root")]
    with pytest.raises(OutsideRoot):
        check_dataset(words)
    assert check_dataset([*words, "--allow_outside"]) == 0


def test_a_detector_refuses_links_and_a_list_may_name_them(root: Path, tmp_path: Path) -> None:
    said = linked(root / "a/0.jpg", tmp_path / "elsewhere/1.jpg")
    with pytest.raises(OutsideRoot) as caught:
        find_face(DataRoot(root), None, "cpu", "center", "a/0.jpg")  # type: ignore[arg-type]  # not reached
    assert caught.value.problems == (said,)
    assert make_list([str(root), str(tmp_path / "lists"), "--val", "0", "--test", "0"]) == 0
    assert (tmp_path / "lists/train.txt").read_text() == "a/0.jpg\ta\na/1.jpg\ta\n"


def test_a_snapshot_cannot_allow_it_and_the_command_line_can(
    one_rank: None, sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = validation_options(sample_data)
    (tmp_path / "root").mkdir()
    for person in Path(options[1]).iterdir():
        (tmp_path / "root" / person.name).symlink_to(person)
    stored = {"allow_outside": True, "val_data_root": str(tmp_path / "root")}
    model = ScoredModel(lambda images: images.flatten(1)[:, ::7], SMALL, {}, stored, [])
    monkeypatch.setattr(scoring, "open_model", lambda *_: model)
    words = ["--snap", "x.pt", *options[2:], "--device", "cpu", "--dali_threads", "1"]
    with pytest.raises(OutsideRoot):
        scoring.score(evaluation_options(words), ONE)
    (scored,) = scoring.score(evaluation_options([*words, "--allow_outside"]), ONE)
    assert len(scored.scores) == 40
