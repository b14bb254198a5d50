"""Snapshots written and removed: in the background, as many as are kept, where the room suffices, checked again."""

import errno
import os
import resource
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed.checkpoint as dcp

from fr.checkpoint import resuming, snapshot, snapshot_writer, training_state
from fr.checkpoint.ownership import claim
from fr.checkpoint.snapshot import SnapshotContents
from fr.checkpoint.snapshot_writer import Kept, SnapshotWriter
from fr.checkpoint.training_state import Tensors, TrainingState
from fr.distributed import rank
from fr.errors import InputError
from fr.files.durable import write_durably
from fr.train.learner import Learner
from tests.builders.snapshots import CONTENTS, assert_same, content, make_run, names, resume


def writer_of(folder: Path, run: Any, **settings: Any) -> SnapshotWriter:
    return SnapshotWriter(folder, "net", TrainingState(Learner(*run)), (), print, **settings)


def scored(accuracy: float) -> SnapshotContents:
    return replace(CONTENTS, metrics={"accuracy": accuracy})


def train_on(run: Any) -> None:
    """Every tensor of a run changes, as it does in training."""
    with torch.no_grad():
        for tensor in content_of_live(run):
            tensor.add_(1)


def content_of_live(run: Any) -> list[torch.Tensor]:
    backbone, head, optimizer = run
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    return [*backbone.parameters(), *backbone.buffers(), *head.parameters(), *head.buffers(), *momenta]


def test_sha256sum_itself_finds_every_file_of_the_state_as_written(one_rank: None, tmp_path: Path) -> None:
    SnapshotWriter(tmp_path, "net", TrainingState(Learner(*make_run(1))), ["Zoë", "Ada"], print).write(5, CONTENTS)
    state = tmp_path / "net_5.state"
    assert (state / "identities.txt").read_text() == "Zoë\nAda\n"
    checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=state, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    said = {line.removesuffix(": OK") for line in checked.stdout.decode().splitlines()}
    assert said == names(state) - {"SHA256SUMS"}


@pytest.mark.thorough
def test_any_flipped_bit_of_a_pt_is_refused_or_changes_nothing(one_rank: None, tmp_path: Path) -> None:
    writer_of(tmp_path, make_run(1)).write(5, CONTENTS)
    path = tmp_path / "net_5.pt"
    whole, contents = path.read_bytes(), snapshot.read(path)
    refused = 0
    directory = whole.index(b"PK\x01\x02")
    places = [(position, position % 8) for position in range(0, directory, 5)]
    places += [(position, bit) for position in range(directory, len(whole)) for bit in range(8)]
    for position, bit in places:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            found = snapshot.read(path)
        except InputError:
            refused += 1
            continue
        assert_same(found.state_dict, contents.state_dict)
        assert replace(found, state_dict={}).as_dict() == replace(contents, state_dict={}).as_dict()
    assert refused > len(places) / 3  # the rest is padding, times and flags that nobody reads


def test_a_pt_that_would_unpack_to_far_more_is_refused(one_rank: None, tmp_path: Path) -> None:
    writer_of(tmp_path, make_run(1)).write(5, CONTENTS)
    path = tmp_path / "net_5.pt"
    shutil.unpack_archive(path, tmp_path / "parts", "zip")
    bomb = shutil.make_archive(str(tmp_path / "bomb"), "zip", tmp_path / "parts")  # compressed, unlike torch's
    shutil.move(bomb, path)
    with pytest.raises(InputError, match=r"net_5\.pt: not a snapshot, or damaged"):
        snapshot.read(path)


