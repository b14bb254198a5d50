"""Resuming is exact: every loss, order and precision, stopped anywhere, on the same ranks and on others.

The product of all choices would be millions of runs, so one process takes a set in which each two of them meet: a
fault that needs three is not looked for. Only a margin type needn't meet every mining, order and way to stop: these
remember nothing that it could disturb, and what it remembers is written alike however a run ends.
"""

import itertools
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import train
from fr.checkpoint import snapshot
from fr.distributed import Ranks
from fr.losses.classifier import MarginSoftmax
from fr.train.learner import Batch, Learner
from tests.conftest import (
    TINY,
    data_options,
    folders,
    losses,
    records,
    same_weights,
    small_network,
    validation_options,
)

ITERATIONS, VAL_STEP = 10, 5
AT_THE_LIMIT, BY_SIGNAL, BETWEEN_MICRO_BATCHES = "limit", "signal", "signal between micro-batches"
BEFORE_VALIDATION, AFTER_VALIDATION = "just before a validation", "just after a validation"
TIMES = {"images_per_s", "data_wait"}  # no two runs have them alike

CHOICES: dict[str, list[str]] = {
    "margin": [
        f"--margin_type {kind}"
        for kind in ("softmax", "cos", "arc", "sphere", "sphere_r", "combined", "ada", "curricular", "mag")
    ],
    "companions": [
        "--center_loss_weight 0.01 --push_loss_weight 0.1 --global_push_loss_weight 0.1 --triplet_loss_weight 0.1",
        "--push_plus_loss_weight 0.1 --min_margin_loss_weight 0.1 --triplet_loss_weight 0.1 --triplet_mining semihard",
    ],
    "mining": ["", "--mining_type sv", "--mining_type focal"],
    "order": ["", "--weighted", "--images_per_identity 2"],
    "centres": ["", "--sub_centers 2"],
    "sampling": ["", "--sample_rate 0.3"],  # of 11 classes a batch of 8 leaves some to draw from, or not
    "accumulate": ["", "--accumulate 2"],
    "average": ["", "--ema_decay 0.9"],
    "precision": ["", "--precision bf16", "--precision fp16"],
    "optimizer": [
        *("", "--optimizer adam --lr 1e-3 --lr_schedule poly"),
        "--optimizer adamw --lr 1e-3 --lr_schedule cosine --decay_norm_and_bias false",
    ],
    "augmentation": [
        "--rotate_prob 0 --flip_prob 0 --cutout_prob 0 --blur_prob 0",
        "--zoom_prob 0.5 --shift_prob 0.5 --crop_prob 0.5 --color_prob 0.5 --gray_prob 0.3 --cutout_prob 0.5 "
        "--blur_prob 0.5 --lowres_prob 0.5 --jpeg_prob 0.5 --erase_prob 0.5",
    ],
    "stop": [AT_THE_LIMIT, BY_SIGNAL, BETWEEN_MICRO_BATCHES, BEFORE_VALIDATION, AFTER_VALIDATION],
}
MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_sq")
FREE = {("margin", name) for name in ("mining", "order", "stop")}  # whose choices needn't all meet
Row = dict[str, str]


def possible(row: Row) -> bool:
    refused = {"--margin_type curricular", "--mining_type sv"} <= {*row.values()}
    refused |= row.get("centres", "") != "" and "--min_margin" in row.get("companions", "")
    return not refused and not {BETWEEN_MICRO_BATCHES, row.get("accumulate", "given")} >= {row.get("stop"), ""}


def pairwise(choices: dict[str, list[str]], free: set[tuple[str, str]]) -> list[Row]:
    """Rows in which each two choices of different names meet, but for pairs of names in `free`; each choice occurs."""
    draw = random.Random(0)
    pairs = [
        {one: a, other: b}
        for one, other in itertools.combinations(choices, 2)
        if (one, other) not in free
        for a, b in itertools.product(choices[one], choices[other])
    ]
    missing, rows = [pair for pair in pairs if possible(pair)], []
    while missing:
        drawn = [{name: draw.choice(some) for name, some in choices.items()} | missing[0] for _ in range(300)]
        best = max(filter(possible, drawn), key=lambda row: sum(pair.items() <= row.items() for pair in missing))
        rows.append(best)
        missing = [pair for pair in missing if not pair.items() <= best.items()]
    return rows


