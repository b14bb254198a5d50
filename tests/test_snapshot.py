"""Snapshots: whole or absent, exact on any number of ranks, and harmless when damaged or hostile."""

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fr.checkpoint import resuming, snapshot, snapshot_writer
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.checkpoint.training_state import Tensors, TrainingState
from fr.distributed import rank
from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax
from fr.options.losses import LossSettings
from fr.preprocessing import Preprocessing
from fr.train.learner import Learner
from fr.train.optimizer import build_sgd
from tests.builders.snapshots import (
    CLASSES,
    CONFIG,
    CONTENTS,
    FACTS,
    assert_same,
    content,
    make_run,
    names,
    resume,
)


def write(folder: Path, iteration: int = 5, seed: int = 1, prefix: str = "net", **loss: Any) -> dict[str, torch.Tensor]:
    run = make_run(seed, **loss)
    SnapshotWriter(folder, prefix, TrainingState(Learner(*run)), (), print).write(iteration, CONTENTS)
    return content(*run)


def test_a_resumed_run_has_every_bit_of_the_written_one(one_rank: None, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    before = write(folder, iteration=12)
    draws = torch.rand(3)
    path = snapshot.newest(folder, "net")
    assert path == folder / "net_12.pt"
    assert names(folder) == {"net_12.pt", "net_12.state"}
    after = resume(path)
    assert after.pop("iteration") == 12
    assert_same(after, before)
    assert torch.equal(torch.rand(3), draws)  # the generator, too
    assert not torch.equal(content(*make_run(2))["head"], before["head"])  # or nothing would have been shown


def test_the_pt_holds_builtins_and_tensors_with_the_config(one_rank: None, tmp_path: Path) -> None:
    before = write(tmp_path)
    contents = torch.load(tmp_path / "net_5.pt", weights_only=True)
    assert contents["config"] == CONFIG
    assert contents["metrics"] == {"accuracy": 0.5}
    assert contents["iteration"] == 5
    assert {name: contents[name] for name in FACTS} == FACTS
    assert Preprocessing.from_dict(contents["preprocessing"]) == Preprocessing((64, 64))
    model = make_run(3)[0]
    snapshot.load_weights(model, snapshot.read(tmp_path / "net_5.pt"), tmp_path / "net_5.pt")
    assert_same(dict(model.state_dict()), {name: before[name] for name in model.state_dict()})


def test_weights_of_another_model_are_refused_by_name(one_rank: None, tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "net_5.pt"
    with pytest.raises(InputError, match=r"net_5\.pt: .*(?s:.*)2\.weight"):
        snapshot.load_weights(nn.Linear(5, 4), snapshot.read(path), path)


def test_the_newest_is_the_highest_whole_number_of_the_prefix(tmp_path: Path) -> None:
    assert snapshot.newest(tmp_path / "absent", "net") is None
    assert snapshot.newest(tmp_path, "net") is None
    for name in ("net_9", "net_10", "net_2", "net_x_99", "my_net_98", "net_10_97", "net_-96", "net.95", "n.t_94"):
        (tmp_path / f"{name}.pt").touch()
        (tmp_path / f"{name}.state").mkdir()
    (tmp_path / "net_93.pt").touch()  # its state is missing
    (tmp_path / "net_92.state").mkdir()  # its .pt is missing
    (tmp_path / ".net_91.pt.tmp").touch()
    (tmp_path / ".net_91.state.tmp").mkdir()
    (tmp_path / "net_91.pt.tmp").touch()
    (tmp_path / "net_90.pt").touch()
    (tmp_path / "net_90.state").touch()  # no folder
    assert snapshot.newest(tmp_path, "net") == tmp_path / "net_10.pt"
    assert snapshot.newest(tmp_path, "n.t") == tmp_path / "n.t_94.pt"


@pytest.mark.parametrize("where", ["state", "middle of the state", "pt", "rename"])
@pytest.mark.parametrize("iteration", [7, 5])
def test_an_interrupted_write_leaves_no_half_snapshot(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, iteration: int
) -> None:
    before = write(tmp_path, iteration=4)

    def fails(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("no space left")

    save_whole = torch.save

    def fails_on_the_pt(what: Any, file: Any, **settings: Any) -> None:
        if str(getattr(file, "name", "")).endswith(".pt.tmp"):
            file.write(b"half")
            raise OSError("no space left")
        save_whole(what, file, **settings)  # the checkpoint's own files go through here, too

    def fails_half_way(_tensors: Tensors, folder: Path, _group: None) -> None:
        (folder / "__0_0.distcp").write_bytes(b"half")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        if where == "state":
            patch.setattr(snapshot_writer, "save", fails)
        elif where == "middle of the state":
            patch.setattr(snapshot_writer, "save", fails_half_way)
        elif where == "pt":
            patch.setattr(torch, "save", fails_on_the_pt)
        else:
            patch.setattr(Path, "replace", fails)
        # What the first rank alone does is told to all of them; a failing save tells of itself on each.
        with pytest.raises(InputError if where in ("pt", "rename") else OSError, match="no space left"):
            write(tmp_path, iteration=iteration, seed=3)
    path = snapshot.newest(tmp_path, "net")
    assert path == tmp_path / "net_4.pt"
    assert_same(resume(path), before)
    assert where not in ("pt", "rename") or names(tmp_path) == {"net_4.pt", "net_4.state"}
    # The next attempt isn't hurt by the leftovers, and clears them.
    again = write(tmp_path, iteration=iteration, seed=6)
    path = snapshot.newest(tmp_path, "net")
    assert path == tmp_path / f"net_{iteration}.pt"
    assert_same(resume(path), again)
    assert names(tmp_path) == {"net_4.pt", "net_4.state", f"net_{iteration}.pt", f"net_{iteration}.state"}


def test_a_snapshot_of_the_same_name_is_replaced(one_rank: None, tmp_path: Path) -> None:
    write(tmp_path, seed=1)
    second = write(tmp_path, seed=3)
    assert names(tmp_path) == {"net_5.pt", "net_5.state"}
    assert_same(resume(tmp_path / "net_5.pt"), second)


class Payload:
    """Unpickled by the stock reader, this makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def damages(folder: Path) -> dict[str, bytes]:
    """Contents that a `.pt` may have."""
    whole = (folder / "net_5.pt").read_bytes()
    damaged = {f"first {share} %": whole[: len(whole) * share // 100] for share in (0, 1, 30, 70, 99)}
    damaged |= {
        "text": b"accuracy: 0.99\n" * 100,
        "picture": b"\xff\xd8\xff\xe0" + bytes(200),
        "zeros": bytes(len(whole)),
    }
    damaged["bare pickle"] = pickle.dumps({"model": "mobilenet"})
    damaged["payload"] = pickle.dumps(Payload(folder / "mark"))
    for name, what in {
        "tensor": torch.ones(3),
        "list": [1, 2],
        "weights": {"features.0.weight": torch.ones(3)},
        "payload in a zip": {"model": Payload(folder / "mark")},
        "module": nn.Linear(2, 2),
        "other format": snapshot.read(folder / "net_5.pt").as_dict() | {"format": 2},
        "iteration is text": snapshot.read(folder / "net_5.pt").as_dict() | {"iteration": "5"},
    }.items():
        torch.save(what, folder / "other.tmp")
        damaged[name] = (folder / "other.tmp").read_bytes()
    # Flipped bits in the pickle, which says what the file holds: any that gives a readable file is right, too.
    start = whole.index(b"data.pkl") + 8
    for position in range(0, 900, 7):
        flipped = bytearray(whole)
        flipped[start + position] ^= 1 << position % 8
        damaged[f"bit at {position}"] = bytes(flipped)
    return damaged


def test_a_damaged_foreign_or_hostile_pt_is_refused_by_name(one_rank: None, tmp_path: Path) -> None:
    write(tmp_path)
    bad = tmp_path / "bad.pt"
    refused = set()
    damaged = damages(tmp_path)
    for name, content_of_file in damaged.items():
        bad.write_bytes(content_of_file)
        try:
            snapshot.read(bad)
        except InputError as error:
            assert str(bad) in str(error)
            refused.add(name)
    assert {name for name in damaged if not name.startswith("bit")} <= refused
    assert len([name for name in refused if name.startswith("bit")]) > 20
    assert not (tmp_path / "mark").exists()
    for nothing in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(InputError, match="can't be read"):
            snapshot.read(nothing)


def sign(state: Path) -> None:
    """Last step of an attacker who made a hostile state."""
    (state / "SHA256SUMS").unlink()
    lines = subprocess.run(["sha256sum", *sorted(names(state))], cwd=state, capture_output=True, check=True).stdout
    (state / "SHA256SUMS").write_bytes(lines)


def test_a_hostile_state_executes_nothing(one_rank: None, tmp_path: Path) -> None:
    write(tmp_path)
    mark, index = tmp_path / "mark", tmp_path / "net_5.state" / ".metadata"
    whole = pickle.loads(index.read_bytes())
    whole.planner_data = Payload(mark)
    for hostile in (Payload(mark), {"state_dict_metadata": Payload(mark)}, whole):
        index.write_bytes(pickle.dumps(hostile))
        sign(index.parent)
        with pytest.raises(InputError, match=r"\.metadata: damaged: .*mkdir has no place in a snapshot"):
            resume(tmp_path / "net_5.pt")
    harmless: Any
    for harmless in ({}, [1], torch.Size([3])):
        index.write_bytes(pickle.dumps(harmless))
        sign(index.parent)
        with pytest.raises(InputError, match="no checkpoint index"):
            resume(tmp_path / "net_5.pt")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))  # the payload is a live one
    assert mark.exists()


def test_a_damaged_state_is_refused_by_name(one_rank: None, tmp_path: Path) -> None:
    write(tmp_path)
    path, state = tmp_path / "net_5.pt", tmp_path / "net_5.state"
    mark = tmp_path / "mark"
    shutil.copytree(state, tmp_path / "whole")
    (shard,) = state.glob("*.distcp")
    index = state / ".metadata"

    def flip(file: Path, position: int) -> None:
        damaged = bytearray(file.read_bytes())
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)

    certain: list[Callable[[], Any]] = [
        lambda: shard.unlink(),
        lambda: shard.write_bytes(b""),
        lambda: shard.write_bytes(shard.read_bytes()[:1000]),
        lambda: shard.write_bytes(bytes(shard.stat().st_size)),
        lambda: shard.write_bytes(pickle.dumps(Payload(mark)) + bytes(shard.stat().st_size)),
        lambda: index.unlink(),
        lambda: index.write_bytes(b""),
        lambda: index.write_bytes(index.read_bytes()[:200]),
    ]
    for file in (index, shard, state / "SHA256SUMS"):
        size = file.stat().st_size
        certain += [partial(flip, file, at) for at in range(0, size, size // 100)]
    for damage in certain:
        shutil.rmtree(state)
        shutil.copytree(tmp_path / "whole", state)
        damage()
        with pytest.raises(InputError, match=str(state)):
            resume(path)
    assert not mark.exists()
    shutil.rmtree(state)
    with pytest.raises(InputError, match=r"net_5\.state: no such folder: .* holds only weights"):
        resume(path)


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({"model": "resnet"}, r"model is mobilenet there and resnet in this run"),
        ({"embed_size": 4}, r"embed_size is 3 there and 4 in this run"),
        ({"preprocessing": {"input_size": [128, 128]}}, r"preprocessing\.input_size is \[64, 64\] there and \[128"),
        ({"run": {"train_batch_size": 24}}, r"run\.train_batch_size is 12 there and 24 in this run"),
        ({"run": {"seed": 2}}, r"run\.seed is 1 there and 2"),
        ({"run": {"images": 101}}, r"run\.images is 100 there and 101"),
        ({"run": {"data": "abd"}}, r"run\.data is abc there and abd"),
    ],
)
def test_resume_spells_out_what_differs(one_rank: None, tmp_path: Path, difference: dict[str, Any], said: str) -> None:
    write(tmp_path)
    facts = dict(FACTS)
    for name, value in difference.items():
        facts[name] = facts[name] | value if isinstance(value, dict) else value
    with pytest.raises(InputError, match=said) as caught:
        resume(tmp_path / "net_5.pt", facts)
    assert len(caught.value.problems) == 1 + 1  # what to do follows
    with pytest.raises(InputError) as caught:
        resume(tmp_path / "net_5.pt", facts | {"model": "x", "embed_size": 1, "run": {"seed": 9}})
    assert len(caught.value.problems) >= 3


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (["a", "x", "c", "y"], "other identities: 2 there alone (b, d), 2 in this run alone (x, y)"),
        (["a", "b", "c"], "other identities: 1 there alone (d)"),
        (["b", "a", "c", "d"], "other identities: the same ones in another order"),
        ([f"{i:02}" for i in range(30)], "4 there alone (a, b, c, d), 30 in this run alone (00, 01, 02, 03, 04, …)"),
    ],
)
def test_other_classes_are_refused_by_name(one_rank: None, tmp_path: Path, ours: list[str], said: str) -> None:
    run = TrainingState(Learner(*make_run(1)))
    SnapshotWriter(tmp_path, "net", run, ["a", "b", "c", "d"], print).write(5, CONTENTS)
    with pytest.raises(InputError) as refusal:
        resuming.resume([tmp_path / "net_5.pt"], run, CONTENTS, ours)
    assert said in str(refusal.value)
    resuming.resume([tmp_path / "net_5.pt"], run, CONTENTS, ["a", "b", "c", "d"])


def test_a_state_of_another_shape_is_refused_with_both_shapes(one_rank: None, tmp_path: Path) -> None:
    write(tmp_path)
    backbone = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Linear(3, 3))
    head = MarginSoftmax(CLASSES + 1, 3, LossSettings(), 1)
    optimizer = build_sgd([*backbone.parameters(), *head.parameters()], 0.1, 0.9, 0.0)
    with pytest.raises(InputError) as caught:
        resuming.resume([tmp_path / "net_5.pt"], TrainingState(Learner(backbone, head, optimizer)), CONTENTS)
    text = str(caught.value)
    assert "head is (7, 3), this run needs (8, 3)" in text
    assert "backbone.3.weight is missing" in text and "momentum.3.bias is missing" in text
    deep = nn.Sequential(*backbone, *(nn.Linear(3, 3) for _ in range(4)))
    optimizer = build_sgd([*deep.parameters(), *head.parameters()], 0.1, 0.9, 0.0)
    with pytest.raises(InputError) as caught:
        resuming.resume([tmp_path / "net_5.pt"], TrainingState(Learner(deep, head, optimizer)), CONTENTS)
    # Weight, bias and the momentum of each in five layers, and the shapes of the head and its momentum.
    assert len(caught.value.problems) == 10 + 2 and caught.value.problems[10] == "… and 12 more like these"


def test_a_state_of_other_losses_is_refused_with_the_options_that_differ(one_rank: None, tmp_path: Path) -> None:
    stored, ours = (CONTENTS.config | {"center_loss_weight": weight, "lr": weight} for weight in (0.0, 1.0))
    writer = SnapshotWriter(tmp_path, "net", TrainingState(Learner(*make_run(1))), (), print)
    writer.write(5, replace(CONTENTS, config=stored))
    run = TrainingState(Learner(*make_run(1, center_loss_weight=1.0)))
    with pytest.raises(InputError) as refusal:
        resuming.resume([tmp_path / "net_5.pt"], run, replace(CONTENTS, config=ours))
    option, missing, advice = refusal.value.problems
    assert missing.endswith("net_5.state: head.companions.centers is missing")
    assert option == "--center_loss_weight is 0.0 there and 1.0 in this run"
    assert advice.startswith("a run resumes with the data, model and losses that it began with; to begin another")


def write_on_two_ranks(folder: str) -> dict[str, torch.Tensor]:
    """State after a training step: each rank's batch norms have seen its own images."""
    backbone, head, optimizer = make_run(1)
    for buffer in backbone.buffers():
        buffer.add_(rank())
    before = content(backbone, head, optimizer)
    SnapshotWriter(Path(folder), "net", TrainingState(Learner(backbone, head, optimizer)), (), print).write(5, CONTENTS)
    return before


def read_on_three_ranks(folder: str) -> dict[str, Any]:
    """The state, and what each rank says of damaged ones."""
    path = Path(folder) / "net_5.pt"
    result: dict[str, Any] = {"state": resume(path)}
    refusals = []
    for case in range(4):
        try:
            resume(Path(folder) / f"damaged_{case}" / "net_5.pt", FACTS | ({"embed_size": 9} if case == 3 else {}))
        except InputError as error:
            refusals.append(str(error))
    result["refusals"] = refusals
    return result


def test_two_ranks_write_what_one_and_three_ranks_read(
    run_distributed: Callable[..., list[dict[str, Any]]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first, second = run_distributed(2, write_on_two_ranks, str(tmp_path))
    heads = {name: torch.cat([first[name], second[name]]) for name in ("head", "m.head")}
    assert [len(one["head"]) for one in (first, second)] == [4, 3]
    wanted = first | heads  # everything else is the first rank's: DDP gives its batch statistics to all
    assert not torch.equal(first["1.running_mean"], second["1.running_mean"])

    for case in range(4):
        copy = tmp_path / f"damaged_{case}"
        copy.mkdir()
        shutil.copy(tmp_path / "net_5.pt", copy)
        shutil.copytree(tmp_path / "net_5.state", copy / "net_5.state")
    shards = sorted((tmp_path / "damaged_0" / "net_5.state").glob("*.distcp"))
    assert len(shards) == 2
    shards[1].write_bytes(shards[1].read_bytes()[:100])  # only some of the ranks read it
    (tmp_path / "damaged_1" / "net_5.state" / ".metadata").write_bytes(b"\x80\x04")
    (tmp_path / "damaged_2" / "net_5.pt").write_bytes(b"")
    on_three = run_distributed(3, read_on_three_ranks, str(tmp_path))
    for result in on_three:
        assert len(result["refusals"]) == 4  # every rank has come through all of them
    states = [result["state"] for result in on_three]
    assert [len(state["head"]) for state in states] == [3, 3, 1]
    for state in states:
        assert_same(state | heads, wanted)
    for name, whole in heads.items():
        assert torch.equal(torch.cat([state[name] for state in states]), whole)

    request.getfixturevalue("one_rank")
    assert_same(resume(tmp_path / "net_5.pt"), wanted)


# What a head remembers beside its weights: a row a class for the centre loss, and figures that all ranks share.
ROWS: dict[str, Any] = {"center_loss_weight": 1.0, "sub_centers": 2}
MEMORIES: dict[str, list[str]] = {"curricular": ["t"], "ada": ["norm_mean", "norm_std"]}


def pass_on_memory(source: str, target: str, margin_type: str) -> dict[str, torch.Tensor]:
    """State that a snapshot gives a run, which writes it again."""
    run = make_run(2, margin_type=margin_type, **ROWS)
    state = TrainingState(Learner(*run))
    resuming.resume([Path(source) / "net_5.pt"], state, CONTENTS)
    SnapshotWriter(Path(target), "net", state, (), print).write(5, CONTENTS)
    return content(*run)


@pytest.mark.parametrize("margin_type", MEMORIES)
def test_what_the_head_remembers_passes_from_1_to_2_to_3_ranks_and_back(
    margin_type: str,
    run_distributed: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    request.getfixturevalue("one_rank")
    whole = write(tmp_path / "0", margin_type=margin_type, **ROWS)
    assert {"companions.centers", *MEMORIES[margin_type]} <= whole.keys()
    others = make_run(2, margin_type=margin_type, **ROWS)[1]
    assert not any(torch.equal(whole[name], buffer) for name, buffer in others.named_buffers())  # or it shows nothing
    rows = ("head", "m.head", "companions.centers")
    for number, (ranks, split) in enumerate([(2, [4, 3]), (3, [3, 3, 1])]):
        folders = [str(tmp_path / str(step)) for step in (number, number + 1)]
        states = run_distributed(ranks, pass_on_memory, *folders, margin_type)
        assert [len(state["companions.centers"]) for state in states] == split
        together = {name: torch.cat([state[name] for state in states]) for name in rows}
        for state in states:
            assert_same(state | together, whole)
    assert_same(resume(tmp_path / "2" / "net_5.pt", margin_type=margin_type, **ROWS), whole)


@pytest.mark.parametrize(
    ("loss", "missing"),
    [
        *(({"margin_type": margin_type}, figures) for margin_type, figures in MEMORIES.items()),
        ({"center_loss_weight": 1.0}, ["companions.centers"]),
    ],
)
def test_a_snapshot_without_what_the_head_should_remember_is_refused(
    one_rank: None, tmp_path: Path, loss: dict[str, Any], missing: list[str]
) -> None:
    write(tmp_path)
    with pytest.raises(InputError) as refusal:
        resume(tmp_path / "net_5.pt", **loss)
    state = tmp_path / "net_5.state"
    *problems, advice = refusal.value.problems
    assert problems == [f"{state}: head.{name} is missing" for name in missing]
    assert f"--init_from {tmp_path}/net_5.pt and another --snap_prefix, without --snap_to_resume" in advice
    write(tmp_path, **loss)
    resume(tmp_path / "net_5.pt", **loss)
    resume(tmp_path / "net_5.pt")  # more than needed does no harm


@pytest.mark.parametrize("kwargs", [{"depth": [[1, 4], [1, 4]], "rate": 0.1, "name": None}, {"sizes": [8, 16]}])
def test_settings_of_a_network_are_read_as_they_were_written(kwargs: dict[str, Any], tmp_path: Path) -> None:
    contents = snapshot.SnapshotContents("mobilenet", 8, {}, model_kwargs=kwargs)
    snapshot.write_weights(tmp_path / "a_1.pt", contents)
    assert snapshot.read(tmp_path / "a_1.pt").model_kwargs == kwargs