@pytest.mark.parametrize("part", ["net_9.pt", "net_9.state/.metadata", "net_9.state/__0_0.distcp"])
def test_a_damaged_newest_snapshot_makes_way_for_the_one_before_and_that_is_said(
    one_rank: None, tmp_path: Path, part: str
) -> None:
    before = {}
    for iteration in (3, 6, 9):
        run = make_run(iteration)
        writer_of(tmp_path, run).write(iteration, CONTENTS)
        before[iteration] = content(*run)
    damaged = bytearray((tmp_path / part).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / part).write_bytes(damaged)
    run = make_run(1)
    resumed = resuming.resume(claim("auto", tmp_path, "net", "").resumable, TrainingState(Learner(*run)), CONTENTS)
    notes = resumed.notes
    assert resumed.iteration == 6
    assert_same(content(*run), before[6])
    assert len(notes) == 2 and str(tmp_path / part) in notes[0] and notes[1] == f"going on from {tmp_path}/net_6.pt"
    with pytest.raises(InputError, match=part):  # one that is asked for by name has no stand-in
        resume(tmp_path / "net_9.pt")
    for iteration in (3, 6):
        (tmp_path / f"net_{iteration}.state/SHA256SUMS").unlink()
    with pytest.raises(InputError) as refusal:  # and nothing whole is no reason to begin anew
        resuming.resume(claim("auto", tmp_path, "net", "").resumable, TrainingState(Learner(*run)), CONTENTS)
    assert len(refusal.value.problems) == 3


def test_the_newest_the_best_and_every_kth_stay(one_rank: None, tmp_path: Path) -> None:
    run = make_run(1)
    writer_of(tmp_path, run).write(100, CONTENTS)  # of an earlier run that went further
    writer = writer_of(tmp_path, run, kept=Kept(2, 4))
    accuracies = [0.5, 0.6, 0.9, 0.7, 0.9, 0.8, 0.1, 0.2, 0.3, 0.3]
    for iteration, accuracy in enumerate(accuracies, start=1):
        writer.write(iteration, scored(accuracy))
    writer.write(11, replace(CONTENTS, metrics={}))  # not validated
    left = [*snapshot.by_iteration(tmp_path, "net")]
    assert left == [4, 5, 8, 10, 11, 100]  # 5: as good as 3, and later
    assert names(tmp_path) == {f"net_{i}.{kind}" for i in left for kind in ("pt", "state")}

    resumed = resuming.resume([tmp_path / "net_11.pt"], TrainingState(Learner(*run)), CONTENTS)
    assert resumed.contents and resumed.contents.best == (5, 0.9)
    writer = writer_of(tmp_path, run, kept=Kept(1), resumed=resumed)
    writer.write(12, scored(0.8))
    assert [*snapshot.by_iteration(tmp_path, "net")] == [5, 12, 100]  # the best of before the resume, too
    writer.write(13, scored(0.95))
    assert [*snapshot.by_iteration(tmp_path, "net")] == [13, 100]


def test_unasked_all_snapshots_stay(one_rank: None, tmp_path: Path) -> None:
    writer = writer_of(tmp_path, make_run(1))
    for iteration in range(1, 5):
        writer.write(iteration, CONTENTS)
    assert [*snapshot.by_iteration(tmp_path, "net")] == [1, 2, 3, 4]


