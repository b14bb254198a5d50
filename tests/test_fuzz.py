"""Whatever bytes a file holds, its reader returns or raises InputError, soon, and in little memory.

Good files are changed at a few places: by default so often that it takes a minute or two, the same way every time.
`FR_FUZZ=5000 pytest -s --thorough tests/test_fuzz.py` does it 5,000 times for each reader, otherwise each time, and
says how many of the files were read or refused.
"""

import io
import json
import os
import pickle
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.api import CheckpointException

from fr.checkpoint import snapshot
from fr.checkpoint.dcp_files import PathlessWriter, SafeReader, shapes_in
from fr.data.cache import _MAGIC, _TAIL, Damaged, Entry
from fr.data.faces import Faces
from fr.data.formats import READERS
from fr.data.landmark_csv import boxes_of
from fr.data.pipeline import plain_stream
from fr.data.placement import sizes_of
from fr.data.readers.source import Source
from fr.data.readers.vgg import label_order, person_names
from fr.errors import InputError
from fr.files import foreign_pickle, safetensors
from fr.files.data_root import DataRoot
from fr.files.images import MOST_PIXELS, decode
from fr.files.model_metadata import CONTRACT_KEY, as_strings
from fr.onnx.model import OnnxModel
from fr.options.definitions import train_options
from fr.preprocessing import Preprocessing
from fr.train.monitor import _keep_records
from fr.weights.initial_weights import read_identities
from fr.weights.loading import read_weights
from tests.bounds import MEGABYTES, bounded
from tests.builders.damaged_images import CPU, SMALL, encoded, picture
from tests.builders.journals import JOURNAL, SETTINGS
from tests.builders.onnx_files import foreign
from tests.builders.pickles import small_tensors
from tests.builders.recordio import with_identities
from tests.builders.recordio import write as write_records
from tests.builders.tar_shards import put_sum_right, sample, write_shard
from tests.builders.training_formats import LINES, META, POINTS, TEN, write_table
from tests.builders.vgg_and_lfw import LFW_PAIRS, LFW_ROWS, Lfw
from tests.conftest import REQUIRED
from tests.weight_files import python2_pickle, save_legacy
from tools.dataset.face_journal import open_journal
from tools.dataset.image_facts import Fact, _keep, _kept
from tools.pack_dataset import _kept_count

Seeds = Callable[[Path], list[bytes]]
Reader = Callable[[Path, bytes], object]

# --- changes ----------------------------------------------------------------------------------------------------------

TELLING = [
    *(b"\0", b"\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, bytes(8), b"\x7f" * 4, b"\x80", b"\xed\xa0\x80"),
    *(b"\n", b"\r\n", b"\r", b"\t", b",", b"|", b'"', b"'", b" ", b"/", b"../", b":", b"-", b"&a ", b"*a", b"!!x "),
    *(b"nan", b"inf", b"1e999", b"-1", b"1_0", b"9" * 30, b"0x10", b"\xef\xbb\xbf", b"\xff\xfe", b"[", b"{", b"<<: "),
    *(b"(", b")", b".", b"\x85", b"\x86", b"R", b"b", b"h\x00", b"q\x00", b"r\xff\xff\xff\x7f", b"a", b"t", b"s", b"Q"),
]
PIECES = st.sampled_from(TELLING) | st.binary(max_size=6)


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A good file with some stretches replaced, now and then by a long one, or others of it; or any bytes at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=100))
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        near = draw(st.sampled_from([64, 512, 1 << 30, 1 << 30]))  # headers lie at the start
        place = draw(st.integers(0, min(near, len(content))))
        piece = draw(PIECES) * draw(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 300, 20_000]))
        if draw(st.integers(0, 7)) == 0:
            start = draw(st.integers(0, len(content)))
            piece = bytes(content[start : start + draw(st.integers(0, 60))])
        gone = draw(st.sampled_from([len(piece)] * 6 + [0, 0, 1, 4, 50, 1 << 30]))
        content[place : place + gone] = piece
    return bytes(content)


