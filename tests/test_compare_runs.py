"""First difference of two logs: against brute force, and through the command."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fr.errors import InputError
from fr.report.run_logs import TIMINGS, RunLog, read_log
from tests.conftest import ROOT
from tools.compare_runs import compare, main

RECORD = {"loss": 2.5, "lr": 0.1, "images_per_s": 100.0}


def log(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def numbered(*iterations: int, **changes: Any) -> list[dict[str, Any]]:
    return [{"iteration": iteration, **RECORD, **changes} for iteration in iterations]


@pytest.mark.parametrize(
    ("other", "options", "said"),
    [
        (numbered(1, 2, 3), [], []),
        (numbered(1, 2, 3, images_per_s=7.0), [], []),
        (numbered(1, 2, 3, images_per_s=7.0), ["--timings"], ["at iteration 1:", "images_per_s: 100.0 and 7.0"]),
        (numbered(1) + numbered(2, 3, loss=2.6), [], ["at iteration 2:", "  loss: 2.5 and 2.6", "of 3 iterations"]),
        (numbered(1) + numbered(2, 3, loss=2.5000001), [], ["they part at iteration 2:", "both have 2 differ"]),
        (numbered(1) + numbered(2, 3, loss=2.5000001), ["--rtol", "1e-6"], []),
        (numbered(1, 2, 3, loss=None), [], ["  loss: 2.5 and None"]),
        (numbered(1, 2, 3, more=1.0), [], ["  more: absent and 1.0"]),
        (numbered(1, 2), [], ["a.jsonl alone has 1 iteration, the first 3"]),
        (numbered(1, 2), ["--common"], []),
        (numbered(1, 2, 3, 4, 5), [], ["b.jsonl alone has 2 iterations, the first 4"]),
        (numbered(1, 2, 2, 3), [], ["b.jsonl:3: iteration 2 twice"]),
        (numbered(1, 3, 2), [], ["b.jsonl:3: iteration 2 after 3"]),
        (numbered(7), ["--common"], ["no iteration is in both"]),
    ],
)  # fmt: skip
def test_the_command_says_what_differs(
    other: list[dict[str, Any]], options: list[str], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [log(tmp_path / "a.jsonl", *numbered(1, 2, 3)), log(tmp_path / "b.jsonl", *other)]
    assert main([*files, *options]) == (1 if said else 0)
    out = capsys.readouterr().out
    assert all(line in out for line in said or ["the same in "]), out


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([1.0, 2.0, None])), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([1.0, 2.0, None])), min_size=1, max_size=12),
)
def test_the_first_parting_is_that_of_a_walk_over_both(
    first: list[tuple[int, float | None]], second: list[tuple[int, float | None]]
) -> None:
    a, b = (RunLog("r", {iteration: {"loss": loss} for iteration, loss in one}, []) for one in (first, second))
    shared = [iteration for iteration in range(13) if iteration in a.records and iteration in b.records]
    expected = next((i for i in shared if a.records[i] != b.records[i]), None)
    found = compare(a, b, rtol=0.0, ignored=TIMINGS, common=True)
    if expected is None:
        assert found == ([] if shared else ["no iteration is in both"])
    else:
        assert found[0] == f"they part at iteration {expected}:"


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_without_rtol_only_the_same_bits_agree(x: float, y: float) -> None:
    a, b = (RunLog("r", {1: {"loss": value}}, []) for value in (x, y))
    assert (compare(a, b, rtol=0.0, ignored=set(), common=False) == []) == (x == y)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_log_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(content)
    try:
        assert read_log(path).records
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no records"),
        ('{"iteration": 1}\n{"iteration": 2, "lo', ":2: not a record of numbers"),
        ('{"loss": 1.0}\n', ":1: a record without its iteration"),
        ('{"iteration": 1, "loss": "x"}\n', ":1: not a record of numbers"),
        ('{"iteration": true}\n', ":1: not a record of numbers"),
        ('{"iteration": 1, "loss": 1' + "0" * 400 + "}", ":1: not a record of numbers"),
        ("[" * 100_000, ":1: not a record of numbers"),
    ],
)
def test_what_is_no_log_is_refused_by_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(InputError, match=said):
        main([str(tmp_path), str(tmp_path)])  # the folder stands for its log


def test_the_exit_status_of_the_command_itself(tmp_path: Path) -> None:
    a, b = log(tmp_path / "a", *numbered(1, 2)), log(tmp_path / "b", *numbered(1, 2, loss=math.pi))
    command = [sys.executable, "tools/compare_runs.py"]
    for files, status in (([a, a], 0), ([a, b], 1), ([a, str(tmp_path / "absent")], 2)):
        result = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == status, result.stderr
        assert "Traceback" not in result.stderr
