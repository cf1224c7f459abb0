# SPDX-License-Identifier: GPL-2.0-only
"""Prio sets that only entries newer than all that were found can have named."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcached.format.jset import JournalEntry
from bcached.format.prio_set import PrioSet
from bcached.runtime.lifetime import running
from bcached.store.check.checker import check_set
from bcached.store.finding import Findings, Severity
from bcached.store.journal.reader import End
from bcached.store.reading.journal_check import read_journal
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.corrections import read_corrected
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import erase, image_bytes
from instruments.samples.format_samples import EXTENT
from instruments.samples.journal_rings import BUCKET, MEMBER, entry, member
from instruments.samples.living_set import set_options

FIRST = MEMBER.journal_buckets[-1] + 1  # behind the journal
A, B, C, D = range(FIRST, FIRST + 4)


def naming(*heads: int) -> list[JournalEntry | bytes]:
    """Entries in sequence from 1 on, with keys, that name these heads."""
    return [
        replace(entry(seq, 1), prio_heads=(head,) + (0,) * 7, keys=(EXTENT,))
        for seq, head in enumerate(heads, 1)
    ]


async def end_with(entries: list[JournalEntry | bytes], seqs: Mapping[int, int], torn: int = 0) -> End:
    """How the end is known in a first lap, with these prio sets in buckets; that of one is not whole."""
    one, findings = member({1: entries}), Findings()
    for bucket, seq in seqs.items():
        raw = PrioSet(seq, 0, np.ones(1000, np.uint16), np.ones(1000, np.uint8)).pack(
            MEMBER.set_magic, BUCKET
        )
        await one.block_device.write(bucket * BUCKET, bytes(raw[: BUCKET // 2 if bucket == torn else BUCKET]))
    found = await read_journal([one], findings.report, thorough=True)
    assert found.end is not None
    assert findings.counts["journal-end"] == (found.end.known == End.SUSPECT)
    return found.end.known


@pytest.mark.parametrize(
    "seqs",
    [
        {A: 1, B: 2, C: 3},
        {A: 4, B: 2, C: 3},  # the power failed before the entry that was to name the next chain
        {C: 3},
        {A: 1, B: 2},  # the newest chain is lost: nothing to compare with
        {},
    ],
)
async def test_chains_as_entries_name_them_contradict_nothing(seqs: dict[int, int]) -> None:
    assert await end_with(naming(A, A, B, C, C), seqs) == End.PLAUSIBLE


@pytest.mark.parametrize(
    "seqs",
    [
        {A: 5, B: 2, C: 3},  # two chains further
        {A: 1, B: 2, C: 6},  # the newest named is written again
        {A: 1, C: 4},
    ],
)
async def test_a_chain_between_that_no_entry_names_shows_that_one_was_erased(seqs: dict[int, int]) -> None:
    assert await end_with(naming(A, A, B, C, C), seqs) == End.SUSPECT


async def test_a_bucket_counts_as_what_it_was_last() -> None:
    assert await end_with(naming(A, B, C, A, B), {A: 4, B: 5, C: 3}) == End.PLAUSIBLE
    assert await end_with(naming(A, B, C, A), {A: 4, B: 6, C: 3}) == End.SUSPECT


async def test_a_prio_set_need_not_be_whole() -> None:
    """Its first sector was written when the entry that names the chain before was durable."""
    entries, seqs = naming(A, B, D), {A: 9, B: 2, D: 3}
    assert await end_with(entries, seqs) == End.SUSPECT
    assert await end_with(entries, seqs, torn=A) == End.SUSPECT
    assert await end_with(entries, seqs | {A: 4}, torn=A) == End.PLAUSIBLE


async def test_what_was_before_a_gap_or_a_beginning_is_not_compared() -> None:
    whole = {A: 9, B: 2, C: 3}
    entries = naming(A, B, C)
    assert await end_with(entries, whole) == End.SUSPECT
    assert isinstance(entries[2], JournalEntry)
    beginning = replace(entries[2], seq=3, last_seq=3, keys=())
    assert await end_with([*entries[:2], beginning], whole) == End.PLAUSIBLE
    later = replace(entries[2], seq=4, last_seq=4)
    assert await end_with([*entries[:2], later], whole) == End.PLAUSIBLE


JOURNAL_BUCKET, BUCKET_BYTES = 5, 32768  # of the kernel's image: entries 193 to 201
LAST_LEFT = 192


async def test_a_kernels_newest_bucket_that_was_erased_in_the_first_lap_leaves_nothing_sure(
    tmp_path: Path,
) -> None:
    raw = bytearray(image_bytes("flash"))
    erase(JOURNAL_BUCKET * BUCKET_BYTES, BUCKET_BYTES)(raw)
    device = MemoryDevice.holding(raw)
    left = await read_corrected([device])
    assert (left.journal.found.newest.seq, left.journal.is_whole) == (LAST_LEFT, False)
    checked = await check_set([device])
    (finding,) = [one for one in checked.findings.listed if one.severity >= Severity.DAMAGE]
    assert finding.rule == "journal-end"
    assert f"--clear-journal-behind {LAST_LEFT}" in finding.advice
    wishes = Wishes(frozenset({StepOption.CLEAR_JOURNAL}), seq=LAST_LEFT)
    repair = await plan_repair([device], wishes)
    await repair.write()
    left = await read_corrected([device])
    assert (left.journal.found.newest.seq, left.journal.is_whole) == (LAST_LEFT, True)
    assert not (await plan_repair([device], wishes)).is_needed
    await device.close()
    device = device.reopen()
    async with running([device], set_options(tmp_path)) as cache_set:
        for _ in range(5):
            await cache_set.maintenance.write_priorities()
    assert (await check_set([device.reopen()])).findings.worst == Severity.NOTE
