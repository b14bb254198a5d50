"""What a launcher such as torchrun has told this process: its place among the ranks, and a store to meet them in."""

import os
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from fr.errors import InputError, in_short

_FACTS = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
_MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Meeting:
    """What the ranks have in common. store: of this start alone, empty before it.

    job: a random name, the same on all ranks, and again when torchrun has started them anew. start: number of this
    start of the ranks, from 1.
    """

    store: dist.Store
    job: str
    start: int


def launched() -> bool:
    """Whether a launcher has described a group: several ranks, or one of torchrun."""
    count = os.environ.get("WORLD_SIZE", "").strip()
    return bool(count) and (count != "1" or all(os.environ.get(name) for name in ("RANK", *_MEETING)))


def launcher_facts() -> dict[str, int]:
    """Numbers of this process by the variables of `_FACTS`, or those of a group of one.

    Schedulers and notebooks leave some of these variables behind, or empty. InputError names those that describe no
    group.
    """
    if not launched():
        return dict(_FACTS)
    advice = "start with torchrun, or unset WORLD_SIZE for one process"
    values = {name: os.environ.get(name, "").strip() or str(default) for name, default in _FACTS.items()}
    missing = [name for name in ("RANK", *_MEETING) if not os.environ.get(name)]
    if missing:
        raise InputError(f"WORLD_SIZE={values['WORLD_SIZE']} in the environment, but no {', '.join(missing)}: {advice}")
    problems = [
        f"{name}={value} in the environment is no whole number: {advice}"
        for name, value in {**values, "MASTER_PORT": os.environ["MASTER_PORT"]}.items()
        if not value.isascii() or not value.isdecimal()
    ]
    if problems:
        raise InputError(*problems)
    facts = {name: int(value) for name, value in values.items()}
    for place, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if facts[place] >= facts[count] and (count == "WORLD_SIZE" or os.environ.get(count)):
            raise InputError(f"{place}={facts[place]} and {count}={facts[count]} in the environment: {advice}")
    return facts


def meet(rank: int, world_size: int, patience: timedelta) -> Meeting:
    """Meet the other ranks of this start; InputError when they don't find each other in time."""
    if not launched():
        return Meeting(dist.HashStore(), uuid.uuid4().hex, 1)
    try:
        store: dist.Store = next(rendezvous("env://"))[0]
        store.set_timeout(patience)
        # torchrun's store lives on when it starts the ranks again; below torchrun's prefix it is one for all starts.
        shared = store.underlying_store if isinstance(store, dist.PrefixStore) else store
        job = shared.compare_set("face-recognition-trainer job", "", uuid.uuid4().hex).decode()
        start = agree_on_start(dist.PrefixStore("face-recognition-trainer", shared), rank, world_size, patience)
    except (dist.DistError, RuntimeError, TimeoutError) as error:
        where = ", ".join(f"{name}={os.environ[name]}" for name in (*_MEETING, "WORLD_SIZE", "RANK"))
        raise InputError(f"{where} in the environment, and no group comes of it: {in_short(error)}") from error
    # What earlier ranks wrote would be taken for these ranks' addresses (pytorch issue 135712).
    return Meeting(dist.PrefixStore(f"start {start}", shared), job, start)


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
