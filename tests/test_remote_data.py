"""Training on shards of an object store: the same losses as from a folder, and plain words when it fails."""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fr.data import storage
from fr.data.formats import read_training_faces
from fr.data.order import Order, Windows
from fr.data.prefetch import Prefetch, files_of
from fr.data.readers.tar_shards import read_tar
from fr.data.storage import RemoteShards
from fr.errors import InputError
from fr.files import remote
from fr.files.data_root import DataRoot
from fr.randomness import Purpose, generator
from tests.builders.object_store import ObjectStore, serving
from tests.builders.tar_shards import packed, sample, write_shard
from tests.builders.training_formats import option_problems
from tests.conftest import Losses, same_weights, vgg_faces, weights

pytest.importorskip("s3fs", reason="s3fs isn't installed: bash init_venv.sh --with remote")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 5)
    storage._store.cache_clear()
    yield
    storage._store.cache_clear()


@pytest.fixture(scope="module")
def shards(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample data in 16 tar files."""
    out = tmp_path_factory.mktemp("shards")
    packed(vgg_faces(sample_data), out, 16)
    return out


@pytest.fixture(scope="module")
def bucket(shards: Path) -> Iterator[str]:
    """URL of the shards in a store that speaks S3."""
    moto = pytest.importorskip("moto.server", reason="moto isn't installed: bash init_venv.sh --with dev")
    import fsspec

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name, value in settings.items():
            patch.setenv(f"AWS_{name}", value)
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("faces")
        for path in shards.glob("*.tar"):
            files.put_file(str(path), f"faces/packed/{path.name}")
        yield "s3://faces/packed"
    server.stop()


def words(root: str | Path, *more: str) -> list[str]:
    empty = [word for name in ("list", "landmarks") for word in (f"--train_{name}", "")]
    return ["--train_dataset", "tar", "--train_data_root", str(root), *empty, *more]


# --- training ---------------------------------------------------------------------------------------------------------


def test_shards_of_s3_lose_what_those_in_a_folder_lose_and_resume(
    run_small: Callable[..., Losses], shards: Path, bucket: str, tmp_path: Path
) -> None:
    window = ["--shuffle_window", "5", "--max_iterations", "30"]
    expected = run_small(*words(shards, *window), out=tmp_path / "local")
    cached = ["--shard_cache", str(tmp_path / "cache"), "--data_cache", str(tmp_path / "lists")]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_small(*words(bucket, *window, *cached), out=whole) == expected
    run_small(*words(bucket, *window, *cached, "--max_iterations", "11"), out=parts)
    assert run_small(*words(bucket, *window, *cached, "--snap_to_resume", "auto"), out=parts) == expected
    assert same_weights(weights(parts, 30), weights(whole, 30))
    assert run_small(*words(shards, *window, "--shuffle_window", "3"), out=tmp_path / "other") != expected


def test_a_cache_smaller_than_the_data_is_enough(
    run_small: Callable[..., Losses], shards: Path, bucket: str, tmp_path: Path
) -> None:
    sizes = sorted(path.stat().st_size for path in shards.glob("*.tar"))
    limit = 4 * sizes[-1]
    assert limit < sum(sizes)
    window = ["--shuffle_window", "2", "--max_iterations", "30"]
    folder = tmp_path / "cache"
    cached = ["--shard_cache", str(folder), "--shard_cache_gb", str(limit / 1e9), "--data_cache", "none"]
    expected = run_small(*words(shards, *window), out=tmp_path / "local")
    assert run_small(*words(bucket, *window, *cached), out=tmp_path / "remote") == expected
    assert sum(path.stat().st_size for path in folder.iterdir() if not path.suffix) <= limit


# --- reading ----------------------------------------------------------------------------------------------------------


def small_shards(count: int, folder: Path) -> dict[str, bytes]:
    """Files of a store: shard i holds images `i.0` and `i.1` of identities 0 and 1."""
    contents = {}
    for i in range(count):
        images = [sample(f"{i}/{j}", str(j), f"image {i}.{j}".encode()) for j in range(2)]
        write_shard(folder / "x.tar", images[0] | images[1])
        contents[f"data/{i}.tar"] = (folder / "x.tar").read_bytes()
    (folder / "x.tar").unlink()
    (folder / "list.txt").write_text("".join(f"{i}.tar\n" for i in range(count)))
    return contents


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    with serving(ObjectStore(small_shards(6, tmp_path))) as served:
        yield served


def options(store: ObjectStore, folder: Path, **more: object) -> dict[str, object]:
    return {
        "train_dataset": "tar",
        "train_data_root": store.url,
        "train_list": str(folder / "list.txt"),
        "shard_cache": str(folder / "shards"),
        "shard_cache_gb": 1.0,
        "data_cache": str(folder / "lists"),
    } | more


def test_what_is_read_is_what_the_same_shards_in_a_folder_hold(store: ObjectStore, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    for name, content in store.files.items():
        (local / Path(name).name).write_bytes(content)
    expected = read_tar(DataRoot(local), "", aligned=False)
    for _ in range(2):  # the second from the cache of lists, without a request for content
        faces = read_training_faces(options(store, tmp_path))
        assert isinstance(faces.storage, RemoteShards)
        assert faces.fingerprint() == expected.fingerprint()
        assert faces.path(3) == f"{store.url}/1.tar: 1/1.jpg"
        for row in (11, *range(11)):
            assert faces.read(row).tobytes() == expected.read(row).tobytes() == f"image {row // 2}.{row % 2}".encode()
        assert sum(store.gets.values()) == 6
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    storage.close_unused()
    part = faces.take(np.array([7]))
    assert part.read(0).tobytes() == b"image 3.1"  # downloaded when it is read
    assert sum(store.gets.values()) == 7
    store.files["data/3.tar"] = store.files["data/3.tar"].replace(b"image 3.0", b"IMAGE 3.0")
    assert read_training_faces(options(store, tmp_path)).read(6).tobytes() == b"IMAGE 3.0"


def test_problems_in_a_shard_are_named_by_its_url(store: ObjectStore, tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", {"a.jpg": b"", "a.cls": b""})
    store.files["data/1.tar"] = (tmp_path / "x.tar").read_bytes()
    with pytest.raises(InputError, match=rf"^{store.url}/1.tar: a.cls: '' isn't a class"):
        read_training_faces(options(store, tmp_path))
    store.files["data/1.tar"] = b"no tar at all" * 99
    with pytest.raises(InputError, match=rf"^{store.url}/1.tar: not an uncompressed tar file"):
        read_training_faces(options(store, tmp_path))
    del store.files["data/1.tar"]
    with pytest.raises(InputError, match=rf"^{store.url}/1.tar: no such file there"):
        read_training_faces(options(store, tmp_path))
    with pytest.raises(InputError, match="a web server doesn't list its files: give --train_list"):
        read_training_faces(options(store, tmp_path, train_list=""))
    store.files["data/1.tar"] = store.files["data/0.tar"]
    with pytest.raises(InputError, match=r"--shard_cache_gb 1e-06: 4 shards, which are read at a time, take "):
        read_training_faces(options(store, tmp_path, shard_cache_gb=1e-6))


def test_an_empty_bucket_is_said(bucket: str, tmp_path: Path) -> None:
    given = {"train_dataset": "tar", "shard_cache": str(tmp_path), "shard_cache_gb": 1.0, "data_cache": "none"}
    for url in ("s3://faces/nothing", "s3://nowhere/nothing"):
        with pytest.raises(InputError, match=rf"^--train_data_root {url}: no \*.tar in it or below, or no such folder"):
            read_training_faces(given | {"train_data_root": url})


def test_a_request_is_repeated_by_nobody_but_us(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs repeats a failed request five times, and botocore, below it, each of these; both wait in between."""
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url.removesuffix("/data"))
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "x")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        bucket = remote.Store("s3://data")
        assert bucket.read("0.tar", 0, 5) == store.files["data/0.tar"][:5]
        store.gets.clear()
        store.fail = lambda path, number: 503
        with pytest.raises(remote.RemoteFailure, match="6 tries in"):
            bucket.read("0.tar", 0, 5)
        assert store.gets == {"data/0.tar": 6}  # WAITS_S + 1
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_two_runs_share_a_cache_and_neither_waits_for_the_other(store: ObjectStore, tmp_path: Path) -> None:
    """Shards that are there are read, and the others are downloaded, while the other run is amid a download."""
    faces = read_training_faces(options(store, tmp_path))
    assert isinstance(faces.storage, RemoteShards)
    for path in (tmp_path / "shards").glob("*"):
        if path != Path(faces.storage.file(faces.root, 0)):
            path.unlink()
    storage.close_unused()
    other = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print(1, flush=True); input()"
    for held, others in ((0, 4), (2, 6)):  # the rows of a file that is there, and of one that isn't
        lock = Path(faces.storage.file(faces.root, held)).with_suffix(".lock")
        with subprocess.Popen(
            [sys.executable, "-c", other, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as run:
            assert run.stdout and run.stdin and run.stdout.read(1) == b"1"
            began = time.monotonic()
            if held == 0:
                assert faces.read(0).tobytes() == b"image 0.0"
            faces.storage.fetch_ahead(faces.root, held // 2)
            assert faces.read(others).tobytes() == f"image {others // 2}.0".encode()
            assert time.monotonic() - began < 10
            run.stdin.write(b"\n")
            run.stdin.close()
    assert faces.read(2).tobytes() == b"image 1.0"


# --- ahead ------------------------------------------------------------------------------------------------------------


def test_the_next_window_is_downloaded_while_the_current_one_is_shown(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = read_training_faces(options(store, tmp_path))
    assert isinstance(faces.storage, RemoteShards)
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    files = files_of(faces)
    assert files is not None
    order = Order(12, 2, 0, windows=Windows(files, 1))
    store.gets.clear()
    touched: list[int] = []
    monkeypatch.setattr(RemoteShards, "touch", lambda _storage, _root, shard: touched.append(shard))
    ahead = Prefetch(faces, order)
    turns = Windows(files, 1).turns(generator(0, Purpose.ORDER, 0)).tolist()
    for iteration, wanted in enumerate(itertools.pairwise(turns)):
        ahead(iteration)
        assert touched[2 * iteration :] == [*wanted][::-1]  # the current one last: it is removed after the next
        deadline = time.monotonic() + 20
        names = {f"data/{file}.tar" for file in wanted}
        while not names <= set(store.gets) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert set(store.gets) >= names
        assert len(store.gets) == iteration + 2  # no more than that


def test_a_file_that_can_not_be_downloaded_ahead_fails_where_it_is_read(store: ObjectStore, tmp_path: Path) -> None:
    faces = read_training_faces(options(store, tmp_path))
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    files = files_of(faces)
    assert files is not None
    store.fail = lambda *_: 503
    ahead = Prefetch(faces, Order(12, 2, 0, windows=Windows(files, 3)))
    ahead(0)
    storage.close_unused()
    with pytest.raises(InputError, match=r"/data/0.tar: 6 tries in \d s failed, the last with: 503"):
        faces.read(0)
    store.fail = lambda *_: 0
    assert faces.read(0).tobytes() == b"image 0.0"


def test_a_cache_too_small_for_two_windows_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    size = len(store.files["data/0.tar"])
    faces = read_training_faces(options(store, tmp_path, shard_cache_gb=5 * size / 1e9))
    files = files_of(faces)
    assert files is not None
    Prefetch(faces, Order(12, 2, 0, windows=Windows(files, 2)))
    with pytest.raises(InputError, match=r"the next window of 3 shards take up to .* smaller --shuffle"):
        Prefetch(faces, Order(12, 2, 0, windows=Windows(files, 3)))


def test_a_store_that_fails_amid_a_training_ends_it_with_a_snapshot(
    run_small: Callable[..., Losses], shards: Path, tmp_path: Path
) -> None:
    """And a run that resumes when it is back loses what one that nothing happened to lost."""
    files = {f"data/{path.name}": path.read_bytes() for path in shards.glob("*.tar")}
    (tmp_path / "list.txt").write_text("".join(f"{path.name}\n" for path in sorted(shards.glob("*.tar"))))
    limit = 4 * max(map(len, files.values())) / 1e9
    window = ["--shuffle_window", "2", "--max_iterations", "30"]
    local = words(shards, *window, "--train_list", str(tmp_path / "list.txt"))
    expected = run_small(*local, out=tmp_path / "local")
    with serving(ObjectStore(files)) as served:
        cached = ["--shard_cache", str(tmp_path / "cache"), "--shard_cache_gb", str(limit)]
        remote_words = words(served.url, *window, *cached, "--train_list", str(tmp_path / "list.txt"))
        given = dict(zip(remote_words[::2], remote_words[1::2], strict=True))
        read_training_faces({name.lstrip("-"): value for name, value in given.items()} | {
            "shard_cache_gb": limit, "data_cache": "auto"
        })
        log = tmp_path / "out/logs/log.jsonl"
        served.fail = lambda *_: 403 if log.exists() and log.read_text().count("\n") > 2 else 0
        with pytest.raises(InputError, match=r"\.tar: refused: 403.*are the credentials there"):
            run_small(*remote_words, out=tmp_path / "out")
        snapshots = sorted((tmp_path / "out/snapshots").glob("*.pt"))
        assert snapshots
        served.fail = lambda *_: 0
        assert run_small(*remote_words, "--snap_to_resume", "auto", out=tmp_path / "out") == expected


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_of_urls_and_windows_that_do_not_fit_are_refused() -> None:
    url = ["--train_data_root", "s3://b/x"]
    assert option_problems(*url, "--train_dataset", "tar") == (
        "--shuffle_window is required by a URL as --train_data_root: shards to hold at a time",
    )
    assert option_problems(*url, "--train_dataset", "folder", "--aligned") == (
        "--train_data_root: a URL goes with --train_dataset tar, not folder",
    )
    assert option_problems("--train_dataset", "tar", "--shard_cache_gb", "5") == (
        "command line: --shard_cache_gb: no effect without a URL as --train_data_root",
    )
    assert option_problems("--train_dataset", "rec", "--shuffle_window", "5") == (
        "command line: --shuffle_window: goes with --train_dataset tar, parquet; here rec",
    )
    assert option_problems("--train_dataset", "tar", "--shuffle_window", "5", "--weighted") == (
        "command line: --shuffle_window: not with --weighted or --images_per_identity",
    )
