"""tools/dataset/parallel.py: order, errors, and that no worker outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fr.errors import InputError
from tests.parallel_jobs import die_at, fail_at, note, power
from tools.dataset.parallel import map_in_processes

ROOT = Path(__file__).parent.parent
PATIENCE = 30  # seconds until a process that should end is taken for one that hangs


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(map_in_processes(partial(power, 2), range(40), workers, "squares")) == [n * n for n in range(40)]


def test_nothing_to_do_starts_nothing() -> None:
    assert list(map_in_processes(os.getpid, [], 2, "nothing")) == []  # type: ignore[arg-type]


def test_an_error_of_a_worker_is_raised_in_its_place() -> None:
    results = map_in_processes(partial(fail_at, 5), range(1000), 2, "failing")
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError) as caught:
        next(results)
    assert caught.value.problems == ("5 is bad", "in two ways")


def test_a_killed_worker_is_an_error() -> None:
    with pytest.raises(InputError, match=r"dying: a worker was killed; .*--workers"):
        list(map_in_processes(partial(die_at, 3), range(50), 2, "dying"))


def test_few_items_are_begun_ahead_of_what_is_taken(tmp_path: Path) -> None:
    results = map_in_processes(partial(note, tmp_path), range(1000), 2, "noting")
    next(results)
    time.sleep(1)
    begun = len(list(tmp_path.iterdir()))
    results.close()  # type: ignore[attr-defined]
    assert begun <= 8
    assert len(list(tmp_path.iterdir())) <= 8


SCRIPT = """
from functools import partial
from pathlib import Path
from tests.parallel_jobs import note
from tools.dataset.parallel import map_in_processes
if __name__ == "__main__":
    list(map_in_processes(partial(note, Path({folder!r})), range(100000), 2, "noting"))
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", set[int]]]:
    """A command with two workers at work, the head of a process group as in a terminal; and the workers' ids."""
    script, notes = tmp_path / "script.py", tmp_path / "notes"
    notes.mkdir()
    script.write_text(SCRIPT.format(folder=str(notes)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        until = time.monotonic() + PATIENCE
        workers: set[int] = set()
        while len(workers) < 2 and time.monotonic() < until:
            workers = {int(text) for path in notes.iterdir() if (text := path.read_text())}
        yield process, workers
        process.kill()


def ended(process_id: int) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_ends_the_workers_quietly(running: tuple["subprocess.Popen[str]", set[int]]) -> None:
    process, workers = running
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert len(workers) == 2
    assert all(ended(worker) for worker in workers)
    assert said.count("Traceback") == 1  # the command's own; run_plainly turns it into status 130


def test_workers_end_with_a_command_that_is_killed(running: tuple["subprocess.Popen[str]", set[int]]) -> None:
    process, workers = running
    process.kill()
    process.wait(timeout=PATIENCE)
    assert len(workers) == 2
    assert all(ended(worker) for worker in workers)
