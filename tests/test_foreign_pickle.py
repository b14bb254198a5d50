"""Foreign weight files: every container is read bit by bit, and whatever stands in one, nothing of it is run."""

import contextlib
import copy
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fr.errors import InputError
from fr.files import foreign_pickle
from fr.files.restricted_pickle import StandIn
from fr.weights.loading import read_weights
from tests.bounds import bounded
from tests.builders.pickles import (
    small_tensors,
)
from tests.hostile_pickles import calls, gadgets, in_legacy, in_plain_pickle, in_zip, pushed
from tests.weight_files import (
    Part,
    Tensors,
    average_meter,
    foreign_module,
    network_of,
    python2_pickle,
    save_legacy,
)

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # with which torch's files before 1.6 begin


def same(found: Any, wanted: Tensors) -> None:
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key


@pytest.mark.parametrize("save", [torch.save, save_legacy])
@pytest.mark.parametrize("known", [True, False])
def test_both_containers_of_torch_are_read_with_and_without_a_class_of_no_known_module(
    save: Callable[[Any, Path], None], known: bool, tmp_path: Path
) -> None:
    """The latter is what torch's own safe reader refuses."""
    tensors, path = small_tensors(), tmp_path / "checkpoint.pth.tar"
    with foreign_module("utils", AverageMeter=type(meter := average_meter())):
        save({"epoch": 3, "state_dict": tensors, "arch": "ResNet"} | ({} if known else {"top1": meter}), path)
    if not known:
        with pytest.raises(Exception, match=r"AverageMeter|utils"):
            torch.load(path, weights_only=True)
    tree = foreign_pickle.read(path)
    assert (tree["epoch"], tree["arch"]) == (3, "ResNet")
    same(tree["state_dict"], tensors)
    if not known:
        assert isinstance(tree["top1"], StandIn)
        assert tree["top1"].state["count"] == 4
        assert torch.equal(tree["top1"].state["sum"], torch.tensor(3.0))


@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_a_network_pickled_whole_gives_its_state_dict_without_its_class(
    save: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    tensors = {f"layer.{key}": tensor for key, tensor in small_tensors().items() if "." not in key}
    tensors |= {"bn.running_mean": torch.randn(3), "weight": torch.randn(5, 2)}
    with foreign_module("backbones", Part=Part):
        save(torch.nn.DataParallel(network := network_of(tensors)), tmp_path / "net.pth")
        wanted = dict(network.state_dict())
    tree = foreign_pickle.read(tmp_path / "net.pth")
    found = foreign_pickle.module_tensors(tree, tmp_path)
    assert found.keys() == {f"module.{key}" for key in wanted}
    same({key.removeprefix("module."): tensor for key, tensor in found.items()}, wanted)


def test_a_module_that_holds_itself_is_refused(tmp_path: Path) -> None:
    module = StandIn()
    module.state = {"_modules": {"": module, "again": module}}
    with pytest.raises(InputError, match="without end"):
        foreign_pickle.module_tensors(module, tmp_path)


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_arrays_of_every_protocol_and_kind_are_read(protocol: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "?")
    arrays: dict[str, Any] = {kind: rng.integers(2, size=(2, 3)).astype(kind) for kind in kinds}
    arrays |= {"by columns": np.asfortranarray(rng.normal(size=(3, 4))), "big-endian": rng.normal(size=5).astype(">f4")}
    arrays |= {"scalar": np.float64(1.5), "empty": np.zeros((0, 2), "f4"), "no sides": np.array(7)}
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(arrays | {"objects": np.array([{}, None]), "epoch": 3}, protocol))
    tree = foreign_pickle.read(path)
    for name, array in arrays.items():
        assert np.array_equal(tree[name].numpy(), array), name
        assert tree[name].dtype == torch.from_numpy(np.array(array).astype(array.dtype.newbyteorder("="))).dtype
    assert isinstance(tree["objects"], StandIn)
    assert tree["epoch"] == 3