def test_what_killed_writes_left_is_cleared_away_and_other_prefixes_are_not(one_rank: None, tmp_path: Path) -> None:
    others = {".other_3.state.tmp", ".net_x_3.state.tmp", "other_4.state"}
    for name in (".net_3.state.tmp", ".net_3.older.tmp", *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").touch()
    (tmp_path / ".net_3.pt.tmp").touch()
    writer_of(tmp_path, make_run(1)).write(5, CONTENTS)
    assert names(tmp_path) == {"net_5.pt", "net_5.state"} | others


@pytest.mark.parametrize("where", ["before the state has its name", "when it has", "amid a removal"])
def test_a_state_whose_pt_has_no_name_goes_and_one_whose_pt_has_stays(
    where: str, one_rank: None, tmp_path: Path
) -> None:
    """By a kill between the names of the two parts; user-made folders are left alone."""
    writer = writer_of(tmp_path, make_run(1))
    for iteration in (3, 4):
        writer.write(iteration, CONTENTS)
    path, state = tmp_path / "net_4.pt", tmp_path / "net_4.state"
    if where == "before the state has its name":  # of a second write of this iteration
        shutil.copy(path, tmp_path / ".net_4.pt.tmp")
        shutil.copytree(state, tmp_path / ".net_4.state.tmp")
    else:
        path.rename(tmp_path / ".net_4.pt.tmp")
        if where == "amid a removal":
            (state / ".metadata").unlink()
    shutil.copytree(tmp_path / "net_3.state", tmp_path / "net_2.state")  # its .pt was moved away by somebody
    before = content(*make_run(1))
    writer.write(5, CONTENTS)
    stays = {3, 4, 5} if where == "before the state has its name" else {3, 5}
    assert names(tmp_path) == {f"net_{i}.{kind}" for i in stays for kind in ("pt", "state")} | {"net_2.state"}
    for iteration in stays:
        assert_same(resume(tmp_path / f"net_{iteration}.pt"), before)


def test_a_removal_that_is_interrupted_leaves_no_snapshot_and_the_next_write_ends_it(
    one_rank: None, tmp_path: Path
) -> None:
    writer = writer_of(tmp_path, make_run(1))
    for iteration in (3, 4):
        writer.write(iteration, CONTENTS)
    with mock.patch.object(shutil, "rmtree", side_effect=OSError("no more")), pytest.raises(OSError, match="no more"):
        snapshot_writer.remove(tmp_path / "net_3.pt")
    assert names(tmp_path) == {".net_3.pt.tmp", "net_3.state", "net_4.pt", "net_4.state"}
    writer.write(5, CONTENTS)
    assert names(tmp_path) == {f"net_{i}.{kind}" for i in (4, 5) for kind in ("pt", "state")}


def test_without_room_for_it_nothing_is_written(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(1)
    writer = writer_of(tmp_path, run)
    writer.write(5, CONTENTS)
    whole = sum(tensor.nbytes for tensor in content(*run).values()) + torch.get_rng_state().nbytes
    needed = whole + sum(tensor.nbytes for tensor in run[0].state_dict().values())  # the backbone is in both parts
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(InputError, match=r"net_6\.pt: can't be written: .*needs 0\.000 GB, and .* has 0\.000 GB left"):
        writer.write(6, CONTENTS)
    assert names(tmp_path) == {"net_5.pt", "net_5.state"}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    writer.write(6, CONTENTS)
    assert snapshot.newest(tmp_path, "net") == tmp_path / "net_6.pt"
    # A mount of an object store has no size: 0 of 0 bytes are free.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=0, free=0))
    writer.write(7, CONTENTS)
    assert snapshot.newest(tmp_path, "net") == tmp_path / "net_7.pt"


@pytest.mark.parametrize("missing", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_a_folder_takes_snapshots(
    missing: int, one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFS, sshfs and gocryptfs can't; a sync that fails for another reason is a failure."""
    sync, reason = os.fsync, missing

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(reason, os.strerror(reason))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writer = writer_of(tmp_path, make_run(1))
    writer.write(5, CONTENTS)
    assert names(tmp_path) == {"net_5.pt", "net_5.state"}
    reason = errno.EIO
    with pytest.raises(InputError, match=r"net_6\.pt: can't be written: .*Input/output error"):
        writer.write(6, CONTENTS)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """In here the system refuses to make a file longer than that, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_system_refuses_to_write_is_told_and_not_a_position_in_a_file(one_rank: None, tmp_path: Path) -> None:
    tensors = {"weights": torch.zeros(10_000), "more": torch.zeros(10_000)}
    for size in range(0, 60_000, 4_000):
        with largest_file(size), pytest.raises(OSError, match="File too large"):
            write_durably(tmp_path / "one", lambda file: torch.save(tensors, file))
        with largest_file(size), pytest.raises(InputError, match=r"can't be written: OSError: .*File too large"):
            training_state.save(tensors, tmp_path / "state")


def held_back(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits for this event."""
    go, save = threading.Event(), training_state.save

    def waits(tensors: Tensors, folder: Path, group: Any) -> None:
        assert go.wait(60)
        save(tensors, folder, group)

    monkeypatch.setattr(snapshot_writer, "save", waits)
    return go


def test_a_snapshot_in_the_background_is_of_the_moment_it_was_asked_for(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held_back(monkeypatch)
    run = make_run(1)
    writer = writer_of(tmp_path, run, background=True)
    moments = {}
    for iteration in (5, 6):  # the second waits for the first, and takes its memory
        moments[iteration] = content(*run)
        random_state = torch.get_rng_state()
        writer.write(iteration, CONTENTS)
        assert iteration == 6 or snapshot.newest(tmp_path, "net") is None
        train_on(run)
        torch.rand(5)
        go.set()
    writer.close()
    for iteration, moment in moments.items():
        assert_same(resume(tmp_path / f"net_{iteration}.pt"), moment)
        stored = snapshot.read(tmp_path / f"net_{iteration}.pt").state_dict
        assert_same(stored, {name: moment[name] for name in stored})
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_write_in_the_background_that_fails_is_known_and_told_with_the_next(one_rank: None, tmp_path: Path) -> None:
    folder = tmp_path / "file" / "folder"
    (tmp_path / "file").touch()
    writer = writer_of(folder, make_run(1), background=True)
    assert writer.failure() is None
    writer.write(5, CONTENTS)
    with pytest.raises(InputError, match=r"net_5\.pt: can't be written"):
        writer.write(6, CONTENTS)
    writer.write(7, CONTENTS)
    assert writer._pending
    writer._pending.exception()
    for _ in range(2):  # it stays known: other ranks may hear of it by another way
        failure = writer.failure()
        assert failure and "net_7.pt: can't be written" in str(failure)
    with pytest.raises(InputError, match=r"net_7\.pt: can't be written"):
        writer.close()
    assert writer.failure() is None


def fail_on_the_second_rank(folder: str) -> list[str]:
    """Each rank comes to know of a failed write at another time, and both then want another snapshot."""
    writer = writer_of(Path(folder), make_run(1), background=True)
    told = []
    with mock.patch.object(dcp.FileSystemWriter, "write_data", side_effect=OSError("no space left")):
        writer.write(5, CONTENTS)
        assert writer._pending
        if rank() == 1:
            writer._pending.exception()
            told.append(str(writer.failure()))
        for action in (lambda: writer.write(6, CONTENTS), writer.close):
            try:
                action()
            except InputError as error:
                told.append(str(error))
    return told


def test_ranks_that_know_of_a_failed_write_at_different_times_act_alike(
    run_distributed: Callable[..., list[Any]], tmp_path: Path
) -> None:
    first, second = run_distributed(2, fail_on_the_second_rank, str(tmp_path))
    assert len(first) == 1 and "no space left" in first[0]
    assert second == first * 2


def write_while_training(folder: str) -> list[dict[str, torch.Tensor]]:
    """On several ranks, with collectives of the training between those of the writing."""
    run = make_run(1)
    writer = writer_of(Path(folder), run, background=True)
    moments = []
    for iteration in range(1, 6):
        moments.append(content(*run))
        writer.write(iteration, CONTENTS)
        train_on(run)
        for step in range(50):
            value = torch.full((64,), float(rank() + step))
            torch.distributed.all_reduce(value)
            assert value.eq(2 * step + 1).all()
    writer.close()
    return moments


def test_two_ranks_write_in_the_background_between_their_own_collectives(
    run_distributed: Callable[..., list[Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first, second = run_distributed(2, write_while_training, str(tmp_path))
    request.getfixturevalue("one_rank")
    for number, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        heads = {name: torch.cat([one[name], other[name]]) for name in ("head", "m.head")}
        assert_same(resume(tmp_path / f"net_{number}.pt"), one | heads)
