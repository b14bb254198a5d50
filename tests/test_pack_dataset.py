"""tools/pack_dataset.py: what it packs is read back to the byte, and its crops are OpenCV's."""

import io
import json
import pickle
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fr.alignment import procrustes, template_points
from fr.data.faces import LabelledFaces
from fr.data.readers.folders import read_folders
from fr.data.readers.lists import read_ms1m
from fr.data.readers.tar_shards import read_tar
from fr.errors import InputError, run_plainly
from fr.files.data_root import DataRoot
from fr.options.definitions import train_options
from tests.builders.recordio import PEOPLE, with_identities, write
from tests.builders.training_formats import converted
from tests.conftest import Losses, data_options, vgg_faces
from tools import pack_dataset


def in_this_process(function: Callable[[Any], Any], items: Iterable[Any], *_: object) -> Iterator[Any]:
    """Same as tools/dataset/parallel.py, which has its own tests: function and items come out of a pickle."""
    for item in items:
        sent = pickle.loads(pickle.dumps((function, item)))
        yield sent[0](sent[1])


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """pack(out, *options): the command, without the seconds that a process takes to start."""
    monkeypatch.setattr(pack_dataset, "map_in_processes", in_this_process)

    def run_here(out: Path, *options: str) -> None:
        assert pack_dataset.main(["--out", str(out), "--data_cache", "none", *options]) == 0

    return run_here


@pytest.fixture(scope="module")
def photographs(sample_data: Path) -> LabelledFaces:
    return vgg_faces(sample_data)


def read(folder: Path, aligned: bool = False) -> LabelledFaces:
    return read_tar(DataRoot(folder), "", aligned)


def contents(faces: LabelledFaces) -> list[bytes]:
    return [faces.read(row).tobytes() for row in range(len(faces))]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def words(dataset: str, root: Path, *more: str) -> list[str]:
    return ["--train_dataset", dataset, "--train_data_root", str(root), *more]


# --- as they are ------------------------------------------------------------------------------------------------------


def test_what_is_packed_is_read_back_to_the_byte(
    sample_data: Path, photographs: LabelledFaces, pack: Callable[..., None], tmp_path: Path
) -> None:
    pack(tmp_path, *data_options(sample_data), "--shard_size", "0.2")
    packed = read(tmp_path)
    assert contents(packed) == contents(photographs)
    assert packed.identities == photographs.identities
    assert packed.fingerprint() == photographs.fingerprint()  # a run may go on from the shards
    sizes = [len(data) for data in shards(tmp_path).values()]
    assert len(sizes) > 1
    # Shards are filled by count, and images are not of one size.
    assert all(0.15 < size / 2**20 < 0.25 for size in sizes[:-1])


def test_folders_of_crops_need_no_landmarks(sample_data: Path, pack: Callable[..., None], tmp_path: Path) -> None:
    root = sample_data / "vggface2/train"
    crops = read_folders(DataRoot(root), "")
    pack(tmp_path, *words("folder", root, "--aligned"))
    packed = read(tmp_path, aligned=True)
    assert packed.fingerprint() == crops.fingerprint()
    assert contents(packed) == contents(crops)
    pack(tmp_path / "again", *words("tar", tmp_path, "--aligned"))
    assert shards(tmp_path / "again") == shards(tmp_path)


def test_fractions_of_boxes_become_pixels(
    sample_data: Path, photographs: LabelledFaces, pack: Callable[..., None], tmp_path: Path
) -> None:
    options = converted("ms1m", sample_data, tmp_path)
    pack(tmp_path / "out", *data_options(sample_data), *options)
    packed = read(tmp_path / "out")
    # Through fractions and back, some roundings of 1e-16 of 200 pixels.
    np.testing.assert_allclose(packed.landmarks, photographs.landmarks, atol=1e-11)
    listed = read_ms1m(photographs.root, str(tmp_path / "ms1m.txt"))
    assert packed.names == listed.names