def test_a_pickle_of_python_2_is_read_as_pickle_itself_reads_it(tmp_path: Path) -> None:
    tensors = {"conv1.weight": torch.randn(3, 2, 7, 7), "bn1.running_mean": torch.randn(70)}
    content = python2_pickle(tensors)
    same({key: torch.from_numpy(array) for key, array in pickle.loads(content, encoding="latin1").items()}, tensors)
    (tmp_path / "resnet50.pkl").write_bytes(content)
    same(foreign_pickle.read(tmp_path / "resnet50.pkl"), tensors)


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [in_plain_pickle, in_zip, in_legacy])
def test_hostile_pickles_execute_nothing(container: Callable[[bytes, Path], list[bytes]], tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "hostile.pth"
    read = 0
    for module, name, args in gadgets(str(mark)):
        for way, value in calls(module, name, args).items():
            for content in container(value, tmp_path):
                path.write_bytes(content)
                with contextlib.suppress(InputError):
                    foreign_pickle.read(path)
                    read += 1
                assert not mark.exists(), f"{module}.{name} by {way}"
    assert read > 100  # much of it is readable: what is known stays usable beside what isn't


def test_a_pickle_sets_no_attributes_of_what_it_may_call(tmp_path: Path) -> None:
    """They would stay for every file that is read later."""
    for name in (b"torch._utils\n_rebuild_parameter", b"collections\nOrderedDict", b"__builtin__\nset"):
        for state in (b"}" + pushed("mark") + b"K\x01s", b"N}" + pushed("mark") + b"K\x01s\x86"):
            (tmp_path / "build.pkl").write_bytes(b"\x80\x02c" + name + b"\n" + state + b"b.")
            assert not hasattr(foreign_pickle.read(tmp_path / "build.pkl"), "mark")


def test_the_payloads_are_live_ones(tmp_path: Path) -> None:
    """Read by the stock reader they make the file, so its absence above shows something."""
    mark = tmp_path / "mark"
    fired = set()
    for module, name, args in gadgets(str(mark)):
        for way, value in calls(module, name, args).items():
            with contextlib.suppress(Exception):
                pickle.loads(b"\x80\x04" + value + b".")
            if mark.exists():
                fired.add((f"{module}.{name}", way))
                os.rmdir(mark) if mark.is_dir() else mark.unlink()
    assert len({gadget for gadget, _ in fired}) >= 8
    ways = {way for _, way in fired}
    assert {"REDUCE", "STACK_GLOBAL", "INST", "OBJ", "in BUILD", "as arguments of a tensor"} <= ways


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("whole")
    tensors, contents = small_tensors(), []
    with foreign_module("utils", AverageMeter=type(meter := average_meter())):
        for save in (torch.save, save_legacy):
            for content in ({"state_dict": tensors}, {"state_dict": tensors, "top1": meter}):
                save(content, folder / "file")
                contents.append((folder / "file").read_bytes())
    floats = {key: tensor for key, tensor in tensors.items() if tensor.dtype == torch.float32}
    arrays = {key: tensor.numpy() for key, tensor in floats.items()}
    return [*contents, python2_pickle(floats), pickle.dumps(arrays, 5)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 5),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=5),
    kept=st.just(1.0) | st.floats(0, 1),
)
def test_damaged_files_give_weights_or_input_error(
    which: int, flips: list[tuple[float, int]], kept: float, whole_files: list[bytes], tmp_path: Path
) -> None:
    content = bytearray(whole_files[which])
    for place, bit in flips:
        content[int(place * len(content))] ^= 1 << bit
    (tmp_path / "damaged").write_bytes(content[: round(kept * len(content))])
    with contextlib.suppress(InputError):
        read_weights(tmp_path / "damaged")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", MAGIC]), rest=st.binary())
def test_random_bytes_give_input_error(start: bytes, rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "random"
    path.write_bytes(start + rest)
    with pytest.raises(InputError, match="random: "):
        read_weights(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    for nothing in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="can't be read"):
            foreign_pickle.read(nothing)
    (tmp_path / "empty").touch()
    with zipfile.ZipFile(tmp_path / "photographs.zip", "w") as archive:
        archive.writestr("0001.jpg", b"")
    for name, said in (("empty", "an empty file: "), ("photographs.zip", "a zip file that isn't torch.save's")):
        with pytest.raises(InputError, match=f"{name}: .*{said}"):
            foreign_pickle.read(tmp_path / name)


@pytest.mark.parametrize(
    "odd", [torch.zeros(1).expand(10**12), torch.eye(2).to_sparse(), torch.zeros(2, dtype=torch.cfloat)]
)
def test_tensors_that_are_not_plain_numbers_are_refused(odd: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"weight": odd}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match="damaged, or not a file of weights"):
        foreign_pickle.read(tmp_path / "odd.pth")


# --- files that would fill the memory, or end the process -------------------------------------------------------------


