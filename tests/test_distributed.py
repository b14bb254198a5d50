"""Rank facts, agreements and signals, with no group, a group of one, and two and three gloo ranks."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from fr.console import caught_signals
from fr.distributed import (
    Ranks,
    broadcast_buffers,
    choose_device,
    gather_rows,
    highest,
    open_ranks,
    rank,
    use_huge_pages,
    world_size,
)
from fr.errors import InputError


def test_without_a_group_this_process_is_the_only_rank() -> None:
    assert not torch.distributed.is_initialized()
    assert (rank(), world_size()) == (0, 1)


def test_the_device_is_the_wish_or_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto", 0) == choose_device("cpu", 3) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == choose_device("cuda", 1) == torch.device("cuda", 1)
    assert choose_device("cpu", 1) == torch.device("cpu")


@pytest.mark.parametrize(("wish", "local_rank", "gpus"), [("cuda", 0, 0), ("cuda", 2, 2), ("auto", 2, 2)])
def test_a_gpu_that_isnt_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, wish: str, local_rank: int, gpus: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InputError, match=rf"--device {wish}: process {local_rank} .*\({gpus} found\)"):
        choose_device(wish, local_rank)


def test_open_ranks_without_torchrun_is_a_group_of_one_and_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    try:
        with open_ranks("cpu") as ranks:
            assert ranks == Ranks(0, 1, 0, 1, torch.device("cpu"))
            assert ranks.is_main
            assert torch.distributed.is_initialized() and highest(7) == 7
        assert not torch.distributed.is_initialized()
        with pytest.raises(KeyError), open_ranks("cpu"):
            raise KeyError
        assert not torch.distributed.is_initialized()
    finally:
        torch.set_num_threads(threads)


def advice_for_64_mb(huge: bool) -> bool:
    """Test if the kernel is asked for huge pages where a large tensor lies."""
    os.environ.pop("THP_MEM_ALLOC_ENABLE", None)  # of an earlier test
    if huge:
        use_huge_pages()
    tensor = torch.empty(2**24)
    mappings = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags: ([^\n]*)", Path("/proc/self/smaps").read_text(), re.M | re.S
    )
    middle = tensor.data_ptr() + 2**25
    (flags,) = (flags for first, end, flags in mappings if int(first, 16) <= middle < int(end, 16))
    return "hg" in flags.split()


def test_large_tensors_ask_for_huge_pages(run_distributed: Callable[..., list[bool]]) -> None:
    # Whether there are any to be had is the kernel's affair, and the memory's state.
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    setting = path.read_text() if path.exists() else "no such setting"
    if "[madvise]" not in setting:
        pytest.skip(f"this system gives huge pages to all or to none: {setting}")
    assert [run_distributed(1, advice_for_64_mb, huge) for huge in (False, True)] == [[False], [True]]


def live(rank: int, port: int, life: int) -> None:
    """A rank that torchrun starts, and starts again when it has died."""
    torchrun: dict[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    torchrun |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ.update({name: str(value) for name, value in torchrun.items()}, TORCHELASTIC_RESTART_COUNT=str(life))
    time.sleep(rank)  # the first rank asks for the others before they have come
    with open_ranks("cpu", hang_timeout=10):
        assert highest(rank) == 1
        if life == 0:
            os._exit(0)  # as if killed: nothing is closed


def test_ranks_that_are_started_again_meet_each_other_and_not_the_dead() -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    multiprocessing.set_forkserver_preload(["tests.conftest", "torch._dynamo"])
    for life in range(2):
        mp.start_processes(live, (store.port, life), nprocs=2, start_method="forkserver")


COUNTS = [[2, 0, 3], [0, 0, 1], [0, 0, 0], [1, 1, 1], [5, 2, 0]]
SHAPES = [(2,), (), (3, 2)]


def rows_of(case: int, of_rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Rows that tell case, rank and place apart."""
    count = COUNTS[case][of_rank]
    size = torch.Size((count, *shape))
    return (torch.arange(size.numel()) + 1000 * of_rank + 100_000 * case).reshape(size).to(dtype)


def on_three_ranks() -> dict[str, Any]:
    gathered = [
        gather_rows(rows_of(case, rank(), shape, dtype), COUNTS[case])
        for case in range(len(COUNTS))
        for shape in SHAPES
        for dtype in (torch.float32, torch.int64)
    ]
    linear = nn.Linear(2, 2)
    norm = nn.Sequential(nn.BatchNorm2d(4), linear)
    torch.manual_seed(rank())
    nn.init.normal_(linear.weight)
    for buffer in norm.buffers():
        buffer.fill_(10 + rank())
    broadcast_buffers(norm)
    return {
        "rank": (rank(), world_size()),
        "gathered": gathered,
        "highest": [highest(value) for value in (rank(), -rank(), 255 if rank() == 1 else 0)],
        "buffers": [buffer.unique().tolist() for buffer in norm.buffers()],
        "weight": linear.weight.detach(),
    }


def test_three_ranks_agree_and_gather_in_rank_order(run_distributed: Callable[..., list[dict[str, Any]]]) -> None:
    results = run_distributed(3, on_three_ranks)
    wanted = [
        torch.cat([rows_of(case, of_rank, shape, dtype) for of_rank in range(3)])
        for case in range(len(COUNTS))
        for shape in SHAPES
        for dtype in (torch.float32, torch.int64)
    ]
    for number, result in enumerate(results):
        assert result["rank"] == (number, 3)
        assert result["highest"] == [2, 0, 255]
        assert result["buffers"] == [[10.0], [10.0], [10]]  # mean, variance and count of the first rank
        for got, want in zip(result["gathered"], wanted, strict=True):
            assert got.dtype == want.dtype and torch.equal(got, want)
    # Parameters are none of its business.
    assert not torch.equal(results[0]["weight"], results[1]["weight"])


def test_sighup_stays_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with caught_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_noted_and_a_second_meets_the_earlier_handler(number: signal.Signals) -> None:
    met: list[int] = []

    def earlier(received: int, _frame: object) -> None:
        met.append(received)

    before = signal.signal(number, earlier)
    try:
        with caught_signals() as received:
            assert received.number == 0
            os.kill(os.getpid(), number)
            assert (received.number, met) == (number, [])
            os.kill(os.getpid(), number)
            assert met == [number]
        assert signal.getsignal(number) is earlier
        with pytest.raises(KeyError), caught_signals():
            raise KeyError
        assert signal.getsignal(number) is earlier
        # Each use notes anew.
        with caught_signals() as received:
            assert received.number == 0
            os.kill(os.getpid(), number)
            assert (received.number, met) == (number, [number])
    finally:
        signal.signal(number, before)
