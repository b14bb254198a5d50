"""Training through the real entry: golden losses, exact resume, ranks, signals, refusals, every option's effect."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fr.train.loop
import train
from fr.checkpoint import snapshot
from fr.errors import InputError, run_plainly
from fr.losses.classifier import MarginSoftmax
from fr.options.definitions import train_options
from fr.options.losses import LossSettings
from fr.train.learner import Batch, Learner
from fr.train.milestones import Milestones
from fr.train.optimizer import build_sgd
from tests.builders.ranks import launch_forked
from tests.conftest import (
    ROOT,
    TINY,
    Losses,
    data_options,
    folders,
    launch,
    losses,
    records,
    same_weights,
    skip_two_of_three,
    validation_options,
    weights,
)

# --- golden losses --------------------------------------------------------------------------------------------------


def test_quick_start_losses_are_the_golden_ones(quickstart_data: Path, tmp_path: Path) -> None:
    """`python -m tests.test_training` writes the file anew, for a change that means to change them."""
    golden = json.loads((ROOT / "tests" / "golden" / "quickstart.json").read_text())
    seen = quickstart_losses(quickstart_data, tmp_path, len(golden["losses"]))
    # Batch norms of few samples magnify the rounding of another processor's kernels with every step. With AVX-512,
    # AVX2 and SSE4.1 kernels instead of this file's AMX ones (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY), on Intel and
    # AMD, the losses differed by at most 0, 1e-5, 9e-5, 1e-3, 2e-3, 9e-3 of their size; about ten times that is
    # allowed, but for the last, where the difference grows no further.
    for step, (loss, expected) in enumerate(zip(seen, golden["losses"], strict=True)):
        assert loss == pytest.approx(expected, rel=min(1e-5 * 10**step, 0.05)), f"step {step}"


def quickstart_losses(data: Path, out: Path, iterations: int) -> Losses:
    options = ["@configs/quickstart.yml", *data_options(data), *validation_options(data), *folders(out)]
    extra = ["--max_iterations", str(iterations), "--val_step", "1000", "--val_list", "", "--val_data_root", ""]
    result = launch("train.py", *options, *extra, "--val_landmarks", "", "--log_step", "1", ranks=2, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return losses(out)


# --- resume ---------------------------------------------------------------------------------------------------------


@pytest.mark.thorough  # tests/test_exactness.py has drawn faces
def test_faces_mini_stopped_by_a_signal_and_resumed_is_bit_equal(real_or_sample: Path, tmp_path: Path) -> None:
    """Two ranks through torchrun, stopped at a random iteration in the middle of the first epoch."""
    iterations = 9
    options = ["@configs/faces_mini.yml", *data_options(real_or_sample), *("--val_list", "", "--val_data_root", "")]
    options += ["--val_landmarks", "", "--max_iterations", str(iterations), "--log_step", "1", "--device", "cpu"]
    environment = {"FR_SHARED_DATA": "unused"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = launch_forked("train.py", *options, *folders(whole), environment=environment)
    assert result.returncode == 0, result.stderr

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    stopped_after = random.randrange(2, iterations - 3)
    settings: dict[str, Any] = {"cwd": ROOT, "env": os.environ | environment, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, *options, *folders(parts)], **settings) as process:
        log = parts / "logs" / "log.jsonl"
        while not (log.exists() and len(log.read_text().splitlines()) >= stopped_after):
            assert process.poll() is None, "it ended before it was stopped"
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) != 0
    newest = snapshot.newest(parts / "snapshots", "tiny")
    assert newest is not None
    assert stopped_after <= snapshot.read(newest).iteration < iterations

    resume = ["--snap_to_resume", "auto"]
    result = launch_forked("train.py", *options, *folders(parts), *resume, environment=environment)
    assert result.returncode == 0, result.stderr
    assert losses(parts) == losses(whole)  # to the last bit
    assert [record["iteration"] for record in records(parts / "logs")] == list(range(1, iterations + 1))
    assert same_weights(weights(parts, iterations), weights(whole, iterations))


ORDERS = ("--weighted", "--images_per_identity 4")


@pytest.mark.parametrize("order", ["", *(pytest.param(one, marks=pytest.mark.thorough) for one in ORDERS)])
def test_resume_across_epochs_in_one_process_is_bit_equal(
    order: str, run: Callable[..., Losses], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ["--epoch_total_num", "2", "--lr_drops", "1", "--warmup_iterations", "3", "--accumulate", "2"]
    options += order.split()
    expected = run(*options, "--max_iterations", "0", out=whole)
    assert len(expected) == 2 * (12 * 8 // 16)
    run(*options, "--max_iterations", "5", out=parts)
    path = str(parts / "snapshots" / "tiny_5.pt")
    assert run(*options, "--max_iterations", "0", "--snap_to_resume", path, out=parts) == expected
    assert same_weights(weights(parts, 12), weights(whole, 12))


@pytest.mark.parametrize(
    "loss",
    [
        *("--margin_type ada", "--margin_type curricular", "--center_loss_weight 0.01"),
        "--precision fp16",
        "--sample_rate 0.3 --train_batch_size 4 --sub_centers 2",  # of 12 classes a batch of 4 leaves some to draw from
    ],
)
def test_a_loss_with_a_memory_resumes_to_the_last_bit(
    loss: str, run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run_small(*loss.split(), "--max_iterations", "6", out=whole)
    run_small(*loss.split(), "--max_iterations", "3", out=parts)
    resume = ["--snap_to_resume", str(parts / "snapshots" / "tiny_3.pt")]
    assert run_small(*loss.split(), "--max_iterations", "6", *resume, out=parts) == expected
    assert same_weights(weights(parts, 6), weights(whole, 6))
    # Centres, momentum and what the loss remembers: the file holds nothing else, and no date.
    files = [out / "snapshots" / "tiny_6.state" / "__0_0.distcp" for out in (whole, parts)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.thorough
def test_two_ranks_that_draw_classes_do_the_same_twice(sample_data: Path, tmp_path: Path) -> None:
    """Each rank's 6 classes are more than the batch of 4, so that some are drawn, by either rank on its own."""
    options = ["--sample_rate", "0.3", "--train_batch_size", "4", "--max_iterations", "3"]
    outs = [tmp_path / "first", tmp_path / "second"]
    for out in outs:
        result = launch_forked("train.py", *data_options(sample_data), *TINY, *folders(out), *options)
        assert result.returncode == 0, result.stderr
    assert losses(outs[0]) == losses(outs[1])
    assert len(losses(outs[0])) == 3
    assert same_weights(weights(outs[0], 3), weights(outs[1], 3))


