# SPDX-License-Identifier: GPL-2.0-only
"""One case: a changed image is checked, opened, lived with and checked again."""

import signal
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import FrameType

from bcached.errors import BcachedError, RequestError, SetRefused
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.store.check.checker import CheckedSet, check_set, read_metadata, read_tree
from bcached.store.finding import Severity
from fuzz.bases import TURNS, base
from fuzz.surgery import Surgeon
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import extent, set_options
from instruments.time.virtual_time import run_in_virtual_time

SECONDS_MAX = 60  # a case takes a tenth of one
INDEX_BYTES = 1 << 20


class TooLongError(Exception):
    """The case takes too long: something goes on for ever."""


@dataclass
class Verdict:
    """What came of a case."""

    name: str
    done: list[str] = field(default_factory=list)
    worst: Severity | None = None  # None: it could not be checked
    refused: str | None = None  # what the opening said
    wrong: list[str] = field(default_factory=list)
    writes: int = 0  # of the opening and the life

    @property
    def kind(self) -> str:
        """In one word."""
        return "unchecked" if self.worst is None else self.worst.name.lower()


@dataclass
class Tally:
    """What came of many."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Count one."""
        self.kinds[verdict.kind] += 1
        if verdict.wrong:
            self.wrong.append(verdict)

    def told(self) -> str:
        """In a line."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        return f"{self.kinds.total()} cases: {kinds}; wrong: {len(self.wrong)}"


def case_names(seed: int, count: int) -> Iterator[str]:
    """The names of so many cases; the kernel's larger images come less often."""
    for number in range(seed, seed + count):
        yield f"{TURNS[number % len(TURNS)]}:{number}"


def judge(name: str) -> Verdict:
    """Play a case by its name."""
    base_name, seed = name.split(":")
    chosen, verdict = base(base_name), Verdict(name)
    devices = chosen.devices()
    surgeon = Surgeon(chosen, devices, Random(name))
    surgeon.operate()
    verdict.done = surgeon.done
    try:
        with limited():
            run_in_virtual_time(_judge(devices, verdict, Random(int(seed))))
    except TooLongError:
        verdict.wrong.append("it does not end")
    except Exception as error:
        verdict.wrong.append(_told(error))
    return verdict


@contextmanager
def limited() -> Iterator[None]:
    """End what does not end by itself."""

    def end(_: int, __: FrameType | None) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS_MAX)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


async def _judge(devices: Sequence[MemoryDevice], verdict: Verdict, random: Random) -> None:
    before = await _check(devices)
    verdict.worst = before.findings.worst if before else None
    fatal = before is None or before.findings.worst == Severity.FATAL
    if before is not None:
        singly = await _check_key_by_key([device.reopen() for device in devices])
        if outcome_of(singly) != outcome_of(before):
            verdict.wrong.append(f"key by key a check finds {outcome_of(singly)[0]}")
    await _live(devices, verdict, random)
    if fatal and verdict.refused is None:
        told = [str(finding) for finding in before.findings.listed] if before else ["it could not be checked"]
        verdict.wrong.append(f"it opened, and the check says: {told}")
    elif not fatal and verdict.refused is not None:
        verdict.wrong.append(f"the check says {verdict.kind}, and it was refused: {verdict.refused}")
    elif verdict.refused is not None:
        if verdict.writes:
            verdict.wrong.append("it was refused, and changed")
    elif not verdict.wrong:
        after = await _check([device.reopen() for device in devices])
        assert before is not None
        if after is None or _worst_for_opening(after) > max(before.findings.worst, Severity.NOTE):
            told = [str(finding) for finding in after.findings.listed] if after else []
            verdict.wrong.append(f"after a life it is worse: {told}")


def _worst_for_opening(checked: CheckedSet) -> Severity:
    """The worst finding, but for the end of the journal.

    An old entry that was erased is nothing until the newest is right in front of it: then it may have been
    the newest, as far as any reader can tell.
    """
    listed = checked.findings.listed
    return max((it.severity for it in listed if it.rule != "journal-end"), default=Severity.NOTE)


async def _check(devices: Sequence[MemoryDevice]) -> CheckedSet | None:
    try:
        return await check_set(devices)
    except SetRefused:
        return None
    finally:
        for device in devices:
            await device.close()


async def _check_key_by_key(devices: Sequence[MemoryDevice]) -> CheckedSet:
    """Read leaves as a dump does, and not in columns."""
    checked = await read_metadata(devices)
    async for _ in read_tree(checked):
        pass
    for device in devices:
        await device.close()
    return checked


def outcome_of(checked: CheckedSet) -> tuple[object, ...]:
    """All that a check finds, but for the words."""
    findings = sorted((it.rule, it.severity, it.lost) for it in checked.findings.listed)
    censuses = [(it.sectors.tolist(), it.dirty_sectors.tolist(), it.gens.tolist()) for it in checked.censuses]
    return findings, checked.findings.counts, checked.totals, censuses


async def _live(devices: Sequence[MemoryDevice], verdict: Verdict, random: Random) -> None:
    """Open the set, and use it a little."""
    opened = False
    opened_devices = [device.reopen() for device in devices]
    with TemporaryDirectory() as folder:
        options = set_options(Path(folder), verify=False, restart_grace_s=0, index_bytes=INDEX_BYTES)
        try:
            async with running(opened_devices, options) as cache_set:
                opened = True
                _verify(cache_set, verdict, "opened")
                await _use(cache_set, random)
                _verify(cache_set, verdict, "used")
        except BcachedError as error:
            if not opened:
                verdict.refused = str(error)
            else:
                verdict.wrong.append(f"the life broke: {_told(error)}")
        verdict.writes = sum(device.writes for device in opened_devices)


async def _use(cache_set: CacheSet, random: Random) -> None:
    try:
        volumes = [volume.inode for volume in cache_set.volumes.all()] or [
            await cache_set.volumes.create("new")
        ]
        holder = cache_set.allocations.new_holder("user")
        inode = random.choice(volumes)
        flash = inode in cache_set.sectors.flash_sectors
        offset = 0 if flash else 8 * random.randrange(100)
        (keys,) = await cache_set.allocations.allocate(holder, [extent(8, inode=inode, offset=offset)], 5)
        keys = [Key(key.inode, key.offset, key.sectors, True, key.pointers) for key in keys]
        seq = await cache_set.index.commit(holder, keys, 5)
        await cache_set.index.durable(seq)
        await cache_set.lookups.lookup(LookupRequest(inode, 0, 1 << 20))
        await cache_set.volumes.create("another")
    except RequestError as error:
        if "DeviceFailed" in error.NAME:
            raise
    await cache_set.maintenance.collect_garbage()
    await cache_set.maintenance.write_priorities()


def _verify(cache_set: CacheSet, verdict: Verdict, when: str) -> None:
    found = cache_set.verify()
    if found:
        verdict.wrong.append(f"{when}: {len(found)} invariants do not hold: {found[0]}")


def _told(error: BaseException) -> str:
    places = traceback.extract_tb(error.__traceback__)[-4:]
    return f"{error!r} at {' < '.join(f'{Path(p.filename).name}:{p.lineno}' for p in reversed(places))}"