@pytest.mark.parametrize("part", ["data.pkl", pytest.param("data/0", marks=pytest.mark.thorough)])
def test_a_compressed_archive_is_not_unpacked(part: str, tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte; torch.load unpacks it."""
    torch.save({"weight": torch.zeros(4)}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            content = whole.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"K\x04tq", b"J\x00\x00\x00\x10tq", 1)  # elements of the storage: 2^28
            if name.endswith(part):
                content += bytes((1 << 30) - len(content))
            bomb.writestr(name, content)
    assert (tmp_path / "bomb.pth").stat().st_size < 2_000_000
    with bounded(), pytest.raises(InputError, match="compressed, as torch never does"):
        foreign_pickle.read(tmp_path / "bomb.pth")


def test_parts_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A thousand storages of ten megabytes each, in a file of ten."""
    torch.save({str(i): torch.zeros(1) for i in range(1000)}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb,
    ):
        for name in whole.namelist():
            if "/data/" not in name:
                bomb.writestr(name, whole.read(name).replace(b"K\x01tq", b"J\x00\xa0\x25\x00tq"))
        folder = whole.namelist()[0].split("/")[0]
        bomb.writestr(f"{folder}/data/0", bytes(4 * 0x25A000))
        (first,) = (info for info in bomb.filelist if info.filename.endswith("/data/0"))
        for number in range(1, 1000):
            again = copy.copy(first)
            again.filename = again.orig_filename = f"{folder}/data/{number}"
            bomb.filelist.append(again)
    with bounded(), pytest.raises(InputError, match="lie over one another"):
        foreign_pickle.read(tmp_path / "bomb.pth")


@pytest.mark.parametrize("claimed", [3, 5, 1 << 28, 1 << 40])
@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_a_storage_has_the_bytes_that_it_says(save: Callable[[Any, Path], None], claimed: int, tmp_path: Path) -> None:
    """Four numbers. What isn't there would be whatever was in memory."""
    save({"weight": torch.arange(4.0)}, tmp_path / "w.pth")
    content, more = (tmp_path / "w.pth").read_bytes(), b"\x8a\x08" + claimed.to_bytes(8, "little") + b"tq"
    if save is torch.save:
        with (
            zipfile.ZipFile(io.BytesIO(content)) as whole,
            zipfile.ZipFile(tmp_path / "w.pth", "w") as other,
        ):
            for name in whole.namelist():
                other.writestr(name, whole.read(name).replace(b"K\x04tq", more))
    else:
        place = content.index(torch.arange(4.0).numpy().tobytes()) - 8
        assert content[place : place + 8] == (4).to_bytes(8, "little")
        (tmp_path / "w.pth").write_bytes(content[:place] + claimed.to_bytes(8, "little") + content[place + 8 :])
    with bounded(), pytest.raises(InputError, match=r"bytes of a storage of|a tensor of \(4,\) in a storage of 3"):
        foreign_pickle.read(tmp_path / "w.pth")


MEGABYTE = b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20) + b"q\x000"  # a text, kept as 0
NUMBERS = b"](" + b"".join(b"J" + number.to_bytes(4, "little") for number in range(20_000)) + b"eq\x000"
COPIES = {  # what is kept as 0, and what makes another of it
    "bytes": (MEGABYTE, b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR"),
    "bytes by INST": (MEGABYTE, b"(h\x00X\x06\x00\x00\x00latin1i_codecs\nencode\n"),
    "arrays": (
        MEGABYTE,
        b"cnumpy.core.numeric\n_frombuffer\n(h\x00cnumpy\ndtype\n(X\x02\x00\x00\x00u1tR"
        b"J\x00\x00\x10\x00\x85X\x01\x00\x00\x00CtR",
    ),
    "sets": (NUMBERS, b"c__builtin__\nset\n(h\x00tR"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_nothing_is_copied_much_more_often_than_it_stands_there(kind: str, tmp_path: Path) -> None:
    """A megabyte, or what takes as much, a thousand times."""
    kept, copied = COPIES[kind]
    (tmp_path / "bomb.pkl").write_bytes(b"\x80\x02" + kept + b"](" + 1_000 * copied + b"e.")
    with bounded(), pytest.raises(InputError, match="more memory than the file is long"):
        foreign_pickle.read(tmp_path / "bomb.pkl")


def test_an_array_that_is_held_many_times_is_made_once(tmp_path: Path) -> None:
    array = np.arange(100_000.0)
    (tmp_path / "tied.pkl").write_bytes(pickle.dumps({str(i): array for i in range(1_000)}, 2))
    with bounded():
        tree = foreign_pickle.read(tmp_path / "tied.pkl")
    assert len({tensor.data_ptr() for tensor in tree.values()}) == 1
    assert np.array_equal(tree["7"].numpy(), array)


@pytest.mark.parametrize("around", [b"\x85", b")\x86", b"))\x87"], ids=["1", "2", "3"])
def test_tuples_deep_in_one_another_do_not_end_the_process(around: bytes, tmp_path: Path) -> None:
    """Each of them is hashed as a key, by a call inside the call for the one around it."""
    (tmp_path / "deep.pkl").write_bytes(b"\x80\x02})" + 1_000_000 * around + b"Ns.")
    with bounded(), pytest.raises(InputError, match="too deep in one another"):
        foreign_pickle.read(tmp_path / "deep.pkl")


def test_containers_deep_in_one_another_are_read(tmp_path: Path) -> None:
    """No part of the reader calls itself for what is inside."""
    (tmp_path / "deep.pkl").write_bytes(b"\x80\x02" + 300_000 * b"]" + 299_999 * b"a" + b".")
    with bounded():
        tree = foreign_pickle.read(tmp_path / "deep.pkl")
    assert isinstance(tree[0][0], list)
