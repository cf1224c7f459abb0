# SPDX-License-Identifier: GPL-2.0-only
"""One set through many lives of the daemon, each ended by a kill; in between everything is looked at."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from bcached.cli.offline.devices import opened
from bcached.client import Client
from bcached.keys import Key
from bcached.store.check.checker import CheckedSet, check_set
from bcached.store.finding import DAMAGED_ENTRY, Severity

from .clients import ENDED, STEADY, VOLUME_SECTORS, Load, sightings
from .daemon import CALLS, SYSTEM_CALLS, MortalDaemon, strace_is_there
from .grants import Grants
from .ledger import Ledger, LostError, Place, Sighting, Volume

BUSY_S = 0.25  # at most, before a random kill
PATIENCE_S = 1.0  # for a call that is to be fatal
RECOVERY_S = 0.15
BUCKET_SECTORS = 16
MAKE = ("-b", "8k", "-w", "512")
STEPS = ["opening", "reading the set", "recovering", "serving"]


@dataclass(frozen=True)
class End:
    """How a life ends: by a kill at some moment (under load, or before it serves), or at a call."""

    kind: str  # load, start, call, traced, stop
    after_s: float = 0.0
    call: str = ""
    moment: str = ""
    count: int = 0

    @staticmethod
    def random(random: Random, *, traced: bool) -> "End":
        """Some end."""
        kinds = {"load": 45, "start": 8, "call": 40, "traced": 4 * traced, "stop": 3}
        (kind,) = random.choices([*kinds], [*kinds.values()])
        count = int(random.choice((30, 200, 600)) * random.random()) + 1
        if kind == "call":
            return End(kind, PATIENCE_S, "", random.choice(("before", "amid", "after")), count)
        if kind == "traced":
            return End(kind, PATIENCE_S, random.choice(SYSTEM_CALLS), count=1 + count // 4)
        return End(kind, random.random() * (RECOVERY_S if kind == "start" else BUSY_S))


@dataclass
class Lives:
    """A set, its daemon, and what they owe to clients."""

    daemon: MortalDaemon
    random: Random
    copies: int = 1
    ledger: Ledger = field(default_factory=Ledger)
    ends: dict[str, int] = field(default_factory=dict)
    recovered: int = 0
    sectors_found: int = 0
    levels: int = 0
    entries_replayed: int = 0
    grants: Grants = field(default_factory=lambda: Grants(BUCKET_SECTORS))
    position: Callable[[], int] = lambda: 0

    async def prepare(self) -> None:
        """The first life makes the volumes that stay."""
        self.daemon.start()
        assert await asyncio.to_thread(self.daemon.wait_until_ready_or_dead)
        async with Client(str(self.daemon.socket_path)) as client:
            for label, sectors in STEADY.items():
                volume = self.ledger.volumes[label] = Volume(label)
                volume.inode = await client.create_volume(label, sectors=sectors)
                volume.created_at = 0
        assert await asyncio.to_thread(self.daemon.end) == 0

    async def live(self, end: End) -> None:
        """A life with that end, and a look at what it left."""
        outlived = False
        self._begin(end)
        if end.kind == "start":
            await asyncio.sleep(end.after_s)
            outlived = True
        elif await asyncio.to_thread(self.daemon.wait_until_ready_or_dead):
            if await self.inspect():
                outlived = await self._be_busy(end)
            # What strace kills at has failed already when the process goes.
            assert end.kind == "traced" or not self.daemon.quarrels(), self.daemon.log_text()
        await self._end(end, outlived)
        await self.check()

    def _begin(self, end: End) -> None:
        if end.kind == "call":
            self.daemon.start({"calls": CALLS, "count": end.count, "moment": end.moment})
        elif end.kind == "traced":
            self.daemon.start_traced(end.call, end.count)
        else:
            self.daemon.start()

    async def _be_busy(self, end: End) -> bool:
        """Clients at work until the end; whether it did not come by itself."""
        path = str(self.daemon.socket_path)
        load = Load(path, self.ledger, self.grants, self.random, self.copies, self.position)
        busy = asyncio.ensure_future(load.run())
        await asyncio.wait([busy], timeout=end.after_s)
        outlived = not busy.done()
        if outlived:
            if end.kind == "stop":
                self.daemon.send(signal.SIGTERM)
            else:
                await asyncio.to_thread(self.daemon.kill)
        await busy
        if not outlived:
            await self._must_be_dying(load.endings)
        return outlived

    async def _must_be_dying(self, endings: Sequence[Exception]) -> None:
        """Nobody's connection ends while the daemon lives."""
        for _ in range(100):
            if not self.daemon.is_alive():
                return
            await asyncio.sleep(0.05)
        raise LostError(f"the daemon lives, and its clients were cut off: {endings}")

    async def _end(self, end: End, outlived: bool) -> None:
        if end.kind == "stop":
            status = await asyncio.to_thread(self.daemon.end, None)
            how = "stopped"
            assert status == 0, self.daemon.log_text()
        else:
            status = await asyncio.to_thread(self.daemon.kill if outlived else lambda: self.daemon.end(None))
            how = {"load": "killed under load", "start": "killed while it started"}.get(
                end.kind, "killed as it did not come to that" if outlived else f"killed at a {end.kind}"
            )
            assert status == -signal.SIGKILL, (status, self.daemon.log_text())
        self.ends[how] = self.ends.get(how, 0) + 1

    async def inspect(self) -> bool:
        """Whether it lived long enough to be asked for everything; and it is all there."""
        try:
            seen = await look(str(self.daemon.socket_path))
        except ENDED as error:
            await self._must_be_dying([error])
            return False
        self.grants.begin_life()
        for key in seen.keys:
            self.grants.see(key)
        self.ledger.judge_volumes(seen.listed)
        self.ledger.judge(seen.found, seen.listed.values())
        self.ledger.settle_volumes(seen.listed)
        self.ledger.settle(seen.found)
        self.recovered += 1
        self.sectors_found += len(seen.found)
        steps = [told["STATUS"] for told in self.daemon.told if "STATUS" in told]
        for expected in STEPS:
            assert any(step.startswith(expected) for step in steps), steps
        return True

    async def check(self) -> None:
        """What lies on the devices is sound."""
        checked = await check_offline(self.daemon.devices)
        for member, chain in zip(checked.members, checked.chains, strict=True):
            gens = b"".join(prios.gens.tobytes() for _, prios in chain)
            self.grants.see_disk(member.superblock.member, gens[: member.superblock.bucket_count])
        if checked.tree is not None and checked.journal is not None:
            self.levels = max(self.levels, len(checked.tree.nodes_by_level))
            self.entries_replayed += len(checked.journal.entries)


