"""The data cache: what comes out of it is what went in, or nothing does; ranks and starts share it."""

import contextlib
import dataclasses
import io
import os
import re
import resource
import signal
import time
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.multiprocessing import ProcessExitedException

from fr.data import cache, formats
from fr.data.cache import _MAGIC, _TAIL, Damaged, Entry, cache_folder
from fr.data.distributed_reading import read_on_all_ranks
from fr.data.faces import LabelledFaces
from fr.data.formats import read_training_faces
from fr.data.readers.source import Source
from fr.data.storage import RecordFile, TarShards
from fr.distributed import Ranks
from fr.errors import InputError
from fr.files.data_root import DataRoot
from tests.bounds import bounded
from tests.conftest import Losses, same_weights, weights

LONG_AGO = 1_600_000_000  # seconds since 1970
POINTS = [30.5, 40.25, 70.0, 41.0, 50.0, 60.0, 35.0, 80.0, 65.0, 81.5]
SHARED_FOLDER = [HealthCheck.function_scoped_fixture]  # each example writes what it reads


def same(first: object, second: object) -> bool:
    """Test if both have the same types and, bit for bit, the same content, in dataclasses, tuples and arrays too."""
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if dataclasses.is_dataclass(first):
        return all(
            same(getattr(first, field.name), getattr(second, field.name))
            for field in dataclasses.fields(first)
            if field.init
        )
    return bool(first.equals(second) if isinstance(first, pa.StringArray) else first == second)


class Data:
    """Images (empty files), their list and their landmarks, old enough to be cached."""

    def __init__(self, folder: Path) -> None:
        self.root, self.list_file, self.table = folder / "images", folder / "list.txt", folder / "points.csv"
        self.cache = folder / "cache"
        for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()
        header = "NAME_ID," + ",".join(f"P{point}{axis}" for point in range(1, 6) for axis in "XY")
        moved = [",".join(str(value + shift) for value in POINTS) for shift in range(3)]
        rows = [f"{name},{points}" for name, points in zip(["a/1", "a/2", "b/1"], moved, strict=True)]
        self.write(self.list_file, "a/1.jpg\na/2.jpg\nb/1.jpg\n")
        self.write(self.table, "\n".join([header, *rows]))

    @staticmethod
    def write(path: Path, text: str, when: float = LONG_AGO) -> None:
        path.write_text(text)
        os.utime(path, (when, when))

    @property
    def options(self) -> dict[str, Any]:
        paths = {"train_data_root": self.root, "train_list": self.list_file, "train_landmarks": self.table}
        return {name: str(path) for name, path in paths.items()} | {"data_cache": str(self.cache)}

    def read(self, **others: Any) -> LabelledFaces:
        return read_training_faces(self.options | others)

    @property
    def entries(self) -> list[Path]:
        return sorted(self.cache.iterdir()) if self.cache.is_dir() else []


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a format's name whenever its files are read rather than the cache."""
    noted: list[str] = []
    for name in formats.READERS:
        monkeypatch.setitem(formats.READERS, name, noting(name, noted))
    return noted


def noting(name: str, noted: list[str]) -> Callable[[Source], LabelledFaces]:
    reader = formats.READERS[name]

    def read(source: Source) -> LabelledFaces:
        noted.append(name)
        return reader(source)

    return read


# --- what is kept -----------------------------------------------------------------------------------------------------

COUNTS = st.integers(1, 6)
NUMBERS = st.floats(width=64)  # NaN and infinities, too
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def labelled_faces(draw: st.DrawFn) -> LabelledFaces:
    """Anything that a reader might make: pixels, fractions or crops; files, shards or records."""
    count, shards = draw(COUNTS), draw(st.lists(TEXTS, min_size=1, max_size=3))

    def array(*shape: int, dtype: Any = np.float64, numbers: st.SearchStrategy[Any] = NUMBERS) -> Any:
        return draw(hnp.arrays(dtype, shape, elements=numbers))

    offsets, sizes = (array(count, dtype=np.int64, numbers=st.integers(0, 2**60)) for _ in range(2))
    shard = array(count, dtype=np.int32, numbers=st.integers(0, len(shards) - 1))
    storages = [None, RecordFile("r", offsets, sizes), TarShards(shards, shard, offsets, sizes)]
    return LabelledFaces(
        DataRoot(Path(draw(TEXTS.map(lambda text: text.replace("\0", "")))), draw(st.booleans())),
        pa.array(["left out", *draw(st.lists(TEXTS, min_size=count, max_size=count))])[1:],
        array(count, draw(st.sampled_from([0, 5])), 2),
        array(count, dtype=np.int64, numbers=st.integers(0, 9)),
        draw(st.lists(TEXTS, max_size=4)),
        boxes=array(count, 4) if draw(st.booleans()) else None,
        storage=draw(st.sampled_from(storages)),
        notes=tuple(draw(st.lists(TEXTS, max_size=2))),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=SHARED_FOLDER)
