# SPDX-License-Identifier: GPL-2.0-only
"""Objects of a cache through kills of the daemon, and through power cuts of a recorded block device."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bcached.client import Cache
from bcached.errors import BcachedError

from .daemon import MortalDaemon
from .object_ledger import ObjectLedger, act
from .recorder import Cut, RecordedDevice, cuts

KILLED_BYTES, CUT_BYTES = 512 << 20, 24 << 20  # so much more than is stored that nothing is evicted
CALLS = 120  # of a session on the recorded device
BUSY_S = 0.4  # at most, before a kill
LIVES_OF_A_SET = 25
MAKE = ("-b", "32k")


@dataclass
class ObjectKills:
    """What came of them."""

    kills: int = 0
    cuts: int = 0
    sessions: int = 0
    found: int = 0
    undecided: int = 0
    figures: dict[str, int] = field(default_factory=dict)

    def add(self, ledger: ObjectLedger) -> None:
        """Count what a ledger's clients did."""
        for name, number in ledger.figures.items():
            self.figures[name] = self.figures.get(name, 0) + number


def run_object_kills(wanted: int, seed: int, *, told: bool = False) -> ObjectKills:
    """So many lives of a daemon, each ended by a kill while a client stores."""
    random, result = Random(seed), ObjectKills()
    while result.kills < wanted:
        with MortalDaemon() as daemon:
            daemon.make(*MAKE, "--size", str(KILLED_BYTES))
            ledger = ObjectLedger()
            for _ in range(min(LIVES_OF_A_SET, wanted - result.kills)):
                try:
                    _live(daemon, ledger, random, result)
                except BaseException as error:
                    error.add_note(f"seed {seed}, kill {result.kills}")
                    raise
            result.add(ledger)
        if told:
            print(f"{result.kills} kills", flush=True)
    return result


def _live(daemon: MortalDaemon, ledger: ObjectLedger, random: Random, result: ObjectKills) -> None:
    """All durable objects are there; then store until the daemon is killed."""
    daemon.start()
    assert daemon.wait_until_ready_or_dead(), daemon.log_text()
    with _cache_on(daemon) as cache:
        result.found += ledger.judge(cache)
        ledger.settle(cache)
        killer = threading.Timer(random.random() * BUSY_S, daemon.kill)
        killer.start()
        with suppress(BcachedError):
            while killer.is_alive():
                act(cache, ledger, random)
        killer.join()
    assert not daemon.quarrels(), daemon.log_text()
    result.kills += 1


@contextmanager
def _cache_on(daemon: MortalDaemon) -> Iterator[Cache]:
    """A cache that is closed at the end, whether its daemon is gone or not."""
    cache = Cache(str(daemon.socket_path))
    try:
        yield cache
    finally:
        with suppress(BcachedError):
            cache.close()


def run_object_cuts(
    wanted: int, seed: int, *, a_session: int = 10, calls: int = CALLS, told: bool = False
) -> ObjectKills:
    """So many power cuts, some in each session on a recorded device."""
    random, result = Random(seed), ObjectKills()
    with MortalDaemon() as judge:
        while result.cuts < wanted:
            folder = judge.folder / f"recorded {result.sessions}"
            folder.mkdir()
            ledger = ObjectLedger()
            try:
                for cut in _session(folder, ledger, random, calls, min(a_session, wanted - result.cuts)):
                    _judge(judge, cut, ledger, result)
            except BaseException as error:
                error.add_note(f"seed {seed}, session {result.sessions}, cut {result.cuts}")
                raise
            result.sessions += 1
            result.add(ledger)
            if told:
                print(f"{result.cuts} cuts in {result.sessions} sessions", flush=True)
    return result


def _session(folder: Path, ledger: ObjectLedger, random: Random, calls: int, count: int) -> list[Cut]:
    """A client that stores on a recorded device, ended by a kill; returns cuts of what was written."""
    with RecordedDevice(folder, CUT_BYTES) as device:
        with MortalDaemon(devices=[device.path]) as daemon:
            daemon.make(*MAKE)
            daemon.start()
            assert daemon.wait_until_ready_or_dead(), daemon.log_text()
            ledger.position = device.position
            with _cache_on(daemon) as cache:
                cache.flush()
                made = device.position()
                for _ in range(calls):
                    act(cache, ledger, random)
                daemon.kill()
        base = bytearray(device.base)
    entries = list(device.entries())
    first = next(index for index, entry in enumerate(entries) if entry.end > made)
    for entry in entries[:first]:  # before that there was nothing to lose
        if entry.data is not None:
            base[entry.offset : entry.offset + entry.length] = entry.data
    return list(cuts(bytes(base), entries[first:], count, random))


def _judge(judge: MortalDaemon, cut: Cut, ledger: ObjectLedger, result: ObjectKills) -> None:
    """A daemon opens what the cut left; all that was durable is there, and the cache can be used."""
    (path,) = judge.devices
    Path(path).write_bytes(cut.image)
    judge.start()
    assert judge.wait_until_ready_or_dead(), judge.log_text()
    with _cache_on(judge) as cache:
        result.found += ledger.judge(cache, cut.position)
        cache.set("afterwards", b"v" * 9000, durable=True)
        assert cache["afterwards"] == b"v" * 9000
    assert judge.end() == 0, judge.log_text()
    assert not judge.quarrels(garbled=cut.garbled), judge.log_text()
    result.cuts += 1
    result.undecided += cut.undecided
