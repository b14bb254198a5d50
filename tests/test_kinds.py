"""Kinds of files that were given for a snapshot, weights or an ONNX model, and the commands that take them."""

import gzip
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import evaluate_lfw
import train
from fr.data.verification_set import read_set
from fr.errors import InputError
from fr.files import safetensors
from fr.files.kinds import Kind, kind_of
from fr.weights.loading import read_weights
from tests.bounds import bounded
from tests.builders.onnx_files import foreign
from tests.weight_files import filled, save_legacy, save_safetensors

TENSORS = filled({"weight": (2, 3), "bias": (2,)})


def save_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def save_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "unpack me")


WRITERS: dict[Kind, Callable[[Path], Any]] = {
    Kind.EMPTY: lambda path: path.touch(),
    Kind.HTML: lambda path: path.write_text("\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded"),
    Kind.LFS: lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n"),
    Kind.TORCH: lambda path: torch.save(TENSORS, path),
    Kind.PICKLE: lambda path: save_legacy(TENSORS, path),
    Kind.SAFETENSORS: lambda path: save_safetensors(TENSORS, path),
    Kind.TORCHSCRIPT: save_torchscript,
    Kind.ONNX: foreign,
    Kind.MXNET: lambda path: path.write_bytes(struct.pack("<QQQ", 0x112, 0, 0)),  # a list of no arrays
    Kind.HDF5: lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(88)),
    Kind.ZIP: save_zip,
    Kind.ARCHIVE: lambda path: path.write_bytes(gzip.compress(b"weights")),
}


@pytest.fixture(params=WRITERS)
def given(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Kind, Path]:
    WRITERS[request.param](tmp_path / "given")
    return request.param, tmp_path / "given"


IMPORT, DOWNLOAD = r"tools/import_weights\.py FILE OUT\.pt", "download"
REMEDY = {
    **dict.fromkeys((Kind.TORCH, Kind.PICKLE, Kind.SAFETENSORS), IMPORT),
    Kind.TORCHSCRIPT: r"torch\.jit\.load\(FILE\)\.state_dict\(\).*tools/import_weights\.py",
    Kind.EMPTY: DOWNLOAD,
    Kind.HTML: DOWNLOAD,
    Kind.LFS: "git lfs pull",
    Kind.ONNX: r"evaluate_lfw\.py --snap",
    Kind.ZIP: "unpack",
    Kind.ARCHIVE: "unpack",
    Kind.MXNET: "nothing here reads",
    Kind.HDF5: "nothing here reads",
}


def test_every_kind_is_told_from_the_others_whatever_the_name(given: tuple[Kind, Path]) -> None:
    kind, path = given
    assert kind_of(path) is kind
    assert kind_of(path.with_name("absent")) is None and kind_of(path.parent) is None


@pytest.mark.parametrize("ending", [".pt", ".pth.tar", ".safetensors", ".params", ".onnx"])
def test_a_file_that_is_no_snapshot_is_named_with_what_takes_it(given: tuple[Kind, Path], ending: str) -> None:
    kind, path = given
    path = path.rename(path.with_name(f"given{ending}"))
    no_model = rf"given{ending}: not an? .*, but {kind.value[0].split()[0]} .*{REMEDY[kind]}"
    said = "doesn't store its preprocessing" if kind is Kind.ONNX else no_model  # which --snap takes
    with pytest.raises(InputError, match=said):
        evaluate_lfw.main(["--snap", str(path), "--val_data_root", "x"])


def test_a_run_cannot_be_resumed_from_it(given: tuple[Kind, Path], sample_data: Path, tmp_path: Path) -> None:
    kind, path = given
    data = sample_data / "vggface2/train"
    small = ["--model", "rmnet", "--input_size", "32", "--train_batch_size", "16"]
    options = ["--train_dataset", "folder", "--train_data_root", str(data), "--aligned", "--snap_folder", str(tmp_path)]
    with pytest.raises(InputError, match=rf"not a snapshot of this trainer, but .*{REMEDY[kind]}"):
        train.main([*options, "--snap_to_resume", str(path), *small])


def test_no_training_begins_from_what_holds_no_weights(given: tuple[Kind, Path]) -> None:
    kind, path = given
    said = "an unknown kind" if REMEDY[kind] == IMPORT else rf"not weights to train on, but .*{REMEDY[kind]}"
    with pytest.raises(InputError, match=rf"given: .*{said}"):
        read_weights(path)


def test_a_pack_of_pairs_that_was_not_downloaded_is_told(tmp_path: Path) -> None:
    path = tmp_path / "agedb_30.bin"
    WRITERS[Kind.LFS](path)
    with pytest.raises(InputError, match=r"agedb_30\.bin: not a pack of pairs, but the pointer .*git lfs pull"):
        read_set(str(path))


# --- safetensors ------------------------------------------------------------------------------------------------------


def test_safetensors_are_read_bit_by_bit(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    tensors = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in kinds}
    tensors |= {"none": torch.zeros(0, 3), "one": torch.tensor(2.5)}
    save_safetensors(tensors, tmp_path / "f.safetensors")
    read, metadata = safetensors.read(tmp_path / "f.safetensors")
    assert metadata == {"format": "pt"}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


def test_written_safetensors_have_the_format_of_their_specification(tmp_path: Path) -> None:
    tensors = TENSORS | {"count": torch.tensor(7), "half": torch.ones(3).half(), "columns": torch.rand(3, 2).t()}
    path = tmp_path / "f.safetensors"
    with path.open("wb") as file:
        safetensors.write(file, tensors, {"key": "value"})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"key": "value"}
    assert header.keys() == tensors.keys() and length % 8 == 0
    places = [header[name]["data_offsets"] for name in header]
    # One behind the other, without holes; each at a multiple of the size of its numbers.
    assert [begin for begin, _ in places] == [0, *(end for _, end in places[:-1])]
    assert 8 + length + places[-1][1] == len(content)
    for name, tensor in tensors.items():
        begin, end = header[name]["data_offsets"]
        assert begin % tensor.itemsize == 0
        assert content[8 + length + begin : 8 + length + end] == tensor.numpy().tobytes(), name
    read, metadata = safetensors.read(path)
    assert metadata == {"key": "value"}
    assert all(read[name].dtype == tensor.dtype and torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"pt"', b"1234"),  # metadata are texts
        (b"[2,3]", b"[3,3]"),
        (b"[2,3]", b"[-2]"),
        (b'"F32"', b'"F99"'),
        (b"[24,32]", b"[32,40]"),  # beyond the end
        (b"{", b"["),
    ],
)
def test_damaged_safetensors_are_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    save_safetensors(TENSORS, path)
    header, _, data = path.read_bytes()[8:].partition(b"}}")
    spoilt = (header + b"}}").replace(old, new, 1)
    assert spoilt != header + b"}}"
    path.write_bytes(struct.pack("<Q", len(spoilt)) + spoilt + data)
    with pytest.raises(InputError, match=r"f\.safetensors: damaged safetensors"):
        safetensors.read(path)


def test_safetensors_take_no_more_memory_than_they_have_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{")
    with bounded(), pytest.raises(InputError, match="a header longer than the file"):
        safetensors.read(path)
    entry = {"dtype": "U8", "shape": [1 << 24], "data_offsets": [0, 1 << 24]}
    header = json.dumps({str(number): entry for number in range(1000)}).encode()  # all of them the same bytes
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(1 << 24))
    with bounded(), pytest.raises(InputError, match="damaged safetensors"):
        safetensors.read(path)