@given(labelled_faces())
def test_what_comes_out_is_what_went_in(tmp_path: Path, faces: LabelledFaces) -> None:
    entry = Entry(tmp_path, "question", "state")
    returned = entry.store((faces, "fingerprint"))
    kept, fingerprint = entry.load()
    assert same(kept, faces) and same(returned, (kept, fingerprint))
    assert fingerprint == "fingerprint"
    assert not kept.landmarks.flags.writeable
    whole = dataclasses.replace(faces, names=pa.array(faces.names.to_pylist(), pa.string()))
    assert dataclasses.replace(kept).fingerprint() == whole.fingerprint()  # found anew, from the mapped columns


def test_only_what_the_cache_knows_is_written(tmp_path: Path) -> None:
    class TarShards:
        """No relation."""

    for stranger in (object(), TarShards(), [1.5], {"a": 1}, torch.zeros(1)):
        with pytest.raises(TypeError, match="has no place in the cache"):
            Entry(tmp_path, "question", "state").store(stranger)
    assert not list(tmp_path.iterdir())


def test_the_second_reading_maps_what_the_first_one_kept(data: Data, readings: list[str]) -> None:
    first, second = data.read(), data.read()
    assert readings == ["vgg"]
    assert same(first, second)
    assert first.fingerprint() == second.fingerprint() == data.read(data_cache="none").fingerprint()
    assert readings == ["vgg", "vgg"]
    assert second.landmarks.tolist() == [(np.array(POINTS).reshape(5, 2) + shift).tolist() for shift in range(3)]
    assert mapped(data.entries[0]) > 0


def mapped(path: Path, kinds: tuple[str, ...] = ("Rss",)) -> int:
    """kB of a file in this process's memory, of the kinds that /proc/self/smaps tells apart."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.split(":")[0] in kinds:
            found += int(line.split()[1])
    return found


def test_an_empty_folder_and_the_users_own_are_places_to_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("none") is None
    assert cache_folder("x/y") == Path("x/y")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder("auto") == Path("/caches/face-recognition-trainer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/me")
    assert cache_folder("auto") == Path("/me/.cache/face-recognition-trainer")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # of a user without a home: no folder called ~
    assert cache_folder("auto") is None


# --- when it is read anew ---------------------------------------------------------------------------------------------


def other_size(data: Data) -> dict[str, Any]:
    data.write(data.list_file, "a/1.jpg\nb/1.jpg\n")
    return {}


def other_time(data: Data) -> dict[str, Any]:
    data.write(data.table, data.table.read_text().replace("31.5", "31.6"), LONG_AGO + 1)
    return {}


def other_file_of_the_same_size_and_time(data: Data) -> dict[str, Any]:
    """Copy as `cp --preserve` and `rsync --times` do."""
    data.write(data.table, data.table.read_text().replace("31.5", "31.6"))
    return {}


def other_path(data: Data) -> dict[str, Any]:
    other = data.list_file.with_name("other.txt")
    data.write(other, "b/1.jpg\na/1.jpg\na/2.jpg\n")
    return {"train_list": str(other)}


def other_format(data: Data) -> dict[str, Any]:
    data.write(data.list_file, "a/1.jpg 7\na/2.jpg 5\nb/1.jpg 6")
    data.read(train_dataset="list")
    return {"train_dataset": "list", "train_landmarks": "", "aligned": True}


CHANGES = [other_size, other_time, other_file_of_the_same_size_and_time, other_path, other_format]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_read_of_other_files_is_not_taken(
    data: Data, readings: list[str], change: Callable[[Data], dict[str, Any]]
) -> None:
    before = data.read()
    others = change(data)
    readings.clear()
    found = data.read(**others)
    assert len(readings) == 1
    assert same(found, data.read(**others, data_cache="none"))
    assert not same(found, before)


def test_what_other_code_read_is_not_taken(data: Data, readings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data.read()
    monkeypatch.setattr(cache, "_code", lambda: "of tomorrow")
    data.read()
    data.read()
    assert readings == ["vgg", "vgg"]
    assert len(data.entries) == 1


def test_a_file_that_changed_a_moment_ago_is_not_kept(data: Data, readings: list[str]) -> None:
    """It may change again within the same tick of the file system's clock."""
    data.write(data.list_file, "a/1.jpg\n", when=time.time())
    data.read()
    assert not data.entries
    data.write(data.list_file, "a/1.jpg\n", when=time.time() + 86_400)  # clocks differ
    data.read()
    assert len(data.entries) == 1


