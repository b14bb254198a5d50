"""tools/classify.py against NumPy on logits of all classes; heads with a bias; names, ranks, refusals."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fr.checkpoint import snapshot
from fr.checkpoint.training_state import read_head
from fr.data.faces import LabelledFaces
from fr.data.pipeline import DaliSettings, plain_stream
from fr.errors import InputError
from fr.evaluation.scored_model import load_backbone, read_backbone
from fr.files.model_metadata import CONTRACT_KEY
from fr.preprocessing import Preprocessing
from fr.weights.layouts import shapes_of
from fr.weights.loading import read_weights
from tests.builders.feature_runs import run_ranks
from tests.builders.onnx_files import foreign
from tests.builders.ranks import launch_forked
from tests.conftest import SPREAD, data_options, vgg_faces
from tests.sets import written
from tests.weight_files import filled
from tools import import_weights
from tools.classify import main
from tools.features import classes
from tools.features.classes import Classifier, Verdicts, table


@pytest.fixture(scope="module")
def faces(sample_data: Path) -> LabelledFaces:
    return vgg_faces(sample_data)


@pytest.fixture(scope="module")
def snap(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshot of a training on two ranks, each of which wrote half of the head."""
    out = tmp_path_factory.mktemp("trained")
    options = ["--max_iterations", "4", "--input_size", "32", "--embed_size", "16", "--train_batch_size", "16"]
    options += [*SPREAD, "--snap_folder", str(out), "--log_folder", f"{out}/logs", "--device", "cpu"]
    result = launch_forked("train.py", *data_options(sample_data), *options)
    assert result.returncode == 0, result.stderr
    return out / "FaceReidNet_4.pt"


@pytest.fixture(scope="module")
def base(sample_data: Path, snap: Path) -> list[str]:
    machine = ["--device", "cpu", "--dali_threads", "1", "--data_cache", "none", "--batch_size", "10"]
    return ["--snap", str(snap), *data_options(sample_data), *machine]


def embeddings(snap: Path, faces: LabelledFaces, flipped: bool = False) -> NDArray[np.float64]:
    contents, preprocessing = read_backbone(snap)
    model = load_backbone(snap, contents, preprocessing.input_size)
    batches = plain_stream(faces, np.arange(len(faces)), 10, preprocessing, DaliSettings("cpu", None, 1))
    with torch.inference_mode():
        rows = [model(batch) + (model(batch.flip(3)) if flipped else 0) for batch in batches]
    return torch.cat(rows).double().numpy()


def by_hand(logits: NDArray[np.float64], target: NDArray[np.int64]) -> dict[str, Any]:
    """Sorts all classes of each image, and counts."""
    order = np.argsort(-logits, axis=1, kind="stable")
    first, five = order[:, 0] == target, (order[:, :5] == target[:, None]).any(axis=1)
    people = np.unique(target)
    wrong: dict[tuple[int, int], int] = {}
    for own, other in zip(target[~first].tolist(), order[~first, 0].tolist(), strict=True):
        wrong[own, other] = wrong.get((own, other), 0) + 1
    return {
        "top1": first.mean(),
        "top5": five.mean(),
        "mean_top1": np.mean([first[target == person].mean() for person in people]),
        "counts": {person: (sum(target == person), sum(first[target == person])) for person in people.tolist()},
        "wrong": wrong,
    }


def figures(base: list[str], out: Path, *options: str) -> dict[str, Any]:
    assert main([*base, "--json", str(out / "f.json"), *options]) == 0
    found: dict[str, Any] = json.loads((out / "f.json").read_text())
    return found


