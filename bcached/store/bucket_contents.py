"""What the keys of a set that is being opened may say of a bucket; counted, it must be possible.

Each key was held against the device's layout when it was read. Only all of them together tell that a bucket
holds more than it can, that data lies in metadata, or that gens are too far apart to be compared.
"""

from collections.abc import Sequence

import numpy as np

from bcached.errors import SetRefused
from bcached.keys import Key
from bcached.state.bucket_table import Counts, State
from bcached.state.geometry import GEN_DISTANCE_MAX
from bcached.state.recount import Recount
from bcached.store.member import Member

# Leaves are counted before the journal's keys are laid over them, which may cut what is too much there. Until
# then a bucket's sectors may count once for the journal and twice for leaves, and so much fits the table.
LEAVES_CROWD_MAX = 2
CROWD_MAX = 3


def check_recount(member: Member, recount: Recount) -> None:
    """Refuse what the nodes and the journal's keys say of gens, and what the leaves say of buckets."""
    table, geometry = member.cache.table, member.cache.geometry
    for oldest in (recount.oldest, table.gens_on_disk_array):
        apart = np.flatnonzero(table.gens_array - oldest > GEN_DISTANCE_MAX)
        if len(apart):
            bucket = int(apart[0])
            raise SetRefused(
                f"{member.path} bucket {bucket}: expected gens at most {GEN_DISTANCE_MAX} apart, "
                f"found {oldest[bucket]} to {table.gens[bucket]}"
            )
    _refuse_crowd(member, recount.sectors, geometry.bucket_sectors * LEAVES_CROWD_MAX)
    used = np.flatnonzero((recount.sectors > 0) & (table.states_array != State.EMPTY))
    if len(used):
        raise _not_for_data(member, int(used[0]))


def check_arrival(members: Sequence[Member], key: Key) -> None:
    """Refuse a key of the journal that cannot be counted in."""
    for pointer in key.pointers:
        if pointer.device >= len(members):
            continue
        member = members[pointer.device]
        table, geometry = member.cache.table, member.cache.geometry
        bucket = geometry.bucket_of(pointer.sector)
        if table.gens[bucket] != pointer.gen:
            continue
        if table.states[bucket] < State.OPEN:
            raise _not_for_data(member, bucket)
        sectors = table.sectors[bucket] + key.sectors
        if sectors > geometry.bucket_sectors * CROWD_MAX:
            raise _crowded(member, bucket, sectors)


def check_live_sectors(member: Member) -> None:
    """Refuse, when all keys are counted, buckets that hold more than they can."""
    _refuse_crowd(member, member.cache.table.sectors_array, member.cache.geometry.bucket_sectors)


def _refuse_crowd(member: Member, sectors: Counts, most: int) -> None:
    crowded = np.flatnonzero(sectors > most)
    if len(crowded):
        bucket = int(crowded[0])
        raise _crowded(member, bucket, int(sectors[bucket]))


def _crowded(member: Member, bucket: int, sectors: int) -> SetRefused:
    return SetRefused(
        f"{member.path} bucket {bucket}: keys for {sectors} sectors lie in its "
        f"{member.cache.geometry.bucket_sectors}: some overlap, and the index cannot be right"
    )


def _not_for_data(member: Member, bucket: int) -> SetRefused:
    use = State(member.cache.table.states[bucket]).name
    return SetRefused(f"{member.path} bucket {bucket}: keys for data lie in it, and it is {use}")
