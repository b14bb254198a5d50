"""Mirror of snapshots: copies whole or without their `.pt`, never in the way of a training, and resumed from."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train
from fr.checkpoint.mirror import SnapshotMirror, fetch_newest
from fr.checkpoint.snapshot import read
from fr.checkpoint.snapshot_writer import Kept, SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.errors import InputError
from fr.files import remote
from fr.files.remote import Store
from fr.train.learner import Learner
from tests.builders.snapshots import CONTENTS, assert_same, content, make_run, names, resume
from tests.builders.training_formats import option_problems
from tests.conftest import ROOT, TINY, Losses, data_options, folders, same_weights, small_network, weights

RUN = replace(CONTENTS, run_id="ours")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 3)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of an empty store that speaks S3."""
    moto = pytest.importorskip("moto.server", reason="moto isn't installed: bash init_venv.sh --with dev")
    s3fs = pytest.importorskip("s3fs", reason="s3fs isn't installed: bash init_venv.sh --with remote")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with s3_at(f"http://{host}:{port}"):
        s3fs.S3FileSystem().mkdir("mirrored")
        yield "s3://mirrored/runs"
    server.stop()


@contextmanager
def s3_at(endpoint: str) -> Iterator[None]:
    """In here s3:// is there, by connections made in here."""
    import fsspec

    kind = fsspec.get_filesystem_class("s3")
    facts = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}
    kind.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in facts.items():
            patch.setenv(f"AWS_{name}", value)
        yield
    kind.clear_instance_cache()


def tree(folder: Path) -> dict[str, bytes]:
    """Content of all files below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, url: str, *iterations: int, run_id: str = "ours", **settings: Any) -> list[str]:
    """Snapshots of a run of that seed each, copied one after the other; what was said."""
    lines: list[str] = []
    mirror = SnapshotMirror(url, run_id, 60, lines.append)
    for iteration in iterations:
        state = TrainingState(Learner(*make_run(iteration)))
        writer = SnapshotWriter(folder, "net", state, ["Zoë"], lines.append, mirror=mirror, **settings)
        writer.write(iteration, replace(RUN, run_id=run_id))
    mirror.close()
    return lines


def failing_at(number: int, monkeypatch: pytest.MonkeyPatch, failure: Callable[[], None]) -> list[str]:
    """Have the write of that number, from 0, fail; names of the files that are written."""
    written: list[str] = []
    genuine = Store.write

    def broken(store: Store, name: str, source: Path) -> None:
        if len(written) == number:
            failure()
        written.append(name)
        genuine(store, name, source)

    monkeypatch.setattr(Store, "write", broken)
    return written


def assert_soon(event: threading.Event) -> None:
    assert event.wait(60)


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_copy_has_the_bytes_of_the_snapshot_and_its_pt_comes_last(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = failing_at(-1, monkeypatch, lambda: None)
    for form in ("there", f"file://{tmp_path}/as_url"):
        lines = write(tmp_path / "here", str(tmp_path / form) if form == "there" else form, 5)
    assert f"copied {tmp_path}/here/net_5.pt to file://{tmp_path}/as_url/ours" in lines
    assert tree(tmp_path / "there/ours") == tree(tmp_path / "as_url/ours") == tree(tmp_path / "here")
    assert [name for name in written if name.endswith(".pt")] == [written[-1]] * 2
    assert len(written) == 2 * len(tree(tmp_path / "here"))


def test_what_is_there_is_not_copied_again_and_what_has_changed_is(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, url = tmp_path / "here", str(tmp_path / "there")
    write(here, url, 5)
    written = failing_at(-1, monkeypatch, lambda: None)
    write(here, url, 6)
    assert {name[:5] for name in written} == {"net_6"}
    (tmp_path / "there/ours/net_5.pt").write_bytes(b"cut")
    shutil.rmtree(here / "net_6.state")
    (here / "net_6.pt").unlink()
    state = TrainingState(Learner(*make_run(9)))  # as of a run that went on from another snapshot
    mirror = SnapshotMirror(url, "ours", 60, print)
    SnapshotWriter(here, "net", state, ["Zoë"], print, mirror=mirror).write(6, RUN)
    mirror.close()
    assert tree(tmp_path / "there/ours") == tree(here)


def test_a_copy_that_fails_leaves_no_pt_and_is_made_with_the_next(one_rank: None, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, "", 5)
    count = len(tree(here))

    def fail() -> None:
        raise RuntimeError("a cable was pulled")

    for number in range(count):
        with pytest.MonkeyPatch.context() as patch:
            failing_at(number, patch, fail)
            lines = write(here, str(there), 5)
        assert [line for line in lines if "not copied" in line] == [
            f"{here}/net_5.pt: not copied: a cable was pulled; tried again with the next snapshot"
        ]
        assert "net_5.pt" not in names(there / "ours") if number else not there.exists()
    write(here, str(there), 6)
    assert tree(there / "ours") == tree(here)


@pytest.mark.parametrize("ending", [pytest.param(".distcp", marks=pytest.mark.thorough), ".pt"])
def test_a_copy_killed_amid_a_file_leaves_no_pt(one_rank: None, tmp_path: Path, ending: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, "", 5)
    script = f"""
