# SPDX-License-Identifier: GPL-2.0-only
"""Magic numbers.

Those of journal, prios and btree are mixed with the set's uuid, so that leftovers of another set are not
taken for this one's.
"""

from uuid import UUID

SUPERBLOCK_MAGIC = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
JSET = 0x245235C1A3625032
PSET = 0x6750E15F87337F91
BSET = 0x90135C78B99E07F5


def set_magic_of(set_uuid: UUID) -> int:
    """The number every other magic number of the set is mixed with: the first eight bytes of its uuid."""
    return int.from_bytes(set_uuid.bytes[:8], "little")