@pytest.mark.parametrize("flipped", [False, True])
def test_figures_are_those_of_sorting_the_cosines_of_all_classes(
    flipped: bool, base: list[str], snap: Path, faces: LabelledFaces, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head, names = read_head(snapshot.state_path(snap))
    assert names is not None and len(list(snapshot.state_path(snap).glob("*.distcp"))) == 2
    rows, centres = embeddings(snap, faces, flipped), head.double().numpy()
    cosines = (rows / np.linalg.norm(rows, axis=1)[:, None]) @ (centres / np.linalg.norm(centres, axis=1)[:, None]).T
    target = np.array([names.index(faces.identities[label]) for label in faces.labels])
    expected = by_hand(cosines, target)
    options = ["--per_identity", str(tmp_path / "t.csv"), "--pairs", "3", *(["--flipped_emb"] if flipped else [])]
    got = figures(base, tmp_path, *options)
    for name in ("top1", "top5", "mean_top1"):
        assert got[name] == pytest.approx(expected[name])
    assert 0 < got["top1"] < got["top5"] < 1  # neither all nor nothing
    assert (got["images"], got["identities"], got["classes"]) == (96, 12, 12)
    assert (got["left_out"], got["unusable"]) == (0, 0)
    most = sorted(expected["wrong"].values(), reverse=True)[:3]
    assert [pair["times"] for pair in got["confused"]] == most
    for pair in got["confused"]:
        key = names.index(pair["identity"]), names.index(pair["taken_for"])
        assert pair["times"] == expected["wrong"][key] and pair["of"] == 8
    lines = [*csv.DictReader((tmp_path / "t.csv").read_text().splitlines())]
    assert {names.index(of["identity"]): (int(of["pictures"]), int(of["top1"])) for of in lines} == expected["counts"]
    assert sum(int(of["top5"]) for of in lines) == round(96 * expected["top5"])
    said = capsys.readouterr().out
    assert "96 images of 12 identities, 12 classes\n" in said
    assert f"top-1 {got['top1']:.4f}, top-5 {got['top5']:.4f}" in said
    assert said.count(" taken for ") == 3


def test_any_number_of_ranks_has_the_same_figures(base: list[str], tmp_path: Path) -> None:
    expected = figures(base, tmp_path)
    for world in (2, 3):
        out = tmp_path / str(world)
        run_ranks(world, [*base, "--json", str(out / "f.json")], tmp_path / "none", "tools.classify")
        assert json.loads((out / "f.json").read_text()) == expected


def test_classes_go_by_name(base: list[str], snap: Path, faces: LabelledFaces, tmp_path: Path) -> None:
    """Whatever their order, below another folder, and without those that have no class."""
    expected = figures(base, tmp_path)
    root = tmp_path / "data"
    (root / "deep").mkdir(parents=True)
    (root / "deep/train").symlink_to(faces.root.path)
    names = [name.as_py() for name in faces.names]
    own = ["--train_data_root", str(root), "--train_landmarks", "", "--train_dataset", "trp", "--allow_outside"]
    lines = []
    for row in reversed(range(len(names))):
        points = " ".join(map(repr, faces.landmarks[row].ravel().tolist()))
        lines.append(f"deep/train/{names[row]} {int(names[row][1:7])} {points}")
    listed = written(tmp_path / "l.txt", "\n".join(lines))
    numbered = written(tmp_path / "names.txt", "".join(f"{int(name[1:])}\n" for name in faces.identities))
    got = figures([*base, *own, "--train_list", str(listed), "--identities", str(numbered)], tmp_path)
    assert {name: got[name] for name in ("top1", "top5", "mean_top1")} == pytest.approx(
        {name: expected[name] for name in ("top1", "top5", "mean_top1")}
    )
    table_of = tmp_path / "loose_landmark_train.csv"
    text = (faces.root.path.parent / "bb_landmark/loose_landmark_train.csv").read_text()
    table_of.write_text(text.replace('"n0', '"deep/train/n0'))
    listed = written(tmp_path / "train_list.txt", "".join(f"deep/train/{name}\n" for name in names))
    split = ["--train_data_root", str(root), "--train_list", str(listed), "--train_landmarks", str(table_of)]
    assert figures([*base, *split, "--allow_outside"], tmp_path) == expected
    others = written(tmp_path / "some.txt", "\n".join(["x", *faces.identities[1:]]) + "\n")
    fewer = figures([*base, "--identities", str(others)], tmp_path)
    assert (fewer["left_out"], fewer["identities"], fewer["images"]) == (8, 11, 88)
    nobody = written(tmp_path / "none.txt", "".join(f"x{i}\n" for i in range(12)))
    with pytest.raises(InputError, match=r"none of the 12 identities \(n000001, …\) is a class of .* \(x0, …\)"):
        main([*base, "--identities", str(nobody)])


def test_unusable_photographs_do_not_count(base: list[str], faces: LabelledFaces, tmp_path: Path) -> None:
    root = tmp_path / "train"
    shutil.copytree(faces.root.path, root)
    (root / faces.names[5].as_py()).write_bytes(b"")
    got = figures([*base, "--train_data_root", str(root)], tmp_path)
    assert (got["images"], got["unusable"]) == (95, 1)
    with pytest.raises(InputError, match="bad images: 1, and --max_bad_images is 0"):
        main([*base, "--train_data_root", str(root), "--max_bad_images", "0"])
    for name in faces.names.to_pylist():
        (root / name).write_bytes(b"")
    with pytest.raises(InputError, match="none of the images can be used"):
        main([*base, "--train_data_root", str(root)])


# --- heads ------------------------------------------------------------------------------------------------------------


def test_an_imported_head_with_a_bias_gives_the_logits_that_it_gave(
    base: list[str], faces: LabelledFaces, tmp_path: Path
) -> None:
    """facenet's with centre loss: `nn.Linear` on embeddings. Here it asks which identity's first image is nearest."""
    path, snap = tmp_path / "facenet.pt", tmp_path / "t.pt"
    tensors = filled(shapes_of("resnet34", 24, (160, 160)))
    torch.save({"model_state_dict": tensors}, path)
    assert import_weights.main([str(path), str(snap)]) == 0
    few = faces.take(np.arange(0, 96, 4))
    rows = embeddings(snap, few)
    middle, first = rows.mean(axis=0), rows[::2]
    sharp = 100 / np.abs(first - middle).max()  # all images are much alike to this network
    centres, bias = sharp * (first - middle), -sharp / 2 * ((first**2).sum(axis=1) - middle @ middle)
    head = {"model.classifier.weight": torch.from_numpy(centres).float()}
    head["model.classifier.bias"] = torch.from_numpy(bias).float()
    torch.save({"model_state_dict": tensors | head}, path)
    names = written(tmp_path / "names.txt", "".join(f"{name}\n" for name in faces.identities))
    assert import_weights.main([str(path), str(snap), "--identities", str(names)]) == 0
    kept = read_weights(snap).bias
    assert kept is not None and torch.equal(kept, head["model.classifier.bias"])
    expected = by_hand(rows @ centres.T + bias, few.labels)
    without = by_hand(rows @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T, few.labels)
    listed = written(tmp_path / "train_list.txt", "\n".join(few.names.to_pylist()))
    got = figures([*base, "--snap", str(snap), "--train_list", str(listed)], tmp_path)
    for name in ("top1", "top5"):
        assert got[name] == pytest.approx(expected[name]) and got[name] != pytest.approx(without[name])


def test_a_classifier_is_the_linear_layer_and_breaks_ties_by_the_lower_class(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(200, 8)).astype(np.float32)
    weight, bias = generator.normal(size=(30, 8)).astype(np.float32), generator.normal(size=30).astype(np.float32)
    weight[7], bias[7] = weight[20], bias[20]
    target = generator.integers(30, size=200)
    monkeypatch.setattr(classes, "_MOST", 30 * 17)  # in several steps
    unit = [of / np.linalg.norm(of.astype(np.float64), axis=1, keepdims=True) for of in (rows, weight)]
    for own, logits in ((None, unit[0] @ unit[1].T), (torch.from_numpy(bias), rows.astype(float) @ weight.T + bias)):
        taken_for, place = Classifier(torch.from_numpy(weight), own, torch.device("cpu")).judge(rows, target)
        logits[:, 20] = logits[:, 7]
        order = np.argsort(-logits, axis=1, kind="stable")
        assert np.array_equal(taken_for, order[:, 0]) and np.array_equal(order[np.arange(200), place], target)


def test_tables_and_pairs_by_hand() -> None:
    """Rows come from the ranks in any order."""
    some = np.array([[3, 1, 1, 0], [0, 0, 2, 1], [2, 0, 2, 6]])
    more = np.array([[1, 0, 0, 0], [4, 1, 0, 4]])
    verdicts = Verdicts.of([some, more, np.zeros((0, 4), dtype=np.int64)])
    assert verdicts.place.tolist() == [1, 0, 6, 0, 4]
    assert verdicts.metrics() == {"top1": 2 / 5, "top5": 4 / 5, "mean_top1": pytest.approx((1 / 3 + 1 / 2) / 2)}
    assert verdicts.confused(5) == [(0, 2, 2), (1, 0, 1)] and verdicts.confused(1) == [(0, 2, 2)]
    assert table(verdicts, ["a", "b", "c"])[1:] == [["a", 3, 1, 2, "0.3333", "c", 2], ["b", 2, 1, 2, "0.5000", "a", 1]]


def test_what_has_no_head_or_no_names_is_refused(base: list[str], snap: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone_4.pt"
    shutil.copyfile(snap, alone)
    with pytest.raises(InputError, match=r"no head: a training stores it in the folder alone_4\.state"):
        main([*base, "--snap", str(alone)])
    shutil.copytree(snapshot.state_path(snap), snapshot.state_path(alone))
    (snapshot.state_path(alone) / "identities.txt").unlink()
    with pytest.raises(InputError, match=r"the names of its 12 classes aren't stored: give --identities"):
        main([*base, "--snap", str(alone)])
    few = written(tmp_path / "few.txt", "a\nb\n")
    with pytest.raises(InputError, match=r"few\.txt: 2 identities for a head of 12 classes"):
        main([*base, "--identities", str(few)])
    metadata = {CONTRACT_KEY: json.dumps(Preprocessing((32, 48)).as_dict())}
    with pytest.raises(InputError, match="an ONNX model has no head"):
        main([*base, "--snap", str(foreign(tmp_path / "t.onnx", metadata=metadata))])
    contents = torch.load(snap, weights_only=True)
    torch.save(contents | {"head": torch.ones(12, 5), "identities": [str(i) for i in range(12)]}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match="none of the 12 identities"):
        main([*base, "--snap", str(tmp_path / "odd.pt")])
    names = read_weights(snap).identities
    torch.save(contents | {"head": torch.ones(12, 5), "identities": names}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match="its head is for embeddings of 5 numbers, not 16"):
        main([*base, "--snap", str(tmp_path / "odd.pt")])
    with pytest.raises(InputError, match="--train_dataset: "):
        main([*base, "--train_dataset", "photos"])