@pytest.fixture(scope="module")
def options(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a training on 66 images of 11 identities, which neither 2 nor 3 ranks share evenly."""
    names = (sample_data / "vggface2/meta/train_list.txt").read_text().split()
    by_identity = [list(group) for _, group in itertools.groupby(names, lambda name: name.split("/")[0])]
    some = tmp_path_factory.mktemp("list") / "train_list.txt"
    some.write_text("\n".join(name for group in by_identity[:11] for name in group[:6]) + "\n")
    more = ["--train_list", str(some), "--train_batch_size", "8", "--warmup_iterations", "7"]
    return [*data_options(sample_data), *TINY, *more]


def contents(out: Path, iteration: int) -> tuple[Any, ...]:
    """Results of a run, in a form to compare: figures, the `.pt`, and the bytes of the state's tensors."""
    log = [{key: value for key, value in record.items() if key not in TIMES} for record in records(out / "logs")]
    validations = out / "logs" / "validation.jsonl"
    path = out / "snapshots" / f"tiny_{iteration}.pt"
    state = {file.name: file.read_bytes() for file in snapshot.state_path(path).glob("*.distcp")}
    pt = snapshot.read(path)
    figures = validations.read_text() if validations.exists() else ""
    return log, figures, pt.metrics, pt.best, pt.state_dict, pt.average or {}, state


def assert_same_bits(out: Path, reference: Path, iteration: int) -> None:
    *figures, weights, average, state = contents(out, iteration)
    *wanted, their_weights, their_average, their_state = contents(reference, iteration)
    assert figures == wanted
    assert same_weights(weights, their_weights) and same_weights(average, their_average)
    assert state == their_state  # centres, momentum, random states and what the loss remembers; no date


def stopped_in(row: Row, draw: random.Random) -> int:
    """The last iteration, from 1, of a run that is stopped."""
    known = {BEFORE_VALIDATION: VAL_STEP - 1, AFTER_VALIDATION: VAL_STEP}
    return known.get(row["stop"]) or draw.choice([2, 3, 4, 6, 7, 8, 9])  # 8 ends an epoch


ROWS = pairwise(CHOICES, FREE)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_run_that_was_stopped_and_resumed_has_every_bit_of_one_that_was_not(
    number: int, options: list[str], sample_data: Path, tmp_path: Path
) -> None:
    row, whole, parts = ROWS[number], tmp_path / "whole", tmp_path / "parts"
    words = [word for name, choice in row.items() if name != "stop" for word in choice.split()]
    if row["stop"] in (BEFORE_VALIDATION, AFTER_VALIDATION):
        words += [*validation_options(sample_data), "--val_step", str(VAL_STEP)]

    def run(out: Path, until: int, *more: str, signal_at: int = 0) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "build_model", small_network(signal_at))
            return train.main([*options, *words, *folders(out), "--max_iterations", str(until), *more])

    assert run(whole, ITERATIONS) == 0
    skipped = sum(record["skipped_steps"] for record in records(whole / "logs"))  # or there would be little to compare
    assert skipped <= (7 if "fp16" in row["precision"] else 0)  # until the loss scale is small enough
    last = stopped_in(row, random.Random(number))
    if row["stop"] == AT_THE_LIMIT:
        assert run(parts, last) == 0
    else:
        micro_batches = 2 if row["accumulate"] else 1
        first_of_two = row["stop"] == BETWEEN_MICRO_BATCHES
        before = last - 1  # in which the signal comes: the ranks have agreed on the last already
        assert run(parts, ITERATIONS, signal_at=before * micro_batches - first_of_two) == 128 + signal.SIGTERM
    assert snapshot.newest(parts / "snapshots", "tiny") == parts / "snapshots" / f"tiny_{last}.pt"
    assert run(parts, ITERATIONS, "--snap_to_resume", "auto") == 0
    assert_same_bits(parts, whole, ITERATIONS)


def test_each_two_choices_meet_in_a_row() -> None:
    met = {frozenset(pair) for row in ROWS for pair in itertools.combinations(row.items(), 2)}
    apart = [
        ((one, a), (other, b))
        for one, other in itertools.combinations(CHOICES, 2)
        for a, b in itertools.product(CHOICES[one], CHOICES[other])
        if frozenset({(one, a), (other, b)}) not in met and (one, other) not in FREE
    ]
    assert apart == [
        (("companions", CHOICES["companions"][1]), ("centres", CHOICES["centres"][1])),
        (("accumulate", ""), ("stop", BETWEEN_MICRO_BATCHES)),
    ]


# --- several ranks ----------------------------------------------------------------------------------------------------


@contextmanager
def ranks_there_are(_device: str, _hang_timeout: float) -> Iterator[Ranks]:
    """For train.py's `open_ranks`, in a group that is open already."""
    mine, world = dist.get_rank(), dist.get_world_size()
    yield Ranks(mine, world, mine, world, torch.device("cpu"))