def test_resume_refuses_another_run(run: Callable[..., Losses], tmp_path: Path) -> None:
    run()
    with pytest.raises(InputError) as refusal:
        run("--snap_to_resume", "auto", "--train_batch_size", "8", "--embed_size", "8", "--seed", "1")
    text = str(refusal.value)
    assert "embed_size is 16 there and 8 in this run" in text
    assert "run.train_batch_size is 16 there and 8 in this run" in text
    assert "run.seed is 0 there and 1 in this run" in text
    with pytest.raises(InputError, match="nowhere"):
        run("--snap_to_resume", str(tmp_path / "nowhere.pt"))
    with pytest.raises(InputError, match=r"run\.images_per_identity is None there and 1 in this run"):
        run("--snap_to_resume", "auto", "--weighted")


def test_auto_without_a_snapshot_starts_from_the_beginning(run: Callable[..., Losses]) -> None:
    assert len(run("--snap_to_resume", "auto")) == 3


# --- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_losses_of_1_and_2_ranks_agree_with_frozen_batch_statistics(
    run: Callable[..., Losses], sample_data: Path, tmp_path: Path
) -> None:
    """With batch statistics each rank would normalise by its own half of the batch, and the losses would differ from
    the first one on. Frozen ones leave order, augmentation, head, gradients and step, which must not.
    """
    options = ["--freeze_bn", "true", "--max_iterations", "20", "--cutout_prob", "0.5"]
    one = run(*options, out=tmp_path / "one")
    base = [*data_options(sample_data), *TINY, *folders(tmp_path / "two")]
    result = launch_forked("train.py", *base, *options)
    assert result.returncode == 0, result.stderr
    # Sums in another order: some 1e-7 a step of float32, kept small since nothing here magnifies it.
    assert losses(tmp_path / "two") == pytest.approx(one, rel=1e-4)
    assert len(one) == 20


