"""MAT files: what scipy.io.savemat wrote, and any damage to it."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from fr.errors import InputError
from fr.files import mat_file
from fr.files.mat_file import Cells, Structs, read_mat


def cells(*rows: list[Any]) -> Any:
    found = np.empty((len(rows), len(rows[0])), dtype=object)
    for place, row in enumerate(rows):
        found[place, :] = row
    return found


NUMBERS: dict[str, Any] = {
    kind: (np.arange(6).reshape(2, 3) - 3).astype(kind)
    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
}
CONTENT = {
    "names": cells(["é_1.jpg", "b"], ["", "a longer name.png"]),
    "people": {"name": "Ann", "age": 41.5, "more": cells([np.arange(3), "x"])},
    "empty": np.zeros((0, 0)),
    **NUMBERS,
}


def written(path: Path, compressed: bool = False) -> Path:
    savemat(path, CONTENT, do_compression=compressed)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_variables_are_those_that_were_saved(compressed: bool, tmp_path: Path) -> None:
    found = read_mat(written(tmp_path / "a.mat", compressed), list(CONTENT))
    assert found["names"] == Cells((2, 2), ["é_1.jpg", "", "b", "a longer name.png"])
    people = found["people"]
    assert isinstance(people, Structs) and people.shape == (1, 1) and people.fields["name"] == ["Ann"]
    assert people.fields["age"][0].tolist() == [[41.5]]
    (more,) = people.fields["more"]
    assert more.shape == (1, 2) and more.values[0].tolist() == [[0, 1, 2]] and more.values[1] == "x"
    assert found["empty"].size == 0
    reference = loadmat(tmp_path / "a.mat")
    for name in NUMBERS:
        assert found[name].tolist() == reference[name].tolist() == CONTENT[name].tolist()


def test_files_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    """Bytes of a MATLAB on SPARC: the text, then a number; scipy reads the same."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    def array(kind: int, shape: tuple[int, int], name: bytes, content: bytes) -> bytes:
        head = element(6, struct.pack(">II", kind, 0)) + element(5, struct.pack(">ii", *shape))
        return element(14, head + element(1, name) + content)

    small = struct.pack(">HH", 2, 4) + "é".encode("utf-16-be") + b"\0\0"
    content = b"MATLAB 5.0".ljust(124) + b"\1\0MI" + array(4, (1, 1), b"t", small)
    content += array(6, (2, 1), b"n", element(9, struct.pack(">dd", 1.5, -2)))
    (tmp_path / "a.mat").write_bytes(content)
    found, reference = read_mat(tmp_path / "a.mat", ["t", "n"]), loadmat(tmp_path / "a.mat")
    assert found["t"] == "é" and found["n"].tolist() == reference["n"].tolist() == [[1.5], [-2]]


def test_what_is_not_read_is_none(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"rows": np.array(["ab", "cd"]), "z": np.array([1j]), "logical": np.array([True])})
    found = read_mat(tmp_path / "a.mat", ["rows", "z", "logical"])
    assert found["rows"] is None and found["z"] is None and found["logical"].tolist() == [[1]]


def test_a_variable_that_is_not_there_and_other_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mat")
    with pytest.raises(InputError, match=r"a\.mat: no variable splits or ids"):
        read_mat(path, ["splits", "names", "ids"])
    for content, said in (
        (b"", "not a MAT file of level 5"),
        (b"MATLAB 7.3 MAT-file" + b" " * 600, "save it in MATLAB with the option -v7"),
        (path.read_bytes()[:300], "a damaged MAT file"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_mat(path, ["names"])
    with pytest.raises(InputError, match="can't be read: No such file"):
        read_mat(tmp_path / "none", ["names"])


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"names": np.zeros(5_000_000)}, do_compression=True)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="more than 33,554,432 bytes unpacked"):
        read_mat(path, ["names"])
    # A cell array that says it has 2**62 cells: nothing is allocated for them.
    savemat(path, {"names": cells(["a", "b"])})
    shape = struct.pack("<ii", 1, 2)
    path.write_bytes(path.read_bytes().replace(shape, struct.pack("<ii", 2**31 - 1, 2**31 - 1), 1))
    with pytest.raises(InputError, match="2 values in an array of 4611686014132420609"):
        read_mat(path, ["names"])
    nested: Any = "x"
    for _ in range(30):
        nested = cells([nested])
    savemat(path, {"names": nested})
    with pytest.raises(InputError, match="more than 16 values in each other"):
        read_mat(path, ["names"])
    monkeypatch.setattr(mat_file, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="can't be read: "):
        read_mat(path, ["names"])


def test_a_shape_of_doubles_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"names": np.array([[5.0, 7.0]])})
    whole = bytes(path.read_bytes())
    shape = struct.pack("<IIii", 5, 8, 1, 2)
    assert shape in whole
    path.write_bytes(whole.replace(shape, struct.pack("<II", 9, 8) + struct.pack("<d", np.inf), 1))
    with pytest.raises(InputError, match="a damaged MAT file"):
        read_mat(path, ["names"])


def saved() -> bytes:
    buffer: Any = io.BytesIO()
    savemat(buffer, CONTENT)
    return bytes(buffer.getvalue())


PLAIN = saved()
EDIT = st.tuples(st.integers(0, len(PLAIN)), st.integers(0, 9), st.binary(max_size=9))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EDIT, min_size=1, max_size=3), st.booleans())
def test_any_content_is_read_or_refused(tmp_path: Path, edits: list[tuple[int, int, bytes]], compressed: bool) -> None:
    content = PLAIN
    for place, gone, new in edits:
        content = content[:place] + new + content[place + gone :]
    if compressed:  # the damage is in what is packed
        packed = zlib.compress(content[128:])
        content = content[:128] + struct.pack("<II", 15, len(packed)) + packed
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    try:
        found = read_mat(path, ["names", "people", "float64"])
    except InputError as error:
        assert str(path) in error.problems[0]
        return
    assert {*found} == {"names", "people", "float64"}
