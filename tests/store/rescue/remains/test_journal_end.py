# SPDX-License-Identifier: GPL-2.0-only
"""Whether what is behind the newest journal entry is one whose write a power cut interrupted."""

from dataclasses import replace
from random import Random

from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.store.finding import Findings
from bcached.store.rescue.remains.journal_left import read_journal_left
from instruments.samples.journal_rings import BLOCK, BUCKET, COUNT, Ring, entry, member, packed

A_BUCKET = BUCKET // BLOCK
NEWEST = A_BUCKET * COUNT + 2


def lapped() -> dict[int, list[JournalEntry | bytes]]:
    """A ring in its second lap: in bucket 0 the first two entries are of that."""
    ring: dict[int, list[JournalEntry | bytes]] = {
        index: [entry(seq, seq - 1 or 1) for seq in range(index * A_BUCKET + 1, (index + 1) * A_BUCKET + 1)]
        for index in range(COUNT)
    }
    ring[0][:2] = [entry(NEWEST - 1, NEWEST - 2), entry(NEWEST, NEWEST - 1)]
    return ring


def in_part(seq: int) -> bytes:
    """An entry of three sectors: the first as written, then other keys, as of an earlier lap."""
    keys = tuple(Key(0, 100 * n, 8, True, (Pointer(0, 4096 + 8 * n, 3),)) for n in range(50))
    raw = packed(replace(entry(seq, seq - 1), keys=keys))
    others = Random(seq).sample(keys, len(keys))
    rest = packed(replace(entry(seq, seq - 1), keys=tuple(others)))
    return raw[:BLOCK] + rest[BLOCK:]


async def is_whole(*rings: Ring) -> bool:
    findings = Findings()
    left = await read_journal_left([member(ring) for ring in rings], findings.report)
    assert left.found.newest.seq == NEWEST
    assert findings.counts["journal-torn" if left.is_whole else "journal-newer"] == 1
    return left.is_whole


async def test_what_an_earlier_lap_left_on_one_member_shows_that_an_entry_did_not_count() -> None:
    begun, other = lapped(), lapped()
    begun[0][2:5] = [in_part(NEWEST + 1)]
    assert not await is_whole(begun), "it may have been whole, and damaged since"
    assert not await is_whole(begun, begun)
    assert await is_whole(begun, other)
    assert await is_whole(other, begun)


async def test_a_member_where_it_may_have_been_erased_shows_nothing() -> None:
    begun, erased, blank = lapped(), lapped(), lapped()
    begun[0][2:5] = [in_part(NEWEST + 1)]
    erased[0][2] = bytes(BLOCK)
    assert not await is_whole(begun, erased)
    del blank[1]
    assert not await is_whole(begun, blank)


async def test_nor_does_one_that_lacks_the_newest() -> None:
    begun, older = lapped(), lapped()
    begun[0][2:5] = [in_part(NEWEST + 1)]
    older[0][1:2] = [entry(2, 1)]
    assert not await is_whole(begun, older)
