"""Training states made by somebody else: read within their folder, their length and their format, or refused."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from fr.checkpoint.dcp_files import PathlessWriter, SafeReader, causes
from fr.errors import InputError
from tests.bounds import bounded

TENSORS = {"head": torch.arange(30.0).reshape(6, 5), "random.0": torch.arange(9, dtype=torch.uint8)}


@pytest.fixture
def folder(one_rank: None, tmp_path: Path) -> Path:
    dcp.save(TENSORS, storage_writer=PathlessWriter(tmp_path / "a.state"))
    return tmp_path / "a.state"


def load(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    reader = SafeReader(folder)
    reader.read_metadata()
    dcp.load(tensors, storage_reader=reader)
    return tensors


def changed(folder: Path, change: Callable[[Any], object]) -> None:
    index = folder / ".metadata"
    metadata = pickle.loads(index.read_bytes())
    change(metadata)
    index.write_bytes(pickle.dumps(metadata))


def test_what_was_written_is_read_bit_by_bit(folder: Path) -> None:
    found = load(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_a_writer_asks_for_no_stream_where_there_are_gpus(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*_: Any) -> None:
        raise AssertionError("a context on GPU 0")

    monkeypatch.setattr(filesystem._OverlappingCpuLoader, "__init__", stream)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    dcp.save(TENSORS, storage_writer=PathlessWriter(tmp_path / "a.state"))
    assert (tmp_path / "a.state/.metadata").exists()


@pytest.mark.parametrize("path", ["../b.state/{part}", "{outside}/{part}", "x/../../b.state/{part}", ""])
def test_an_index_leads_to_no_file_of_another_folder(path: str, folder: Path, tmp_path: Path) -> None:
    others = {name: tensor + 1 for name, tensor in TENSORS.items()}
    dcp.save(others, storage_writer=PathlessWriter(tmp_path / "b.state"))

    def lead_out(metadata: Metadata) -> None:
        for place in metadata.storage_data.values():
            place.relative_path = path.format(outside=tmp_path / "b.state", part="__0_0.distcp")

    (folder / "x").mkdir()
    changed(folder, lead_out)
    with pytest.raises(InputError, match=r"\.metadata: damaged: no place in this folder: "):
        load(folder)


@pytest.mark.parametrize(
    "place",
    [
        _StorageInfo("__0_0.distcp", -1, 10),
        _StorageInfo("__0_0.distcp", 0, -1),
        _StorageInfo("__0_0.distcp", 0, 10, ["stream.zstd"]),
        _StorageInfo(7, 0, 10),  # type: ignore[arg-type]
        MetadataIndex("head"),
        None,
    ],
)
def test_places_that_are_none_are_refused(place: Any, folder: Path) -> None:
    changed(folder, lambda metadata: metadata.storage_data.update({MetadataIndex("head"): place}))
    with pytest.raises(InputError, match=r"\.metadata: damaged: no place in this folder: "):
        load(folder)
    changed(folder, lambda metadata: setattr(metadata, "storage_data", None))
    with pytest.raises(InputError, match=r"\.metadata: damaged: no place in this folder: "):
        load(folder)


def spoilt(folder: Path, spoil: Callable[[str, bytes], bytes], compression: int) -> None:
    """The head's part with other contents; its place in the index follows."""
    (part,) = folder.glob("*.distcp")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    place = metadata.storage_data[MetadataIndex("head", torch.Size([0, 0]))]
    content = part.read_bytes()
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content[place.offset : place.offset + place.length])) as whole,
        zipfile.ZipFile(out, "w", compression) as other,
    ):
        for name in whole.namelist():
            other.writestr(name, spoil(name, whole.read(name)))
    place.offset, place.length = len(content), len(out.getvalue())
    part.write_bytes(content + out.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_compressed_part_is_not_unpacked(folder: Path) -> None:
    """A gigabyte of zeros in a megabyte."""
    spoilt(folder, lambda name, content: bytes(1 << 30) if name.endswith("data/0") else content, zipfile.ZIP_DEFLATED)
    with bounded(), pytest.raises(CheckpointException) as caught:
        load(folder)
    assert "compressed, as torch never does" in causes(caught.value)


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (b"\x80\x02}.", "something else than a tensor"),
        (b"\x80\x02})" + 1_000_000 * b"\x85" + b"Ns.", "too deep in one another"),
    ],
)
def test_a_part_that_is_no_tensor_is_refused(pickled: bytes, said: str, folder: Path) -> None:
    spoilt(folder, lambda name, content: pickled if name.endswith("data.pkl") else content, zipfile.ZIP_STORED)
    with bounded(), pytest.raises(CheckpointException) as caught:
        load(folder)
    assert said in causes(caught.value)


def test_a_flipped_bit_is_found_by_its_checksum(folder: Path) -> None:
    (part,) = folder.glob("*.distcp")
    content = bytearray(part.read_bytes())
    content[content.index(TENSORS["head"].numpy().tobytes()) + 7] ^= 1
    part.write_bytes(content)
    with pytest.raises(CheckpointException) as caught:
        load(folder)
    assert "CRC-32" in causes(caught.value)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_nobody_waits_for_a_pipe(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with bounded(), pytest.raises((InputError, CheckpointException)) as caught:
        load(folder)
    said = causes(caught.value) if isinstance(caught.value, CheckpointException) else str(caught.value)
    assert "not a regular file" in said


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (b"\x80\x02})" + 1_000_000 * b"\x85" + b"Ns.", "too deep in one another"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "no checkpoint index"),  # kept as the 2^31st: the unpickler in C makes room
        (b"\x80\x04\x8c\x03\xed\xa0\x80\x8c\x01x\x93.", r"damaged: \\ud800\.x has no place in a snapshot"),
        (b"\x80\x05B\xff\xff\xff\x7f", r"\.metadata: damaged"),  # two gigabytes of bytes, of which none follows
    ],
)
def test_an_index_cannot_ask_for_memory_or_stack(index: bytes, said: str, folder: Path) -> None:
    (folder / ".metadata").write_bytes(index)
    with bounded(), pytest.raises(InputError, match=said):
        load(folder)


@pytest.mark.parametrize(
    "target",
    [
        b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n",
        b"ctorch.serialization\n_get_layout\n",
        b"ctorch.distributed.checkpoint.metadata\n_MEM_FORMAT_ENCODING\n(K\x00tR",
    ],
)
def test_an_index_changes_nothing_outside_of_itself(target: bytes, folder: Path) -> None:
    """BUILD sets attributes of whatever lies on the stack."""
    (folder / ".metadata").write_bytes(b"\x80\x02" + target + b"N}X\x05\x00\x00\x00spoilK\x01s\x86b.")
    with pytest.raises(InputError, match="attributes for what isn't of an index"):
        load(folder)
    assert not hasattr(MetadataIndex, "spoil")


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_buffers_of_other_types_are_read(dtype: torch.dtype, one_rank: None, tmp_path: Path) -> None:
    stored = {"buffer": torch.tensor([1, 0, 1]).to(dtype)}
    dcp.save(stored, storage_writer=PathlessWriter(tmp_path / "a.state"))
    found = {"buffer": torch.zeros(3, dtype=dtype)}
    dcp.load(found, storage_reader=SafeReader(tmp_path / "a.state"))
    assert torch.equal(found["buffer"], stored["buffer"])
