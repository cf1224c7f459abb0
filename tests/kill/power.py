# SPDX-License-Identifier: GPL-2.0-only
"""Power cuts of the daemon on a block device: it is recorded at work, and every cut is opened on a copy."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec

from bcached.client import Client

from .clients import VOLUME_SECTORS, sightings
from .daemon import MortalDaemon
from .grants import Grants
from .ledger import Ledger, LostError, data_of
from .lives import BUCKET_SECTORS, MAKE, End, Lives, Seen, check_offline, look
from .recorder import Cut, Logged, RecordedDevice, cuts

SIZE_BYTES = 6 << 20  # small, so that buckets are used again
SESSION_S = 1.5


@dataclass
class PowerCuts:
    """What came of them."""

    sessions: int = 0
    cuts: int = 0
    entries: int = 0
    flushes: int = 0
    discards: int = 0
    undecided: int = 0
    ledger: Ledger = field(default_factory=lambda: Ledger(keep_all=True))


async def run_cuts(wanted: int, seed: int, *, a_session: int = 10, told: bool = False) -> PowerCuts:
    """So many cuts, some in each session of a set that lives on."""
    random, result = Random(seed), PowerCuts()
    with MortalDaemon() as judge:
        folder = judge.folder / "recorded"
        folder.mkdir()
        while result.cuts < wanted:
            number = min(a_session, wanted - result.cuts)
            try:
                base, entries = await _session(folder, random, result)
                for cut in cuts(base, entries, number, random):
                    await _judge(judge, cut, result.ledger)
                    result.cuts += 1
                    result.undecided += cut.undecided
            except BaseException as error:
                error.add_note(f"seed {seed}, session {result.sessions}, cut {result.cuts}")
                raise
            result.sessions += 1
            result.entries += len(entries)
            result.flushes += sum(entry.is_flush for entry in entries)
            result.discards += sum(entry.data is None for entry in entries)
            if told:
                print(f"{result.cuts} cuts in {result.sessions} sessions", flush=True)
    return result


async def _session(folder: Path, random: Random, result: PowerCuts) -> tuple[bytes, Sequence[Logged]]:
    """One life on the recorded device, ended by a kill; what it wrote since it began."""
    with RecordedDevice(folder, SIZE_BYTES) as device:
        with MortalDaemon(devices=[device.path]) as daemon:
            lives = Lives(daemon, random, ledger=result.ledger)
            if not result.sessions:
                daemon.make(*MAKE, "--discard")
                await lives.prepare()
            made = device.position()
            lives.position = device.position
            await lives.live(End("load", SESSION_S * (0.2 + random.random())))
        base = device.base
    entries = list(device.entries())
    if not result.sessions:  # before that there was nothing to lose
        first = next(index for index, entry in enumerate(entries) if entry.end >= made)
        image = bytearray(base)
        for entry in entries[:first]:
            if entry.data is not None:
                image[entry.offset : entry.offset + entry.length] = entry.data
        base, entries = bytes(image), entries[first:]
    return base, entries


async def _judge(judge: MortalDaemon, cut: Cut, ledger: Ledger) -> None:
    """The daemon opens what the cut left, and all is there that was promised until then."""
    (path,) = judge.devices
    Path(path).write_bytes(cut.image)
    await check_offline([path], garbled=cut.garbled)
    judge.start()
    assert await asyncio.to_thread(judge.wait_until_ready_or_dead), judge.log_text()
    seen = await look(str(judge.socket_path))
    ledger.judge_volumes(seen.listed, cut.position)
    ledger.judge(seen.found, seen.listed.values(), cut.position)
    await _go_on(judge, seen)
    assert await asyncio.to_thread(judge.end) == 0, judge.log_text()
    assert not judge.quarrels(garbled=cut.garbled), judge.log_text()
    await check_offline([path])


async def _go_on(judge: MortalDaemon, seen: Seen) -> None:
    """The set works on: what is written now is there, and nothing that was there is given out."""
    grants = Grants(BUCKET_SECTORS)
    for key in seen.keys:
        grants.see(key)
    async with Client(str(judge.socket_path)) as client:
        for offset in range(0, 512, 32):
            keys = await client.allocate(0, VOLUME_SECTORS + offset, 32, whole=True, timeout_ms=5000)
            for key in keys:
                grants.give(key)
                await client.write(key, data_of(1, 0, key.offset, key.end))
            await client.commit([msgspec.structs.replace(key, dirty=True) for key in keys])
        found = await sightings(client, 0, VOLUME_SECTORS, 512)
        if len(found) != 512:
            raise LostError(f"after the cut {len(found)} sectors of 512 were kept")