def test_photographs_that_are_gone_are_missed_all_the_same(data: Data) -> None:
    data.read()
    (data.root / "a/1.jpg").unlink()
    with pytest.raises(InputError, match=r"a/1\.jpg: no such file; is --train_data_root .* right\?"):
        data.read()
    data.root.rename(data.root.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"--train_data_root .*images: no such folder"):
        data.read()


def test_one_state_of_each_question_is_kept_and_eight_questions(data: Data) -> None:
    data.read()
    stranger = data.cache / "notes.txt"
    stranger.touch()
    other_size(data)
    data.read()
    assert len(data.entries) == 2  # with the stranger
    entries = [Entry(data.cache, str(number), "state") for number in range(7)]
    for number, entry in enumerate(entries):
        entry.store(number)
        os.utime(entry.path, (LONG_AGO + number, LONG_AGO + number))
    entries[0].load()  # used again
    Entry(data.cache, "8", "state").store(8)
    assert [entry.load() for entry in entries] == [0, None, 2, 3, 4, 5, 6]
    assert len(data.entries) == 9
    assert stranger.exists()


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def entry(data: Data) -> Entry:
    """An entry with faces in it."""
    made = Entry(data.cache, "question", "state")
    made.store((data.read(data_cache="none"), "fingerprint"))
    return made


def is_damaged(entry: Entry, content: bytes) -> bool:
    entry.path.write_bytes(content)
    try:
        entry.load()
    except Damaged as error:
        return str(entry.path) in str(error)
    return False


def test_an_entry_cut_at_any_byte_is_damaged(entry: Entry) -> None:
    whole = entry.path.read_bytes()
    assert not is_damaged(entry, whole)
    assert all(is_damaged(entry, whole[:size]) for size in range(len(whole)))
    assert is_damaged(entry, whole + b"\0")


@settings(deadline=None, suppress_health_check=SHARED_FOLDER)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_an_entry_with_a_flipped_bit_is_damaged(entry: Entry, place: float, bit: int) -> None:
    whole = bytearray(entry.path.read_bytes())
    whole[int(place * len(whole))] ^= 1 << bit
    original = entry.path.read_bytes()
    assert is_damaged(entry, bytes(whole))
    entry.path.write_bytes(original)


@settings(deadline=None, suppress_health_check=SHARED_FOLDER)
@given(st.binary(max_size=200))
def test_a_foreign_file_is_damaged(entry: Entry, content: bytes) -> None:
    assert is_damaged(entry, content)


@settings(deadline=None, suppress_health_check=SHARED_FOLDER)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_forged_entry_is_damaged_or_a_value_and_nothing_else(entry: Entry, changes: list[tuple[float, int]]) -> None:
    """With a checksum that is right: what Arrow maps is checked not to lead out of the file."""
    original = entry.path.read_bytes()
    forged = bytearray(original[: -_TAIL.size])
    for place, byte in changes:
        forged[int(place * len(forged))] = byte
    entry.path.write_bytes(bytes(forged) + _TAIL.pack(_MAGIC, zlib.crc32(forged)))
    with contextlib.suppress(Damaged):
        repr(entry.load())
    entry.path.write_bytes(original)


def test_an_entry_of_endless_depth_is_damaged(entry: Entry) -> None:
    with pa.ipc.open_stream(entry.path.read_bytes()[: -_TAIL.size]) as stream:
        batch = stream.read_next_batch()
    forged = io.BytesIO()
    metadata = batch.schema.metadata | {b"value": b"[" * 100_000}
    with pa.ipc.new_stream(forged, batch.schema.with_metadata(metadata)) as writer:
        writer.write_batch(batch.replace_schema_metadata(metadata))
    assert is_damaged(entry, forged.getvalue() + _TAIL.pack(_MAGIC, zlib.crc32(forged.getvalue())))


def test_a_pipe_in_the_place_of_an_entry_is_no_entry(entry: Entry) -> None:
    entry.path.unlink()
    os.mkfifo(entry.path)
    with bounded():
        assert entry.load() is None


def test_an_entry_under_another_name_is_damaged(entry: Entry) -> None:
    """Such as one that was copied there."""
    other = Entry(entry.folder, entry.question, "another state")
    entry.path.rename(other.path)
    with pytest.raises(Damaged, match="written under another name"):
        other.load()