# --- readers ----------------------------------------------------------------------------------------------------------


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def training(dataset: str, name: str, **others: str) -> Reader:
    """Reads what is put under a name, and each of the images. others: of `Source`, below the folder."""

    def read(folder: Path, content: bytes) -> None:
        put(folder, name, content)
        for photograph in ("images/a/1.jpg", "images/a/2.jpg"):
            put(folder, photograph, b"")
        listed, points = (str(folder / others[name]) if name in others else "" for name in ("list_file", "landmarks"))
        aligned = not points and dataset != "tar"
        faces = READERS[dataset](Source(str(folder / "images"), listed, points, "", aligned))
        assert len(faces) == len(faces.labels) > 0
        assert np.isfinite(faces.landmarks).all()
        for row in range(min(len(faces), 5)):
            with suppress(OSError):
                faces.read(row)

    return read


def vgg(folder: Path, content: bytes) -> None:
    write_table(folder / "points.csv", {"a/1": 0, "a/2": 1})
    training("vgg", "list.txt", list_file="list.txt", **LANDMARKS)(folder, content)


def lines(dataset: str) -> Seeds:
    return lambda _: ["".join(f"{LINES[dataset](f'a/{n}.jpg', '1')}\n" for n in (1, 2)).encode()]


def table(folder: Path) -> list[bytes]:
    write_table(folder / "t.csv", {"a/1": 0, "a/2": 1})
    return [(folder / "t.csv").read_bytes()]


def pairs(name: str) -> Reader:
    def read(folder: Path, content: bytes) -> None:
        lfw = Lfw(folder / "lfw_set")
        getattr(lfw, name).write_bytes(content)
        lfw.read()

    return read


def config(folder: Path, content: bytes) -> None:
    resolved = train_options([*REQUIRED, f"@{put(folder, 'x.yml', content)}"])
    resolved.write(folder / "again.yml")


def shards(folder: Path) -> list[bytes]:
    found = []
    for form in (0, 1, 2):
        write_shard(folder / "s.tar", sample("p/1", "7") | sample("q" * 70 + "/" + "r" * 70, "é"), form)
        found.append((folder / "s.tar").read_bytes())
    return found


def summed_shard(folder: Path, content: bytes) -> None:
    """With a checksum that is right in whatever may be a header."""
    data = bytearray(content)
    for start in range(0, len(data) - 1_024, 512):
        put_sum_right(data, start)
    training("tar", "images/1.tar")(folder, bytes(data))


def records(name: str) -> tuple[Seeds, Reader]:
    def write_all(folder: Path) -> None:
        write_records(folder / "images", with_identities([[b"one", b"two"], [b"three"]]), 2)

    def seeds(folder: Path) -> list[bytes]:
        write_all(folder)
        return [(folder / "images" / name).read_bytes()]

    def read(folder: Path, content: bytes) -> None:
        write_all(folder)
        training("rec", f"images/{name}")(folder, content)

    return seeds, read


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000")


def images(_folder: Path) -> list[bytes]:
    return [encoded(picture(0, 24, 24), kind) for kind in FORMATS] + [encoded(picture(0), progressive=True)]


def image(folder: Path, content: bytes) -> None:
    path = put(folder, "1.jpg", content)
    bytes_of = np.frombuffer(content, dtype=np.uint8)
    assert sizes_of([bytes_of]).shape == (1, 2)
    with suppress(InputError):
        decode(bytes_of, path.name)
    points = np.array(POINTS).reshape(1, 5, 2) / 5
    list(plain_stream(Faces(DataRoot(folder), pa.array([path.name]), points), np.arange(1), 1, SMALL, CPU))


def weights(folder: Path) -> list[bytes]:
    tensors, found = small_tensors(), []
    for save in (torch.save, save_legacy):
        save({"state_dict": tensors, "epoch": 3}, folder / "w")
        found.append((folder / "w").read_bytes())
    floats = {key: tensor for key, tensor in tensors.items() if tensor.dtype == torch.float32}
    arrays = {key: tensor.numpy() for key, tensor in floats.items()}
    return [*found, python2_pickle(floats), *(pickle.dumps(arrays, protocol) for protocol in (0, 3, 5))]


def inner_pickle(folder: Path) -> list[bytes]:
    torch.save({"state_dict": {"a": torch.ones(2, 3), "b": torch.ones(2)}, "epoch": 3}, folder / "w")
    return [zipfile.ZipFile(folder / "w").read("w/data.pkl")]


