"""Embeddings over ranks, and `evaluate_lfw.py` with snapshots; tests/test_onnx.py has it with ONNX files."""

import gc
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import evaluate_lfw
import train
from fr.alignment import procrustes, template_points
from fr.checkpoint import snapshot
from fr.data.faces import Faces
from fr.data.pipeline import DaliSettings, plain_stream
from fr.data.verification_set import VerificationSet, find_set, read_sets
from fr.distributed import Heartbeat, Ranks, open_ranks
from fr.errors import InputError
from fr.evaluation.embedding import batch_size_on, embed, embed_sets, pair_scores, people_of_pairs, with_mirror_image
from fr.evaluation.histogram_protocol import verify_by_histogram
from fr.evaluation.scored_model import load_backbone
from fr.evaluation.verification import Verification, cosine_scores, threshold_text, verify
from fr.preprocessing import Preprocessing
from fr.report import projector
from fr.train import validation
from fr.train.meters import Meters
from fr.train.milestones import Milestones
from fr.train.monitor import Silent
from fr.train.validation import Validation
from tests.builders.verification_faces import faces_of
from tests.conftest import SPREAD, data_options, validation_options

DALI = DaliSettings("cpu", None, 1)
SMALL = Preprocessing((32, 32))


def ranks_here(rank: int = 0, world: int = 1) -> Ranks:
    return Ranks(rank, world, rank, world, torch.device("cpu"))


class Pixels(nn.Module):
    """An embedding that anybody can recompute: the pixels of a coarse grid."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::8, ::8].flatten(1)


def embed_on_a_rank(data: str) -> torch.Tensor:
    ranks = ranks_here(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return torch.from_numpy(embed(Pixels(), faces_of(Path(data)), SMALL, DALI, ranks, 7))


def test_every_rank_gets_the_embeddings_of_one(
    run_distributed: Callable[..., list[torch.Tensor]], sample_data: Path, one_rank: None
) -> None:
    faces = faces_of(sample_data)
    alone = embed(Pixels(), faces, SMALL, DALI, ranks_here(), 50)
    assert len(alone) == len(faces) and "columns_digest" not in vars(faces)  # no other rank to compare it with
    for embeddings in run_distributed(3, embed_on_a_rank, str(sample_data)):
        assert np.array_equal(embeddings.numpy(), alone)  # pixels are the same, however they are batched


def embedded_on_a_rank(data: str) -> tuple[list[list[torch.Tensor]], list[str]]:
    """Embeddings by two networks of two sets of photographs and one crop, and the files that this rank read."""
    ranks = ranks_here(torch.distributed.get_rank(), torch.distributed.get_world_size())
    read: list[str] = []

    @dataclass(frozen=True)
    class Noted(Faces):
        def read(self, index: int) -> NDArray[np.uint8]:
            read.append(self.path(index))
            return super().read(index)

    every = faces_of(Path(data))
    photographs = Noted(every.root, every.names, every.landmarks)
    crop = Noted(every.root, every.names[3:4], np.empty((1, 0, 2)))  # fewer than ranks
    found = embed_sets([Pixels(), Mean()], [photographs, crop, photographs], SMALL, DALI, ranks, 7)
    return [[torch.from_numpy(rows) for rows in of_sets] for of_sets in found], read


class Mean(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize("ranks", [1, 3])
def test_sets_and_networks_together_have_the_embeddings_of_each_alone_and_each_image_is_read_once(
    run_distributed: Callable[..., list[tuple[list[list[torch.Tensor]], list[str]]]],
    sample_data: Path,
    one_rank: None,
    ranks: int,
) -> None:
    every = faces_of(sample_data)
    crop = Faces(every.root, every.names[3:4], np.empty((1, 0, 2)))
    sets, read = (every, crop, every), []
    for found, of_rank in run_distributed(ranks, embedded_on_a_rank, str(sample_data)):
        for network, of_sets in zip((Pixels(), Mean()), found, strict=True):
            for faces, rows in zip(sets, of_sets, strict=True):
                alone = embed(network, faces, SMALL, DALI, ranks_here(), 50)
                assert len(alone) == len(faces) and np.array_equal(rows.numpy(), alone)
        read += of_rank
    assert sorted(read) == sorted(faces.path(index) for faces in sets for index in range(len(faces)))


def measured_on_a_rank(data: str) -> list[str]:
    """Messages of three validations: one that fails on rank 1 in the network, one in the scores, and a good one."""
    ranks = ranks_here(torch.distributed.get_rank(), torch.distributed.get_world_size())

    class Failing(Pixels):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if ranks.rank == 1:
                raise MemoryError("all gone")
            return super().forward(images)

    one = VerificationSet("mine", "", faces_of(Path(data)))
    said = []
    for network, scores_of in ((Failing(), verify), (Pixels(), {1: None}.get(ranks.rank, verify)), (Pixels(), verify)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(validation, "verify", scores_of)
            measuring = Validation([one], {"": network}, SMALL, DALI, ranks, 7, False, Heartbeat())
            try:
                said.append(", ".join(measuring.measure(7)[0]))
            except InputError as error:
                said.append(str(error))
    return said


def test_a_validation_that_fails_on_one_rank_fails_on_all_and_the_next_does_not(
    run_distributed: Callable[..., list[list[str]]], sample_data: Path
) -> None:
    first, second = run_distributed(2, measured_on_a_rank, str(sample_data))
    assert first[0] == "all gone" and second[0].startswith("validation: MemoryError: all gone (")
    assert re.match(r"mine: TypeError: 'NoneType' object is not callable \(.*validation.py:\d+\)$", second[1])
    assert first[1:] == second[1:] and "auc" in first[2]


def normed_pixels(rank: int) -> nn.Sequential:
    """A network in training mode, with batch statistics of a rank's own."""
    norm = nn.BatchNorm1d(48)
    assert norm.running_mean is not None
    norm.running_mean += 0.3 + 0.2 * rank
    return nn.Sequential(Pixels(), norm)