def test_a_damaged_entry_is_said_and_made_anew(
    data: Data, readings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    faces = data.read()
    (path,) = data.entries
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"!" + content[101:])
    assert same(data.read(), faces)
    assert f"{path}: its checksum isn't that of its content; reading the data again" in capsys.readouterr().err
    assert path.read_bytes() == content
    assert readings == ["vgg", "vgg"]


# --- writing that fails, and others that write ------------------------------------------------------------------------

def read_in_another_process(options: dict[str, Any], limit: int = resource.RLIM_INFINITY) -> tuple[str, str]:
    """Fingerprint, and what was said; all of the group at once. limit: of any file's size [bytes]."""
    torch.distributed.barrier()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        faces = read_training_faces(options)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return faces.fingerprint(), said.getvalue()


def killed_while_writing(options: dict[str, Any]) -> None:
    os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
    read_training_faces(options)


def test_processes_at_once_find_the_same_and_leave_one_entry(
    run_distributed: Callable[..., list[Any]], data: Data
) -> None:
    expected = data.read(data_cache="none").fingerprint()
    assert run_distributed(3, read_in_another_process, data.options) == [(expected, "")] * 3
    (path,) = data.entries
    assert path.suffix == ".arrow"


def test_a_writer_killed_on_the_way_leaves_nothing_that_is_taken(
    run_distributed: Callable[..., list[Any]], data: Data, readings: list[str]
) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_distributed(1, killed_while_writing, data.options)
    (left,) = data.entries
    assert left.suffix == ".tmp"
    data.read()
    assert readings == ["vgg"]
    assert left.exists()  # its writer might live
    os.utime(left, (LONG_AGO, LONG_AGO))
    Entry(data.cache, "another", "state").store(1)
    assert not left.exists()


def test_a_full_disk_is_said_and_changes_nothing_else(run_distributed: Callable[..., list[Any]], data: Data) -> None:
    expected = data.read(data_cache="none").fingerprint()
    said = f"--data_cache {data.cache}: the data can't be kept for the next start: File too large\n"
    assert run_distributed(1, read_in_another_process, data.options, 500) == [(expected, said)]
    assert not data.entries


# --- ranks ------------------------------------------------------------------------------------------------------------


def read_as_ranks(options: dict[str, Any], hosts: bool = False) -> tuple[str, int, str, int]:
    """Fingerprint or what was wrong, how often this rank read the files, what it said, kB of the cache that it has
    alone in its memory.

    hosts: each rank is the only one of a host, and has its own cache and list.
    """
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    local = (0, 1) if hosts else (rank, world)
    options = {name: str(value).replace("RANK", str(rank)) for name, value in options.items()}
    noted: list[str] = []
    dataset = options["train_dataset"]
    formats.READERS[dataset] = noting(dataset, noted)  # of this process
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            faces = read_on_all_ranks(options, Ranks(rank, world, *local, torch.device("cpu")))
        except InputError as error:
            return str(error), len(noted), said.getvalue(), 0
    np.sum(faces.landmarks)  # touches every page
    torch.distributed.barrier()
    folder = Path(options["data_cache"])
    private = [mapped(path, ("Private_Clean", "Private_Dirty")) for path in folder.iterdir()] if folder.is_dir() else []
    torch.distributed.barrier()
    return faces.fingerprint(), len(noted), said.getvalue(), sum(private)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_one_rank_of_a_host_reads_and_all_share_what_it_kept(
    run_distributed: Callable[..., list[Any]], data: Data, world: int
) -> None:
    """No page of it is a rank's own when there are others: private means mapped by nobody else."""
    count = 20_000  # pages enough to tell
    (row,) = [line for line in data.table.read_text().splitlines() if line.startswith("a/1,")]
    header = data.table.read_text().splitlines()[0]
    data.write(data.list_file, "".join(f"a/{number}.jpg\n" for number in range(1, count)))
    rows = (row.replace("a/1", f"a/{number}") for number in range(1, count))
    data.write(data.table, "\n".join([header, *rows]))
    options = data.options | {"train_dataset": "vgg"}
    expected = data.read(data_cache="none").fingerprint()
    found = run_distributed(world, read_as_ranks, options)
    assert [result[:3] for result in found] == [(expected, int(rank == 0), "") for rank in range(world)]
    if world > 1:
        assert max(private for *_, private in found) < 0.05 * data.entries[0].stat().st_size / 1024
    again = run_distributed(world, read_as_ranks, options)
    assert [result[:3] for result in again] == [(expected, 0, "")] * world


