"""The launcher's description of a process, and the meeting of the ranks of a start."""

import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch.distributed as dist

from fr import distributed
from fr.distributed import agree_on_start, launcher_facts, open_ranks
from fr.errors import InputError

LEFT_BEHIND = [
    *("WORLD_SIZE=1", "WORLD_SIZE=1 RANK=0", "WORLD_SIZE=", "RANK=", "LOCAL_RANK=1", "RANK=3", "MASTER_ADDR=there"),
    *("WORLD_SIZE=1 RANK=0 MASTER_ADDR=localhost", "LOCAL_WORLD_SIZE="),
]


@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_what_a_scheduler_left_in_the_environment_is_no_group(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in left.split():
        monkeypatch.setenv(*setting.split("="))
    assert launcher_facts() == {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ("WORLD_SIZE=4", "WORLD_SIZE=4 in the environment, but no RANK, MASTER_ADDR, MASTER_PORT: .* unset WORLD_SIZE"),
        ("WORLD_SIZE=4 RANK=2", "but no MASTER_ADDR, MASTER_PORT: "),
        ("WORLD_SIZE=2 RANK=2 MASTER_ADDR=x MASTER_PORT=1", "RANK=2 and WORLD_SIZE=2 in the environment: "),
        ("WORLD_SIZE=two RANK=0 MASTER_ADDR=x MASTER_PORT=1", "WORLD_SIZE=two in the environment is no whole number"),
        ("WORLD_SIZE=2 RANK=-1 MASTER_ADDR=x MASTER_PORT=1", "RANK=-1 in the environment is no whole number"),
        ("WORLD_SIZE=2 RANK=0 MASTER_ADDR=x MASTER_PORT=a", "MASTER_PORT=a in the environment is no whole number"),
    ],
)
def test_an_environment_that_describes_no_group_is_named(
    left: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in left.split():
        monkeypatch.setenv(*setting.split("="))
    with pytest.raises(InputError, match=message), open_ranks("cpu"):
        pass


def test_a_group_that_does_not_come_about_is_told_by_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for setting in f"WORLD_SIZE=1 RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT={port}".split():
            monkeypatch.setenv(*setting.split("="))
        with pytest.raises(InputError, match=f"MASTER_PORT={port}, .* no group comes of it"), open_ranks("cpu"):
            pass


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_never_come_are_awaited_as_long_as_a_hang_and_said_to_be(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch waits half an hour, without a word."""
    monkeypatch.setattr(distributed, "_NOTICE_S", 0.1)
    monkeypatch.setattr(distributed, "_MEETING_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for setting in f"WORLD_SIZE=2 RANK={rank} LOCAL_RANK={rank} MASTER_ADDR=127.0.0.1 MASTER_PORT={port}".split():
        monkeypatch.setenv(*setting.split("="))
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no group comes of it: .*unset WORLD_SIZE"), open_ranks("cpu", 1):
        pass
    assert time.monotonic() - began < 30
    where = f"MASTER_ADDR=127.0.0.1, MASTER_PORT={port}, WORLD_SIZE=2, RANK={rank} in the environment"
    assert f"{where}: waiting for 2 ranks to meet there; if no others" in capsys.readouterr().err


def started(store: dist.Store, order: list[int], wait: Callable[[], None] = lambda: None) -> dict[int, int]:
    """Numbers that ranks agree on who come in an order, each in a thread of its own."""
    starts: dict[int, int] = {}

    def come(rank: int) -> None:
        starts[rank] = agree_on_start(store, rank, len(order), timedelta(seconds=20))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in order]
    for thread in threads:
        thread.start()
        wait()
    for thread in threads:
        thread.join()
    return starts


def test_ranks_of_a_start_agree_on_its_number_in_whatever_order_they_come() -> None:
    """The store keeps what the starts before have written; TORCHELASTIC_RESTART_COUNT plays no part."""
    store = dist.HashStore()
    for number, order in enumerate(([0, 1, 2], [2, 1, 0], [1, 0], [0], [1, 2, 3, 0]), 1):
        assert started(store, order, lambda: time.sleep(0.05)) == dict.fromkeys(order, number)


def test_a_start_that_did_not_come_about_is_not_joined_by_the_next_ones_ranks() -> None:
    store = dist.HashStore()
    with pytest.raises(TimeoutError, match="ranks that have not come: 1, 2"):
        agree_on_start(store, 0, 3, timedelta(seconds=0.05))
    assert started(store, [1, 2, 0]) == {0: 2, 1: 2, 2: 2}