@dataclass
class Seen:
    """What the daemon says is there."""

    listed: dict[str, int]
    found: dict[Place, Sighting] = field(default_factory=dict)
    keys: list[Key] = field(default_factory=list)


async def look(path: str) -> Seen:
    """Everything that is there; LostError if the daemon itself calls it wrong."""
    async with Client(path) as client:
        seen = Seen({volume.label: volume.inode for volume in await client.list_volumes()})
        for inode in seen.listed.values():
            seen.found |= await sightings(client, inode, 0, VOLUME_SECTORS)
            start: int | None = 0
            while start is not None:
                some = await client.lookup(inode, start, VOLUME_SECTORS - start, touch=False)
                seen.keys += some.keys
                start = some.next
        if violations := await client.verify():
            raise LostError(f"Verify: {violations}")
    return seen


async def check_offline(devices: Sequence[str], *, garbled: bool = False) -> CheckedSet:
    """What `bcachectl check` says of it: sound, save for what was torn as it was written, or garbled."""
    async with opened(devices) as block_devices:
        checked = await check_set(block_devices)
    found = [one for one in checked.findings.listed if not (garbled and one.rule == DAMAGED_ENTRY)]
    if any(one.severity > Severity.TORN for one in found):
        raise LostError(f"not sound: {[str(finding) for finding in checked.findings.listed]}")
    return checked


async def run_lives(
    lives: int, seed: int, *, members: int = 1, ends: Sequence[End] = (), told: bool = False
) -> Lives:
    """So many lives of a set; the error of one that breaks a promise names the seed and the life."""
    random = Random(seed)
    with MortalDaemon(members) as daemon:
        daemon.make(*MAKE, "--size", "16M")
        set_ = Lives(daemon, random, members)
        await set_.prepare()
        began = time.monotonic()
        for number in range(lives):
            end = ends[number] if ends else End.random(random, traced=strace_is_there())
            try:
                await set_.live(end)
            except BaseException as error:
                error.add_note(f"seed {seed}, life {number}, {end}")
                raise
            if told and (number + 1) % 50 == 0:
                print(f"{number + 1} lives, {time.monotonic() - began:.0f} s: {set_.ends}", flush=True)
        return set_