def test_a_tree_is_walked_at_every_start_by_one_rank(run_distributed: Callable[..., list[Any]], data: Data) -> None:
    options = data.options | {"train_dataset": "folder", "train_list": "", "train_landmarks": ""}
    for name in ("b/1.jpg", "b/2.jpg"):
        (data.root / name).touch()
        expected = read_training_faces(options).fingerprint()
        found = run_distributed(2, read_as_ranks, options)
        assert [result[:2] for result in found] == [(expected, 1), (expected, 0)]
    assert len(data.entries) == 1


def test_without_a_place_to_keep_it_every_rank_reads(
    run_distributed: Callable[..., list[Any]], data: Data
) -> None:
    expected = data.read(data_cache="none").fingerprint()
    file = str(data.list_file)
    complaint = f"--data_cache {file}: the data can't be kept for the next start: File exists\n"
    for place, said in (("none", ""), (file, complaint)):
        found = run_distributed(2, read_as_ranks, data.options | {"train_dataset": "vgg", "data_cache": place})
        assert found == [(expected, 1, said, 0), (expected, 1, "", 0)]


def read_slowly(options: dict[str, Any], store: str) -> tuple[str, int, str, int]:
    """Same as `read_as_ranks`, in a group whose ranks wait for each other for a second, while the reader takes two."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.distributed.destroy_process_group()
    second = timedelta(seconds=1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=second)
    reader = formats.READERS["vgg"]
    formats.READERS["vgg"] = lambda source: (time.sleep(2), reader(source))[1]  # type: ignore[func-returns-value]
    return read_as_ranks(options)


def test_ranks_wait_for_a_reader_that_takes_longer_than_any_collective_may(
    run_distributed: Callable[..., list[Any]], data: Data, tmp_path: Path
) -> None:
    expected = data.read(data_cache="none").fingerprint()
    found = run_distributed(2, read_slowly, data.options | {"train_dataset": "vgg"}, f"file://{tmp_path}/store")
    assert [result[:3] for result in found] == [(expected, 1, ""), (expected, 0, "")]


def test_what_is_wrong_with_the_data_is_said_by_one_rank_and_ends_all(
    run_distributed: Callable[..., list[Any]], data: Data
) -> None:
    data.write(data.list_file, "a/1.jpg\nz/9.jpg\n")
    (first, *others) = run_distributed(3, read_as_ranks, data.options | {"train_dataset": "vgg"})
    assert first == (f"{data.list_file}:2: z/9.jpg has no row in {data.table}", 1, "", 0)
    assert others == [("another rank can't read the training data, and prints the reason", 0, "", 0)] * 2


def test_hosts_with_other_data_are_refused_by_all(run_distributed: Callable[..., list[Any]], data: Data) -> None:
    options = data.options | {"train_dataset": "vgg", "data_cache": f"{data.cache}RANK"}
    lists = [data.list_file.with_name(f"list{rank}.txt") for rank in range(2)]
    for path in lists:
        data.write(path, "a/1.jpg\n")
    options["train_list"] = str(data.list_file.with_name("listRANK.txt"))
    expected = data.read(data_cache="none", train_list=str(lists[0])).fingerprint()
    assert [result[:3] for result in run_distributed(2, read_as_ranks, options)] == [(expected, 1, "")] * 2
    data.write(lists[1], "a/2.jpg\na/1.jpg\n")
    for text, *_ in run_distributed(2, read_as_ranks, options):
        assert text.startswith(f"--train_data_root {data.root}: ranks 1 read other data than rank 0")


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_run_is_the_same_to_the_last_bit_without_with_and_from_the_cache(
    run_small: Callable[..., Losses], sample_data: Path, tmp_path: Path
) -> None:
    kept_in = tmp_path / "cache"
    for name in ("meta/train_list.txt", "bb_landmark/loose_landmark_train.csv"):
        os.utime(sample_data / "vggface2" / name, (LONG_AGO, LONG_AGO))
    plain = run_small("--data_cache", "none", "--max_iterations", "6", out=tmp_path / "plain")
    assert not kept_in.exists()
    kept = run_small("--data_cache", str(kept_in), "--max_iterations", "3", out=tmp_path / "kept")
    assert [path.suffix for path in kept_in.iterdir()] == [".arrow"]
    resumed = ("--max_iterations", "6", "--snap_to_resume", "auto")
    assert kept + run_small("--data_cache", str(kept_in), *resumed, out=tmp_path / "kept")[3:] == plain
    assert same_weights(weights(tmp_path / "kept", 6), weights(tmp_path / "plain", 6))
