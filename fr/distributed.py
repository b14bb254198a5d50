"""Process group and device: opening, closing, precision; ranks that also hold without a group; agreements."""

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous

from fr.errors import InputError, in_short

T = TypeVar("T")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # of products: matrix products and convolutions

# [b, …] of each rank ↔ [W·b, …], in rank order; torch 2.13 renamed both and warns of the names before.
_SINGLE = hasattr(dist, "all_gather_single")
all_gather_single: Callable[..., Any] = dist.all_gather_single if _SINGLE else dist.all_gather_into_tensor
reduce_scatter_single: Callable[..., Any] = dist.reduce_scatter_single if _SINGLE else dist.reduce_scatter_tensor


@dataclass
class Heartbeat:
    """Progress of this rank, for `fr/train/watchdog.py`: steps and evaluation batches done, and the iteration."""

    count: int = 0
    iteration: int = 0


@dataclass(frozen=True)
class Ranks:
    """Rank and device of this process. local_*: among the processes of this host.

    job: a random name, the same on all ranks, and again when torchrun has started them anew. start: number of this
    start, from 1.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    job: str = field(default="", compare=False)
    start: int = field(default=1, compare=False)

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def choose_device(wish: str, local_rank: int) -> torch.device:
    """`auto`, `cpu` or `cuda` → this process's device; InputError when there is no such GPU."""
    gpus = torch.cuda.device_count()
    if wish == "cpu" or (wish == "auto" and gpus == 0):
        return torch.device("cpu")
    if local_rank >= gpus:
        raise InputError(
            f"--device {wish}: process {local_rank} of this host has no GPU of its own ({gpus} found); "
            "start one process a GPU, or use --device cpu"
        )
    return torch.device("cuda", local_rank)