def read_inner_pickle(folder: Path, content: bytes) -> None:
    """Behind right checksums."""
    with zipfile.ZipFile(folder / "w") as whole:
        names = {name: whole.read(name) for name in whole.namelist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as other:
        for name, part in names.items():
            other.writestr(name, content if name.endswith("data.pkl") else part)
    foreign_pickle.read(put(folder, "changed", out.getvalue()))


def snapshots(folder: Path) -> list[bytes]:
    state = {"features.weight": torch.ones(3, 2), "features.bias": torch.ones(3)}
    contents = snapshot.SnapshotContents(
        "mobilenet", 3, SMALL.as_dict(), config={"lr": 0.1}, iteration=5, state_dict=state
    )
    snapshot.write_weights(folder / "s.pt", contents)
    exported = io.BytesIO()
    facts = {"model": "mobilenet", "embed_size": 3, "iteration": 5, "flipped_emb": True, "scores": [], "threshold": 0.6}
    safetensors.write(exported, state, as_strings(SMALL, facts))
    return [(folder / "s.pt").read_bytes(), exported.getvalue()]


def read_snapshot(folder: Path, content: bytes) -> None:
    contents = snapshot.read(path := put(folder, "changed.pt", content))
    Preprocessing.from_dict(contents.preprocessing)
    read_weights(path)


def state(name: str) -> tuple[Seeds, Reader]:
    tensors = {"head": torch.arange(30.0).reshape(6, 5), "random.0": torch.arange(9, dtype=torch.uint8)}

    def seeds(folder: Path) -> list[bytes]:
        dcp.save(tensors, storage_writer=PathlessWriter(folder / "state"), no_dist=True)
        return [(folder / "state" / name).read_bytes()]

    def read(folder: Path, content: bytes) -> None:
        path = folder / "state" / name
        whole = path.read_bytes()
        path.write_bytes(content)
        try:
            reader = SafeReader(folder / "state")
            shapes_in(reader.read_metadata(), folder)
            found = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
            dcp.load(found, storage_reader=reader, no_dist=True)
        except CheckpointException as error:  # as snapshots tell of it
            raise InputError(str(error)[:100]) from error
        finally:
            path.write_bytes(whole)

    return seeds, read


def kept(folder: Path) -> list[bytes]:
    put(folder, "images/a/1.jpg", b"")
    listed = put(folder, "l.txt", LINES["trp"]("a/1.jpg", "1").encode())
    faces = READERS["trp"](Source(str(folder / "images"), str(listed), "", ""))
    entry = Entry(folder / "cache", "question", "state")
    entry.store((faces, "fingerprint"))
    return [entry.path.read_bytes()[: -_TAIL.size]]


def read_kept(folder: Path, content: bytes) -> None:
    """With a checksum that is right."""
    entry = Entry(folder / "cache", "question", "state")
    entry.path.write_bytes(content + _TAIL.pack(_MAGIC, zlib.crc32(content)))
    try:
        repr(entry.load())
    except Damaged as error:
        raise InputError(str(error)[:100]) from error


def networks(folder: Path) -> list[bytes]:
    metadata = {CONTRACT_KEY: json.dumps(replace(SMALL, input_size=(32, 48)).as_dict())}
    return [foreign(folder / "f.onnx", "n", metadata=metadata).read_bytes(), foreign(folder / "f.onnx", 2).read_bytes()]


def network(folder: Path, content: bytes) -> None:
    model = OnnxModel(put(folder, "changed.onnx", content), torch.device("cpu"))
    model.embed_size((32, 48))


def facts(folder: Path) -> list[bytes]:
    fact = Fact(b"c" * 32, b"s" * 32, 5, 6, False, 6)
    _keep(folder, {b"k" * 16: fact, b"l" * 16: fact})
    (path,) = folder.glob("*.parquet")
    return [path.read_bytes()]


def journal(folder: Path, content: bytes) -> None:
    open_journal(put(folder, "faces.jsonl", content), SETTINGS)[0].close()


LANDMARKS = {"landmarks": "points.csv"}
TARGETS: dict[str, tuple[Seeds, Reader]] = {
    **{kind: (lines(kind), training(kind, "list.txt", list_file="list.txt")) for kind in LINES},
    "photos": (lambda _: [b"a/1.jpg\na/2.jpg\n"], training("photos", "list.txt", list_file="list.txt")),
    "trp_test": (
        lambda _: [f"a/1.jpg {TEN}\na/2.jpg {TEN}\n".encode()],
        training("trp_test", "list.txt", list_file="list.txt"),
    ),
    "vgg": (lambda _: [b"a/1.jpg\na/2.jpg\n"], vgg),
    "landmark CSV": (table, training("folder", "points.csv", **LANDMARKS)),
    "box CSV": (
        lambda _: [b"NAME_ID,X,Y,W,H\na/1,1,2,30,40\na/2,5,6,70,80\n"],
        lambda folder, content: boxes_of(pa.array(["a/1.jpg", "a/2.jpg"]), put(folder, "b.csv", content), str),
    ),
    "identity meta": (
        lambda _: [META.encode()],
        lambda folder, content: (label_order(put(folder, "m.csv", content)), person_names(folder / "m.csv")),
    ),
    "pairs": (lambda _: [LFW_PAIRS.encode()], pairs("pairs")),
    "landmarks of pairs": (
        lambda _: ["".join(Lfw.row(name, shift) for shift, name in enumerate(LFW_ROWS)).encode()],
        pairs("landmarks"),
    ),
    "identities": (
        lambda _: ["ann\nbob\nzoë\n".encode()],
        lambda folder, content: read_identities(put(folder, "n.txt", content)),
    ),
    "config": (lambda _: [b"lr: .1\nlr_drops: [1, 2]\nmodel: resnet\nlog_folder: 'x'\n"], config),
    "shard": (shards, training("tar", "images/1.tar")),
    "shard, sums right": (lambda folder: shards(folder)[-1:], summed_shard),
    "train.rec": records("train.rec"),
    "train.idx": records("train.idx"),
    "property": records("property"),
    "picture": (images, image),
    "weights": (weights, lambda folder, content: read_weights(put(folder, "changed", content))),
    "data.pkl": (inner_pickle, read_inner_pickle),
    ".pt": (snapshots, read_snapshot),
    ".metadata": state(".metadata"),
    ".distcp": state("__0_0.distcp"),
    "cache": (kept, read_kept),
    "ONNX": (networks, network),
    "facts": (facts, lambda folder, content: _kept(put(folder / "facts", "f.parquet", content).parent)),
    "journal": (lambda _: [JOURNAL], journal),
    "pack.json": (
        lambda _: [b'{"data": "x", "images": 5}'],
        lambda folder, content: _kept_count(put(folder, "pack.json", content), {"data": "x"}),
    ),
    "log.jsonl": (
        lambda _: [b'{"iteration": 1, "loss": 2.5}\n{"iteration": 2, "loss": 2.5}\n'],
        lambda folder, content: _keep_records(put(folder, "log.jsonl", content), 1),
    ),
}

# --- the runs ---------------------------------------------------------------------------------------------------------

LONG = int(os.environ.get("FR_FUZZ", "0"))
settings.register_profile(
    "fuzz",
    max_examples=LONG or 60,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
SLOW = {"picture": 3 * MOST_PIXELS / 2**20 - MEGABYTES + 150}  # MB more than others: one of the largest is decoded
said: Counter[tuple[str, str]] = Counter()


@pytest.fixture(scope="module", autouse=True)
def counts() -> Iterator[None]:
    yield
    for name in TARGETS if LONG else ():
        read, refused = said[name, "read"], said[name, "refused"]
        print(f"{name:20}{read + refused:8,} files{read:8,} read{refused:8,} refused")


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of Pillow, torch and others about odd files
@pytest.mark.parametrize("name", TARGETS)
def test_any_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    make, read = TARGETS[name]
    seeds = make(tmp_path)
    for seed in seeds if name != "shard, sums right" else ():
        read(tmp_path, seed)  # each is a good one

    @settings(settings.get_profile("fuzz"))
    @given(changed(seeds))
    def run(content: bytes) -> None:
        with bounded(megabytes=MEGABYTES + SLOW.get(name, 0)):
            try:
                read(tmp_path, content)
                said[name, "read"] += 1
            except InputError as error:
                said[name, "refused"] += 1
                assert 1 <= len(error.problems) <= 12
                str(error).encode()  # fit to print

    run()