def test_accumulated_micro_batches_give_the_step_of_the_whole_batch(run: Callable[..., Losses], tmp_path: Path) -> None:
    whole = run("--freeze_bn", "true", out=tmp_path / "whole")
    split = run("--freeze_bn", "true", "--accumulate", "4", out=tmp_path / "split")
    assert split == pytest.approx(whole, rel=1e-4)  # the same sums in another order, float32


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest(run: Callable[..., Losses]) -> None:
    with pytest.raises(InputError, match=r"15.*18"):
        run("--accumulate", "3")


# --- bad input and signals ------------------------------------------------------------------------------------------


def test_one_bad_photograph_too_many_ends_both_ranks_with_a_snapshot(quickstart_data: Path, tmp_path: Path) -> None:
    """One rank can't read it; both end in that iteration, and the run can go on with more allowed, or once it is back.
    """
    data = tmp_path / "data"
    (data / "vggface2").mkdir(parents=True)
    for part in ("train", "meta", "bb_landmark"):
        os.symlink(quickstart_data / "vggface2" / part, data / "vggface2" / part)
    names = (quickstart_data / "vggface2/meta/train_list.txt").read_text().split()[:65]
    list_file = tmp_path / "train_list.txt"
    rows = [*names[:-1], "n000001/0099_99.jpg"]
    list_file.write_text("\n".join(rows))
    table = (quickstart_data / "vggface2/bb_landmark/loose_landmark_train.csv").read_text()
    landmarks = tmp_path / "landmarks.csv"
    landmarks.write_text(table + '"n000001/0099_99",' + table.splitlines()[1].split(",", 1)[1] + "\n")
    options = [*data_options(data), "--train_list", str(list_file), "--train_landmarks", str(landmarks)]
    options += ["--train_batch_size", "6", "--max_bad_images", "0"]
    result = launch_forked("train.py", *options, *TINY, *folders(tmp_path))
    assert result.returncode != 0
    problem = f"{data}/vggface2/train/n000001/0099_99.jpg: can't be read: No such file or directory"
    assert f"train.py: bad images: 1, and --max_bad_images is 0; the last: {problem}" in result.stderr
    done = len(losses(tmp_path))
    assert done >= 1
    assert snapshot.newest(tmp_path / "snapshots", "tiny") == tmp_path / "snapshots" / f"tiny_{done}.pt"
    assert "File \"" not in result.stderr.split("torch/distributed")[0]  # no traceback of ours


