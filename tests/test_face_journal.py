"""The journal of tools/detect_faces.py: what is written comes back, and a damaged one is told or mended."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fr.errors import InputError
from tests.bounds import bounded
from tests.builders.journals import (
    GOOD,
    JOURNAL,
    SETTINGS,
)
from tools.dataset.face_journal import Found, append, open_journal, read_journal

NUMBERS = st.floats(-1e6, 1e6)
ONE = st.builds(
    Found,
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(1, 9),
    st.lists(NUMBERS, min_size=4, max_size=4),
    st.lists(NUMBERS, min_size=10, max_size=10),
)
NONE = st.builds(Found, st.text("ab/é\n"), st.just(0), st.just([]), st.just([]))
RECORDS = st.lists(ONE | NONE, max_size=8, unique_by=lambda found: found.name)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "faces.jsonl"


def write(path: Path, records: list[Found]) -> None:
    journal, done = open_journal(path, SETTINGS)
    with journal:
        for found in records:
            assert found.name not in done
            append(journal, found)


@settings(max_examples=100, deadline=None)
@given(RECORDS, st.data())
def test_what_was_written_before_a_kill_comes_back_and_the_rest_can_be_added(
    path: Path, records: list[Found], data: st.DataObject
) -> None:
    path.unlink(missing_ok=True)
    write(path, records)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = records[: max(0, whole[:cut].count(b"\n") - 1)]
    journal, done = open_journal(path, SETTINGS)
    journal.close()
    assert list(read_journal(path)) == kept
    assert done == {found.name for found in kept}
    write(path, records[len(kept) :])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"photographs": "/other"}, "photographs '/data', not '/other'"), ({"thresholds": ()}, "not []")],
)
def test_other_settings_are_refused_by_name(path: Path, changes: dict[str, object], word: str) -> None:
    path.unlink(missing_ok=True)
    write(path, [])
    with pytest.raises(InputError) as caught:
        open_journal(path, SETTINGS | changes)
    assert word in str(caught.value) and "give another OUT" in str(caught.value)


@pytest.mark.parametrize("first", [b"{}\n", b"[]\n", b"NAME_ID,X,Y\n", b"\xff\n", b'{"photographs": 1}\n'])
def test_another_file_is_not_taken_for_a_journal(path: Path, first: bytes) -> None:
    path.write_bytes(first)
    with pytest.raises(InputError, match=r"faces\.jsonl:1: not a journal of this tool"):
        open_journal(path, SETTINGS)
    assert path.read_bytes() == first


BAD = {
    "not JSON": b"{\n",
    "a number": b"7\n",
    "deep": b"[" * 100_000 + b"\n",
    "not UTF-8": b'{"name": "\xff"}\n',
    "a field less": json.dumps({"name": "a.jpg", "faces": 0, "box": []}).encode() + b"\n",
    **{
        f"{field} {value!r}": json.dumps(GOOD | {field: value}).encode() + b"\n"
        for field, value in [
            ("name", 7),
            ("faces", -1),
            ("faces", 1.0),
            ("faces", 0),
            ("faces", True),
            ("box", [1, 2, 3]),
            ("box", [1, 2, 3, "4"]),
            ("box", {"a": 1, "b": 2, "c": 3, "d": 4}),
            ("box", [1, 2, 3, 10**400]),
            ("points", [float("nan")] * 10),
            ("points", [float("inf")] * 10),
            ("points", [True] * 10),
            ("points", None),
            ("more", 1),
        ]
    },
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD.keys())
def test_a_line_that_is_none_is_named(path: Path, line: bytes) -> None:
    path.write_bytes(json.dumps(SETTINGS).encode() + b"\n" + json.dumps(GOOD).encode() + b"\n" + line)
    with pytest.raises(InputError, match=r"faces\.jsonl:3: not a line of this tool"):
        open_journal(path, SETTINGS)


def test_a_pipe_is_no_journal_to_wait_for(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "faces.jsonl")
    with bounded(), pytest.raises(OSError):
        open_journal(path, SETTINGS)
    with bounded(), pytest.raises(OSError, match="not a regular file"):
        next(read_journal(path))


def test_a_photograph_that_stands_twice_is_named(path: Path) -> None:
    path.write_bytes(json.dumps(SETTINGS).encode() + b"\n" + 2 * (json.dumps(GOOD).encode() + b"\n"))
    with pytest.raises(InputError, match=r"faces\.jsonl:3: a\.jpg for the second time"):
        open_journal(path, SETTINGS)


@settings(deadline=None)
@given(st.data())
def test_damaged_bytes_are_told_with_their_line_or_read_as_what_they_say(path: Path, data: st.DataObject) -> None:
    content = bytearray(JOURNAL)
    for place, byte in data.draw(st.dictionaries(st.integers(0, len(JOURNAL) - 1), st.integers(0, 255))).items():
        content[place] = byte
    _opens_or_says_where(path, bytes(content))


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_random_bytes_are_no_journal(path: Path, content: bytes) -> None:
    _opens_or_says_where(path, content)


def _opens_or_says_where(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        journal, done = open_journal(path, SETTINGS)
    except InputError as error:
        assert str(error).startswith(str(path))
    else:
        journal.close()
        assert [found.name for found in read_journal(path)] == [
            json.loads(line)["name"] for line in path.read_bytes().split(b"\n")[1:-1]
        ]
        assert len(done) == path.read_bytes().count(b"\n") - 1