def test_records_are_packed_under_their_numbers(pack: Callable[..., None], tmp_path: Path) -> None:
    images = [io.BytesIO() for _ in range(3)]
    for number, image in enumerate(images):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(image, "PNG")
    people = [[image.getvalue() for image in images[:2]], [images[2].getvalue()]]
    write(tmp_path / "rec", with_identities(people), 2)
    pack(tmp_path / "out", *words("rec", tmp_path / "rec"))
    packed = read(tmp_path / "out", aligned=True)
    assert packed.names.to_pylist() == ["1.jpg", "2.jpg", "3.jpg"]
    assert packed.identities == ["0", "1"]
    assert packed.labels.tolist() == [0, 0, 1]
    assert contents(packed) == [image.getvalue() for image in images]


def test_names_that_would_share_a_key_are_told_apart(pack: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "in/p").mkdir(parents=True)
    for number, name in enumerate(["1.jpg", "1.png", "1.x.jpg", "1_x.JPG"]):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "in/p" / name, "PNG")
    pack(tmp_path / "out", *words("folder", tmp_path / "in", "--aligned"))
    packed = read(tmp_path / "out", aligned=True)
    assert packed.names.to_pylist() == ["p/1.jpg", "p/1_1.png", "p/1_x.jpg", "p/1_x_3.jpg"]
    assert contents(packed) == contents(read_folders(DataRoot(tmp_path / "in"), ""))


def test_a_random_order_is_a_permutation_and_always_the_same(
    sample_data: Path, photographs: LabelledFaces, pack: Callable[..., None], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        pack(tmp_path / name, *data_options(sample_data), "--shuffle")
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    packed = read(tmp_path / "a")
    listed, found = photographs.names.to_pylist(), packed.names.to_pylist()
    assert found != listed
    assert sorted(found) == sorted(listed)
    rows = np.array([listed.index(name) for name in found])
    assert (packed.landmarks == photographs.landmarks[rows]).all()
    assert (packed.labels == photographs.labels[rows]).all()
    assert contents(packed) == [photographs.read(int(row)).tobytes() for row in rows]


def test_unusable_pictures_are_left_out_and_named(pack: Callable[..., None], tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "in"
    (root / "p").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (8, 8)).save(root / f"p/{number}.jpg")
    (root / "p/1.jpg").write_bytes(b"")
    (root / "p/2.jpg").write_bytes(b"<html>404</html>")
    (root / "p/4.jpg").unlink()
    (root / "p/4.jpg").mkdir()
    (root / "p/4.jpg/5.jpg").write_bytes(b"?")  # which makes it a folder of images
    options = words("folder", root, "--aligned")
    pack(tmp_path / "out", *options)
    assert read(tmp_path / "out", aligned=True).names.to_pylist() == ["p/0.jpg", "p/3.jpg", "p/5.jpg"]
    expected = [
        f"{root}/p/1.jpg: can't be decoded: it is empty",
        f"{root}/p/2.jpg: can't be decoded: no image",
        f"{root}/p/4.jpg/5.jpg: can't be decoded: no image",
    ]
    assert (tmp_path / "out/shard-000000.left_out.txt").read_text().splitlines() == expected
    printed = capsys.readouterr().out
    assert all(problem in printed for problem in expected)
    assert "3 of 6 images in 1 shard, 0 MB; 3 left out (*.left_out.txt)" in printed
    last = shlex.split(printed.splitlines()[-1])
    assert last[:4] == ["next:", "python", "train.py", "@configs/fine_tune.yml"]
    asked = train_options(last[3:]).values
    assert (asked.train_dataset, asked.train_data_root, asked.aligned) == ("tar", str(tmp_path / "out"), True)
    assert (asked.train_list, asked.train_landmarks, asked.val_data_root, asked.val_list) == ("", "", "", "")
    pack(tmp_path / "out", *options)
    assert "3 of 6 images in 1 shard, 0 MB; 3 left out (*.left_out.txt)" in capsys.readouterr().out


def test_ten_iterations_on_shards_lose_what_files_lose(
    run_small: Callable[..., Losses], sample_data: Path, pack: Callable[..., None], tmp_path: Path
) -> None:
    pack(tmp_path / "shards", *data_options(sample_data), "--shard_size", "0.2")
    options = [*words("tar", tmp_path / "shards"), "--train_list", "", "--train_landmarks", ""]
    found = run_small(*options, "--max_iterations", "10", out=tmp_path / "tar")
    assert found == run_small("--max_iterations", "10", out=tmp_path / "files")


def decoded(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))


