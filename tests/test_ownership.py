"""Ownership of a prefix: a run writes among its own snapshots alone, and one run at a time."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch

import train
from fr.checkpoint.ownership import claim, locked, patience, remove_others
from fr.checkpoint.snapshot import read
from fr.checkpoint.snapshot_writer import Kept, SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.errors import InputError
from fr.train.learner import Learner
from tests.builders.snapshots import CONTENTS, make_run, names
from tests.conftest import ROOT, TINY, data_options, folders, one_layer


def write(folder: Path, iteration: int, run_id: str, prefix: str = "net") -> Path:
    """A snapshot of a run, as far as anybody looks who only asks whose it is."""
    path = folder / f"{prefix}_{iteration}.pt"
    entries = {**CONTENTS.as_dict(), "iteration": iteration, "run_id": run_id, "state_dict": {"w": torch.zeros(3)}}
    torch.save(entries, path)
    path.with_suffix(".state").mkdir()
    return path


@pytest.fixture
def folder(tmp_path: Path, one_rank: None) -> Path:
    for iteration in (5, 20, 100):
        write(tmp_path, iteration, "ours")
    return tmp_path


def numbers(paths: list[Path]) -> list[int]:
    return [int(path.stem.removeprefix("net_")) for path in paths]


def test_auto_is_the_newest_first_and_a_name_is_that_alone(folder: Path) -> None:
    assert numbers(claim("auto", folder, "net", "job").resumable) == [100, 20, 5]
    assert claim("auto", folder, "other", "job").resumable == []
    assert claim(str(folder / "net_20.pt"), folder, "net", "job").resumable == [folder / "net_20.pt"]
    assert claim("", folder, "other", "job").resumable == []


def test_a_prefix_in_use_is_refused_unless_resumed_or_overwritten(folder: Path) -> None:
    with pytest.raises(InputError, match=r"net_100\.pt is an earlier run's, .*--snap_to_resume auto.*--overwrite"):
        claim("", folder, "net", "job")
    assert claim("auto", folder, "net", "job").others == []
    assert numbers(claim("", folder, "net", "job", overwrite=True).others) == [100, 20, 5]
    (folder / "net_100.pt").write_bytes(b"")  # nobody knows whose
    assert numbers(claim("", folder, "net", "job", overwrite=True).others) == [100, 20, 5]
    (folder / "net_100.state").rmdir()  # weights alone are something to lose, too
    assert numbers(claim("", folder, "net", "job", overwrite=True).others) == [100, 20, 5]


@pytest.mark.parametrize("choice", ["", "auto"])
def test_weights_without_a_state_are_not_said_to_be_resumable(choice: str, one_rank: None, tmp_path: Path) -> None:
    """As of tools/import_weights.py; --snap_to_resume auto can't work."""
    write(tmp_path, 4, "imported").with_suffix(".state").rmdir()
    with pytest.raises(InputError, match=r"has no net_4\.state .*--init_from .*net_4\.pt .*--overwrite") as refusal:
        claim(choice, tmp_path, "net", "job")
    assert "snap_to_resume" not in str(refusal.value)
    assert numbers(claim(choice, tmp_path, "net", "job", overwrite=True).others) == [4]


def test_a_resumed_run_is_kept_apart_from_another_ones_snapshots(folder: Path) -> None:
    write(folder, 30, "theirs")
    with pytest.raises(InputError, match=r"net_30\.pt is another run's than .*net_100\.pt: .*--overwrite"):
        claim("auto", folder, "net", "job")
    found = claim("auto", folder, "net", "job", overwrite=True)
    assert numbers(found.resumable) == [100, 20, 5] and numbers(found.others) == [30]
    elsewhere = write(folder, 7, "theirs", prefix="elsewhere")
    with pytest.raises(InputError, match=r"net_100\.pt is another run's than .*elsewhere_7\.pt"):
        claim(str(elsewhere), folder, "net", "job")
    remove_others(found.others)
    left = ("net_5", "net_20", "net_100", "elsewhere_7")
    assert names(folder) == {f"{one}.{kind}" for one in left for kind in ("pt", "state")}


def test_snapshots_of_before_there_were_ids_are_gone_on_from(one_rank: None, tmp_path: Path) -> None:
    for iteration in (2, 4):
        path = write(tmp_path, iteration, "")
        stored = torch.load(path, weights_only=True)
        del stored["run_id"]
        torch.save(stored, path)
    assert numbers(claim("auto", tmp_path, "net", "job").resumable) == [4, 2]
    with pytest.raises(InputError, match="earlier run's"):
        claim("", tmp_path, "net", "job")


