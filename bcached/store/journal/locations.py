# SPDX-License-Identifier: GPL-2.0-only
"""The locations of all metadata, as the next journal entry will name them."""

from dataclasses import dataclass, field

from bcached.format.jset import JSET_VERSION, VERSION_OLD_UUIDS, JournalEntry
from bcached.format.sizes import MEMBERS_MAX
from bcached.keys import Key


@dataclass(slots=True)
class Locations:
    """What an entry names. A location is set only once what is there is completely written."""

    uuid_bucket: Key
    root: Key
    level: int = 0  # of the root: 0 for a leaf
    prio_heads: list[int] = field(default_factory=lambda: [0] * MEMBERS_MAX)  # of the members' prio chains
    # A table with entries of 64 bytes: an entry that names it must have the old version.
    old_table: Key | None = None

    @classmethod
    def named_by(cls, entry: JournalEntry) -> "Locations":
        """Returns the locations that an entry names."""
        old_table = entry.uuid_bucket if entry.version == VERSION_OLD_UUIDS else None
        return cls(entry.uuid_bucket, entry.root, entry.level, list(entry.prio_heads), old_table)

    def entry(self, seq: int, last_seq: int) -> JournalEntry:
        """Returns an entry that names them; without keys, which are added packed."""
        version = VERSION_OLD_UUIDS if self.uuid_bucket == self.old_table else JSET_VERSION
        heads = tuple(self.prio_heads)
        return JournalEntry(seq, last_seq, self.uuid_bucket, self.root, self.level, heads, version=version)
