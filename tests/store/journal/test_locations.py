# SPDX-License-Identifier: GPL-2.0-only
"""What an entry names: all metadata, and the version that a reader must have to use it."""

from dataclasses import replace

from bcached.format.jset import JSET_VERSION, VERSION_OLD_UUIDS
from bcached.store.journal.locations import Locations
from instruments.samples.format_samples import ENTRY, ROOT_KEY


def test_an_entry_names_again_what_the_last_one_named() -> None:
    last = replace(ENTRY, level=2, prio_heads=tuple(range(10, 18)))
    entry = Locations.named_by(last).entry(last.seq + 1, last.last_seq)
    assert entry == replace(last, seq=last.seq + 1)


def test_an_entry_is_not_changed_by_what_is_set_later() -> None:
    locations = Locations.named_by(ENTRY)
    entry = locations.entry(2, 1)
    locations.prio_heads[0] = 99
    locations.root, locations.level = ROOT_KEY, 3
    assert entry == replace(ENTRY, seq=2, last_seq=1)


def test_entries_have_the_old_version_as_long_as_they_name_a_table_of_that_version() -> None:
    locations = Locations.named_by(replace(ENTRY, version=VERSION_OLD_UUIDS))
    assert locations.entry(2, 1).version == VERSION_OLD_UUIDS
    locations.uuid_bucket = ROOT_KEY
    assert locations.entry(3, 1).version == JSET_VERSION
