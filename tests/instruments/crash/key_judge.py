# SPDX-License-Identifier: GPL-2.0-only
"""Opens the states that power cuts leave of a set with keys, and holds what is found against the ledgers.

Opening is dear, and most states differ only in what nobody reads then: data. So what came of the same
contents is looked up (read_memo.py); against the ledgers, and for its data, every state is judged by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from bcached.errors import BcachedError
from bcached.keys import Key, Pointer
from bcached.state.accounting.invariants import content, violations
from bcached.state.buckets.bucket_table import State as BucketState
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.check.checker import check_set
from bcached.store.finding import Severity
from bcached.store.opening.recovery import OpenedSet, recover
from bcached.store.reading.set_reader import read_set
from bcached.units import SECTOR_BYTES
from instruments.crash.crash_judge import Complaint, cuts, kernel_complaint, without_loop
from instruments.crash.crash_states import State, StateDevice, draw_states
from instruments.crash.read_memo import Read, ReadMemo
from instruments.stories.crash_story import FRESH, Ledger, possible
from instruments.stories.key_ledger import KeyLedger, Place, Value, content_of, token_of
from instruments.stories.key_story import KeyStory

Gens = list[np.ndarray]
Copies = tuple[tuple[int, int], ...]  # device, byte


class JudgedDevice(StateDevice):
    """A device in a drawn state that writes down what is read of it, and knows prints of its contents."""

    def __init__(
        self, state: State, number: int, reads: list[tuple[Read, int]], prints: dict[Read, int]
    ) -> None:
        super().__init__(state)
        self.number = number
        self.path = f"d{number}"
        self._reads = reads
        self._prints = prints  # of what is certain, as long as the walk does not go on
        self._touched = {sector >> 12 for sector in state.drawn}
        if state.fill is not None:
            self._touched |= {sector >> 12 for sector in state.undefined}

    async def read(self, offset: int, length: int) -> bytes:
        self._reads.append((Read(self.number, offset, length), self.print_of(offset, length)))
        return await super().read(offset, length)

    def print_of(self, offset: int, length: int) -> int:
        pages = range(offset >> 12, (offset + length + 4095) >> 12)
        state = self._state
        if any(page in self._touched for page in pages):
            return hash(without_loop(super().read(offset, length)))
        read = Read(self.number, offset, length)
        known = self._prints.get(read)
        if known is None:
            known = self._prints[read] = hash(bytes(state.certain[offset : offset + length]))
        return known


@dataclass
class Verdict:
    """What there is to be said of some contents, whenever the cut came."""

    wrong: str | None = None
    fresh: bool = False
    seq: int = 0
    volumes: dict[int, str] = field(default_factory=dict)
    fields: list[Any] = field(default_factory=list)
    gens: Gens = field(default_factory=list)
    live: dict[Place, tuple[bool, Copies]] = field(default_factory=dict)
    # What may be at each place of a device, and clean sectors that are not there.
    contents: list[dict[int, tuple[bytes, ...]]] = field(default_factory=list)
    missing: list[tuple[Place, float]] = field(default_factory=list)  # from when on that is so by right
    bad_certain: tuple[object, list[set[int]]] | None = None  # for one version of the walks


class KeyJudge:
    """Judges the states of one story."""

    def __init__(self, story: KeyStory, random: Random, states_a_moment: int, check_every: int = 1) -> None:
        self.story = story
        self.check_every = check_every  # of what is opened, the first of so many is checked offline, too
        self.random = random
        self.states_a_moment = states_a_moment
        self.states = 0
        self.moments = 0
        self.prints: set[int] = set()  # of the states so far: other bytes, or another promise
        self._base = hash(tuple(bytes(log.base) for log in story.logs))
        self.memo: ReadMemo[Verdict] = ReadMemo()
        self._certain: tuple[object, dict[Read, int]] = (None, {})

    def complaints(self, from_moment: int = 0) -> Iterator[Complaint]:
        """Draw states at all moments, and tell which must not be."""
        for first, last, walks in cuts(self.story):
            if last < from_moment or any(last in moments for moments in self.story.skipped):
                continue
            self.moments += 1
            promised = self.story.keys.promised_at(last)
            for number, drawn in enumerate(draw_states(walks, self.random, self.states_a_moment)):
                self.states += 1
                self.prints.add(hash((self._base, promised, *map(print_of, drawn))))
                found = self.complaint(drawn, first, last)
                if found:
                    yield Complaint(last, number, found, [state.image() for state in drawn])

    def complaint(self, drawn: list[State], first: int, last: int) -> str | None:
        """What is wrong with a state that a cut at [first, last] left; None if nothing is."""
        version = tuple(state.walk and state.walk.version for state in drawn)
        if self._certain[0] != version:
            self._certain = (version, {})
        reads: list[tuple[Read, int]] = []
        devices = [JudgedDevice(state, number, reads, self._certain[1]) for number, state in enumerate(drawn)]
        verdict = self.memo.find(devices)
        if verdict is None:
            verdict = open_state(devices)
            self.memo.learn(reads, verdict)
            if not verdict.wrong and not verdict.fresh:
                expect(verdict, self.story.keys)
                if self.memo.results % self.check_every == 0:
                    verdict.wrong = verdict.wrong or _worst_finding(devices)
        return (
            verdict.wrong or self._against_ledger(verdict, first, last) or self._data(verdict, drawn, version)
        )

    def _against_ledger(self, verdict: Verdict, first: int, last: int) -> str | None:
        ledger, keys = self.story.ledger, self.story.keys
        volumes = possible(ledger.volumes, first, last)
        if verdict.fresh:
            return None if FRESH in volumes else "it is fresh again"
        if verdict.volumes not in volumes:
            return f"volumes are {verdict.volumes}, expected one of {volumes}"
        for number, (fields, changes) in enumerate(zip(verdict.fields, ledger.fields, strict=True)):
            if fields not in possible(changes, first, last):
                return f"{number}: policy and discard are {fields}"
        promised = keys.promised_at(last)
        if verdict.seq < promised:
            return f"entry {promised} was promised, and {verdict.seq} is the newest"
        for place, gone in verdict.missing:
            if gone > last:
                return f"{place} is lost, and was not reclaimed"
        return self._gens(verdict, ledger, last)

    def _gens(self, verdict: Verdict, ledger: Ledger, last: int) -> str | None:
        """No gen on disk goes back, and what was handed out through free_inc has its gen there."""
        moment, gens = max(
            (durable for durable in ledger.gens if durable[0] <= last), default=(0, []), key=_moment
        )
        for device, durable in enumerate(gens):
            behind = (durable - verdict.gens[device]).astype(np.uint8)
            worse = np.flatnonzero((behind > 0) & (behind < 128))
            if worse.size:
                return f"{device}: gens of {worse[:8].tolist()} went back behind those durable at {moment}"
        for begun, device, bucket, gen in ledger.handed_out:
            if begun > last:
                break
            on_disk = int(verdict.gens[device][bucket])
            if 0 < (gen - on_disk) & 255 <= GEN_DISTANCE_MAX:
                return f"{device}: bucket {bucket} was handed out with gen {gen}, on disk is {on_disk}"
        return None

    def _data(self, verdict: Verdict, drawn: list[State], version: object) -> str | None:
        """Whether each live sector holds what its key is for."""
        if verdict.bad_certain is None or verdict.bad_certain[0] != version:
            bad = []
            for state, contents in zip(drawn, verdict.contents, strict=False):
                certain = state.certain
                wrong = {
                    byte
                    for byte, choices in contents.items()
                    if certain[byte : byte + SECTOR_BYTES] not in choices
                }
                bad.append(wrong | (state.undefined & contents.keys()))
            verdict.bad_certain = (version, bad)
        pairs = zip(drawn, verdict.contents, verdict.bad_certain[1], strict=False)
        for device, (state, contents, bad_here) in enumerate(pairs):
            for byte in bad_here:
                if byte not in state.drawn:
                    return f"{device}: sector {byte // SECTOR_BYTES} does not hold its key's data"
            for byte in state.drawn.keys() & contents.keys():
                if state.drawn[byte] not in contents[byte]:
                    return f"{device}: sector {byte // SECTOR_BYTES} does not hold its key's data"
        return None


def print_of(state: State) -> int:
    """The same for the same bytes."""
    walk = state.walk
    assert walk is not None
    found = walk.print_without_uncertain()
    for drawn in state.drawn.items():
        found ^= hash(drawn)
    return hash((found, state.fill)) if state.fill is not None and state.undefined else found


def _moment(durable: tuple[int, object]) -> int:
    return durable[0]


def open_state(devices: Sequence[StateDevice]) -> Verdict:
    """What opening and checking make of some contents."""
    try:
        found = without_loop(read_set(devices))
    except BcachedError as error:
        return Verdict(f"refused: {error}")
    if any(device.writes for device in devices):
        return Verdict("reading it wrote")
    if found.contents is None:
        return Verdict(fresh=True)
    contents = found.contents
    verdict = Verdict(seq=contents.newest.seq, gens=[chain.gens for chain in contents.chains])
    verdict.fields = [(one.superblock.replacement, one.superblock.discard) for one in found.members]
    verdict.volumes = {inode: entry.label for inode, entry in enumerate(contents.uuids) if entry}
    try:
        opened = without_loop(recover(found, _make_buckets, lambda: 0.0))
    except (BcachedError, AssertionError) as error:
        verdict.wrong = f"not opened: {error!r}"
        return verdict
    verdict.wrong = kernel_complaint(devices, found) or _take_keys(verdict, opened)
    return verdict


def _worst_finding(devices: Sequence[StateDevice]) -> str | None:
    """What a check finds that no cut may leave."""
    findings = without_loop(check_set(devices)).findings.listed
    # A superblock is whole here or in its copy, or reading would have ended.
    worse = [it for it in findings if it.severity > Severity.TORN and it.structure != "superblock"]
    return f"check: {worse[0]}" if worse else None


def _make_buckets(geometry: Geometry, device: int) -> MemberBuckets:
    return MemberBuckets(geometry, device, seed=1)


def _take_keys(verdict: Verdict, opened: OpenedSet) -> str | None:
    """What is live, in memory; and what is wrong with it, and with the buckets."""
    member_buckets = [member.buckets for member in opened.members]
    bucket_sectors = member_buckets[0].geometry.bucket_sectors
    counts = [
        ([0] * count, [0] * count) for count in (buckets.geometry.bucket_count for buckets in member_buckets)
    ]
    owners: dict[tuple[int, int], Place] = {}
    for leaf in opened.index.tree.leaves:
        for key in leaf.live:
            current = []
            for pointer in key.pointers:
                bucket = pointer.sector // bucket_sectors
                if member_buckets[pointer.device].table.gens[bucket] == pointer.gen:
                    current.append(pointer)
                    counts[pointer.device][0][bucket] += key.sectors
                    counts[pointer.device][1][bucket] += key.sectors * key.dirty
            if key.dirty and len(current) < len(key.pointers):
                return f"{key} is dirty and stale"
            wrong = _take_key(verdict, key, current, owners)
            if wrong:
                return wrong
    return _buckets(opened, counts)


def _take_key(
    verdict: Verdict, key: Key, current: Sequence[Pointer], owners: dict[tuple[int, int], Place]
) -> str | None:
    """Where the sectors of a key lie; they are nobody else's."""
    for step in range(key.sectors if current else 0):
        place = key.inode, key.offset + step
        if place in verdict.live:
            return f"{place} is there twice"
        copies = tuple((pointer.device, (pointer.sector + step) * SECTOR_BYTES) for pointer in current)
        for copy in copies:
            if owners.setdefault(copy, place) != place:
                return f"{place} and {owners[copy]} lie at the same sector"
        verdict.live[place] = key.dirty, copies
    return None


