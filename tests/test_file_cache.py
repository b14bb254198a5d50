"""The cache of remote files, and the store behind it, against a server that fails in the ways of real ones."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fr.errors import InputError
from fr.files import file_cache, remote
from fr.files.file_cache import FileCache
from fr.files.remote import RemoteFailure, RemoteFile, Store
from tests.builders.object_store import ObjectStore, serving

pytest.importorskip("aiohttp", reason="aiohttp isn't installed: bash init_venv.sh --with remote")
PIECE = 1_000  # bytes of a request in these tests
CONTENT = np.random.default_rng(0).bytes(5_500)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setattr(file_cache, "CHUNK", PIECE)
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 5)
    with serving(ObjectStore({"data/a.tar": CONTENT, "data/b.tar": CONTENT[::-1]})) as served:
        yield served


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache", 1 << 30)


def contents(cache: FileCache) -> list[bytes]:
    return [path.read_bytes() for path in cache.folder.iterdir() if not path.suffix]


def fetched(cache: FileCache, store: Store, name: str = "a.tar") -> bytes:
    return cache.fetch(store, store.describe(name), Path.read_bytes)


def failure(store: ObjectStore, cache: FileCache, name: str = "a.tar") -> str:
    remote_store = Store(store.url)
    with pytest.raises(RemoteFailure) as caught:
        file = RemoteFile(name, len(CONTENT), remote_store.describe("b.tar").version)
        cache.fetch(remote_store, file, Path)
    return str(caught.value)


# --- what is downloaded -----------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once_in_parts(store: ObjectStore, cache: FileCache) -> None:
    remote_store = Store(store.url)
    file = remote_store.describe("a.tar")
    assert (file.name, file.size) == ("a.tar", 5_500)
    for _ in range(3):
        assert cache.fetch(remote_store, file, Path.read_bytes) == CONTENT
    assert store.gets["data/a.tar"] == 6
    assert store.sent["data/a.tar"] == 5_500
    assert sorted(path.suffix for path in cache.folder.iterdir()) == ["", ".lock", ".lock", ".sum"]


def test_another_version_is_another_file(store: ObjectStore, cache: FileCache) -> None:
    remote_store = Store(store.url)
    first = cache.fetch(remote_store, remote_store.describe("a.tar"), Path)
    store.files["data/a.tar"] = CONTENT[::-1]
    second = cache.fetch(remote_store, remote_store.describe("a.tar"), Path)
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, CONTENT[::-1])


def test_an_empty_file(store: ObjectStore, cache: FileCache) -> None:
    store.files["data/e.tar"] = b""
    remote_store = Store(store.url)
    assert fetched(cache, remote_store, "e.tar") == b""


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_errors_of_the_server_are_retried_and_end_well(store: ObjectStore, cache: FileCache, status: int) -> None:
    """Two of three requests fail; six tries of each suffice, and nothing is asked for again that came."""
    store.fail = lambda _, number: status if number % 3 else 0
    remote_store = Store(store.url)
    assert fetched(cache, remote_store) == CONTENT
    assert store.sent["data/a.tar"] == 5_500


def test_a_server_that_stays_broken_is_named(store: ObjectStore, cache: FileCache) -> None:
    remote_store = Store(store.url)
    file = remote_store.describe("a.tar")
    store.fail = lambda *_: 500
    with pytest.raises(RemoteFailure, match=r"^http://127.*/data/a.tar: 6 tries in 0 s failed, the last with: 500"):
        cache.fetch(remote_store, file, Path)
    assert contents(cache) == []
    store.fail = lambda *_: 0
    assert cache.fetch(remote_store, file, Path.read_bytes) == CONTENT


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_tried_three_times_and_said(store: ObjectStore, cache: FileCache, status: int) -> None:
    remote_store = Store(store.url)
    file = remote_store.describe("a.tar")
    store.fail, before = (lambda *_: status), store.requests
    with pytest.raises(RemoteFailure, match=rf"/data/a.tar: refused: {status}.*are the credentials there, and still"):
        cache.fetch(remote_store, file, Path)
    assert store.requests - before == 3


def test_credentials_that_are_renewed_in_time_end_well(store: ObjectStore, cache: FileCache) -> None:
    remote_store = Store(store.url)
    file = remote_store.describe("a.tar")
    first = store.requests + 1
    store.fail = lambda _, number: 403 if number in (first, first + 1) else 0
    assert cache.fetch(remote_store, file, Path.read_bytes) == CONTENT


def test_a_file_that_is_gone_is_said_at_once(store: ObjectStore, cache: FileCache) -> None:
    assert failure(store, cache, "c.tar") == f"{store.url}/c.tar: no such file there"
    assert store.gets["data/c.tar"] == 1


def test_answers_that_are_cut_short_are_failures(store: ObjectStore, cache: FileCache) -> None:
    store.cut = 1
    assert "a.tar: 6 tries in 0 s failed, the last with: " in failure(store, cache)
    assert contents(cache) == []


def test_fewer_bytes_than_were_asked_for_are_a_failure(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an answer that is whole otherwise: as from a proxy that keeps an older version."""
    remote_store, missing = Store(store.url), iter([1, 1_000])
    whole = remote_store._fs.cat_file

    def cut(path: str, start: int, end: int) -> bytes:
        content: bytes = whole(path, start=start, end=end)
        return content[: end - start - next(missing, 0)]

    monkeypatch.setattr(remote_store._fs, "cat_file", cut)
    assert remote_store.read("a.tar", 0, 1_000) == CONTENT[:1_000]
    assert store.gets["data/a.tar"] == 3