# --- crops ------------------------------------------------------------------------------------------------------------


def test_crops_are_those_of_one_warp_and_their_landmarks_move_along(
    sample_data: Path, photographs: LabelledFaces, pack: Callable[..., None], tmp_path: Path
) -> None:
    side, margin = 192, 0.25
    options = ["--align", str(side), "--margin", str(margin), "--quality", "100", "--shard_size", "0.2"]
    pack(tmp_path, *data_options(sample_data), *options)
    packed = read(tmp_path)
    assert packed.names == photographs.names
    assert packed.labels.tolist() == photographs.labels.tolist()
    assert len(shards(tmp_path)) > 1
    # The margin by hand: the template shrinks about the middle of the crop.
    template = template_points("arcface", (side, side))
    middle = (side - 1) / 2
    matrices = procrustes(photographs.landmarks, middle + (template - middle) / (1 + 2 * margin))
    for row in (0, 31, 95):
        photograph, found = (decoded(faces.read(row)) for faces in (photographs, packed))
        expected = cv2.warpAffine(photograph, matrices[row], (side, side), flags=cv2.INTER_LINEAR)
        assert found.shape == (side, side, 3)
        # JPEG at quality 100 is off by a level or so; OpenCV rounds places to 1/32 of a pixel.
        assert np.abs(found.astype(int) - expected)[1:-1, 1:-1].mean() < 1.5
        points = cv2.transform(photographs.landmarks[row : row + 1], matrices[row])[0]
        np.testing.assert_allclose(packed.landmarks[row], points, atol=1e-9)


def test_quality_and_margin_change_the_crops(sample_data: Path, pack: Callable[..., None], tmp_path: Path) -> None:
    base = [*data_options(sample_data), "--align", "64"]
    sizes = {}
    for name, more in {"plain": [], "poor": ["--quality", "30"], "tight": ["--margin", "0"]}.items():
        pack(tmp_path / name, *base, *more)
        sizes[name] = sum(len(picture) for picture in contents(read(tmp_path / name)))
    assert sizes["poor"] < 0.7 * sizes["plain"]
    plain, tight = (read(tmp_path / name).landmarks for name in ("plain", "tight"))
    np.testing.assert_allclose(plain - 31.5, (tight - 31.5) / 1.5, atol=1e-9)  # half as much again is seen