def rows_of(head: MarginSoftmax, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Copies of what this rank has a row a class of."""
    state = optimizer.state[head.weight]
    rows = {"head": head.weight.detach(), **{name: state[name] for name in state if name in MOMENTS}}
    return {name: tensor.clone() for name, tensor in [*rows.items(), *head.named_buffers()] if tensor.ndim}


def watched_run(argv: list[str]) -> dict[str, Any]:
    """Train on this rank of the open group: rows before the first step and after the last, and all that was shown."""
    step, seen = Learner.step, dict[str, Any](labels=[], images=[])

    def watched(learner: Learner, batches: Sequence[Batch], iteration: int, lr: float) -> dict[str, torch.Tensor]:
        seen.setdefault("before", rows_of(learner.head, learner.optimizer))
        for name, parts in zip(("images", "labels"), zip(*batches, strict=True), strict=True):
            seen[name].append(torch.stack(parts))
        figures = step(learner, batches, iteration, lr)
        seen["after"] = rows_of(learner.head, learner.optimizer)
        return figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "open_ranks", ranks_there_are)
        patch.setattr(train, "build_model", small_network(dropout=0))  # each rank would draw its own
        patch.setattr(Learner, "step", watched)
        assert train.main(argv) == 0
    return seen


def whole_batches(of_ranks: list[dict[str, Any]], name: str) -> list[torch.Tensor]:
    """Samples shown to all ranks, an iteration each, in the order of the data: micro-batch by micro-batch."""
    return [
        torch.cat([part for micro in zip(*of_iteration, strict=True) for part in micro])
        for of_iteration in zip(*(one[name] for one in of_ranks), strict=True)
    ]


@pytest.mark.parametrize(
    ("worlds", "choices"),
    [
        ([1, 2, 3, 2, 1], "--margin_type curricular --center_loss_weight 0.01 --accumulate 2 --ema_decay 0.9"),
        ([3, 1], "--margin_type ada --triplet_loss_weight 0.1 --images_per_identity 2 --color_prob 0.5 --momentum 0.5"),
        ([2, 3], "--optimizer adamw --lr 1e-3 --lr_schedule cosine"),
    ],
)
def test_a_run_goes_on_with_other_numbers_of_ranks(
    worlds: list[int],
    choices: str,
    options: list[str],
    run_distributed: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    request.getfixturevalue("one_rank")
    argv = [*options, *choices.split(), "--train_batch_size", "12", "--freeze_bn", "true"]
    whole = watched_run([*argv, *folders(tmp_path / "whole"), "--max_iterations", str(2 * len(worlds))])
    shown, before = dict[str, list[torch.Tensor]](labels=[], images=[]), whole["before"]
    argv += [*folders(tmp_path / "parts"), "--snap_to_resume", "auto"]
    for number, world in enumerate(worlds, start=1):
        more = [*argv, "--max_iterations", str(2 * number)]
        of_ranks = [watched_run(more)] if world == 1 else run_distributed(world, watched_run, more)
        split = {1: [11], 2: [6, 5], 3: [4, 4, 3]}[world]
        assert [len(one["before"]["head"]) for one in of_ranks] == split
        for name, tensor in before.items():  # of the ranks before, or the beginning
            assert torch.equal(torch.cat([one["before"][name] for one in of_ranks]), tensor), name
        before = {name: torch.cat([one["after"][name] for one in of_ranks]) for name in before}
        for name in shown:
            shown[name] += whole_batches(of_ranks, name)
    for name, batches in shown.items():  # the same pixels at the same places, whoever they were given to
        for batch, wanted in zip(batches, whole_batches([whole], name), strict=True):
            assert torch.equal(batch, wanted), name
    # Sums in another order: some 1e-7 a step of float32, kept small since nothing here magnifies it.
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def three_runs(options: list[str], out: str) -> None:
    """A whole run and one in two parts, on this rank of the open group, of a backbone of more than one bucket."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "open_ranks", ranks_there_are)
        for name, until in (("whole", "4"), ("parts", "1"), ("parts", "4")):
            argv = [*options, *folders(Path(out) / name), "--max_iterations", until, "--snap_to_resume", "auto"]
            assert train.main(argv) == 0


@pytest.mark.thorough
def test_three_ranks_go_on_with_every_bit(
    options: list[str], run_distributed: Callable[..., list[None]], tmp_path: Path
) -> None:
    """Each rank draws classes of its own, and adds the gradients of three in an order that the buckets decide."""
    more = ["--train_batch_size", "6", "--sample_rate", "0.3", "--margin_type", "ada", "--ema_decay", "0.9"]
    run_distributed(3, three_runs, [*options, *more], str(tmp_path))
    assert len(losses(tmp_path / "whole")) == 4
    assert_same_bits(tmp_path / "parts", tmp_path / "whole", 4)
