"""tools/extract_features.py: numbers against a plain loop, files against their formats, ranks, kills, damage."""

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import transforms

from fr.checkpoint import snapshot
from fr.data.faces import LabelledFaces
from fr.data.pipeline import DaliSettings, plain_stream
from fr.errors import InputError
from fr.evaluation.scored_model import ScoredModel, load_backbone, read_backbone
from fr.models import MODELS, build_model
from fr.preprocessing import Preprocessing
from tests.builders.feature_runs import run_ranks
from tests.conftest import ROOT, data_options, kill_when, trained_briefly, vgg_faces
from tests.layouts_foreign import layout
from tests.sets import written
from tests.weight_files import filled, python2_pickle
from tools import export_onnx, import_weights
from tools.extract_features import MARK, UNREADABLE, main
from tools.features.layers import feature_network
from tools.features.parts import Extractor

BATCH = 10
Matrix = NDArray[np.float32]


@pytest.fixture(scope="module")
def snap(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_briefly(data_options(sample_data), tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def faces(sample_data: Path) -> LabelledFaces:
    return vgg_faces(sample_data)


@pytest.fixture(scope="module")
def base(sample_data: Path, snap: Path) -> list[str]:
    """Options of a run but for --out."""
    batch = ["--batch_size", str(BATCH), "--device", "cpu", "--dali_threads", "1", "--data_cache", "none"]
    return ["--snap", str(snap), "--train_dataset", "vgg", *data_options(sample_data), *batch]


def by_hand(snap: Path, faces: LabelledFaces, features: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> Matrix:
    """A plain loop over the same batches."""
    contents, preprocessing = read_backbone(snap)
    model = load_backbone(snap, contents, preprocessing.input_size)
    batches = plain_stream(faces, np.arange(len(faces)), BATCH, preprocessing, DaliSettings("cpu", None, 1))
    with torch.inference_mode():
        return torch.cat([features(model, batch) for batch in batches]).numpy()


@pytest.fixture(scope="module")
def expected(snap: Path, faces: LabelledFaces) -> Matrix:
    return by_hand(snap, faces, lambda model, images: model(images))


def extracted(base: list[str], out: Path, *options: str) -> Matrix:
    """The features of a run into one file."""
    assert main([*base, "--format", "npz", "--out", str(out), *options]) == 0
    with np.load(out / "features.npz") as found:
        return found["features"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def matrix(content: bytes) -> Matrix:
    """Read a matrix as MegaFace's devkit does."""
    rows, columns, stride, kind = struct.unpack("<4i", content[:16])
    assert (kind, stride, len(content)) == (5, 4 * columns, 16 + rows * stride)
    return np.frombuffer(content[16:], dtype="<f4").reshape(rows, columns)


# --- numbers and forms ------------------------------------------------------------------------------------------------


def test_every_photograph_has_a_npy_with_what_a_plain_loop_gives(
    base: list[str], faces: LabelledFaces, expected: Matrix, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*base, "--out", str(tmp_path)]) == 0
    first = tmp_path / faces.names[0].as_py().replace(".jpg", ".npy")
    assert capsys.readouterr().out.endswith(f"\nwrote {first} and one such file for each other image\n")
    for name, row in zip(faces.names.to_pylist(), expected, strict=True):
        found = np.load(tmp_path / f"{name.removesuffix('.jpg')}.npy")
        assert found.dtype == np.float32 and np.array_equal(found, row)
    assert len(list(tmp_path.rglob("*.npy"))) == len(faces)
    assert (tmp_path / UNREADABLE).read_text() == ""


def test_one_file_has_the_matrix_and_whose_row_is_which(
    base: list[str], faces: LabelledFaces, expected: Matrix, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, people = faces.names.to_pylist(), [faces.identities[label] for label in faces.labels]
    assert main([*base, "--format", "npz", "--out", str(tmp_path / "npz")]) == 0
    assert capsys.readouterr().out.endswith(f"\nwrote {tmp_path / 'npz/features.npz'}\n")
    with np.load(tmp_path / "npz/features.npz", allow_pickle=False) as found:
        assert {*found} == {"features", "names", "identities"}
        assert np.array_equal(found["features"], expected) and found["features"].dtype == np.float32
        assert found["names"].tolist() == names and found["identities"].tolist() == people
    assert main([*base, "--format", "parquet", "--out", str(tmp_path / "pq")]) == 0
    table = pq.read_table(tmp_path / "pq/features.parquet")
    assert table.column_names == ["name", "identity", "feature"]
    assert np.array_equal(np.array(table["feature"].to_pylist(), dtype=np.float32), expected)
    assert table["name"].to_pylist() == names and table["identity"].to_pylist() == people
    for folder in ("npz", "pq"):
        assert len(list((tmp_path / folder).iterdir())) == 3  # features, settings, unreadable: no parts are left


def test_layers_lengths_and_mirror_images_are_those_by_hand(
    base: list[str], snap: Path, faces: LabelledFaces, expected: Matrix, tmp_path: Path
) -> None:
    def mean(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return (model(images) + model(images.flip(3))) / 2

    def both(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(images), model(images.flip(3))], dim=1)

    def pooled(model: Any, images: torch.Tensor) -> torch.Tensor:
        return model.pool(model.last(model.blocks(model.stem(model.input_norm(images))))).flatten(1)

    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(extracted(base, tmp_path / "1", "--normalize"), unit, rtol=1e-6, atol=1e-7)
    mirrored = by_hand(snap, faces, mean)
    assert np.array_equal(extracted(base, tmp_path / "2", "--flipped_emb"), mirrored)
    assert np.array_equal(
        extracted(base, tmp_path / "3", "--flipped_emb", "--flip_mode", "concat"), by_hand(snap, faces, both)
    )
    got = extracted(base, tmp_path / "4", "--layer", "pooled")
    assert got.shape == (len(faces), 512) and np.array_equal(got, by_hand(snap, faces, pooled))
    unit = mirrored / np.linalg.norm(mirrored, axis=1, keepdims=True)
    both_options = extracted(base, tmp_path / "5", "--flipped_emb", "--normalize")
    np.testing.assert_allclose(both_options, unit, rtol=1e-6, atol=1e-7)


SIZES = {"mobilenet": 512, "rmnet": 256, "shufflenetv2": 1024, "resnet": 2048, "se_resnet": 2048, "resnet34": 512}
SIZES |= {"resnet50_caffe": 2048, "mbf": 512, "mobilefacenet": 512, "inception_resnet_v1": 1792}


@pytest.mark.parametrize("name", SIZES)
def test_pooled_features_are_what_the_last_linear_layer_takes(name: str) -> None:
    model = build_model(name, 24, (80, 80)).eval()
    ran: list[tuple[nn.Module, torch.Tensor]] = []
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda layer, inputs, _: ran.append((layer, inputs[0])))
    images = torch.rand(2, 3, 80, 80)
    scored = ScoredModel(model, Preprocessing((80, 80)), {}, {}, [], name)
    with torch.inference_mode():
        got = feature_network(scored, "x", "pooled", "", False)(images)
    last, taken = ran[-1]
    assert got.shape == (2, SIZES[name]) and torch.equal(got, taken.flatten(1))
    assert isinstance(last, nn.Linear | nn.Conv2d) and last.weight.shape[:2] == (24, SIZES[name])


def test_every_model_has_pooled_features_or_is_known_to_have_none() -> None:
    assert {name for name, family in MODELS.items() if not family.last_linear} == {
        *(f"iresnet{depth}" for depth in (18, 34, 50, 100, 200)),
        *(f"ir{depth}" for depth in (18, 34, 50, 101)),
        *("vit_t", "vit_s", "vit_b"),
    }


def test_matrices_are_as_megaface_and_trillion_pairs_have_them(
    base: list[str], sample_data: Path, faces: LabelledFaces, expected: Matrix, tmp_path: Path
) -> None:
    """Embeddings of length 1 unless said otherwise; in the list's order, with zeros where an image has none."""
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    names = faces.names.to_pylist()
    assert main([*base, "--format", "bin", "--file_ending", "_net.bin", "--out", str(tmp_path / "bin")]) == 0
    for name, row in zip(names, unit, strict=True):
        found = matrix((tmp_path / f"bin/{name}_net.bin").read_bytes())
        np.testing.assert_allclose(found, row[:, None], rtol=1e-6, atol=1e-7)
    root = tmp_path / "test"
    shutil.copytree(faces.root.path, root)
    (root / names[17]).write_bytes(b"")
    points = (" ".join(map(repr, of.ravel().tolist())) for of in faces.landmarks)
    lines = [f"{name} {numbers}" for name, numbers in zip(names, points, strict=True)]
    listed = written(tmp_path / "testdata_lmk.txt", "\n".join(lines))
    own = ["--train_dataset", "trp_test", "--train_data_root", str(root), "--train_list", str(listed)]
    none = ["--train_landmarks", "", "--normalize", "false"]
    assert main([*base, *own, *none, "--format", "trillion", "--out", str(tmp_path / "trp")]) == 0
    found = matrix((tmp_path / "trp/features.bin").read_bytes())
    expected = expected.copy()
    expected[17] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # nine in a batch of the seventeenth
    assert np.array_equal(found[20:], expected[20:]) and not found[17].any()


def test_photographs_of_nobody_need_no_folders_and_no_list(
    base: list[str], sample_data: Path, faces: LabelledFaces, expected: Matrix, tmp_path: Path
) -> None:
    """A flat folder with tables as tools/detect_faces.py writes them; then as crops."""
    root, tables = tmp_path / "photographs", tmp_path / "tables"
    root.mkdir()
    rows = range(0, BATCH)
    flat = [f"{row} x.jpg" for row in rows]
    lines = [",".join(["NAME_ID", *(f"P{i}{axis}" for i in range(1, 6) for axis in "XY")])]
    for row, name in zip(rows, flat, strict=True):
        shutil.copyfile(faces.path(row), root / name)
        lines.append(f'"{row} x",' + ",".join(map(str, faces.landmarks[row].ravel())))
    written(tables / "loose_landmark_train.csv", "\n".join(lines))
    written(tables / "train_list.txt", "\n".join(flat))
    own = [*base, "--train_dataset", "photos", "--train_data_root", str(root)]
    listed = ["--train_list", str(tables / "train_list.txt"), "--train_landmarks", str(tables)]
    assert np.array_equal(extracted([*own, *listed], tmp_path / "out"), expected[:BATCH])
    with np.load(tmp_path / "out/features.npz") as found:
        assert {*found} == {"features", "names"} and found["names"].tolist() == flat
    table = ["--train_list", "", "--train_landmarks", str(tables / "loose_landmark_train.csv")]
    assert np.array_equal(extracted([*own, *table], tmp_path / "tree"), expected[:BATCH])
    crops = ["--train_list", "", "--train_landmarks", "", "--aligned"]
    assert not np.allclose(extracted([*own, *crops], tmp_path / "crops"), expected[:BATCH])
    with pytest.raises(InputError, match="--train_dataset photos needs to know where the faces are"):
        main([*own, *crops, "--aligned", "false", "--out", str(tmp_path / "none")])
    with pytest.raises(InputError, match="no image in it"):
        main([*own, *crops, "--train_data_root", str(tables), "--out", str(tmp_path / "none")])


def test_a_network_of_vggface2_pytorch_has_the_features_of_its_own_preprocessing(
    sample_data: Path, tmp_path: Path
) -> None:
    """Resize to 256 and crop the centre, BGR less the mean, as its authors do with torchvision and NumPy."""
    tensors = filled(layout("resnet50_caffe", 2048))
    numbers = {key: tensor for key, tensor in tensors.items() if not key.endswith("tracked")}
    (tmp_path / "weight.pkl").write_bytes(python2_pickle(numbers | {"fc.weight": torch.rand(3, 2048)}))
    assert import_weights.main([str(tmp_path / "weight.pkl"), str(tmp_path / "net.pt")]) == 0
    root, snap = tmp_path / "photographs", tmp_path / "net.pt"
    shutil.copytree(sample_data / "vggface2/train/n000001", root)
    words = ["--snap", str(snap), "--train_data_root", str(root), "--aligned", "--device", "cpu"]
    found = extracted(words, tmp_path / "out")
    crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    images = [np.array(crop(Image.open(path)), dtype=np.float32)[:, :, ::-1] for path in sorted(root.iterdir())]
    inputs = np.stack(images) - np.array([91.4953, 103.8827, 131.0912], dtype=np.float32)
    network = load_backbone(snap, snapshot.read(snap), (224, 224))
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())).numpy()
    # Pixels differ by a level at most (tests/test_pipeline.py), by 0.2 on average, of a deviation of about 60.
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.9999
    assert np.abs(found - expected).max() < 0.02 * expected.std()
    others = extracted([*words, "--alignment", "umeyama"], tmp_path / "others")  # the whole image, resized
    assert np.abs(others - expected).max() > 0.02 * expected.std()


def test_a_photograph_that_is_listed_twice_has_a_row_each_and_one_file(
    base: list[str], faces: LabelledFaces, expected: Matrix, tmp_path: Path
) -> None:
    names = faces.names.to_pylist()[:2]
    listed = ["--train_list", str(written(tmp_path / "train_list.txt", "\n".join([*names, names[0]])))]
    rows = extracted([*base, *listed], tmp_path / "npz")
    np.testing.assert_allclose(rows, expected[[0, 1, 0]], rtol=1e-5, atol=1e-6)  # another batch than `expected`'s
    assert main([*base, *listed, "--out", str(tmp_path / "npy")]) == 0
    assert len(list((tmp_path / "npy").rglob("*.npy"))) == 2


# --- MegaFace's noises ------------------------------------------------------------------------------------------------


def test_noises_of_megaface_are_far_from_everybody(
    base: list[str], faces: LabelledFaces, expected: Matrix, tmp_path: Path
) -> None:
    names = faces.names.to_pylist()
    lines = ["# comment", "", f"1\t{names[3]}", names[40], names[7].split("/")[1][:-1], "gone/1.jpg"]
    listed = written(tmp_path / "my_megaface_noises.txt", "\n".join(lines))
    options = ["--format", "bin", "--noises_list", str(listed), "--out", str(tmp_path / "out"), "--normalize", "false"]
    assert main([*base, *options]) == 0
    for row, name in enumerate(names):
        found = matrix((tmp_path / f"out/{name}.bin").read_bytes())[:, 0]
        assert np.array_equal(found[:-1], expected[row])
        assert found[-1] == (100 if row in (3, 40) else 0)


def test_noises_of_facescrub_become_their_identity(
    base: list[str], sample_data: Path, faces: LabelledFaces, tmp_path: Path
) -> None:
    root = tmp_path / "facescrub"
    names = []
    for row in range(8):
        person = ["Ann Lee", "Ann Lee", "Ann Lee", "Ann Lee", "Bo", "Bo", "Cy", "Ann_Lee Roy"][row]
        names.append(f"{person}/{person}_{row}{'0' if row == 1 else ''}.jpg")
        (root / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(faces.path(row), root / names[-1])
    # Image 1 is Ann_Lee_10: the list's Ann_Lee_1 is another one.
    listed = written(tmp_path / "facescrub_noises.txt", "Ann_Lee_2.png\nAnn_Lee_1.png\nBo_5.png\nCy_6.png\n")
    own = ["--train_dataset", "photos", "--train_data_root", str(root), "--aligned"]
    own += ["--train_list", "", "--train_landmarks", "", "--format", "bin", "--noises_list", str(listed)]
    out = tmp_path / "out"
    assert main([*base, *own, "--out", str(out)]) == 0
    found = {row: matrix((out / f"{name}.bin").read_bytes())[:, 0] for row, name in enumerate(names) if row != 6}
    for row, right in {2: [0, 1, 3], 5: [4]}.items():
        centre = sum(found[other].astype(np.float64) for other in right)
        assert found[row][-1] == 0 and np.linalg.norm(found[row]) == pytest.approx(1)
        length = np.linalg.norm(centre)
        difference = np.abs(found[row] * length - centre)[:-1]
        assert 1e-5 < difference.max() < 0.0011  # a thousandth of noise, and the length with it
    assert not (out / f"{names[6]}.bin").exists()
    said = (out / UNREADABLE).read_text()
    assert said == f"{names[6]}: a wrong image, and there is no right one of Cy\n"
    before = tree(out)
    (out / f"{names[2]}.bin").unlink()
    (out / f"{names[3]}.bin").unlink()
    assert main([*base, *own, "--out", str(out)]) == 0
    assert tree(out) == before


@pytest.mark.parametrize("count", [0, 1, 64, 65, 64_000, 64_001, 1_000_000])
def test_parts_hold_every_picture_once_in_whole_batches_and_are_not_many(count: int, faces: LabelledFaces) -> None:
    extractor = Extractor(torch.flatten, faces, Preprocessing((32, 32)), DaliSettings("cpu", None, 1), 64)
    parts = extractor.parts(np.arange(count))
    assert [row for part in parts for batch in part.batches() for row in batch.tolist()] == list(range(count))
    assert len(parts) <= 1000 and [part.number for part in parts] == list(range(len(parts)))
    sizes = [len(batch) for part in parts for batch in part.batches()]
    assert all(size == 64 for size in sizes[:-1])


# --- ranks, kills, damage, settings -----------------------------------------------------------------------------------


@pytest.fixture
def one_core() -> Iterator[None]:
    """For this process and the ranks that it starts: sums over more threads have other last bits."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def test_any_number_of_ranks_writes_the_same_bytes_and_embeds_each_photograph_once(
    base: list[str], faces: LabelledFaces, tmp_path: Path, one_core: None
) -> None:
    main([*base, "--out", str(tmp_path / "npy1")])
    main([*base, "--format", "parquet", "--out", str(tmp_path / "parquet1")])
    for world in (2, 3):
        taken = run_ranks(world, [*base, "--out", str(tmp_path / f"npy{world}")], tmp_path / f"taken{world}")
        rows = [int(row) for text in taken for row in text.split()]
        assert sorted(rows) == list(range(len(faces))) and len(taken) == world
        assert tree(tmp_path / f"npy{world}") == tree(tmp_path / "npy1")
    run_ranks(3, [*base, "--format", "parquet", "--out", str(tmp_path / "parquet3")], tmp_path / "none")
    assert tree(tmp_path / "parquet3") == tree(tmp_path / "parquet1")


def test_what_one_rank_can_not_write_ends_all_of_them(base: list[str], faces: LabelledFaces, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*base, "--out", str(out)]) == 0
    second = out / f"{faces.names[BATCH].as_py()[:-4]}.npy"  # of the second part, which is the second rank's
    (out / f"{faces.names[0].as_py()[:-4]}.npy").unlink()
    second.unlink()
    shutil.rmtree(second.parent)
    second.parent.touch()
    texts = run_ranks(2, [*base, "--out", str(out)], tmp_path / "taken")
    assert any("can't be written: " in text for text in texts)
    assert all("can't be written: " in text or "another rank can't continue" in text for text in texts)


@pytest.mark.parametrize("form", ["npy", pytest.param("npz", marks=pytest.mark.thorough)])
def test_killed_and_run_again_it_leaves_the_same_bytes(form: str, base: list[str], tmp_path: Path) -> None:
    options = [*base, "--format", form, "--batch_size", "2"]
    assert main([*options, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "tools/extract_features.py"), *options, "--out", str(out)]
    kill_when(lambda: len(list(out.rglob("*.np?"))) >= 5, command)
    left = {path: path.stat().st_mtime_ns for path in out.rglob("*.np?")}
    for path in [path for path in left if path.name.endswith(".npy")][:1]:
        path.with_name(f".{path.name}.4321.tmp").touch()  # as a kill amid a write leaves it
    assert 5 <= len(left) < len(tree(tmp_path / "whole")) or form == "npz"
    assert not (out / "features.npz").exists()
    kept = dict(sorted(left.items())[:4])
    with mock.patch("tools.extract_features.extract", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        main([*options, "--out", str(out)])  # stopped again, before anything
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert main([*options, "--out", str(out)]) == 0
    assert tree(out) == tree(tmp_path / "whole")
    if form == "npy":
        assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_parts_of_a_run_that_ended_are_not_made_again(
    base: list[str], expected: Matrix, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [*base, "--format", "npz", "--out", str(out)]
    stopped = mock.patch("tools.features.sinks.OneFile.finish", side_effect=KeyboardInterrupt)
    with stopped, pytest.raises(KeyboardInterrupt):
        main(options)
    part = out / ".parts/000003.npz"
    part.unlink()
    taken = mock.patch("tools.features.sinks.OneFile.take", side_effect=InputError("one is taken"))
    with taken as take, pytest.raises(InputError, match="one is taken"):
        main(options)
    assert take.call_count == 1 and "86 of 96 images were done before" in capsys.readouterr().out
    part.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"000003\.npz: damaged: delete it, and run again"):
        main(options)
    part.unlink()
    assert np.array_equal(extracted(base, out), expected)
    content = tree(out)
    assert main(options) == 0
    assert "nothing was left to do" in capsys.readouterr().out and tree(out) == content
    (out / UNREADABLE).unlink()  # as if killed before it was written
    assert main(options) == 0 and tree(out) == content


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_unusable_photographs_are_named_and_tried_again(
    form: str, base: list[str], faces: LabelledFaces, expected: Matrix, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / "train", tmp_path / "out"
    shutil.copytree(faces.root.path, root)
    bad = [3, 4, 70, *range(80, 90)]  # the last fill a batch
    for row in bad:
        (root / faces.names[row].as_py()).write_bytes(Path(faces.path(row)).read_bytes()[:700])
    (root / faces.names[70].as_py()).unlink()
    options = [*base, "--train_data_root", str(root), "--format", form, "--out", str(out)]
    with pytest.raises(InputError, match=r"bad images: 13, and --max_bad_images is 12"):
        main([*options, "--max_bad_images", "12"])
    stopped = "tools.features.sinks.OneFile.finish" if form == "parquet" else "tools.extract_features.write_result"
    with mock.patch(stopped, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        main([*options, "--max_bad_images", "13"])
    shutil.copyfile(faces.path(3), root / faces.names[3].as_py())
    capsys.readouterr()
    assert main(options) == 0
    said = (out / UNREADABLE).read_text().splitlines()
    left = [row for row in bad if row != 3]
    assert [line.split(": ")[0] for line in said] == [str(root / faces.names[row].as_py()) for row in left]
    assert "No such file" in said[1] and "can't be decoded" in said[0]
    assert "96 images, 12 unusable" in capsys.readouterr().out
    good = np.delete(np.arange(len(faces)), left)
    if form == "npy":
        names = {str(path.relative_to(out)) for path in out.rglob("*.npy")}
        assert names == {f"{faces.names[row].as_py()[:-4]}.npy" for row in good}
        found = np.stack([np.load(out / f"{faces.names[row].as_py()[:-4]}.npy") for row in good])
    else:
        table = pq.read_table(out / "features.parquet")
        assert table["name"].to_pylist() == [faces.names[row].as_py() for row in good]
        found = np.array(table["feature"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(found, expected[good], rtol=1e-5, atol=1e-6)  # fewer in a batch round otherwise
    whole = [place for place, row in enumerate(good) if row // BATCH not in (0, 7)]
    assert np.array_equal(found[whole], expected[good][whole])


def test_an_embedding_that_is_not_finite_is_an_unusable_photograph(
    base: list[str], faces: LabelledFaces, expected: Matrix, tmp_path: Path
) -> None:
    def dizzy(*arguments: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        network = feature_network(*arguments)

        def once(images: torch.Tensor) -> torch.Tensor:
            rows = network(images).clone()
            rows[2, 5] = torch.nan if len(images) > 6 else 0
            return rows

        return lambda images: once(images) if len(images) > 2 else network(images)

    with mock.patch("tools.extract_features.feature_network", dizzy):
        rows = extracted(base, tmp_path)
    bad = [row for row in range(2, 96, BATCH) if row < 90]
    assert (tmp_path / UNREADABLE).read_text().splitlines() == [
        f"{faces.path(row)}: its embedding isn't finite" for row in bad
    ]
    assert len(rows) == 96 - len(bad) and np.isfinite(rows).all()


def test_other_settings_are_refused_and_named(
    base: list[str], snap: Path, sample_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main([*base, "--out", str(out)]) == 0
    before = tree(out)
    again = torch.load(snap, weights_only=True)
    torch.save(again | {"iteration": 3}, tmp_path / "other.pt")
    shorter = written(tmp_path / "train_list.txt", "n000001/0001_01.jpg\n")
    for options, said in {
        ("--format", "npz"): "format 'npy', not 'npz'",
        ("--layer", "pooled"): "layer 'embedding', not 'pooled'",
        ("--normalize",): "normalize False, not True",
        ("--flipped_emb",): "flip_mode 'none', not 'sum'",
        ("--batch_size", "9"): "batch_size 10, not 9",
        ("--snap", str(tmp_path / "other.pt")): "snap '",
        ("--template", "arcface"): "'template': 'arcface'",
        ("--train_list", str(shorter)): "data '",
    }.items():
        with pytest.raises(InputError, match=r"features\.json: the features there have other settings; give") as error:
            main([*base, "--out", str(out), *options])
        assert said in str(error.value)
    assert tree(out) == before
    assert json.loads((out / MARK).read_text())["format"] == "npy"
    with pytest.raises(InputError, match="holds other files; give a new folder"):
        main([*base, "--out", str(sample_data)])


@pytest.mark.thorough
def test_the_moving_average_and_an_onnx_file_have_features_too(
    base: list[str], snap: Path, expected: Matrix, tmp_path: Path
) -> None:
    contents = torch.load(snap, weights_only=True)
    halves = {key: value / 2 if key == "embedding.weight" else value for key, value in contents["state_dict"].items()}
    torch.save(contents | {"average": halves}, tmp_path / "t.pt")
    got = extracted([*base, "--snap", str(tmp_path / "t.pt")], tmp_path / "average", "--averaged")
    np.testing.assert_allclose(got, expected / 2, rtol=1e-5, atol=1e-6)
    assert export_onnx.main([str(snap), str(tmp_path / "t.onnx")]) == 0
    onnx = [*base, "--snap", str(tmp_path / "t.onnx")]
    np.testing.assert_allclose(extracted(onnx, tmp_path / "onnx"), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match=r"--layer pooled: .* is an ONNX model, which gives its embedding alone"):
        main([*onnx, "--layer", "pooled", "--out", str(tmp_path / "none")])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--file_ending", "_x.bin"], "--file_ending: goes with --format bin; here npy"),
        (["--format", "npz", "--noises_list", "megaface_noises.txt"], "--noises_list: goes with --format bin;"),
        (["--format", "bin", "--noises_list", "noises.txt"], "must be called megaface_noises.txt or facescrub_noises"),
        (["--format", "bin", "--noises_list", "megaface_noises.txt"], "megaface_noises.txt: can't be read: No such"),
        (["--flip_mode", "concat"], "--flip_mode concat: no effect without --flipped_emb"),
        (["--mean", "0.5"], "--mean: takes 3 values, got 1"),
        (["--model", "rmnet"], "--model rmnet: "),
        (["--batch_size", "0"], "--batch_size: expected a whole number >= 1, got '0'"),
    ],
)
def test_options_without_effect_are_refused(base: list[str], tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        main([*base, "--out", str(tmp_path / "out"), *options])
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_without_pooled_features_says_so() -> None:
    scored = ScoredModel(nn.Identity(), Preprocessing((32, 32)), {}, {}, [], "iresnet18")
    with pytest.raises(InputError, match="the last linear layer of iresnet18 doesn't take pooled features"):
        feature_network(scored, "x", "pooled", "", False)