def test_a_damaged_newest_is_tried_and_hides_no_owner(folder: Path) -> None:
    (folder / "net_100.pt").write_bytes(b"torn")
    assert numbers(claim("auto", folder, "net", "job").resumable) == [100, 20, 5]  # resuming tells of the first


def test_a_restarted_job_goes_on_from_its_own_whatever_it_began_with(folder: Path) -> None:
    again = partial(claim, restarted=True)
    assert numbers(again("", folder, "net", "ours").resumable) == [100, 20, 5]
    assert numbers(again("auto", folder, "net", "ours").resumable) == [100, 20, 5]
    first = write(folder, 3, "ours", prefix="elsewhere")
    assert numbers(again(str(first), folder, "net", "job").resumable[:-1]) == [100, 20, 5]
    assert again(str(first), folder, "other", "job").resumable == [first]  # none written yet


def test_a_job_refused_for_an_earlier_ones_snapshots_is_refused_again_when_restarted(folder: Path) -> None:
    with pytest.raises(InputError, match=r"net_100\.pt is an earlier run's"):
        claim("", folder, "net", "another job", restarted=True)


def test_a_snapshot_is_the_same_however_its_path_is_spelt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    for spelt in ("net_100.pt", "./net_100.pt", f"../{folder.name}/net_100.pt"):
        assert claim(spelt, folder, "net", "job").resumable == [folder / "net_100.pt"]
        assert numbers(claim(spelt, folder, "net", "job", restarted=True).resumable) == [100, 20, 5]


def test_a_job_that_may_be_restarted_does_not_begin_behind_its_newest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(InputError, match=r"net_100\.pt is an earlier run's, .* --snap_to_resume auto"):
        claim(str(folder / "net_20.pt"), folder, "net", "job")
    assert numbers(claim("auto", folder, "net", "job").resumable) == [100, 20, 5]


def test_a_prefix_is_one_runs_at_a_time(folder: Path) -> None:
    with locked(folder, "net"):
        with pytest.raises(InputError, match=rf"\.net\.lock: process {os.getpid()} on .* --snap_prefix"), locked(
            folder, "net"
        ):
            pass
        with locked(folder, "other"):
            pass
    with locked(folder, "net"):
        pass


def test_a_restarted_job_waits_for_the_end_of_its_first_rank_of_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (patience(1, 60), patience(2, 60), patience(2, 600), patience(2, 0)) == (0, 60, 120, 120)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert patience(1, 600) == 120
    with ExitStack() as before:
        before.enter_context(locked(folder, "net"))
        with pytest.raises(InputError, match=r"\.net\.lock"), locked(folder, "net", patience=0.1):
            pass
        threading.Timer(0.3, before.close).start()
        with locked(folder, "net", patience=60):
            pass


def test_a_lock_ends_with_a_process_that_is_killed(folder: Path) -> None:
    code = (
        "import sys, pathlib, torch.distributed as dist; from fr.checkpoint.ownership import locked\n"
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
        "with locked(pathlib.Path(sys.argv[1]), 'net'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid} on "), locked(folder, "net"):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked(folder, "net"):
        pass


def test_a_run_gives_its_snapshots_one_id_which_resuming_keeps(
    sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "build_model", one_layer)

    def run(*options: str, out: Path = tmp_path) -> None:
        assert train.main([*data_options(sample_data), *TINY, *folders(out), "--val_step", "2", *options]) == 0

    def ids() -> dict[int, str]:
        paths = (tmp_path / "snapshots").glob("*.pt")
        return {int(path.stem.removeprefix("tiny_")): read(path).run_id for path in paths}

    run("--max_iterations", "4")
    first = ids()
    assert len({*first.values()}) == 1 and first[4]
    with pytest.raises(InputError, match=r"tiny_4\.pt is an earlier run's"):
        run("--max_iterations", "2", "--keep_snapshots", "1")
    assert ids() == first
    run("--max_iterations", "6", "--snap_to_resume", "auto")
    assert ids() == {**first, 6: first[4]}
    run("--max_iterations", "2", "--overwrite")
    assert len(ids()) == 1 and ids()[2] not in first.values()


def test_old_snapshots_of_another_run_are_not_removed(one_rank: None, tmp_path: Path) -> None:
    """Nor do they, nor a damaged one, count among the newest that are kept."""
    write(tmp_path, 4, "theirs")
    write(tmp_path, 5, CONTENTS.run_id).write_bytes(b"torn")
    state = TrainingState(Learner(*make_run(1)))
    writer = SnapshotWriter(tmp_path, "net", state, (), print, Kept(2))
    for iteration in (2, 3, 6):
        writer.write(iteration, CONTENTS)
    assert names(tmp_path) == {f"net_{i}.{kind}" for i in (3, 4, 5, 6) for kind in ("pt", "state")}