import os, shutil, sys
from pathlib import Path
from fr.checkpoint.mirror import SnapshotMirror
import torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
def copy(source, target, size):
    target.write(source.read(100))
    target.flush()
    if source.name.endswith({ending!r}):
        os.kill(os.getpid(), 9)
    shutil.copyfileobj.__wrapped__(source, target)
copy.__wrapped__ = shutil.copyfileobj
shutil.copyfileobj = copy
mirror = SnapshotMirror(sys.argv[2], "ours", 60, print)
mirror.offer([Path(sys.argv[1])])
mirror.close()
"""
    ended = subprocess.run([sys.executable, "-c", script, str(here / "net_5.pt"), str(there)], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (there / "ours/net_5.state").is_dir() and not (there / "ours/net_5.pt").exists()
    assert fetch_newest(str(there), tmp_path / "empty", "net") == [f"{there}: no snapshot of net there yet"]
    write(here, str(there), 6)  # the next copies it, too
    assert tree(here).items() <= tree(there / "ours").items()


def test_a_snapshot_that_is_being_copied_is_not_removed_and_the_others_stay_in_the_mirror(
    one_rank: None, tmp_path: Path
) -> None:
    going, copied = threading.Event(), threading.Event()
    here, there = tmp_path / "here", tmp_path / "there"

    def wait() -> None:
        copied.set()
        assert_soon(going)

    with pytest.MonkeyPatch.context() as patch:
        failing_at(3, patch, wait)
        mirror = SnapshotMirror(str(there), "ours", 60, print)
        for iteration in (1, 2, 3):
            state = TrainingState(Learner(*make_run(iteration)))
            writer = SnapshotWriter(here, "net", state, (), print, Kept(1), mirror=mirror)
            writer.write(iteration, replace(RUN, metrics={}))  # no accuracy: none is the best
            assert_soon(copied)
        assert {name for name in names(here) if name.endswith(".pt")} == {"net_1.pt", "net_3.pt"}
        going.set()
        mirror.close()
    write(here, str(there), 4, kept=Kept(1))
    assert {name for name in names(here) if name.endswith(".pt")} == {"net_4.pt"}
    assert {name for name in names(there / "ours") if name.endswith(".pt")} == {"net_1.pt", "net_3.pt", "net_4.pt"}


def test_the_end_of_a_run_waits_for_a_copy_no_longer_than_it_may(one_rank: None, tmp_path: Path) -> None:
    over, lines = threading.Event(), list[str]()
    write(tmp_path / "here", "", 5)
    with pytest.MonkeyPatch.context() as patch:
        failing_at(0, patch, lambda: assert_soon(over))
        mirror = SnapshotMirror(str(tmp_path / "there"), "ours", 0.2, lines.append)
        mirror.offer([tmp_path / "here/net_5.pt"])
        mirror.close()
        assert lines == [
            f"{tmp_path}/there/ours: not waiting any longer after 0.2 s: lacks {tmp_path}/here/net_5.pt"
        ]
        over.set()
        mirror._thread.join()


# --- fetched ----------------------------------------------------------------------------------------------------------


def test_the_newest_whole_snapshot_is_fetched_as_it_was(one_rank: None, tmp_path: Path) -> None:
    here, there, empty = tmp_path / "here", tmp_path / "there", tmp_path / "empty"
    write(here, str(there), 5, 20, 100)
    empty.mkdir()
    assert fetch_newest(str(there), empty, "net") == [f"fetched {there}/ours/net_100.pt"]
    assert tree(empty) == {name: data for name, data in tree(here).items() if name.startswith("net_100")}
    assert_same(resume(empty / "net_100.pt"), content(*make_run(100)))
    assert fetch_newest(str(there), empty, "net") == []  # what is local comes first
    assert fetch_newest(str(there), tmp_path / "other", "other") == [f"{there}: no snapshot of other there yet"]


@pytest.mark.parametrize("part", ["net_9.pt", "net_9.state/__0_0.distcp", "net_9.state/SHA256SUMS"])
def test_a_damaged_copy_makes_way_for_the_one_before(one_rank: None, tmp_path: Path, part: str) -> None:
    there, empty = tmp_path / "there", tmp_path / "empty"
    write(tmp_path / "here", str(there), 5, 9)
    path = there / "ours" / part
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    (empty / "net_5.state").mkdir(parents=True)  # left by a killed fetch
    (empty / "net_5.state/rest").touch()
    notes = fetch_newest(str(there), empty, "net")
    assert len(notes) == 2 and str(path.name) in notes[0] and notes[1] == f"fetched {there}/ours/net_5.pt"
    assert {name for name in tree(empty) if not name.startswith(".")} == {
        name for name in tree(tmp_path / "here") if name.startswith("net_5")
    }
    shutil.rmtree(empty)
    empty.mkdir()
    (there / "ours/net_5.state/SHA256SUMS").unlink()
    with pytest.raises(InputError) as refusal:  # nothing whole is no reason to begin anew
        fetch_newest(str(there), empty, "net")
    assert len(refusal.value.problems) == 2


def test_of_two_runs_the_one_that_wrote_last_is_fetched(one_rank: None, tmp_path: Path) -> None:
    there = tmp_path / "there"
    for run_id, iteration, written in (("theirs", 50, 2_000_000_000), ("ours", 5, 2_000_000_100)):
        write(tmp_path / run_id, str(there), iteration, run_id=run_id)
        os.utime(there / run_id / f"net_{iteration}.pt", (written, written))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fetch_newest(str(there), empty, "net") == [f"fetched {there}/ours/net_5.pt"]
    assert read(empty / "net_5.pt").run_id == "ours"


def fetch_on_a_rank(url: str, folder: str) -> str:
    try:
        return " ".join(fetch_newest(url, Path(folder), "net"))
    except InputError as error:
        return str(error)


def test_all_ranks_learn_what_was_fetched_or_that_nothing_can_be(
    one_rank: None, run_distributed: Callable[..., list[str]], tmp_path: Path
) -> None:
    there, empty = tmp_path / "there", tmp_path / "empty"
    write(tmp_path / "here", str(there), 5)
    (there / "ours/net_5.pt").write_bytes(b"cut")
    empty.mkdir()
    failures = run_distributed(2, fetch_on_a_rank, str(there), str(empty))
    assert failures == [
        f"{there}/ours/net_5.pt: not a snapshot, or damaged",
        "rank 0 couldn't fetch a snapshot from --snap_mirror",
    ]
    write(tmp_path / "here", str(there), 6)
    assert run_distributed(2, fetch_on_a_rank, str(there), str(empty)) == [f"fetched {there}/ours/net_6.pt"] * 2


# --- training ---------------------------------------------------------------------------------------------------------

STEPS = ["--max_iterations", "9", "--val_step", "3"]


@pytest.fixture(scope="module")
def undisturbed(run_small: Callable[..., Losses], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Losses]:
    out = tmp_path_factory.mktemp("undisturbed")
    return out, run_small(*STEPS, out=out)


@pytest.mark.parametrize("kind", ["folder", pytest.param("s3", marks=pytest.mark.thorough)])
def test_a_run_in_an_empty_folder_goes_on_from_the_mirror(
    run_small: Callable[..., Losses],
    undisturbed: tuple[Path, Losses],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = f"file://{tmp_path}/mirror" if kind == "folder" else request.getfixturevalue("bucket")
    mirrored = [*STEPS, "--snap_mirror", url, "--snap_to_resume", "auto"]
    whole, expected = undisturbed
    assert run_small(*mirrored, "--max_iterations", "6", out=tmp_path / "lost") == expected[:6]
    shutil.rmtree(tmp_path / "lost")
    assert run_small(*mirrored, out=tmp_path / "again") == expected[6:]
    assert same_weights(weights(tmp_path / "again", 9), weights(whole, 9))
    assert "/tiny_6.pt" in capfd.readouterr().err.partition(f"fetched {url}/")[2].splitlines()[0]
    store = Store(url)
    copied = [file.name.partition("/")[2] for file in store.find(".pt")]
    assert copied == ["tiny_3.pt", "tiny_6.pt", "tiny_9.pt"]
    last = next(file for file in store.find("_9.pt"))
    assert store.read(last.name, 0, last.size) == (tmp_path / "again/snapshots/tiny_9.pt").read_bytes()


def test_a_mirror_out_of_reach_changes_no_loss_and_is_said_once_a_snapshot(
    run_small: Callable[..., Losses],
    undisturbed: tuple[Path, Losses],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    url = f"{tmp_path}/file/mirror"
    assert run_small(*STEPS, "--snap_mirror", url, out=tmp_path / "out") == undisturbed[1]
    said = [line for line in capfd.readouterr().err.splitlines() if "not copied" in line]
    newest = f"{tmp_path}/out/snapshots/tiny_9.pt: not copied: {url}/"
    assert 1 <= len(said) <= 3 and said[-1].startswith(newest) and "4 tries in" in said[-1]
    assert names(tmp_path / "out/snapshots") >= {"tiny_3.pt", "tiny_6.pt", "tiny_9.pt"}


def test_a_run_that_a_signal_stops_waits_for_a_shorter_time(
    sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    over = threading.Event()
    failing_at(0, monkeypatch, lambda: assert_soon(over))
    monkeypatch.setattr(train, "STOPPED_S", 0.3)
    monkeypatch.setattr(train, "build_model", small_network(signal_at=2))
    mirrored = [*STEPS, "--snap_mirror", str(tmp_path / "mirror")]
    assert train.main([*data_options(sample_data), *TINY, *mirrored, *folders(tmp_path)]) == 128 + signal.SIGTERM
    over.set()
    assert f"not waiting any longer after 0.3 s: lacks {tmp_path}/snapshots/tiny_3.pt" in capfd.readouterr().err


def test_no_run_begins_anew_while_the_mirror_is_out_of_reach(run_small: Callable[..., Losses], tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="s3fs isn't installed: bash init_venv.sh --with remote")
    mirrored = ["--snap_mirror", "s3://mirrored/runs", "--snap_to_resume", "auto"]
    with s3_at("http://127.0.0.1:1"), pytest.raises(InputError, match=r"^--snap_mirror s3://mirrored/runs: 4 tries in"):
        run_small(*mirrored, out=tmp_path)
    assert not (tmp_path / "logs").exists()
    run_small(out=tmp_path)
    with s3_at("http://127.0.0.1:1"):  # a local one is enough
        assert len(run_small(*mirrored, "--max_iterations", "5", out=tmp_path)) == 5


def test_a_mirror_that_can_not_be_is_refused() -> None:
    assert option_problems("--snap_mirror", "https://server/x")[0] == (
        "command line: --snap_mirror: expected a folder, or a URL such as s3:// or gs://, got 'https://server/x'"
    )