def _buckets(opened: OpenedSet, counts: Sequence[Any]) -> str | None:
    """The invariants, and counts that agree."""
    metadata: list[dict[BucketState, set[int]]] = []
    for member, (sectors, dirty_sectors) in zip(opened.members, counts, strict=True):
        buckets = member.buckets
        journal = set(buckets.geometry.journal_buckets)
        metadata.append({BucketState.JOURNAL: journal, BucketState.UUID: set(), BucketState.BTREE: set()})
        if not opened.journal.free_buckets(member):
            return f"{member.device}: the journal is used up"
        for wrong in content(buckets, np.array(sectors), np.array(dirty_sectors)):
            return wrong
        if len(buckets.reserves.lists[Reserve.PRIO]) < buckets.geometry.prio_bucket_count:
            return f"{member.device}: no buckets for a prio write"
    named = [(opened.journal.locations.uuid_bucket, BucketState.UUID)]
    named += [(key, BucketState.BTREE) for key in opened.index.tree.node_keys()]
    for key, state in named:
        pointer = key.pointers[0]
        metadata[pointer.device][state].add(
            opened.members[pointer.device].buckets.geometry.bucket_of(pointer.sector)
        )
    wrong_buckets = violations(SectorAllocator([member.buckets for member in opened.members]), [], metadata)
    return wrong_buckets[0] if wrong_buckets else None