def resolved_precision(precision: str, device: torch.device) -> str:
    """One of PRECISIONS; `auto` is bf16 where the device multiplies matrices in it, fp16 on older GPUs from compute
    capability 7.0 on, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


def allow_tf32(allowed: bool) -> None:
    """Compute float32 products on a GPU in TensorFloat-32 (10 bits of mantissa) or in IEEE float32 (23).

    torch by itself takes TF32 for convolutions and IEEE for matrix products. No effect on a CPU.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """In here, as `allow_tf32`."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(tf32)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def open_ranks(device_wish: str, hang_timeout: float = 0) -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment, or be a group of one.

    hang_timeout: seconds to wait for the other ranks, at least a minute, and those after which `fr/train/watchdog.py`
    ends the run; a collective waits longer. 0 = as torch has it. InputError for variables that describe no group, or
    one that doesn't meet.
    """
    facts = launcher_facts()
    device = choose_device(device_wish, facts["LOCAL_RANK"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
        allow_tf32(False)
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // facts["LOCAL_WORLD_SIZE"]))
        use_huge_pages()
    # Agreements and gathered figures are CPU tensors and go over gloo also on GPUs: no wait for the CUDA stream.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=2 * hang_timeout) if hang_timeout else None
    meeting = timedelta(seconds=max(hang_timeout, _MEETING_S)) if hang_timeout else default_pg_timeout
    store, job, start = _meet(facts["RANK"], facts["WORLD_SIZE"], meeting)
    ranks = Ranks(**{name.lower(): number for name, number in facts.items()}, device=device, job=job, start=start)
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=timeout)
    together = True
    try:
        yield ranks
        # A rank that leaves while another is still in its last collective aborts that one.
        dist.barrier()
    except BaseException as error:
        # Any other may be this rank's alone. NCCL would wait for its collectives that the others haven't joined, and
        # the traceback wait with it; the process ends anyway.
        together = device.type == "cpu" or isinstance(error, InputError)
        raise
    finally:
        if together:
            dist.destroy_process_group()


def use_huge_pages() -> None:
    """Have torch ask for pages of 2 MB where it takes more than that; holds from its first such allocation on.

    A CPU step frees and takes the same gigabytes again and again, and the first touch of each page of 4 KB took longer
    than the arithmetic on it (LOG.md). On a GPU torch's allocator keeps what it has.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


_FACTS = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
_ADVICE = "start with torchrun, or unset WORLD_SIZE for one process"
_MEETING_S = 60.0  # least time for ranks to meet: on a busy host their imports take unlike long
_NOTICE_S = 20.0  # seconds of waiting for other ranks before a line says so


def launched() -> bool:
    """Test if a launcher has described a group: several ranks, or one of torchrun."""
    count = os.environ.get("WORLD_SIZE", "").strip()
    return bool(count) and (count != "1" or all(os.environ.get(name) for name in ("RANK", *_MEETING)))


def launcher_facts() -> dict[str, int]:
    """Numbers of this process by the variables of `_FACTS`, or those of a group of one.

    Schedulers and notebooks leave some of these variables behind, or empty. InputError names those that describe no
    group.
    """
    if not launched():
        return dict(_FACTS)
    values = {name: os.environ.get(name, "").strip() or str(default) for name, default in _FACTS.items()}
    missing = [name for name in ("RANK", *_MEETING) if not os.environ.get(name)]
    if missing:
        count, lacking = values["WORLD_SIZE"], ", ".join(missing)
        raise InputError(f"WORLD_SIZE={count} in the environment, but no {lacking}: {_ADVICE}")
    problems = [
        f"{name}={value} in the environment is no whole number: {_ADVICE}"
        for name, value in {**values, "MASTER_PORT": os.environ["MASTER_PORT"]}.items()
        if not value.isascii() or not value.isdecimal()
    ]
    if problems:
        raise InputError(*problems)
    facts = {name: int(value) for name, value in values.items()}
    for place, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if facts[place] >= facts[count] and (count == "WORLD_SIZE" or os.environ.get(count)):
            raise InputError(f"{place}={facts[place]} and {count}={facts[count]} in the environment: {_ADVICE}")
    return facts


def _meet(rank: int, world_size: int, patience: timedelta) -> tuple[dist.Store, str, int]:
    """Store of this start of the ranks alone, `job` and `start` of Ranks; InputError when they don't meet in time."""
    if not launched():
        return dist.HashStore(), uuid.uuid4().hex, 1
    settings = (f"{name}={os.environ[name]}" for name in (*_MEETING, "WORLD_SIZE", "RANK"))
    where = f"{', '.join(settings)} in the environment"
    said = f"{where}: waiting for {world_size} ranks to meet there; if no others were started, {_ADVICE}"
    notice = threading.Timer(_NOTICE_S, partial(print, said, file=sys.stderr, flush=True))
    notice.daemon = True
    notice.start()
    try:
        store: dist.Store = next(rendezvous("env://", timeout=patience))[0]
        store.set_timeout(patience)
        # torchrun's store lives on when it starts the ranks again; below torchrun's prefix it is one for all starts.
        shared = store.underlying_store if isinstance(store, dist.PrefixStore) else store
        job = shared.compare_set("face-recognition-trainer job", "", uuid.uuid4().hex).decode()
        start = agree_on_start(dist.PrefixStore("face-recognition-trainer", shared), rank, world_size, patience)
    except (dist.DistError, RuntimeError, TimeoutError) as error:
        raise InputError(f"{where}, and no group comes of it: {in_short(error)}; {_ADVICE}") from error
    finally:
        notice.cancel()
    # What earlier ranks wrote would be taken for these ranks' addresses (pytorch issue 135712).
    return dist.PrefixStore(f"start {start}", shared), job, start


def agree_on_start(store: dist.Store, rank: int, world_size: int, patience: timedelta) -> int:
    """Number of this start of the ranks, from 1, the same on all; TimeoutError when one doesn't come in time.

    TORCHELASTIC_RESTART_COUNT is no such number: each host's torchrun counts the failures of its own ranks. Rank 0
    counts here; every other asks under a name of its own, since the store still has what ranks of before asked.
    """
    if rank:
        name = uuid.uuid4().hex
        store.set(f"rank {rank}", name)
        start = int(store.get(f"start of {name}"))
        store.set(f"here {start} {rank}", "")
        return start
    start, awaited = store.add("starts", 1), {*range(1, world_size)}
    until = time.monotonic() + patience.total_seconds()
    while awaited:
        for other in sorted(awaited):
            if store.check([f"here {start} {other}"]):
                awaited.remove(other)
            elif store.check([f"rank {other}"]):
                store.set(f"start of {store.get(f'rank {other}').decode()}", str(start))
        if time.monotonic() > until:
            raise TimeoutError(f"ranks that have not come: {', '.join(map(str, sorted(awaited)))}")
        time.sleep(0.01)
    return start


def highest(value: int, group: dist.ProcessGroup | None = None) -> int:
    """Return the largest of the ranks' values, on every rank: how they agree on a signal or a failure."""
    return ask_highest(value, group)()


def ask_highest(value: int, group: dist.ProcessGroup | None = None) -> Callable[[], int]:
    """Start `highest` in the background; the function returned waits for the answer."""
    agreed = torch.tensor(value)
    work = dist.all_reduce(agreed, op=dist.ReduceOp.MAX, group=group, async_op=True)

    def answer() -> int:
        work.wait()
        return int(agreed)

    return answer


def raise_together(failure: InputError | None, elsewhere: str, group: dist.ProcessGroup | None = None) -> None:
    """Raise on every rank if one has failed: its own failure, or InputError(elsewhere) on the others."""
    if highest(failure is not None, group):
        raise failure or InputError(elsewhere)


def raise_reason(failure: Exception | None) -> None:
    """Raise on every rank if one has failed: its own failure, or an InputError with the message of the first."""
    if highest(failure is not None):
        messages = gather_objects(str(failure) if failure else "")
        raise failure or InputError(next(filter(None, messages), "another rank failed"))


def new_patient_group() -> dist.ProcessGroup:
    """Create a gloo group of all ranks with a 7-day timeout; the default group's is half an hour."""
    group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    assert isinstance(group, dist.ProcessGroup)  # no rank is left out
    return group


@contextmanager
def patient_group() -> Iterator[dist.ProcessGroup]:
    """Open a group of `new_patient_group`, and destroy it at the end."""
    group = new_patient_group()
    try:
        yield group
    finally:
        dist.destroy_process_group(group)


def broadcast_buffers(module: nn.Module) -> None:
    """Broadcast rank 0's batch statistics, which are those that DDP and the snapshots keep."""
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)


def gather_objects(own: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Gather an object of each rank, in rank order, on every rank. Pickled, in two collectives: for rare events."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own, group)
    return gathered


def gather_rows(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Gather the CPU rows of all ranks in rank order: [counts[rank], …] each → [sum(counts), …].

    Padded to equal sizes for the collective, since gloo and NCCL only share that form.
    """
    longest = max(counts)
    if len(rows) < longest:
        rows = torch.cat([rows, rows.new_zeros((longest - len(rows), *rows.shape[1:]))])
    gathered = rows.new_empty((len(counts) * longest, *rows.shape[1:]))
    all_gather_single(gathered, rows)
    if min(counts) == longest:
        return gathered
    return torch.cat([gathered[i * longest : i * longest + count] for i, count in enumerate(counts)])