def plainly(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_plainly("train.py", train.main)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--lr", "fast", "command line: --lr: expected a number"),
        ("--learning_rate", "1", "no such option"),
        ("--train_data_root", "$NOT_SET_ANYWHERE/train", "$NOT_SET_ANYWHERE"),
        ("--train_data_root", "missing_folder", "missing_folder: no such folder"),
        ("--train_list", "missing.txt", "missing.txt: can't be read"),
        ("--train_list", "empty.txt", "empty.txt: the list is empty"),
        ("--train_list", "train_uncovered.txt", "train_uncovered.txt:2: n000001/none_such.jpg has no row in "),
        ("--train_landmarks", "missing.csv", "missing.csv: no such file or folder"),
        ("--train_batch_size", "1000", "--train_batch_size 1000 is more than the 96 images"),
        ("--dali_device", "gpu", "--dali_device gpu needs --device cuda"),
        ("--snap_to_resume", "missing.pt", "missing.pt: can't be read"),
        ("--snap_folder", "empty.txt/in", "--snap_folder empty.txt/in: can't be written to: Not a directory"),
    ],
)
def test_bad_input_is_one_plain_message_and_leaves_nothing_behind(
    option: str,
    value: str,
    message: str,
    sample_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    first = (sample_data / "vggface2/meta/train_list.txt").read_text().split()[0]
    Path("train_uncovered.txt").write_text(f"{first}\nn000001/none_such.jpg\n")
    before = sorted(tmp_path.rglob("*"))
    assert plainly([*data_options(sample_data), *TINY, option, value], monkeypatch) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_itself_exits_with_2_and_one_line() -> None:
    result = launch("train.py", "--lr", "0.1", "@missing.yml")
    assert result.returncode == 2
    assert result.stderr.startswith("train.py: missing.yml: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


# --- what a run writes ----------------------------------------------------------------------------------------------


def test_a_run_writes_log_config_snapshots_and_validation(
    run: Callable[..., Losses], sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = run(*validation_options(sample_data), "--val_step", "2", "--m", "0.1", "--flipped_emb", "true")
    assert len(seen) == 3
    for record in records(tmp_path / "logs"):
        assert {"iteration", "loss", "lr", "images_per_s", "data_wait", "gradient_norm"} <= record.keys()
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        *(".tiny.lock", "tiny.config.yml", "tiny_2.pt", "tiny_2.state", "tiny_3.pt", "tiny_3.state")
    ]
    assert "m: 0.1  # command line" in (tmp_path / "snapshots" / "tiny.config.yml").read_text()
    contents = torch.load(tmp_path / "snapshots" / "tiny_3.pt", weights_only=True)
    assert contents["iteration"] == 3
    assert contents["config"]["m"] == 0.1
    assert 0 <= contents["metrics"]["auc"] <= 1
    validation = [json.loads(line) for line in (tmp_path / "logs" / "validation.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in validation] == [2, 3]
    assert validation[1]["auc"] == contents["metrics"]["auc"]
    printed = capsys.readouterr()
    assert re.search(r"^m +=\s0.1\s+\(command line\)$", printed.out, re.MULTILINE)
    assert "Accuracy/Val_accuracy mean: " in printed.err


def test_a_validation_that_fails_is_told_and_the_training_goes_on(
    run: Callable[..., Losses], sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "lfw"
    shutil.copytree(sample_data / "lfw", root)
    photograph = sorted(root.rglob("*.jpg"))[-1]
    photograph.write_bytes(b"")
    options = ["--val_data_root", f"{root}/lfw", "--val_list", f"{root}/pairs.txt"]
    assert len(run(*options, "--val_landmarks", f"{root}/lfw_landmark.txt", "--val_step", "2")) == 3
    assert f"iteration 2: no validation: {photograph}: can't be decoded" in capsys.readouterr().err
    assert snapshot.read(tmp_path / "snapshots" / "tiny_3.pt").metrics == {}


# Options whose effect on a number a unit test has: of the optimiser (test_optimizer.py, test_learner.py), the head
# (test_losses.py), the alignment and the augmentation (test_pipeline.py, test_augmentation.py).
ELSEWHERE = (
    *("--lr 0.02", "--momentum 0.5", "--weight_decay 0.1", "--clip_norm 0.1", "--margin_type arc", "--s 20", "--m 0.1"),
    *("--alignment umeyama", "--flip_prob 1", "--rotate_prob 0", "--rotate_degrees 30", "--cutout_prob 1"),
)


@pytest.mark.parametrize(
    "option",
    [
        *(pytest.param(option, marks=pytest.mark.thorough) for option in ELSEWHERE),
        *("--warmup_iterations 9", "--embed_size 24", "--input_size 48", "--seed 5", "--template arcface"),
        *("--blur_prob 1", "--freeze_bn true", "--precision bf16", "--accumulate 2"),
        *("--train_batch_size 24", "--model mobilenet --embed_size 8", "--weighted", "--images_per_identity 2"),
    ],
)
def test_option_changes_the_losses(
    option: str, run: Callable[..., Losses], reference_losses: Losses, tmp_path: Path
) -> None:
    seen = run(*option.split())
    assert len(seen) == 3
    assert seen != reference_losses


@pytest.fixture(scope="module")
def reference_losses(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """Losses of the run that the others differ from by one option."""
    out = tmp_path_factory.mktemp("reference")
    train.main([*data_options(sample_data), *TINY, *folders(out), "--max_iterations", "3"])
    return losses(out)


@pytest.mark.parametrize("option", ["--dali_threads 2", "--dali_device cpu", "--train_dataset vgg", "--device auto"])
def test_option_leaves_the_numbers_alone(option: str, run: Callable[..., Losses], reference_losses: Losses) -> None:
    if option == "--device auto" and torch.cuda.is_available():
        pytest.skip("this machine's auto is a GPU")
    assert run(*option.split()) == reference_losses


def test_channels_last_keeps_the_first_loss(run: Callable[..., Losses], reference_losses: Losses) -> None:
    seen = run("--channels_last", "true")
    # Other kernels, other rounding, which batch norms of 16 samples magnify from the second step on.
    assert seen[0] == pytest.approx(reference_losses[0], rel=1e-5)


@pytest.mark.parametrize(("precision", "allowed"), [("bf16", 0.05), ("fp16", 0.01)])
def test_bf16_and_fp16_are_near_float32(
    precision: str, allowed: float, run: Callable[..., Losses], reference_losses: Losses
) -> None:
    # 8 or 11 bits of mantissa through twenty layers: some per cent of the cosines, or some tenths, times the scale.
    seen = run("--precision", precision)
    assert seen[0] == pytest.approx(reference_losses[0], rel=allowed)
    assert seen != reference_losses


def test_learning_rate_drops_at_epochs_and_log_step_spaces_the_records(
    run: Callable[..., Losses], tmp_path: Path
) -> None:
    run("--epoch_total_num", "3", "--lr_drops", "1", "2", "--max_iterations", "0", "--log_step", "3")
    seen = records(tmp_path / "logs")
    assert [record["iteration"] for record in seen] == [3, 6, 9, 12, 15, 18]
    assert [record["lr"] for record in seen] == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005])


def test_warm_up_and_validation_by_epochs(
    run: Callable[..., Losses], sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs of six iterations."""
    options = ["--epoch_total_num", "2", "--lr_drops", "1", "--max_iterations", "0", "--log_step", "1"]
    run(*validation_options(sample_data), *options, "--warmup_epochs", "0.5", "--val_step", "0")
    rates = [record["lr"] for record in records(tmp_path / "logs")]
    assert rates == pytest.approx([0.05 / 3, 0.1 / 3, *[0.05] * 4, *[0.005] * 6])
    assert sorted(path.name for path in (tmp_path / "snapshots").glob("*.pt")) == ["tiny_12.pt", "tiny_6.pt"]
    printed = capsys.readouterr()
    assert "warning: the learning rate is down to 0.005 by iteration 6, before much is learned" in printed.err


def test_ranks_agree_on_a_step_during_the_one_before_and_a_record_is_read_before_the_next_step_or_snapshot(
    run_small: Callable[..., Losses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            order.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(fr.train.loop, "_asked", noted("ask", fr.train.loop._asked))
    monkeypatch.setattr(fr.train.loop, "_reason_to_end", noted("agree", fr.train.loop._reason_to_end))
    monkeypatch.setattr(fr.train.loop, "_settle", noted("read", fr.train.loop._settle))
    monkeypatch.setattr(Learner, "step", noted("step", Learner.step))
    monkeypatch.setattr(Milestones, "save", noted("save", Milestones.save))
    run_small("--max_iterations", "4", "--log_step", "2", "--val_step", "3", out=tmp_path)
    steps = ["agree ask step", "agree ask step", "agree ask read step save", "agree step read save"]
    assert " ".join(order) == " ".join(["ask", *steps])


# --- every option of the losses -------------------------------------------------------------------------------------


# (options that both runs have, an option that one has)
LOSS_OPTIONS = [
    *(
        ("", f"--margin_type {kind}")
        for kind in ("softmax", "arc", "sphere", "sphere_r", "combined", "ada", "curricular", "mag")
    ),
    *((f"--margin_type {kind}", "--m 1.2") for kind in ("arc", "sphere", "sphere_r", "ada", "curricular")),
    ("--margin_type arc", "--easy_margin"),
    *(("--margin_type combined", option) for option in ("--m1 1.2", "--m2 0.5", "--m3 0.3")),
    ("--margin_type ada", "--h 1"),
    *(("--margin_type mag --l_a 1 --u_a 2", option) for option in ("--l_m 0.2", "--u_m 1", "--lambda_g 1")),
    *(("--margin_type mag --l_a 1 --u_a 2", option) for option in ("--l_a 0.1", "--u_a 3")),
    ("", "--mining_type sv"),
    ("", "--mining_type focal"),
    ("--mining_type sv", "--t 1.5"),
    ("--mining_type focal", "--gamma 4"),
    ("", "--label_smoothing 0.1"),
    ("", "--sub_centers 2"),
    ("", "--softmax_weight 0.5"),
    ("--train_batch_size 4", "--sample_rate 0.3"),  # of 12 classes a batch of 4 leaves some undrawn
    *(
        ("", f"--{name}_loss_weight 0.1")
        for name in ("center", "push", "push_plus", "global_push", "min_margin", "triplet")
    ),
    ("--center_loss_weight 0.1", "--center_loss_lr 0.1"),
    ("--push_loss_weight 1", "--push_margin 1.2"),
    ("--push_plus_loss_weight 1", "--push_margin 1.2"),
    ("--global_push_loss_weight 10", "--push_margin 1.9"),  # grows from 0.15 over 40,000 iterations
    ("--min_margin_loss_weight 1", "--min_margin 1.2"),
    ("--triplet_loss_weight 1", "--triplet_margin 0.5"),
    ("--triplet_loss_weight 1", "--triplet_mining semihard"),
]


def head_losses(options: str) -> list[float]:
    """Losses of three steps of the head alone, on fixed embeddings [B, 6] of norm 1.5."""
    words = ["--train_data_root", "x", "--train_list", "x", "--train_landmarks", "x", *options.split()]
    resolved = train_options(words).values
    head = MarginSoftmax(12, 6, LossSettings.from_options(resolved), seed=0)
    optimizer = build_sgd(head.parameters(), 0.1, 0.9, 1e-4)
    source, batch = torch.Generator().manual_seed(0), min(resolved.train_batch_size, 24)
    embeddings = 1.5 * F.normalize(torch.randn(batch, 6, generator=source))
    labels = torch.arange(batch) % 12
    seen = []
    for iteration in range(3):
        with head.step(iteration, labels, optimizer):
            loss, _ = head(embeddings.clone().requires_grad_(), labels)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        head.auxiliary.move_centers(torch.tensor(0.0))
        seen.append(loss.item())
    return seen


@pytest.mark.parametrize(("partner", "option"), LOSS_OPTIONS)
def test_option_of_a_loss_changes_the_losses_of_the_head(partner: str, option: str, one_rank: None) -> None:
    seen = head_losses(f"{partner} {option}")
    assert all(math.isfinite(loss) for loss in seen)
    assert seen != head_losses(partner)


@pytest.mark.thorough
@pytest.mark.parametrize(("partner", "option"), LOSS_OPTIONS)
def test_option_of_a_loss_changes_the_losses_of_a_training(
    partner: str,
    option: str,
    run_small: Callable[..., Losses],
    reference_with: Callable[[str], Losses],
    tmp_path: Path,
) -> None:
    seen = run_small(*partner.split(), *option.split(), out=tmp_path)
    assert len(seen) == 3
    assert all(math.isfinite(loss) for loss in seen)
    assert seen != reference_with(partner)


def test_a_straight_gradient_changes_what_is_learnt_and_not_the_loss(
    run_small: Callable[..., Losses], reference_with: Callable[[str], Losses], tmp_path: Path
) -> None:
    expected = reference_with("--margin_type arc")
    seen = run_small("--margin_type", "arc", "--margin_gradient", "straight", out=tmp_path)
    assert seen[0] == pytest.approx(expected[0], rel=1e-6)  # of the same weights; cos + (φ - cos) rounds, float32
    assert seen[2] != pytest.approx(expected[2], rel=1e-4)


def test_every_auxiliary_loss_is_in_the_log_and_its_weighted_value_in_the_loss(
    run_small: Callable[..., Losses], tmp_path: Path
) -> None:
    weights = {
        **{"center_loss": 0.001, "push_loss": 0.5, "push_plus_loss": 0.25, "global_push_loss": 2.0},
        **{"min_margin_loss": 3.0, "triplet_loss": 1.5},
    }
    options = [word for name, weight in weights.items() for word in (f"--{name}_weight", str(weight))]
    run_small(*options, "--margin_type", "mag", "--lambda_g", "7", "--accumulate", "2", out=tmp_path)
    weights["magnitude_loss"] = 7.0
    for record in records(tmp_path / "logs"):
        assert all(record[name] > 0 for name in weights)
        total = record["softmax_loss"] + sum(weight * record[name] for name, weight in weights.items())
        assert record["loss"] == pytest.approx(total, rel=1e-6)  # nine float32 summands


# --- steps that are skipped -----------------------------------------------------------------------------------------

# From the second iteration on no gradient is finite.
DIVERGES = ("--lr", "1e38", "--clip_norm", "0", "--max_iterations", "20")


@pytest.mark.parametrize(
    ("max_bad_steps", "log_step", "done"), [(3, 1, 4), (12, 1, 13), (3, 5, 5), (10, 5, 15), (1, 1, 2)]
)
def test_too_many_skipped_steps_in_a_row_end_the_run_with_advice_and_the_batch(
    max_bad_steps: int,
    log_step: int,
    done: int,
    run_small: Callable[..., Losses],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Batch] = []
    step = Learner.step

    def watched(learner: Learner, batches: list[Batch], *rest: Any) -> dict[str, torch.Tensor]:
        seen[:] = batches
        return step(learner, batches, *rest)

    monkeypatch.setattr(Learner, "step", watched)
    options = ["--max_bad_steps", str(max_bad_steps), "--log_step", str(log_step), "--accumulate", "2"]
    with pytest.raises(InputError) as end:
        run_small(*DIVERGES, *options, out=tmp_path)
    path = tmp_path / "snapshots" / f"tiny_{done}.bad_batch_0.pt"
    (message,) = end.value.problems
    assert message.startswith(f"iteration {done}: the last {done - 1} steps had a gradient that isn't finite")
    assert all(advice in message for advice in ("lower --lr", "--warmup_iterations", "--clip_norm", str(path)))
    log = records(tmp_path / "logs")
    assert [record["iteration"] for record in log] == list(range(log_step, done + 1, log_step))
    assert sum(record["skipped_steps"] for record in log) == done - 1
    stored = torch.load(path, weights_only=True)
    assert stored["iteration"] == done
    assert len(stored["batches"]) == len(seen) == 2
    for (images, labels), (own_images, own_labels) in zip(stored["batches"], seen, strict=True):
        assert images.shape == (8, 3, 32, 32) and torch.equal(images, own_images) and torch.equal(labels, own_labels)


def test_max_bad_steps_0_never_ends_a_run(run_small: Callable[..., Losses], tmp_path: Path) -> None:
    assert len(run_small(*DIVERGES, "--max_bad_steps", "0", out=tmp_path)) == 20
    assert [record["skipped_steps"] for record in records(tmp_path / "logs")] == [0] + [1] * 19
    assert not list((tmp_path / "snapshots").glob("*bad_batch*"))


def test_skipped_steps_that_are_not_in_a_row_do_not_end_a_run(
    run_small: Callable[..., Losses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_two_of_three(monkeypatch)
    run_small("--max_bad_steps", "3", "--max_iterations", "12", out=tmp_path)
    assert [record["skipped_steps"] for record in records(tmp_path / "logs")] == [1, 1, 0] * 4
    skip_two_of_three(monkeypatch)
    with pytest.raises(InputError, match=r"iteration 2: the last 2 steps"):
        run_small("--max_bad_steps", "2", "--max_iterations", "12", out=tmp_path / "fewer")


def test_two_ranks_end_together_after_skipped_steps_and_each_keeps_its_batch(sample_data: Path, tmp_path: Path) -> None:
    options = [*data_options(sample_data), *TINY, *folders(tmp_path), *DIVERGES, "--max_bad_steps", "2"]
    result = launch_forked("train.py", *options)
    assert result.returncode != 0
    done = len(losses(tmp_path))
    # One rank at least; torchrun may end the other before it has said so.
    assert f"train.py: iteration {done}: the last 2 steps" in result.stderr
    batches = []
    for rank in (0, 1):
        path = tmp_path / "snapshots" / f"tiny_{done}.bad_batch_{rank}.pt"
        stored = torch.load(path, weights_only=True)
        assert stored["iteration"] == done
        ((images, labels),) = stored["batches"]
        assert images.shape == (8, 3, 32, 32) and labels.shape == (8,)
        batches.append(images)
    assert not torch.equal(*batches)


if __name__ == "__main__":
    import tempfile

    from tools.make_sample_data import Options, make_sample_data

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_sample_data(folder / "data", Options())
        measured = {"losses": quickstart_losses(folder / "data", folder, 6), "torch": torch.__version__}
    target = ROOT / "tests" / "golden" / "quickstart.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(measured, indent=1) + "\n")
