# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's clients put data into volumes, overwrite and delete it, and may be cut off in mid-work."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import structs

from bcached.client.blocking import BlockingClient
from bcached.errors import BcachedError
from bcached.wire.messages import Extent

from .daemon import Daemon
from .images import SECTOR
from .model import NOTHING, Model, token

BATCH = 100  # extents, allocated, written and committed together
CHURNS_MIN = 150  # of each client, before the cut
CLIENTS = 2


@dataclass
class Filler:
    """Fills volumes through one connection, in extents of up to so many blocks."""

    client: BlockingClient
    rng: random.Random
    block_sectors: int
    blocks_max: int = 3
    number: int = 0  # of the last write

    def write(self, model: Model, times: int, *, dirty: bool = True) -> None:
        """Write extents all over the volume, in batches that are committed at once."""
        while times > 0:
            extents = [self.place(model) for _ in range(min(BATCH, times))]
            asked = [Extent(model.inode, offset, sectors, whole=True) for offset, sectors in extents]
            commit = []
            for (offset, sectors), keys in zip(extents, self.client.allocate_many(asked), strict=True):
                self.number += 1
                data = model.write(offset, sectors, self.number, dirty=dirty)
                for key in keys:
                    at = (key.offset - offset) * SECTOR
                    self.client.write(key, data[at : at + key.sectors * SECTOR])
                    commit.append(structs.replace(key, dirty=dirty))
            self.client.commit(commit, durable=False)
            times -= len(extents)

    def drop(self, model: Model, times: int, blocks_max: int = 40) -> None:
        """Invalidate ranges all over the volume."""
        for _ in range(times):
            offset, sectors = self.place(model, blocks_max)
            self.client.invalidate(model.inode, offset, sectors, durable=False)
            model.drop(offset, sectors)

    def place(self, model: Model, blocks_max: int = 0) -> tuple[int, int]:
        """A range of whole blocks in the part of the volume that is not churned."""
        blocks = (model.sectors - model.first - model.churned) // self.block_sectors
        count = self.rng.randint(1, blocks_max or self.blocks_max)
        start = model.first + self.rng.randrange(blocks - count) * self.block_sectors
        return start, count * self.block_sectors


@dataclass
class Churn:
    """One client that goes on until it is cut off, in sectors of its own; and what these may hold then."""

    daemon: Daemon
    inode: int
    first: int
    sectors: int
    block_sectors: int
    seed: int
    may_hold: dict[int, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.may_hold = {sector: [NOTHING] for sector in range(self.first, self.first + self.sectors)}

    def run(self, under_way: Callable[[], object]) -> None:
        """Work until the connection breaks; under_way is called when a good deal is done."""
        rng = random.Random(self.seed)
        try:
            with self.daemon.client() as client:
                for number in range(1 << 40):
                    self._step(client, rng, number)
                    if number == CHURNS_MIN:
                        under_way()
        except (OSError, BcachedError):
            return

    def _step(self, client: BlockingClient, rng: random.Random, number: int) -> None:
        blocks = rng.randint(1, 8)
        start = rng.randrange(self.sectors // self.block_sectors - blocks) * self.block_sectors
        places = range(self.first + start, self.first + start + blocks * self.block_sectors)
        durable = rng.random() < 0.3
        if rng.random() < 0.2:
            data = [NOTHING for _ in places]
        else:
            data = [token(self.inode, sector, number) for sector in places]
        for sector, what in zip(places, data, strict=True):
            self.may_hold[sector].append(what)
        if data[0] == NOTHING:
            client.invalidate(self.inode, places.start, len(places), durable=durable)
        else:
            client.store(self.inode, places.start, b"".join(data), durable=durable)
        if durable:  # and all that this client did before
            for held in self.may_hold.values():
                del held[:-1]


def churn_and_kill(daemon: Daemon, model: Model, block_sectors: int, seed: int) -> None:
    """Kill the daemon once some clients are well under way at the end of the volume."""
    share = model.churned // CLIENTS
    churns = [
        Churn(
            daemon,
            model.inode,
            model.sectors - model.churned + share * number,
            share,
            block_sectors,
            seed + number,
        )
        for number in range(CLIENTS)
    ]
    under_way = threading.Barrier(CLIENTS + 1)
    threads = [threading.Thread(target=churn.run, args=(lambda: under_way.wait(60),)) for churn in churns]
    for thread in threads:
        thread.start()
    under_way.wait(60)
    daemon.kill()
    for thread, churn in zip(threads, churns, strict=True):
        thread.join(60)
        model.open |= churn.may_hold
