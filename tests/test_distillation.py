"""Distillation: losses against loops on one to three ranks, the teacher's pixels, runs, and what is refused."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fr.checkpoint.training_state import read_head
from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.data.order import Order
from fr.data.pipeline import plain_stream
from fr.data.training_stream import TrainingStream
from fr.distributed import Ranks, rank, world_size
from fr.errors import InputError
from fr.files.model_metadata import CONTRACT_KEY
from fr.losses.classifier import MarginSoftmax, shard_rows
from fr.losses.distillation import TeacherHead
from fr.options.augmentation import Augmentation
from fr.options.losses import LossSettings
from fr.preprocessing import Preprocessing
from fr.train.learner import Learner
from fr.train.optimizer import build_sgd
from tests.builders.damaged_images import BATCH as IMAGES
from tests.builders.damaged_images import CPU, SMALL, STRONG, UNUSABLE, faces
from tests.builders.onnx_files import foreign
from tests.conftest import Losses, records, same_weights, weights
from tests.loss_reference import (
    BATCH,
    EMBED_SIZE,
    assert_equal,
    head_with,
    make_case,
    mean,
    own_part,
    reference_softmax,
)

__all__ = ["faces"]
WEIGHTS = {"distill_cosine_weight": 5.0, "distill_mse_weight": 0.01, "distill_relation_weight": 7.0}
ONLY = {"softmax_weight": 0.0}
SETTINGS: list[dict[str, Any]] = [*(ONLY | {name: weight} for name, weight in WEIGHTS.items()), WEIGHTS]
CONTRACT = Preprocessing((32, 48), "arcface", "umeyama", "bgr", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
NUMBERS = 72  # an embedding of the teacher that `foreign` writes for that input


# --- the losses -----------------------------------------------------------------------------------------------------


def teachers_of(number: int) -> torch.Tensor:
    """Embeddings [N, E] of any length; with the relation loss alone [N, 4]."""
    width = 4 if SETTINGS[number].keys() == ONLY.keys() | {"distill_relation_weight"} else EMBED_SIZE
    source = torch.Generator().manual_seed(100 + number)
    return 9 * torch.randn(BATCH, width, generator=source, dtype=torch.float64)


def on_a_rank() -> list[dict[str, torch.Tensor]]:
    """Loss, figures and gradients of each of SETTINGS."""
    results = []
    for number, changes in enumerate(SETTINGS):
        case, own = make_case(7, number), own_part()
        head = head_with(case["weight"], LossSettings(**changes))
        embeddings = case["inputs"][own].clone().requires_grad_()
        loss, figures = head(embeddings, case["labels"][own], teachers_of(number)[own])
        loss.backward()
        results.append({"loss": loss.detach(), **figures, "x": embeddings.grad, "weight": head.weight.grad})
    return results


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b) / (a.norm() * b.norm())


def by_loops(x: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
    pairs = list(itertools.permutations(range(len(x)), 2))
    values = {"distill_relation_loss": mean((cosine(x[i], x[j]) - cosine(t[i], t[j])) ** 2 for i, j in pairs)}
    if x.shape == t.shape:
        values["distill_cosine_loss"] = mean(1 - cosine(a, b) for a, b in zip(x, t, strict=True))
        values["distill_mse_loss"] = mean((a - b) ** 2 for a, b in zip(x.flatten(), t.flatten(), strict=True))
    return values


@pytest.mark.parametrize("world", [1, 2, 3])
def test_loss_and_gradient_are_those_of_loops_over_the_global_batch(
    run_distributed: Callable[..., list[Any]], world: int
) -> None:
    ranks = run_distributed(world, on_a_rank)
    for number, changes in enumerate(SETTINGS):
        results = [one[number] for one in ranks]
        x = make_case(7, number)["inputs"].clone().requires_grad_()
        values = by_loops(x, teachers_of(number))
        used = {name: weight for name, weight in changes.items() if name in WEIGHTS}
        total = torch.stack([w * values[name.replace("weight", "loss")] for name, w in used.items()]).sum()
        softmax_weight = changes.get("softmax_weight", 1.0)
        for result in results:
            for name in used:
                assert_equal(result[name.replace("weight", "loss")], values[name.replace("weight", "loss")], name)
            assert_equal(result["loss"], total + softmax_weight * result["softmax_loss"], changes)
        if softmax_weight == 0:
            (gradient,) = torch.autograd.grad(total, x)
            assert_equal(torch.cat([result["x"] for result in results]), world * gradient, changes)  # DDP divides by W
            assert not any(result["weight"].any() for result in results)


LOGIT_CASES: list[dict[str, Any]] = [
    {"margin_type": "arc", "distill_logit_weight": 3.0, "distill_temperature": 4.0},
    {"margin_type": "linear", "distill_logit_weight": 3.0, "distill_temperature": 1.0},
]


def teacher_head(linear: bool) -> torch.Tensor:
    """Whole head of a teacher of embeddings of 4 numbers; one that isn't linear has two centres a class."""
    return torch.randn(7, 5 if linear else 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def logits_on_a_rank() -> list[dict[str, torch.Tensor]]:
    results = []
    for number, changes in enumerate(LOGIT_CASES):
        settings = LossSettings(**changes)
        case, own, linear = make_case(7, number), own_part(), settings.linear
        first, rows = shard_rows(7, world_size(), rank())
        taught = TeacherHead(teacher_head(linear)[first : first + rows], 1.0 if linear else 20.0, linear)
        weight = torch.nn.functional.pad(case["weight"], (0, int(linear)), value=0.5)
        head = head_with(weight, settings, teacher_logits=taught)
        embeddings = case["inputs"][own].clone().requires_grad_()
        loss, figures = head(embeddings, case["labels"][own], teachers_of(0)[own][:, :4])
        loss.backward()
        results.append({"loss": loss.detach(), **figures, "x": embeddings.grad, "weight": head.weight.grad})
    return results


@pytest.mark.parametrize("world", [1, 3])
def test_logits_are_compared_as_torchs_divergence_of_all_classes_does(
    run_distributed: Callable[..., list[Any]], world: int
) -> None:
    """Hinton's loss over the global batch, beside the softmax whose gradient the reference has, too."""
    ranks = run_distributed(world, logits_on_a_rank)
    for number, changes in enumerate(LOGIT_CASES):
        case, t = make_case(7, number), changes["distill_temperature"]
        x = case["inputs"].clone().requires_grad_()
        teachers, theirs = teachers_of(0)[:, :4], teacher_head(changes["margin_type"] == "linear")
        if changes["margin_type"] == "linear":
            weight = nn.functional.pad(case["weight"], (0, 1), value=0.5).requires_grad_()
            logits, wanted = (
                a @ w[:, :-1].T + w[:, -1] for a, w in ((x, weight), (teachers, theirs))
            )
            softmax_loss = nn.functional.cross_entropy(logits, case["labels"])
        else:
            weight = case["weight"].clone().requires_grad_()
            logits = 30 * torch.stack([torch.stack([cosine(a, w) for w in weight]) for a in x])
            both = [max(cosine(a, w[:4]), cosine(a, w[4:])) for a in teachers for w in theirs]
            wanted = 20 * torch.stack(both).view(len(x), 7)
            softmax_loss = reference_softmax(LossSettings(**changes), x, case["labels"], weight)[0]
        shares, aims = ((one / t).log_softmax(dim=1) for one in (logits, wanted))
        divergence = t**2 * nn.functional.kl_div(shares, aims, reduction="batchmean", log_target=True)
        of_x, of_weight = torch.autograd.grad(softmax_loss + 3 * divergence, (x, weight))
        results = [one[number] for one in ranks]
        for result in results:
            assert_equal(result["distill_logit_loss"], divergence.detach(), changes)
            assert_equal(result["loss"], (softmax_loss + 3 * divergence).detach(), changes)
        assert_equal(torch.cat([result["x"] for result in results]), world * of_x, changes)
        assert_equal(torch.cat([result["weight"] for result in results]), of_weight, changes)


def test_a_teacher_that_gives_no_numbers_skips_the_step(one_rank: None) -> None:
    torch.manual_seed(0)
    backbone, head = nn.Linear(8, EMBED_SIZE), MarginSoftmax(5, EMBED_SIZE, LossSettings(distill_mse_weight=1.0), 0)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.1, 0.9, 0)
    learner = Learner(backbone, head, optimizer, teacher=lambda images: torch.nan * images[:, :EMBED_SIZE])
    learner.training_mode()
    before = [parameter.clone() for parameter in backbone.parameters()]
    batch = torch.randn(4, 8), torch.arange(4), torch.randn(4, 8)
    assert learner.step([batch], 0, 0.1)["skipped_steps"] == 1
    assert all(torch.equal(*pair) for pair in zip(before, backbone.parameters(), strict=True))