def test_crops_of_photographs_that_fail_are_left_out_and_the_others_are_as_without_them(
    sample_data: Path, photographs: LabelledFaces, pack: Callable[..., None], tmp_path: Path
) -> None:
    pack(tmp_path / "whole", *data_options(sample_data), "--align", "64")
    root = tmp_path / "spoilt"
    for row, name in enumerate(photographs.names.to_pylist()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        data = photographs.read(row).tobytes()
        (root / name).write_bytes({0: b"", 5: data[:200], 70: b"GIF89a"}.get(row, data))
    (root / photographs.names[95].as_py()).unlink()
    pack(tmp_path / "out", *data_options(sample_data), "--train_data_root", str(root), "--align", "64")
    rows = np.delete(np.arange(96), [0, 5, 70, 95])
    packed, whole = read(tmp_path / "out"), read(tmp_path / "whole").take(rows)
    assert packed.names == whole.names
    assert (packed.landmarks == whole.landmarks).all()
    assert contents(packed) == contents(whole)
    named = (tmp_path / "out/shard-000000.left_out.txt").read_text()
    assert [f"{root}/{photographs.names[row].as_py()}: can't be " in named for row in (0, 5, 70, 95)] == [True] * 4


# --- again, and what is refused ---------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_and_ends_as_a_whole_one(
    sample_data: Path, pack: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = [*data_options(sample_data), "--shard_size", "0.2"]
    pack(tmp_path / "whole", *options)
    expected = shards(tmp_path / "whole")

    def interrupted(function: Callable[[Any], Any], items: list[Any], *_: object) -> Iterator[Any]:
        yield function(items[0])
        (items[1][0].parent / f".{items[1][0].name}.tmp").write_bytes(b"half a sh")
        raise KeyboardInterrupt

    argv = ["pack_dataset.py", "--out", str(tmp_path / "out"), "--data_cache", "none", *options]
    with monkeypatch.context() as patch:
        patch.setattr(pack_dataset, "map_in_processes", interrupted)
        patch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            run_plainly("pack_dataset.py", pack_dataset.main)
    assert end.value.code == 130
    assert list(shards(tmp_path / "out")) == ["shard-000000.tar"]
    kept = (tmp_path / "out/shard-000000.tar").stat().st_mtime_ns
    capsys.readouterr()
    pack(tmp_path / "out", *options)
    assert f"1 of {len(expected)} shards were made before" in capsys.readouterr().out
    assert shards(tmp_path / "out") == expected
    assert (tmp_path / "out/shard-000000.tar").stat().st_mtime_ns == kept
    assert not list((tmp_path / "out").glob(".*"))


def problems(*options: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        pack_dataset.main(["--data_cache", "none", *options])
    return caught.value.problems


def test_a_folder_with_other_shards_is_left_alone(
    sample_data: Path, pack: Callable[..., None], tmp_path: Path
) -> None:
    options = ["--out", str(tmp_path), *data_options(sample_data)]
    (tmp_path / "a.tar").touch()
    assert problems(*options) == (f"--out {tmp_path}: holds shards of another origin; give another folder",)
    (tmp_path / "a.tar").unlink()
    pack(tmp_path, *options)
    plan = tmp_path / "pack.json"
    refusal = (f"{plan}: the shards there are of other data or options; give another --out",)
    for more in (["--shard_size", "2"], ["--align", "64"], ["--shuffle"]):
        assert problems(*options, *more) == refusal
    kept = json.loads(plan.read_text())
    counts = [json.dumps(kept | {"images": count}) for count in ("5", 0, -1, 1.5, True, None)]
    for text in ("", "[]", "{}", "[" * 100_000, "\0", *counts):
        plan.write_text(text)
        assert problems(*options) == refusal
    plan.write_bytes(b"\xff")
    assert problems(*options) == refusal


def test_what_can_not_be_packed_is_refused(sample_data: Path, tmp_path: Path) -> None:
    assert problems("--out", "o", *data_options(sample_data), "--quality", "50", "--margin", "0") == (
        "command line: --margin: no effect without --align",
        "command line: --quality: no effect without --align",
    )
    assert "--out is required" in problems()
    crops = words("folder", sample_data / "vggface2/train", "--aligned")
    assert problems("--out", str(tmp_path), *crops, "--align", "64") == (
        "--align: these images are aligned crops already; they can be packed as they are",
    )
    write(tmp_path / "rec", with_identities(PEOPLE), 3)
    (problem,) = problems("--out", str(tmp_path / "out"), *words("rec", tmp_path / "rec"))
    assert problem.startswith("none of 6 images examined can be packed: ")
    (tmp_path / "in/ padded").mkdir(parents=True)
    (tmp_path / "in/ padded/1.jpg").touch()
    assert problems("--out", str(tmp_path / "out"), *words("folder", tmp_path / "in", "--aligned")) == (
        "identity ' padded': can't be a class in a shard",
    )
    (tmp_path / "file").touch()
    (problem,) = problems("--out", str(tmp_path / "file/out"), *data_options(sample_data))
    assert problem.startswith(f"{tmp_path}/file/out: can't be written: ")
