"""The planner: its memory against that of real steps on a CPU, counted by torch's profiler, and its command."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import torch

from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax
from fr.models import build_model
from fr.options.definitions import train_options
from fr.options.losses import LossSettings
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import OptimizerSettings, build_optimizer
from fr.train.replicas import checkpoint_blocks
from tests.bounds import peak_of_tensors
from tests.conftest import ROOT
from tools import plan
from tools.planning import memory as planning
from tools.planning.cards import CARDS
from tools.planning.throughput import speed

DATA = ["--train_dataset", "folder", "--train_data_root", "DATA", "--aligned"]


def training(*words: str) -> argparse.Namespace:
    return train_options([*DATA, "--channels_last", *words]).values


def bytes_of_a_step(options: argparse.Namespace, classes: int) -> int:
    """Bytes of the tensors of the third step of a rank alone on a CPU, and of all that is there before it."""
    torch.manual_seed(0)
    size = (options.input_size[0], options.input_size[0])
    backbone = build_model(options.model, options.embed_size, size).to(memory_format=torch.channels_last)
    head = MarginSoftmax(classes, options.embed_size, LossSettings.from_options(options), 0)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = build_optimizer(parameters, OptimizerSettings.from_options(options))
    if options.activation_checkpointing:
        checkpoint_blocks(backbone)
    settings = StepSettings(0.0, options.precision, memory_format=torch.channels_last)
    learner = Learner(backbone, head, optimizer, settings)
    learner.training_mode()
    batch = options.train_batch_size // options.accumulate
    batches = [
        learner.on_device(torch.rand(batch, 3, *size), torch.randint(classes, (batch,)))
        for _ in range(options.accumulate)
    ]
    for iteration in range(2):
        learner.step(batches, iteration, 1e-3)
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    kept = [*parameters, *backbone.buffers(), *head.buffers(), *states, *(images for images, _ in batches)]
    kept += head._exchange._spare.values()
    return sum(tensor.nbytes for tensor in kept) + peak_of_tensors(lambda: learner.step(batches, 2, 1e-3))


SMALL = ["--model", "mobilefacenet", "--input_size", "48", "--embed_size", "64", "--train_batch_size", "32"]
DEEP = ["--model", "iresnet18", "--input_size", "48", "--embed_size", "128", "--train_batch_size", "32"]


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (SMALL, 100),
        (SMALL, 200_000),
        ([*SMALL, "--sample_rate", "0.1"], 200_000),
        ([*SMALL, "--precision", "bf16"], 100),
        ([*SMALL, "--model", "mobilenet"], 100),  # one slope for all channels
        (DEEP, 1000),
        pytest.param([*DEEP, "--activation_checkpointing"], 1000, marks=pytest.mark.thorough),
        ([*DEEP, "--optimizer", "adam", "--accumulate", "2"], 20_000),
    ],
    ids=str,
)
def test_the_memory_is_within_a_tenth_of_that_of_a_step(words: list[str], classes: int) -> None:
    options = training(*words)
    estimate = planning.memory(options, 1, classes, options.precision)
    measured = bytes_of_a_step(options, classes)
    assert estimate.total - estimate.loader - estimate.context == pytest.approx(measured, rel=0.1)


# Measured on an H100 in bf16, channels_last, as LOG.md has them: batch, images/s, GB at the peak of torch's tensors.
MEASURED = {"mobilenet": (512, 7_031, 13.2), "iresnet50": (256, 4_008, 9.9), "iresnet100": (256, 2_396, 15.5)}


@pytest.mark.parametrize("model", MEASURED)
def test_the_estimates_are_near_what_a_gpu_measured(model: str) -> None:
    batch, images_per_s, gigabytes = MEASURED[model]
    options = training("--model", model, "--embed_size", "256", "--train_batch_size", str(batch))
    step = speed(options, CARDS["h100"], 1, 8, 8631, "bf16").step
    assert batch / step == pytest.approx(images_per_s, rel=0.1)
    estimate = planning.memory(options, 1, 8631, "bf16")
    assert (estimate.total - estimate.loader - estimate.context) / 1e9 == pytest.approx(gigabytes, rel=0.15)


def planned(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert plan.main([*words, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


RECIPE = [f"@{ROOT}/configs/mobilenet_arcface.yml", "--identities", "8631"]


@pytest.mark.thorough
def test_what_does_not_fit_gets_the_options_that_make_it_fit(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RECIPE, "--gpus", "1", "--gpu", "v100", "--train_batch_size", "2048", "--images", "3141890"]
    result = planned(*words, capsys=capsys)
    assert not result["fits"] and result["memory"]["total"] > result["memory"]["usable"]
    assert "--accumulate 4" in result["options_that_fit"]
    assert result["memory_with_the_first"] <= result["memory"]["usable"]
    first = result["options_that_fit"][0]
    again = planned(*words, *first.split(), capsys=capsys)
    assert again["fits"] and again["options_that_fit"] == []
    assert again["memory"]["total"] == result["memory_with_the_first"]
    assert result["command"].endswith(first) and result["command"].startswith("python train.py @")
    assert result["hours"] == pytest.approx(3141890 // 2048 * 20 * result["seconds_per_step"]["step"] / 3600)


@pytest.mark.parametrize(
    ("gpus", "begin"),
    [
        ("4", "torchrun --nproc_per_node 4 train.py @"),
        ("16", "sbatch --nodes 2 --gpus-per-node 8 launch/slurm.sh @"),
    ],
)
def test_the_last_line_starts_the_training(gpus: str, begin: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RECIPE, "--images", "9999999", "--gpus", gpus, "--gpu", "h100", "-m", "0.4", "--lr_drops", "8", "14"]
    assert plan.main(words) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert any(re.match(r"estimated: [\d,]+ images/s, ", line) for line in table)
    assert any(re.match(r"estimated: [\d.]+ hours for 20 epochs, ", line) for line in table)
    assert any(line.startswith("usable on each h100 ") for line in table)
    assert last.startswith(begin) and "fits" in table
    words = shlex.split(last)
    assert words[-5:] == ["--margin", "0.4", "--lr_drops", "8", "14"]
    assert train_options(words[words.index(RECIPE[0]) :]).values.m == 0.4


def test_plans_end_in_a_command_that_starts_or_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    """Data of one's own stay, placeholders are printed, torchrun's abbreviations are avoided, one image is refused."""
    small = ["--gpus", "8", "--gpu", "a100", "--identities", "1000", "--model", "mobilenet", "--input_size", "64"]
    assert plan.main([*small, "--train_batch_size", "64", "--s=64", "--margin_type", "arc"]) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    assert "--train_dataset folder --train_data_root DATA --aligned" in command and " --scale=64 " in command
    assert plan.main([*small, "--train_dataset", "rec", "--train_data_root", "d", "--train_batch_size", "64"]) == 0
    assert "--aligned" not in capsys.readouterr().out
    with pytest.raises(InputError, match="--train_batch_size 64 is more than the 63 of --images"):
        plan.main([*small, "--train_batch_size", "64", "--images", "63"])
    with pytest.raises(InputError, match="batch norms need two"):
        plan.main([*small, "--train_batch_size", "8"])


def test_more_ranks_share_the_centres() -> None:
    options = training("--train_batch_size", "512")
    one, many = (planning.memory(options, ranks, 1_000_000, "fp32") for ranks in (1, 8))
    assert many.head == pytest.approx(one.head / 8)
    averaged = planning.memory(training("--train_batch_size", "512", "--ema_decay", "0.9"), 8, 1_000_000, "fp32")
    assert averaged.backbone - many.backbone == pytest.approx(many.backbone / 2, rel=0.05)  # beside the momentum


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "3"], "nearest that do: 510 and 513"),
        (["--gpus", "12", "--train_batch_size", "480"], "not a whole number of nodes"),
        (["--gpus", "4", "--precision", "bf16"], "--precision bf16: not supported by a v100"),
        (["--gpus", "4", "--lrr", "1"], "no such option; the closest: --lr"),
    ],
)
def test_what_cannot_be_planned_is_refused(words: list[str], message: str) -> None:
    command = [sys.executable, "tools/plan.py", *RECIPE, "--gpu", "v100", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