# --- the teacher's pixels -------------------------------------------------------------------------------------------

OFF = Augmentation(flip_prob=0, rotate_prob=0, cutout_prob=0, blur_prob=0)


def shown(
    faces: LabelledFaces, augmentation: Augmentation, preprocessing: Preprocessing, teacher: Preprocessing | None
) -> Iterator[tuple[torch.Tensor, ...]]:
    order, ranks = Order(len(faces), IMAGES, seed=3), Ranks(0, 1, 0, 1, torch.device("cpu"))
    stream = TrainingStream(
        faces, order, range(2), ranks, 2, preprocessing, augmentation, CPU, BadImages(5), teacher
    )
    return (tuple(tensor.clone() for tensor in batch) for batch in stream)


def test_without_augmentation_the_teacher_sees_what_an_evaluation_would_feed_it(faces: LabelledFaces) -> None:
    positions = Order(len(faces), IMAGES, seed=3)
    indices = np.concatenate([positions.share(turn, 0, 1).indices for turn in range(2)])
    wanted = torch.cat([images.clone() for images in plain_stream(faces, indices, IMAGES, CONTRACT, CPU)])
    found = torch.cat([for_teacher for _, _, for_teacher in shown(faces, OFF, SMALL, CONTRACT)])
    assert torch.equal(found, wanted)


