# SPDX-License-Identifier: GPL-2.0-only
"""The journal read back: the union of all members, from as many entries as the newest one needs."""

from random import Random

import pytest

from bcached.errors import SetRefused
from bcached.format.jset import JournalEntry
from bcached.store.finding import refuse_fatal
from bcached.store.journal.reader import JournalFound
from bcached.store.reading.journal_check import read_journal
from instruments.samples.format_samples import sealed, with_field
from instruments.samples.journal_rings import BLOCK, COUNT, MEMBER, Ring, entry, member


async def read(*rings: Ring, discard: bool = False) -> JournalFound:
    return await read_journal([member(ring, discard) for ring in rings], refuse_fatal)


def seqs(found: JournalFound) -> list[int]:
    return [one.seq for one in found.entries]


async def test_the_newest_entry_and_those_it_needs_are_found() -> None:
    found = await read({1: [entry(1), entry(2), entry(3, 2)], 2: [entry(4, 2), entry(5, 3)]})
    assert seqs(found) == [3, 4, 5]
    assert found.newest.seq == 5
    assert (found.rings[0].index, found.rings[0].behind_byte) == (2, 1024)
    assert found.rings[0].newest_seqs[1:4] == [3, 5, 0]


async def test_it_does_not_matter_where_the_ring_was_when_it_wrapped() -> None:
    for start in range(COUNT):
        found = await read({(start + n) % COUNT: [entry(10 + n, max(10, 7 + n))] for n in range(COUNT)})
        assert seqs(found) == [14, 15, 16, 17]
        assert found.rings[0].index == (start + COUNT - 1) % COUNT


async def test_what_the_round_before_left_behind_newer_entries_is_not_taken() -> None:
    found = await read({1: [entry(20), entry(21), entry(5), entry(6)], 2: [entry(7), entry(8)]})
    assert seqs(found) == [21]
    assert (found.rings[0].index, found.rings[0].behind_byte) == (1, 1024)


async def test_what_the_round_before_left_behind_is_not_newer_because_its_number_is_damaged() -> None:
    old, flipped = entry(72, 70), 72 ^ 1 << 5  # 104: a ring of this size could hold it
    damaged = bytes(with_field(old.pack(MEMBER.set_magic, BLOCK), 16, "Q", flipped))
    resealed = bytes(sealed(bytearray(damaged), 240))
    for left in (damaged, resealed):
        assert seqs(await read({1: [entry(95)], 2: [entry(96), entry(97), left]})) == [97]
        assert seqs(await read({1: [entry(95)], 2: [entry(96), entry(97), left, left]})) == [97]
    assert seqs(await read({1: [entry(96), entry(97)], 4: [damaged]})) == [97]
    with pytest.raises(SetRefused, match="entry 97 is the newest that can be read"):
        await read({1: [entry(96), entry(97)], 4: [bytes(with_field(damaged, 32, "Q", 97))]})


async def test_a_torn_newest_entry_is_as_if_never_written() -> None:
    torn = bytearray(entry(4).pack(MEMBER.set_magic, BLOCK))
    torn[100] ^= 1
    found = await read({1: [entry(3)], 2: [bytes(torn)]})
    assert seqs(found) == [3]
    found = await read({1: [entry(2), entry(3), bytes(torn)]})
    assert seqs(found) == [3]
    assert found.rings[0].behind_byte == 1024, "the torn one may be overwritten"


async def test_an_entry_whose_bucket_does_not_begin_with_one_is_not_looked_for() -> None:
    found = await read({1: [entry(3)], 2: [bytes(BLOCK), entry(4)]})
    assert seqs(found) == [3]


async def test_what_only_one_member_has_counts_for_all() -> None:
    found = await read({1: [entry(1), entry(2), entry(3, 2)]}, {1: [entry(1), entry(2)]})
    assert seqs(found) == [2, 3]
    assert [ring.behind_byte for ring in found.rings] == [1536, 1024]
    found = await read({1: [entry(1)]}, {1: [entry(1)], 2: [entry(2, 1)]}, {})
    assert seqs(found) == [1, 2]
    assert [ring.index for ring in found.rings] == [1, 2, 0]


async def test_members_may_lack_different_entries() -> None:
    # Entry 2 came to the first member only, before a cut; entry 3 to the second only, before the next.
    found = await read({1: [entry(1)], 2: [entry(2, 1)]}, {1: [entry(1)], 2: [entry(3, 1)]})
    assert seqs(found) == [1, 2, 3]


async def test_any_ring_written_in_order_is_read_as_it_was_written() -> None:
    for seed in range(100):
        random = Random(seed)
        ring: dict[int, list[JournalEntry | bytes]] = {}
        last_seq, index, seq = 1, 0, 0
        for _ in range(random.randint(1, 3 * COUNT)):
            index = (index + 1) % COUNT
            ring[index] = []
            for _ in range(random.randint(1, 8)):
                seq += 1
                # Never needed: what the next bucket, which is about to be used again, still holds.
                oldest = min(
                    (
                        e.seq
                        for i, es in ring.items()
                        if i != (index + 1) % COUNT
                        for e in es
                        if isinstance(e, JournalEntry)
                    ),
                    default=seq,
                )
                last_seq = random.randint(max(last_seq, min(oldest, seq)), seq)
                ring[index].append(entry(seq, last_seq))
        found = await read(ring)
        assert seqs(found) == list(range(last_seq, seq + 1)), seed
        assert found.rings[0].index == index