def expect(verdict: Verdict, keys: KeyLedger) -> None:
    """Hold what is live against the ledger; what its sectors must contain comes from there."""
    verdict.contents = [{} for _ in verdict.gens]
    for place in keys.versions.keys() | verdict.live.keys():
        allowed = keys.allowed(place, verdict.seq)
        found = verdict.live.get(place)
        if found is None:
            if None in allowed:
                continue
            values = [value for value in allowed if value is not None]
            if all(dirty for dirty, _ in values):
                verdict.wrong = f"{place} is lost: at entry {verdict.seq} it is dirty"
                return
            gone = min(keys.reclaimed_at(place, token) for _, token in values)
            verdict.missing.append((place, gone))
            continue
        tokens = [value[1] for value in allowed if value is not None and value[0] == found[0]]
        if not tokens:
            verdict.wrong = f"{place} is there, dirty {found[0]}; at entry {verdict.seq} it may be {allowed}"
            return
        contents = tuple(content_of(token, *place) for token in tokens)
        for device, byte in found[1]:
            verdict.contents[device][byte] = contents


def begin_from(images: Sequence[bytes | bytearray]) -> tuple[Ledger, KeyLedger]:
    """Ledgers that begin with what an opening of these images finds."""
    states = [State(bytearray(image), {}, set(), None) for image in images]
    verdict = open_state([StateDevice(state) for state in states])
    assert not verdict.wrong, verdict.wrong
    if verdict.fresh:
        found = without_loop(read_set([StateDevice(state) for state in states]))
        fields = [(one.superblock.replacement, one.superblock.discard) for one in found.members]
        return Ledger.of(FRESH, fields), KeyLedger()
    ledger = Ledger.of(verdict.volumes, verdict.fields)
    ledger.gens.append((0, verdict.gens))
    values: dict[Place, Value] = {}
    for place, (dirty, copies) in verdict.live.items():
        device, byte = copies[0]
        token = token_of(bytes(images[device][byte : byte + SECTOR_BYTES]))
        assert images[device][byte : byte + SECTOR_BYTES] == content_of(token, *place)
        values[place] = dirty, token
    return ledger, KeyLedger.of(values, verdict.seq)