def test_the_teacher_sees_the_same_draws_and_the_network_the_same_pixels_as_alone(faces: LabelledFaces) -> None:
    """Both inputs come from one decoded region: the same bits as from their own."""
    strong = replace(STRONG, zoom_prob=0.5, shift_prob=0.5, color_prob=0.5, lowres_prob=0.5, erase_prob=0.5)
    alone = shown(faces, strong, SMALL, None), shown(faces, strong, CONTRACT, None)
    for together, own, teachers in zip(shown(faces, strong, SMALL, CONTRACT), *alone, strict=True):
        assert torch.equal(together[0], own[0])
        assert torch.equal(together[1], own[1])
        assert torch.equal(together[2], teachers[0])


def test_mixing_blends_both_inputs_of_neighbouring_positions_by_the_same_shares(faces: LabelledFaces) -> None:
    """Shares are solved for from the network's images, and give the teacher's; half of them are 0, none above 1/2."""
    shares = []
    blended = shown(faces, replace(OFF, mix_prob=0.5), SMALL, CONTRACT)
    for (images, labels, for_teacher), plain in zip(blended, shown(faces, OFF, SMALL, CONTRACT), strict=True):
        assert torch.equal(labels, plain[1])
        for i in range(len(images)):
            j = i + 1 if i % 2 == 0 else i - 1
            away = plain[0][j] - plain[0][i]
            share = ((images[i] - plain[0][i]) * away).sum() / (away**2).sum()
            shares.append(share.item())
            for found, alone in ((images, plain[0]), (for_teacher, plain[2])):
                torch.testing.assert_close(found[i], alone[i] + share * (alone[j] - alone[i]), atol=1e-5, rtol=0)
    assert 0.2 < np.mean(np.array(shares) > 1e-3) < 0.8
    assert 0.3 < max(shares) < 0.5


def test_a_bad_image_is_replaced_by_the_same_for_both(faces: LabelledFaces) -> None:
    Path(faces.path(3)).write_bytes(UNUSABLE["garbage"])
    alone = list(shown(faces, STRONG, CONTRACT, None))
    for together, own in zip(shown(faces, STRONG, SMALL, CONTRACT), alone, strict=True):
        assert torch.equal(together[1], own[1])
        assert torch.equal(together[2], own[0])


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    metadata = {CONTRACT_KEY: json.dumps(CONTRACT.as_dict())}
    return foreign(tmp_path / "teacher.onnx", metadata=metadata)


RELATION = ("--distill_relation_weight", "2")