def measured_with_statistics(data: str) -> dict[str, torch.Tensor]:
    ranks = ranks_here(torch.distributed.get_rank(), torch.distributed.get_world_size())
    network, one = normed_pixels(ranks.rank), VerificationSet("mine", "", faces_of(Path(data)))
    metrics, _, _ = Validation([one], {"": network}, SMALL, DALI, ranks, 7, False, Heartbeat()).measure(7)
    return network.state_dict() | {name: torch.tensor(value) for name, value in metrics.items()}


def test_a_validation_uses_the_running_statistics_of_the_first_rank_and_leaves_them(
    run_distributed: Callable[..., list[dict[str, torch.Tensor]]], sample_data: Path, one_rank: None
) -> None:
    faces, network = faces_of(sample_data), normed_pixels(0).eval()
    scores = pair_scores(faces, embed(network, faces, SMALL, DALI, ranks_here(), 50))
    for measured in run_distributed(2, measured_with_statistics, str(sample_data)):
        for name, value in verify(scores, faces.same, faces.fold).metrics().items():
            assert measured[name].item() == pytest.approx(value, abs=1e-5)  # float32
        assert all(torch.equal(measured[name], tensor) for name, tensor in network.state_dict().items())


def test_a_validation_that_fails_leaves_no_thread_behind(sample_data: Path, tmp_path: Path, one_rank: None) -> None:
    shutil.copytree(sample_data / "lfw", tmp_path / "lfw")
    faces = faces_of(tmp_path)
    Path(faces.path(len(faces) // 2)).write_bytes(b"no image")

    class Kept(Milestones):
        def save(self, *_: Any) -> None:
            pass

    said: list[str] = []
    monitor = Silent()
    monitor.say = said.append  # type: ignore[method-assign, assignment]
    one = VerificationSet("mine", "", faces)
    validation = Validation([one], {"": Pixels()}, SMALL, DALI, ranks_here(), 7, False, Heartbeat())
    unused: Any = None
    milestones = Kept(unused, unused, unused, Meters(torch.device("cpu")), validation, monitor)
    gc.collect()
    before = len(os.listdir("/proc/self/task"))
    gc.disable()  # threads must not wait for it
    try:
        for iteration in range(3):
            milestones.validate_and_save(iteration)
    finally:
        gc.enable()
    until = time.monotonic() + 30
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) <= before
    assert len(said) == 3 and all("no validation: " in line for line in said)


def embedded_with_other_landmarks(data: str) -> str:
    ranks = ranks_here(torch.distributed.get_rank(), torch.distributed.get_world_size())
    faces = faces_of(Path(data))
    others = replace(faces, landmarks=faces.landmarks + ranks.rank)
    with pytest.raises(InputError) as refusal:
        embed(Pixels(), others, SMALL, DALI, ranks, 7)
    return str(refusal.value)


def test_hosts_with_other_landmarks_are_refused(
    run_distributed: Callable[..., list[str]], sample_data: Path
) -> None:
    said = "the images to embed aren't the same on all ranks: hosts have different lists or landmarks"
    assert run_distributed(2, embedded_with_other_landmarks, str(sample_data)) == [said] * 2


def test_a_batch_size_of_zero_is_the_devices() -> None:
    assert [batch_size_on(torch.device(kind), 0) for kind in ("cpu", "cuda")] == [20, 256]
    assert batch_size_on(torch.device("cuda"), 7) == 7


def test_flipping_averages_picture_and_mirror_image(sample_data: Path, one_rank: None) -> None:
    class LeftEdge(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :, :, 0].flatten(1)

    class BothEdges(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (images[:, :, :, 0] / 2 + images[:, :, :, -1] / 2).flatten(1)

    faces = faces_of(sample_data)
    flipped = embed(with_mirror_image(LeftEdge(), "sum"), faces, SMALL, DALI, ranks_here(), 20)
    np.testing.assert_allclose(flipped, embed(BothEdges(), faces, SMALL, DALI, ranks_here(), 20), atol=1e-6)


def test_an_embedding_that_is_not_finite_names_the_photograph(sample_data: Path, one_rank: None) -> None:
    class Dizzy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rows = images.flatten(1)[:, :4].clone()
            rows[2, 0] = torch.nan
            return rows

    faces = faces_of(sample_data)
    with pytest.raises(InputError) as refusal:
        embed(Dizzy(), faces, SMALL, DALI, ranks_here(), len(faces))
    assert refusal.value.problems == (f"{faces.path(2)}: its embedding isn't finite",)


@pytest.fixture(scope="module")
def trained(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of a short training with validation."""
    out = tmp_path_factory.mktemp("trained")
    options = [*data_options(sample_data), *validation_options(sample_data), "--max_iterations", "2"]
    options += ["--input_size", "32", "--embed_size", "16", "--train_batch_size", "16", *SPREAD]
    train.main([*options, "--snap_folder", str(out), "--snap_prefix", "t", "--log_folder", str(out / "logs")])
    return out / "t_2.pt"


def test_the_snapshot_alone_gives_the_metrics_of_the_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "deep" / "figures.json"
    assert evaluate_lfw.main(["--snap", str(trained), "--json", str(figures), "--device", "cpu"]) == 0
    measured = json.loads(figures.read_text())
    assert {"accuracy", "accuracy_std", "same_accuracy", "diff_accuracy", "auc", "threshold"} <= measured.keys()
    stored = snapshot.read(trained).metrics
    assert {name: measured[name] for name in stored} == pytest.approx(stored)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:6] == [
        f"Accuracy/Val_same_accuracy mean: {measured['same_accuracy']:.4f}",
        f"Accuracy/Val_diff_accuracy mean: {measured['diff_accuracy']:.4f}",
        f"Accuracy/Val_accuracy mean: {measured['accuracy']:.4f}",
        f"Accuracy/Val_accuracy std dev: {measured['accuracy_std']:.4f}",
        f"AUC: {measured['auc']:.4f}",
        f"Estimated threshold: {threshold_text(measured['threshold'])}",
    ]
    assert "embedding: of the image alone" in printed


def test_options_of_evaluation_have_their_effects(trained: Path, tmp_path: Path, sample_data: Path) -> None:
    def auc(*options: str) -> float:
        figures = tmp_path / "figures.json"
        evaluate_lfw.main(["--snap", str(trained), "--json", str(figures), *options])
        return float(json.loads(figures.read_text())["auc"])

    plain = auc("--val_batch_size", "3", "--dali_threads", "2", "--dali_device", "cpu")
    assert plain == auc("--model", "shufflenetv2", "--embed_size", "16")
    flipped = auc("--flipped_emb")
    assert plain == auc("--flipped_emb", "false") != flipped
    contents = torch.load(trained, weights_only=True)
    stored = tmp_path / "flipped.pt"
    torch.save(contents | {"config": contents["config"] | {"flipped_emb": True}}, stored)
    assert auc("--snap", str(stored)) == flipped
    assert auc("--snap", str(stored), "--flipped_emb", "false") == plain
    pairs = tmp_path / "pairs.txt"
    lines = (sample_data / "lfw/pairs.txt").read_text().splitlines()
    per_fold = 2 * int(lines[0].split()[1])
    pairs.write_text("\n".join([lines[0].replace("10", "2"), *lines[1 : 1 + 2 * per_fold]]))
    assert plain != auc("--val_list", str(pairs))
    page = tmp_path / "report"
    auc("--report", str(page))
    assert "AUC" in (page / "index.html").read_text()
    assert (page / "roc.png").stat().st_size > 1000


def test_protocols_and_scores_are_those_asked_for(
    trained: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*options: str) -> list[str]:
        assert evaluate_lfw.main(["--snap", str(trained), "--bootstrap", "0", *options]) == 0
        return capsys.readouterr().out.splitlines()[:6]

    faces = faces_of(sample_data)
    contract = Preprocessing.from_dict(snapshot.read(trained).preprocessing)
    network = load_backbone(trained, snapshot.read(trained), contract.input_size)
    with open_ranks("cpu") as ranks:
        networks = network, lambda images: network(images.flip(3))
        plain, mirror = (embed(of, faces, contract, DALI, ranks, 20) for of in networks)
    first, second = faces.pairs.T

    def expected(rows: NDArray[Any], protocol: Callable[..., Verification] = verify) -> list[str]:
        return protocol(cosine_scores(rows[first], rows[second]), faces.same, faces.fold).lines()

    assert printed("--protocol", "histogram") == expected(plain, verify_by_histogram) != expected(plain)
    assert printed("--center") == expected(plain - plain.mean(axis=0)) != expected(plain)
    assert printed("--flipped_emb") == expected((plain + mirror) / 2)
    assert printed("--flipped_emb", "--flip_mode", "concat") == expected(np.hstack([plain, mirror]))
    distances = np.sqrt(((plain[first].astype(np.float64) - plain[second]) ** 2).sum(axis=1))
    assert printed("--dist", "l2") == verify(-distances, faces.same, faces.fold, "l2").lines()
    with pytest.raises(InputError, match="--flip_mode concat: no effect without --flipped_emb"):
        printed("--flip_mode", "concat")


def test_intervals_are_printed_written_and_shown(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(count: str) -> tuple[list[str], dict[str, float | None]]:
        files = ["--json", str(tmp_path / "f.json"), "--report", str(tmp_path / "page")]
        evaluate_lfw.main(["--snap", str(trained), "--bootstrap", count, *files])
        return capsys.readouterr().out.splitlines(), json.loads((tmp_path / "f.json").read_text())

    with_intervals, figures = run("30")
    without, plain = run("0")
    assert with_intervals[:6] == without[:6]
    assert with_intervals[6].startswith(f"EER: {figures['eer']:.4f} [{figures['eer_low']:.4f}, ")
    assert without[6] == f"EER: {plain['eer']:.4f}"
    assert "resampled 30 times" in with_intervals[-3] and not any("resampled" in line for line in without)
    assert plain == {name: value for name, value in figures.items() if not name.endswith(("_low", "_high"))}
    # 20 different pairs: two false matches at a FAR of 0.1, none at 0.01.
    assert figures["tar@far=1e-01"] is not None and figures["tar@far=1e-02"] is None
    stored = json.loads((tmp_path / "page" / "report.json").read_text())["statistics"]
    # The AUC is there from the exact ROC, here from scikit-learn: sums in another order.
    assert all(plain[name] == (value if value is None else pytest.approx(value)) for name, value in stored.items())


def test_each_wrongly_judged_pair_is_a_picture_the_worst_first(
    trained: Path, sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "failed"
    folder.mkdir()
    for name in ("misclassified_39.jpg", "misclassified_mine.jpg"):
        (folder / name).touch()
    evaluate_lfw.main(["--snap", str(trained), "--bootstrap", "0", "--show_failed", str(folder)])
    printed = capsys.readouterr().out.splitlines()
    faces = faces_of(sample_data)
    contract = Preprocessing.from_dict(snapshot.read(trained).preprocessing)
    network = load_backbone(trained, snapshot.read(trained), contract.input_size)
    with open_ranks("cpu") as ranks:
        rows = embed(network, faces, contract, DALI, ranks, 20)
    scores = cosine_scores(*(rows[column] for column in faces.pairs.T))
    wrong = np.flatnonzero(~verify(scores, faces.same, faces.fold).right)
    worst_first = sorted(wrong, key=lambda pair: (faces.same[pair], scores[pair] * (1 if faces.same[pair] else -1)))
    assert f"misclassified: {len(wrong)} in {folder}" in printed and len(wrong) > 5
    expected = {f"misclassified_{number}.jpg" for number in range(1, len(wrong) + 1)}
    assert {path.name for path in folder.iterdir()} == expected | {"misclassified_mine.jpg"}  # 39 was another run's
    for number, pair in enumerate(worst_first, start=1):
        with Image.open(folder / f"misclassified_{number}.jpg") as sheet:
            shown, (verdict, *names) = np.asarray(sheet).astype(int), sheet.info["comment"].decode().splitlines()
        assert names == [faces.names[row].as_py() for row in faces.pairs[pair].tolist()]
        assert verdict.split(": ")[0] == f"cosine {scores[pair]:.4f}"
        assert verdict.endswith("classified as two" if faces.same[pair] else "classified as one")
        assert shown[40:].min() < 50  # something is written below
        for place, row in zip((0, 36), faces.pairs[pair], strict=True):
            (matrix,) = procrustes(faces.landmarks[[row]], template_points(contract.template, (32, 32)))
            photograph: Any = cv2.imread(faces.path(row))
            aligned = cv2.warpAffine(photograph, matrix, (32, 32))[:, :, ::-1].astype(int)
            assert np.abs(shown[:32, place : place + 32] - aligned).mean() < 12  # JPEG, and the blur of a warp of ours


@pytest.mark.parametrize("side", [32, 6])
def test_the_projector_gets_embeddings_names_and_pictures_in_one_order(
    side: int, trained: Path, sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = faces_of(sample_data)
    columns = int(np.ceil(np.sqrt(len(faces))))
    monkeypatch.setattr(projector, "_SHEET", side * columns + columns - 1)  # what is no whole side more
    evaluate_lfw.main(["--snap", str(trained), "--bootstrap", "0", "--dump_embeddings", str(tmp_path / "logs")])
    contract = Preprocessing.from_dict(snapshot.read(trained).preprocessing)
    with open_ranks("cpu") as ranks:
        network = load_backbone(trained, snapshot.read(trained), contract.input_size)
        rows = embed(network, faces, contract, DALI, ranks, 20)
        (pixels,) = plain_stream(faces, np.arange(len(faces)), len(faces), contract, DALI)
    logs = tmp_path / "logs"
    config = re.findall(r'(\w+): "?([^"\n]+)', (logs / "projector_config.pbtxt").read_text())
    assert [value for name, value in config if name == "single_image_dim"] == [str(side)] * 2
    said = dict(config)
    assert said["tensor_name"].startswith("lfw:")
    np.testing.assert_allclose(np.loadtxt(logs / said["tensor_path"]), rows, rtol=1e-4, atol=1e-5 * np.abs(rows).max())
    assert (logs / said["metadata_path"]).read_text().splitlines() == faces.names.to_pylist()
    with Image.open(logs / said["image_path"]) as sheet:
        assert sheet.size == (side * columns, side * columns)
        sprites = np.asarray(sheet).astype(int)
    for index in (0, 1, columns, len(faces) - 1):
        top, left = index // columns * side, index % columns * side
        expected = pixels[index].numpy().transpose(1, 2, 0) * 255
        shown = sprites[top : top + side, left : left + side]
        expected = cv2.resize(expected, (side, side), interpolation=cv2.INTER_AREA)
        assert np.abs(shown - expected).max() <= 2  # rounded to bytes twice


def test_people_of_pairs_are_the_folders(sample_data: Path) -> None:
    faces = faces_of(sample_data)
    people = people_of_pairs(faces)
    folders = [[faces.names[row].as_py().split("/")[0] for row in pair] for pair in faces.pairs.tolist()]
    assert np.array_equal(people[:, 0] == people[:, 1], faces.same)
    known = dict(zip(people.ravel().tolist(), np.ravel(folders).tolist(), strict=True))
    assert len(set(known.values())) == len(known)
    assert [[known[person] for person in pair] for pair in people.tolist()] == folders


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "resnet"], "--model resnet: .* holds shufflenetv2"),
        (["--embed_size", "256"], "--embed_size 256: .* holds 16"),
        (["--input_size", "40"], "shufflenetv2 needs sides that are multiples of 16"),
        (["--input_size", "64"], "size mismatch for global_pool"),
        (["--val_list", "missing.txt"], "missing.txt: can't be read"),
        (["--val_data_root", "missing"], "--val_data_root missing: no such folder"),
        (["--snap", "missing.pt"], "missing.pt: can't be read"),
    ],
)
def test_what_does_not_fit_the_snapshot_is_refused(options: list[str], message: str, trained: Path) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_lfw.main(["--snap", str(trained), *options])


@pytest.mark.parametrize(
    ("option", "path"),
    [
        *((option, "file/below") for option in ("--report", "--show_failed", "--dump_embeddings", "--json")),
        *(("--report", "file"), ("--report", "/proc/page"), ("--roc_fname", "file/curve.txt"), ("--json", "folder")),
    ],
)
def test_output_that_cannot_be_written_is_refused_before_the_first_image_is_embedded(
    option: str, path: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fr.evaluation.scoring.embed", None)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    out = tmp_path / path
    reason = "No such file or directory" if path == "/proc/page" else "Is a directory" if path == "folder" else "Not a "
    with pytest.raises(InputError, match=f"^{re.escape(str(out))}: can't be written: {reason}"):
        evaluate_lfw.main(["--snap", str(trained), option, str(out)])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "folder"]
    assert [*(tmp_path / "folder").iterdir()] == []


STORED = ("faces", "stored.txt", "landmarks.txt")


def test_a_folder_of_a_whole_set_is_enough(tmp_path: Path) -> None:
    assert find_set([str(tmp_path), "", ""], STORED, "t.pt") == (str(tmp_path), *STORED[1:])  # faces moved
    for name in ("pairs.txt", "lfw_landmark.txt"):
        (tmp_path / name).touch()
    found = str(tmp_path / "pairs.txt"), str(tmp_path / "lfw_landmark.txt")
    assert find_set([str(tmp_path), "", ""], STORED, "t.pt") == (str(tmp_path), *found)
    (tmp_path / "lfw").mkdir()
    assert find_set([str(tmp_path), "", ""], ["", "", ""], "t.pt") == (str(tmp_path / "lfw"), *found)
    assert find_set([str(tmp_path), "said.txt", ""], STORED, "t.pt") == (str(tmp_path), "said.txt", "landmarks.txt")
    assert find_set(["", "", ""], STORED, "t.pt") == STORED
    assert find_set([str(tmp_path), "said.txt", ""], ["", "", ""], "t.pt") == (str(tmp_path), "said.txt", "")  # crops
    for path, said in (("faces", "no verification set: expected "), ("missing", "no such file or folder")):
        (tmp_path / "faces").mkdir(exist_ok=True)
        place = find_set([str(tmp_path / path), "", ""], ["", "", ""], "t.onnx")
        with pytest.raises(InputError, match=f"^--val_data_root {tmp_path / path}: {said}"):
            read_sets(place, "auto", [])
    with pytest.raises(InputError, match=r"t\.pt names no verification set: give --val_data_root, --val_list, --val_l"):
        find_set(["", "said.txt", ""], ["", "", ""], "t.pt")


def test_what_an_option_overrides_is_said(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--input_size", "32", "--template", "arcface", "--std", "1", "1", "1", "--color_order", "bgr"]
    evaluate_lfw.main(["--snap", str(trained), *options])
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"--template arcface overrides what {trained} says: sphereface",
        f"--color_order bgr overrides what {trained} says: rgb",
    ]
