# SPDX-License-Identifier: GPL-2.0-only
"""The daemon put to work through the client library, and then cut off in the middle of it."""

import random
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from bcached.client.blocking import BlockingClient
from bcached.errors import BcachedError
from bcached.keys import Key
from bcached.wire.admin_messages import Policy
from bcached.wire.messages import Extent

from .daemon import Daemon, serving

BATCH = 50
KEPT_BATCHES = 8  # a client holds its last batches and gives back older ones


@dataclass(frozen=True, slots=True)
class Work:
    """What was done before the end came."""

    allocations: int
    sectors: int
    prio_writes: int


def work_and_kill(image: Path, allocations: int, seed: int, policy: Policy = "lru") -> Work:
    """Make so many allocations, then kill -9 the daemon while two clients still ask for more."""
    with serving(image) as daemon:
        with daemon.client() as client:
            client.set_replacement(policy)
            volume = client.create_volume("work")
            done = allocate(client, volume, allocations, random.Random(seed))
            prio_writes = count_prio_writes(client)
        kill_at_work(daemon, volume)
    return Work(*done, prio_writes)


def allocate(client: BlockingClient, volume: int, count: int, rng: random.Random) -> tuple[int, int]:
    """Allocate in batches, dropping the oldest; gives how many, and their sectors."""
    kept: deque[list[Key]] = deque()
    allocated = sectors = 0
    while allocated < count:
        keys = batch(client, volume, rng)
        kept.append(keys)
        allocated += len(keys)
        sectors += sum(key.sectors for key in keys)
        if len(kept) > KEPT_BATCHES:
            client.release(kept.popleft())
    return allocated, sectors


def batch(client: BlockingClient, volume: int, rng: random.Random) -> list[Key]:
    """A batch of extents of 8 to 64 sectors, by four write points."""
    requests = [
        Extent(
            inode=volume,
            offset=8 * rng.randrange(1 << 30),
            sectors=8 * rng.randint(1, 8),
            write_point=rng.randrange(4),
        )
        for _ in range(BATCH)
    ]
    return [key for keys in client.allocate_many(requests) for key in keys]


def kill_at_work(daemon: Daemon, volume: int) -> None:
    """Kill the daemon once two more clients are well under way."""
    under_way = threading.Barrier(3)
    clients = [threading.Thread(target=keep_asking, args=(daemon, volume, under_way)) for _ in range(2)]
    for client in clients:
        client.start()
    under_way.wait(60)
    daemon.kill()
    for client in clients:
        client.join(60)


def keep_asking(daemon: Daemon, volume: int, under_way: threading.Barrier) -> None:
    """Allocate until the connection breaks."""
    rng = random.Random(threading.get_ident())
    try:
        with daemon.client() as client:
            allocate(client, volume, 10 * BATCH, rng)
            under_way.wait(60)
            allocate(client, volume, 1 << 40, rng)
    except (OSError, BcachedError):
        return


def count_prio_writes(client: BlockingClient) -> int:
    """How many times the daemon wrote the priorities."""
    return sum(member.prio_writes for member in client.status().members)