def test_a_resumed_distillation_is_bit_equal_and_has_its_losses_in_the_log(
    run_small: Callable[..., Losses], teacher: Path, tmp_path: Path
) -> None:
    options = ["--teacher", str(teacher), "--embed_size", str(NUMBERS), "--softmax_weight", "0.5"]
    options += [word for name, weight in WEIGHTS.items() for word in (f"--{name}", str(weight))]
    options += ["--accumulate", "2", "--ema_decay", "0.9", "--precision", "bf16"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run_small(*options, "--max_iterations", "4", out=whole)
    run_small(*options, "--max_iterations", "2", out=parts)
    assert run_small(*options, "--max_iterations", "4", "--snap_to_resume", "auto", out=parts) == expected
    assert same_weights(weights(parts, 4), weights(whole, 4))
    for record in records(whole / "logs"):
        total = sum(weight * record[name.replace("weight", "loss")] for name, weight in WEIGHTS.items())
        assert record["loss"] == pytest.approx(0.5 * record["softmax_loss"] + total, rel=1e-6)  # float32 summands


def test_a_run_goes_on_with_its_teacher_alone(
    run_small: Callable[..., Losses], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_small("--teacher", str(teacher), *RELATION, out=tmp_path)
    again = ["--snap_to_resume", "auto", "--max_iterations", "4", *RELATION, "--teacher"]
    moved = teacher.rename(tmp_path / "moved.onnx")
    run_small(*again, str(moved), out=tmp_path)
    assert f'changed since: --teacher "{teacher}" → "{moved}"' in capsys.readouterr().err
    other = foreign(tmp_path / "other.onnx", metadata={CONTRACT_KEY: json.dumps(replace(CONTRACT).as_dict()), "a": "b"})
    for options in ([*again, str(other)], again[:4]):
        with pytest.raises(InputError, match=r"run\.teacher is [0-9a-f]{64} there and (None|[0-9a-f]{64}) in this run"):
            run_small(*options, out=tmp_path)


def test_a_snapshot_teaches_as_its_network_embeds(run: Callable[..., Losses], tmp_path: Path) -> None:
    """A run that begins with the weights of its teacher, on the same pixels: nothing to learn, to rounding."""
    off = [word for name in ("flip", "rotate", "cutout", "blur") for word in (f"--{name}_prob", "0")]
    off += ["--model", "mobilenet", "--max_iterations"]
    run(*off, "2", out=tmp_path)  # with batch statistics: those of the beginning let next to nothing through
    snapshot = str(tmp_path / "snapshots" / "tiny_2.pt")
    taught = ["--freeze_bn", "--init_from", snapshot, "--teacher", snapshot, "--distill_cosine_weight", "1"]
    run(*off, "1", *taught, out=tmp_path / "taught")
    assert records(tmp_path / "taught" / "logs")[0]["distill_cosine_loss"] == pytest.approx(0, abs=1e-6)


def test_logits_of_a_snapshot_teach_another_network_and_their_own_teach_nothing(
    run: Callable[..., Losses], tmp_path: Path
) -> None:
    """With the weights and the head of its teacher, on the same pixels, the divergence is 0, to rounding."""
    off = [word for name in ("flip", "rotate", "cutout", "blur") for word in (f"--{name}_prob", "0")]
    off += ["--model", "mobilenet", "--max_iterations"]
    run(*off, "2", out=tmp_path)
    snapshot = tmp_path / "snapshots" / "tiny_2.pt"
    taught = ["--teacher", str(snapshot), "--distill_logit_weight", "1", "--distill_temperature"]
    run(*off, "1", *taught, "1", "--freeze_bn", "--init_from", str(snapshot), out=tmp_path / "same")
    assert records(tmp_path / "same" / "logs")[0]["distill_logit_loss"] == pytest.approx(0, abs=1e-5)
    heads = []
    for last in ("1", "2"):
        options = (*taught, "2", "--embed_size", "32", "--softmax_weight", "0", "--snap_to_resume", "auto")
        run(*off, last, *options, out=tmp_path / "other")
        heads.append(read_head(tmp_path / "other" / "snapshots" / f"tiny_{last}.state")[0])
    assert all(record["distill_logit_loss"] > 0.01 for record in records(tmp_path / "other" / "logs"))
    assert not torch.equal(*heads)  # the centres learn, without a softmax


def test_without_a_softmax_the_centres_stay_as_they_are(
    run_small: Callable[..., Losses], teacher: Path, tmp_path: Path
) -> None:
    """A later run with a softmax begins with centres of length 1, not with what weight decay has left of them."""
    options = ["--teacher", str(teacher), *RELATION, "--softmax_weight", "0", "--weight_decay", "0.1", "--lr", "1"]
    heads = []
    for last in ("1", "3"):
        run_small(*options, "--max_iterations", last, "--snap_to_resume", "auto", out=tmp_path)
        heads.append(read_head(tmp_path / "snapshots" / f"tiny_{last}.state")[0])
    assert torch.equal(*heads)
    torch.testing.assert_close(heads[1].norm(dim=1), torch.ones(len(heads[1])))


# --- refusals -------------------------------------------------------------------------------------------------------


def refusals(run_small: Callable[..., Losses], out: Path, *options: str) -> str:
    with pytest.raises(InputError) as refused:
        run_small(*options, out=out)
    assert not (out / "logs" / "log.jsonl").exists()
    return "\n".join(refused.value.problems)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.onnx", "--teacher: {}: can't be read: No such file or directory"),
        ("missing.pt", "--teacher: {}: can't be read: No such file or directory"),
        ("words.onnx", "--teacher: {}: not an ONNX model that can be run"),
        ("words.pt", "--teacher: {}: "),
        ("plain.onnx", "--teacher: {0} doesn't store its preprocessing: write it to {0}.json (docs/evaluation.md)"),
    ],
)
def test_a_file_that_cannot_teach_is_refused(
    name: str, message: str, run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    (tmp_path / "words.onnx").write_text("words")
    (tmp_path / "words.pt").write_text("words")
    foreign(tmp_path / "plain.onnx")
    path = tmp_path / name
    assert refusals(run_small, tmp_path, "--teacher", str(path), *RELATION).startswith(message.format(path))


def test_embeddings_of_other_sizes_are_refused_where_they_are_compared(
    run_small: Callable[..., Losses], teacher: Path, tmp_path: Path
) -> None:
    options = ["--teacher", str(teacher), "--distill_cosine_weight", "1", *RELATION]
    assert refusals(run_small, tmp_path, *options) == (
        f"--distill_cosine_weight: the embeddings of {teacher} have 72 numbers: give --embed_size 72, or "
        "--distill_relation_weight alone"
    )


def test_logits_need_a_head_of_all_the_classes(
    run: Callable[..., Losses], run_small: Callable[..., Losses], teacher: Path, tmp_path: Path
) -> None:
    run("--model", "mobilenet", "--max_iterations", "1", out=tmp_path)
    snapshot = tmp_path / "snapshots" / "tiny_1.pt"

    def said(file: Path, *options: str) -> str:
        return refusals(run_small, tmp_path / "out", "--teacher", str(file), "--distill_logit_weight", "1", *options)

    names = tmp_path / "snapshots" / "tiny_1.state" / "identities.txt"
    names.write_text(names.read_text().replace("n000", "x000", 1))
    assert said(teacher) == f"--distill_logit_weight: {teacher} is an ONNX model, which has no head"
    assert said(snapshot).startswith(f"--distill_logit_weight: {snapshot} has not been trained on 1 identity, such")
    shutil.rmtree(names.parent)
    assert said(snapshot).startswith(f"--distill_logit_weight: {snapshot} has no head: take a snapshot")
    assert "compares the probabilities of all classes" in said(snapshot, "--sample_rate", "0.5")


def test_pairs_to_blend_must_fill_a_micro_batch(
    run_small: Callable[..., Losses], teacher: Path, tmp_path: Path
) -> None:
    options = ["--teacher", str(teacher), *RELATION, "--softmax_weight", "0", "--mix_prob", "1", "--accumulate", "2"]
    assert refusals(run_small, tmp_path, *options, "--train_batch_size", "6") == (
        "--mix_prob: blends pairs of images, and a micro-batch has 3: change --train_batch_size"
    )
    assert len(set(run_small(*options, "--train_batch_size", "8", out=tmp_path))) == 3


def test_aligned_crops_of_another_template_are_refused(
    run_small: Callable[..., Losses],
    faces: LabelledFaces,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--train_dataset", "folder", "--train_data_root", str(faces.root), "--train_list", "", "--aligned"]
    options += ["--train_landmarks", "", "--train_batch_size", "8", "--teacher", str(teacher), *RELATION]
    said = refusals(run_small, tmp_path / "out", *options)
    assert said.startswith(f"--teacher: {teacher} takes faces aligned to the arcface template, the crops of --aligned")
    run_small(*options, "--template", "arcface", out=tmp_path / "out")
    assert "RGB, aligned crops, resized, linear" in capsys.readouterr().err


def test_a_centre_crop_and_an_aligned_face_are_not_mixed(
    run_small: Callable[..., Losses], faces: LabelledFaces, teacher: Path, tmp_path: Path
) -> None:
    options = ["--train_dataset", "folder", "--train_data_root", str(faces.root), "--train_list", ""]
    options += ["--train_landmarks", "", "--alignment", "center_crop", "--cutout_prob", "0", "--train_batch_size", "8"]
    assert refusals(run_small, tmp_path / "out", *options, "--teacher", str(teacher), *RELATION) == (
        f"--teacher: {teacher} has the alignment umeyama, the training center_crop: only one of them uses landmarks"
    )
    cropped = replace(CONTRACT, alignment="center_crop").as_dict()
    other = foreign(tmp_path / "cropped.onnx", metadata={CONTRACT_KEY: json.dumps(cropped)})
    run_small(*options, "--teacher", str(other), *RELATION, out=tmp_path / "out")