def test_a_server_without_ranges_is_said(store: ObjectStore, cache: FileCache) -> None:
    store.ranges = False
    said = failure(store, cache)
    assert said.endswith("5,500 bytes came in place of 1,000; does the server know ranges?")


def test_a_file_that_changes_while_it_is_read_is_not_kept(store: ObjectStore, cache: FileCache) -> None:
    remote_store = Store(store.url)
    file = remote_store.describe("a.tar")
    store.fail = lambda path, _: bool(store.files.update({path: CONTENT[::-1]})) if store.gets[path] == 3 else 0
    with pytest.raises(RemoteFailure, match=r"a.tar: changed while it was read, from 5,500 bytes .* start again"):
        cache.fetch(remote_store, file, Path)
    assert contents(cache) == []
    assert not list(cache.folder.glob("*.part"))


def test_a_slow_link_is_waited_for(store: ObjectStore, cache: FileCache) -> None:
    store.slow_s = 0.1
    remote_store, start = Store(store.url), time.monotonic()
    assert fetched(cache, remote_store) == CONTENT
    assert time.monotonic() - start > 0.5


def test_a_server_that_says_nothing_counts_as_failed(
    store: ObjectStore, cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_SILENT_S", 0.1)
    monkeypatch.setattr(remote, "WAITS_S", (0.01,))
    store.slow_s = 1.0
    assert "a.tar: 2 tries in 0 s failed, the last with: " in failure(store, cache)


# --- what is there ----------------------------------------------------------------------------------------------------

_KILLED = """
import sys
from pathlib import Path
from fr.files import file_cache
from fr.files.remote import Store
file_cache.CHUNK = 1_000
store = Store(sys.argv[1])
file_cache.FileCache(Path(sys.argv[2]), 1 << 30).fetch(store, store.describe("a.tar"), Path)
"""


def test_a_killed_download_leaves_nothing_half_and_is_gone_on_with(store: ObjectStore, cache: FileCache) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(path: str, _number: int) -> int:
        if store.gets[path] == 4:
            reached.set()
            go_on.wait(20)
        return 0

    store.fail = hold
    process = subprocess.Popen([sys.executable, "-c", _KILLED, store.url, str(cache.folder)])
    assert reached.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    go_on.set()
    assert contents(cache) == []
    (part,) = cache.folder.glob("*.part")
    assert part.read_bytes() == CONTENT[:3_000]
    store.fail = lambda *_: 0
    remote_store = Store(store.url)
    assert fetched(cache, remote_store) == CONTENT
    assert store.gets["data/a.tar"] == 4 + 3


def test_a_file_that_is_damaged_on_the_disk_is_downloaded_again(store: ObjectStore, cache: FileCache) -> None:
    remote_store = Store(store.url)
    file = remote_store.describe("a.tar")
    path = cache.fetch(remote_store, file, Path)
    with path.open("r+b") as damaged:
        damaged.write(b"\0\0\0")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(path.with_suffix(".sum"), (two_days_ago, two_days_ago))
    assert cache.fetch(remote_store, file, Path.read_bytes) == CONTENT
    assert store.sent["data/a.tar"] == 2 * 5_500
    os.truncate(path, 100)  # which the size tells at once
    assert cache.fetch(remote_store, file, Path.read_bytes) == CONTENT
    os.utime(path.with_suffix(".sum"), (two_days_ago, two_days_ago))
    assert cache.fetch(remote_store, file, Path.read_bytes) == CONTENT  # checked, and kept
    assert store.sent["data/a.tar"] == 3 * 5_500
    assert path.with_suffix(".sum").stat().st_mtime > two_days_ago + 86_400


def test_files_longest_unused_are_removed(store: ObjectStore, tmp_path: Path) -> None:
    for name in "abcde":
        store.files[f"data/{name}.tar"] = name.encode() * 3_000
    remote_store, cache = Store(store.url), FileCache(tmp_path, 10_000)
    files = {name: remote_store.describe(f"{name}.tar") for name in "abcde"}
    for second, name in enumerate("abcadea"):  # three fit
        path = cache.fetch(remote_store, files[name], Path)
        assert path.read_bytes() == name.encode() * 3_000
        os.utime(path.with_suffix(".lock"), (second, second))
        assert sum(map(len, contents(cache))) <= 10_000
    assert {content[:1] for content in contents(cache)} == {b"a", b"d", b"e"}
    assert [store.sent[f"data/{name}.tar"] for name in "abcde"] == [3_000] * 5


def test_files_in_use_stay_and_the_limit_holds_meanwhile(store: ObjectStore, tmp_path: Path) -> None:
    remote_store, cache = Store(store.url), FileCache(tmp_path, 6_000)  # one file fits
    second, largest = remote_store.describe("b.tar"), list[int]()

    def use(path: Path) -> None:
        other.start()
        time.sleep(0.5)
        assert path.read_bytes() == CONTENT
        largest.append(sum(file.stat().st_size for file in tmp_path.iterdir()))

    other = threading.Thread(target=cache.fetch, args=(remote_store, second, Path))
    cache.fetch(remote_store, remote_store.describe("a.tar"), use)
    other.join(20)
    assert contents(cache) == [CONTENT[::-1]]
    assert max(largest) < 6_000
    with pytest.raises(InputError, match=r"no room for b.tar, 5,500 bytes; give a larger --shard_cache_gb"):
        FileCache(tmp_path / "x", 5_000).fetch(remote_store, second, Path)


def test_processes_that_want_the_same_file_download_it_once(store: ObjectStore, cache: FileCache) -> None:
    store.slow_s = 0.05
    processes = [subprocess.Popen([sys.executable, "-c", _KILLED, store.url, str(cache.folder)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0] * 3
    assert contents(cache) == [CONTENT]
    assert store.sent["data/a.tar"] == 5_500


def test_a_folder_that_can_not_be_written_is_said(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remote_store = Store(store.url)
    with pytest.raises(InputError, match=r"^--shard_cache .*/file/x: Not a directory$"):
        FileCache(tmp_path / "file/x", 10_000).fetch(remote_store, remote_store.describe("a.tar"), Path)


def test_a_scheme_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RemoteFailure, match=r"^nowhere://x: can't be opened: "):
        Store("nowhere://x")
