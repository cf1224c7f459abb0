"""Where the uuid table and the root may be, and how far ahead of the gens on the device their pointers."""

from dataclasses import replace

import numpy as np
import pytest

from bcached.errors import BadField
from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.store.metadata_places import check_gens, check_places
from bcached.store.prio_chain import PrioChain
from instruments.format_samples import ENTRY, SUPERBLOCK

MEMBERS = [replace(SUPERBLOCK, journal_buckets=tuple(range(1, 9)))] * 2
BUCKET = 1024  # sectors


def chain(gen: int, *buckets: int) -> PrioChain:
    return PrioChain(list(buckets), 1, np.zeros(1024, np.uint16), np.full(1024, gen, np.uint8))


def moved(key: Key, **fields: int) -> Key:
    there = key.pointers[0]
    pointer = Pointer(**{"device": there.device, "sector": there.sector, "gen": there.gen, **fields})
    return Key(key.inode, key.offset, key.sectors, key.dirty, (pointer,))


def test_places_of_their_own_pass_on_any_member() -> None:
    check_places(MEMBERS, ENTRY, "here")
    check_places(MEMBERS, replace(ENTRY, root=moved(ENTRY.root, device=1)), "here")
    same_bucket = moved(ENTRY.root, device=1, sector=ENTRY.uuid_bucket.pointers[0].sector)
    check_places(MEMBERS, replace(ENTRY, root=same_bucket), "here")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (replace(ENTRY, root=moved(ENTRY.root, device=2)), "btree_root, device"),
        (replace(ENTRY, root=moved(ENTRY.root, sector=0)), "btree_root, bucket: expected at least 1"),
        (replace(ENTRY, uuid_bucket=moved(ENTRY.uuid_bucket, sector=1024 * BUCKET)), "uuid_bucket, bucket"),
        (replace(ENTRY, uuid_bucket=moved(ENTRY.uuid_bucket, sector=8 * BUCKET)), "outside of the journal"),
        (
            replace(ENTRY, root=moved(ENTRY.root, sector=22 * BUCKET)),
            "btree_root: expected a bucket of its own",
        ),
        (replace(ENTRY, root=Key(0, 0, 512, False, ENTRY.root.pointers)), "btree_root, position"),
        (
            replace(ENTRY, root=Key(0, 0, 512, False, ENTRY.root.pointers * 2)),
            "btree_root, pointers: expected 1, found 2",
        ),
    ],
)
def test_other_places_are_refused(changed: JournalEntry, says: str) -> None:
    with pytest.raises(BadField, match=says):
        check_places(MEMBERS, changed, "here")


@pytest.mark.parametrize(("gen", "on_disk"), [(1, 1), (97, 1), (0, 160), (95, 255)])
def test_a_pointer_may_be_ahead_of_the_gen_on_the_device_by_96(gen: int, on_disk: int) -> None:
    entry = replace(ENTRY, root=moved(ENTRY.root, gen=gen), uuid_bucket=moved(ENTRY.uuid_bucket, gen=gen))
    check_gens(MEMBERS, entry, [chain(on_disk)] * 2, "here")


@pytest.mark.parametrize(("gen", "on_disk"), [(0, 1), (98, 1), (0, 159), (96, 255), (129, 1), (200, 201)])
def test_one_that_is_behind_or_farther_ahead_is_refused(gen: int, on_disk: int) -> None:
    entry = replace(ENTRY, root=moved(ENTRY.root, gen=gen), uuid_bucket=moved(ENTRY.uuid_bucket, gen=on_disk))
    with pytest.raises(BadField, match=f"btree_root, gen: expected {on_disk}, or up to 96 more, found {gen}"):
        check_gens(MEMBERS, entry, [chain(on_disk)] * 2, "here")


def test_a_bucket_of_the_prio_chain_is_refused_on_the_member_it_is_of() -> None:
    check_gens(MEMBERS, ENTRY, [chain(1), chain(1, 21, 22)], "here")
    with pytest.raises(BadField, match="btree_root: expected a bucket outside of the prio chain, found 21"):
        check_gens(MEMBERS, ENTRY, [chain(1, 9, 21), chain(1)], "here")
