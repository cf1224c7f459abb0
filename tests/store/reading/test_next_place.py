# SPDX-License-Identifier: GPL-2.0-only
"""What may be where the next journal entry would be: what an earlier lap of the ring left."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from random import Random

import pytest

from bcached.format.bset import Bset, pack_bset
from bcached.format.jset import JournalEntry
from bcached.format.magic import JSET
from bcached.keys import Key, Pointer
from bcached.store.finding import Findings, Severity
from bcached.store.journal.reader import End, JournalEnd
from bcached.store.reading.journal_check import read_journal
from instruments.samples import journal_rings
from instruments.samples.journal_rings import BLOCK, BUCKET, COUNT, MEMBER, entry, member, packed

MAGIC = (JSET ^ MEMBER.set_magic).to_bytes(8, "little")
Place = tuple[int, int]  # the index of a bucket, and a byte of it


class Ring:
    """Journal buckets as a writer leaves them, who fills one behind the other and erases none."""

    def __init__(self, seed: int = 1) -> None:
        self.random = Random(seed)
        self.buckets = [bytearray(BUCKET) for _ in range(COUNT)]
        self.seq, self.at = 0, (1, 0)
        self.places: dict[int, tuple[Place, int]] = {}  # by seq: where, and how long

    def write(self, *, opens: bool = False) -> None:
        """One more entry, of one to four sectors; the first of a life begins a bucket."""
        raw = packed(self.next_entry())
        self.at = self.next_place(len(raw), opens=opens)
        index, byte = self.at
        self.buckets[index][byte : byte + len(raw)] = raw
        self.seq += 1
        self.places[self.seq] = self.at, len(raw)
        self.at = index, byte + len(raw)

    def next_entry(self) -> JournalEntry:
        random = Random(f"{self.seq} {self.random.random()}")
        keys = tuple(
            Key(0, 8 * random.randrange(9999), 8, True, (Pointer(0, 8 * random.randrange(9999), 3),))
            for _ in range(random.choice((0, 3, 9, 11, 12, 20, 32, 54, 60)))
        )
        return replace(entry(self.seq + 1, max(self.seq - 4, 1)), keys=keys)

    def next_place(self, length: int, *, opens: bool = False) -> Place:
        index, byte = self.at
        return (index, byte) if byte + length <= BUCKET and not opens else ((index + 1) % COUNT, 0)

    def put(self, place: Place, raw: bytes) -> None:
        """Write to a place without any rule."""
        index, byte = place
        self.buckets[index][byte : byte + len(raw)] = raw

    def sectors(self) -> Iterator[tuple[Place, bytes]]:
        for index, bucket in enumerate(self.buckets):
            for byte in range(0, BUCKET, BLOCK):
                yield (index, byte), bytes(bucket[byte : byte + BLOCK])

    async def end(self) -> tuple[JournalEnd | None, Severity]:
        """How the end is known, and the worst that a check finds."""
        findings = Findings()
        ring: journal_rings.Ring = {index: [bytes(bucket)] for index, bucket in enumerate(self.buckets)}
        found = await read_journal([member(ring)], findings.report, thorough=True)
        return found.end, findings.worst


def of_laps(seed: int, entries: int = 0) -> Ring:
    """A ring in a later lap, after some lives."""
    ring = Ring(seed)
    for number in range(entries or 60 + seed % 40):
        ring.write(opens=number % 23 == 22)
    return ring


@pytest.mark.parametrize("seed", range(5))
async def test_what_writers_and_power_cuts_leave_is_not_suspect(seed: int) -> None:
    """Of the next entry any sectors may be there; if the first is, that is a trace, and no end is judged."""
    ring = of_laps(seed)
    end, worst = await ring.end()
    assert end is not None
    assert (end.known != End.SUSPECT, worst) == (True, Severity.NOTE)
    raw = packed(ring.next_entry())
    index, byte = ring.next_place(len(raw))
    before = bytes(ring.buckets[index])
    for written in product((False, True), repeat=len(raw) // BLOCK):
        ring.buckets[index][:] = before
        for number, is_written in enumerate(written):
            if is_written:
                part = raw[number * BLOCK : (number + 1) * BLOCK]
                ring.put((index, byte + number * BLOCK), part)
        end, _ = await ring.end()
        assert end is None or end.known != End.SUSPECT, (written, end)


@cache
def leaf_keys() -> bytes:
    keys = tuple(Key(0, 8 * n + 8, 8, True, (Pointer(0, 4096 + 8 * n, 3),)) for n in range(40))
    node = Key(1, -8, 8, False, (Pointer(0, 80, 0),))
    return pack_bset(Bset(7, keys), node, MEMBER.set_magic, BLOCK)


@pytest.mark.parametrize("seed", range(5))
async def test_any_other_sector_over_the_newest_entry_leaves_it_in_doubt(seed: int) -> None:
    """Of the same ring, of data, of the index."""
    ring = of_laps(seed)
    place, _ = ring.places[ring.seq]
    index, byte = place
    before = bytes(ring.buckets[index])
    others = [sector for at, sector in ring.sectors() if at != place and any(sector)]
    if (behind := bytes(before[byte + BLOCK :])) and (MAGIC in behind or not any(behind)):
        # Else it may be what was on the device before its journal was.
        others += [b"\xff" * BLOCK, Random(seed).randbytes(BLOCK), leaf_keys()[:BLOCK]]
    for other in others:
        ring.buckets[index][:] = before
        ring.put(place, other)
        end, worst = await ring.end()
        assert end is None or end.known == End.SUSPECT, (ring.seq, place, other[:48])
        assert worst > Severity.NOTE
