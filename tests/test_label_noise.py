"""tools/label_noise.py: planted wrong labels are found, the files are those of a computation by hand; refusals."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from fr.checkpoint.snapshot import state_path
from fr.checkpoint.training_state import read_head
from fr.data.faces import LabelledFaces
from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.train.learner import Learner
from fr.train.optimizer import build_sgd
from tests.builders.feature_runs import run_ranks
from tests.conftest import SPREAD, data_options, trained_briefly, vgg_faces
from tests.test_classifying import by_hand, embeddings, figures
from tools.label_noise import main, on_minor_centres


def angles_to(head: torch.Tensor, rows: torch.Tensor) -> NDArray[np.float64]:
    """Angles in degrees [n, K] of rows [n, E] to the K centres of each, of head [n, K · E]."""
    unit, centres = F.normalize(rows.double()), F.normalize(head.double().view(len(head), -1, rows.shape[1]), dim=2)
    found: NDArray[np.float64] = np.degrees(np.arccos((unit[:, None] * centres).sum(dim=2).clamp(-1, 1).numpy()))
    return found


def test_planted_wrong_labels_hang_on_minor_centres(one_rank: None) -> None:
    """Eight people as clusters in space; a tenth of the images have the label of another person."""
    people, each, size = 8, 40, 16
    draw = torch.Generator().manual_seed(0)
    true = torch.arange(people).repeat_interleave(each)
    images = F.normalize(torch.randn(people, size, generator=draw))[true]
    images = images + 0.1 * torch.randn(len(true), size, generator=draw)
    wrong = torch.rand(len(true), generator=draw) < 0.1
    labels = torch.where(wrong, (true + torch.randint(1, people, true.shape, generator=draw)) % people, true)
    backbone = nn.Linear(size, size, bias=False)
    nn.init.eye_(backbone.weight)
    head = MarginSoftmax(people, size, LossSettings(margin_type="arc", s=16.0, sub_centers=3), 0)
    learner = Learner(backbone, head, build_sgd([*backbone.parameters(), *head.parameters()], 0.1, 0.9, 1e-4))
    learner.training_mode()
    for iteration in range(150):
        some = torch.randint(len(true), (64,), generator=draw)
        learner.step([(images[some], labels[some])], iteration, 0.05)
    with torch.no_grad():
        angles = angles_to(head.weight.detach()[labels], backbone(images))
    _, found = on_minor_centres(angles, labels.numpy(), 60.0)
    # 24 of 32: for the others the dominant centre is by chance the nearest.
    assert (found & wrong.numpy()).sum() >= 20
    assert not (found & ~wrong.numpy()).any()


def test_the_dominant_centre_is_that_of_most_images() -> None:
    angles = np.array([[80.0, 20], [85, 30], [10, 89], [10, 70], [50, 60], [60, 50], [5, 6]])
    to_dominant, found = on_minor_centres(angles, np.array([4, 4, 4, 4, 4, 1, 1]), 75)
    # Class 4: three are nearest to its first, two to its second; class 1: one each, and the first counts.
    assert to_dominant.tolist() == [80, 85, 10, 10, 50, 60, 5]
    assert found.tolist() == [True, True, False, False, False, False, False]


@pytest.fixture(scope="module")
def snap(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = [*data_options(sample_data), "--device", "cpu"]
    return trained_briefly([*options, "--sub_centers", "8"], tmp_path_factory.mktemp("sub"), SPREAD)


@pytest.fixture(scope="module")
def base(sample_data: Path, snap: Path) -> list[str]:
    machine = ["--device", "cpu", "--dali_threads", "1", "--data_cache", "none", "--batch_size", "10"]
    return ["--snap", str(snap), *data_options(sample_data), *machine]


@pytest.fixture(scope="module")
def truth(sample_data: Path, snap: Path) -> dict[str, Any]:
    """Images, embeddings, head and class of each image, without the tool."""
    faces: LabelledFaces = vgg_faces(sample_data)
    head, names = read_head(state_path(snap))
    assert names is not None and head.shape == (12, 8 * 16)
    target = np.array([names.index(faces.identities[label]) for label in faces.labels])
    return {"faces": faces, "rows": torch.from_numpy(embeddings(snap, faces)), "head": head, "target": target}


def test_the_files_are_those_of_a_computation_by_hand(
    base: list[str], sample_data: Path, truth: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces, target = truth["faces"], truth["target"]
    angles = angles_to(truth["head"][target], truth["rows"])
    nearest = angles.argmin(axis=1)
    most = np.array([np.bincount(nearest[target == one], minlength=8).argmax() for one in range(12)])[target]
    to_dominant = angles[np.arange(96), most]
    limit = float(np.median(to_dominant[nearest != most]).round(1)) + 0.05
    wanted = (nearest != most) & (to_dominant > limit)
    assert 0 < wanted.sum() < (nearest != most).sum()
    options = [*base, "--min_angle", str(limit), "--out"]
    assert main([*options, str(tmp_path / "one")]) == 0
    lines = [*csv.DictReader((tmp_path / "one/label_noise.csv").read_text().splitlines())]
    names = np.array(faces.names.to_pylist())
    assert [line["path"] for line in lines] == names[wanted].tolist()
    assert [line["identity"] for line in lines] == [faces.identities[label] for label in faces.labels[wanted]]
    for column, values in (("dominant_angle", to_dominant), ("nearest_angle", angles.min(axis=1))):
        assert [float(line[column]) for line in lines] == pytest.approx(values[wanted], abs=0.06)  # one decimal
    stored = (sample_data / "vggface2/meta/train_list.txt").read_text().splitlines()
    kept = [line for line, out in zip(stored, wanted, strict=True) if not out]
    assert (tmp_path / "one/cleaned_train_list.txt").read_text().splitlines() == kept
    assert f"{wanted.sum()} of 96 images above {limit:g}° on a minor centre" in capsys.readouterr().out
    run_ranks(2, [*options, str(tmp_path / "two")], tmp_path / "none", "tools.label_noise")
    for name in ("label_noise.csv", "cleaned_train_list.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_classify_takes_the_nearest_centre_of_each_class(
    base: list[str], truth: dict[str, Any], tmp_path: Path
) -> None:
    rows = F.normalize(truth["rows"])
    of_each = [rows @ F.normalize(one.double()).T for one in truth["head"].split(16, dim=1)]
    expected = by_hand(torch.stack(of_each).amax(dim=0).numpy(), truth["target"])
    got = figures(base, tmp_path)
    for name in ("top1", "top5", "mean_top1"):
        assert got[name] == pytest.approx(expected[name])


def test_a_head_with_one_centre_a_class_is_refused(sample_data: Path, tmp_path: Path) -> None:
    options = [*data_options(sample_data), "--device", "cpu"]
    snap = trained_briefly(options, tmp_path, SPREAD)
    with pytest.raises(InputError, match="has one centre a class; train with --sub_centers"):
        main(["--snap", str(snap), *options, "--data_cache", "none", "--out", str(tmp_path / "out")])
