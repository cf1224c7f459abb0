# SPDX-License-Identifier: MIT
"""The figures of the index and of each volume, declared as those of set_state.py, whose part they are."""

from typing import Annotated

from msgspec import Struct

from bcached.metric import counter, gauge
from bcached.units import SECTOR_BYTES

# These records have as many fields as there are figures: each is one line of Status, and they have no rules.


class IndexState(Struct, frozen=True, gc=False):
    """The btree and its keys.

    leaves and bytes are those in memory; unwritten keys are in the journal and in no node yet;
    waiting keys, those of them whose leaves are not in memory: one read of a leaf will serve many;
    nodes_written counts nodes written whole. Evacuations compacted dirty data out of evacuated_buckets.
    From stale_dirty_keys on: keys that no look-up returns, though their data may exist, as counted at
    startup or by the last garbage collection. A dirty key is stale if its gen is older than its bucket's;
    those that a collection dropped since, because their buckets were reused many times, are counted in
    stale_dirty_keys_dropped. Orphaned keys are those under inodes without a volume. A node has vanished
    if it is lost and no record of its replacement exists: its keys are lost.
    """

    levels: Annotated[int, gauge("bcached_index_levels", "Levels of the btree.")]
    leaves: int
    memory_bytes: Annotated[int, gauge("bcached_index_memory_bytes", "Memory used by cached leaf nodes.")]
    memory_bytes_max: Annotated[
        int, gauge("bcached_index_memory_max_bytes", "Limit of the memory for cached leaf nodes.")
    ]
    unwritten_bytes: Annotated[
        int, gauge("bcached_index_unwritten_bytes", "Keys in the journal and in no node yet.")
    ]
    nodes_read: Annotated[int, counter("bcached_index_nodes_read", "Nodes read.")]
    nodes_written: Annotated[int, counter("bcached_index_nodes_written", "Nodes written whole.")]
    blocks_appended: Annotated[int, counter("bcached_index_blocks_appended", "Blocks appended to nodes.")]
    moved_sectors: Annotated[
        int,
        counter(
            "bcached_moved_bytes",
            "Data copied out of nearly empty buckets, and dirty data compacted.",
            unit=SECTOR_BYTES,
        ),
    ]
    evacuations: Annotated[
        int,
        counter("bcached_evacuations", "Passes that compacted dirty data because buckets were short."),
    ]
    evacuated_buckets: Annotated[
        int, counter("bcached_evacuated_buckets", "Buckets that compaction left without dirty data.")
    ]
    # What no look-up finds, counted by the opening or the last collection: see index_health.py. Clients of a
    # daemon that did not count these yet read 0.
    stale_dirty_keys: Annotated[
        int, gauge("bcached_stale_dirty_keys", "Dirty keys whose gen is older than the bucket's.")
    ] = 0
    stale_dirty_sectors: Annotated[
        int, gauge("bcached_stale_dirty_bytes", "Data of stale dirty keys.", unit=SECTOR_BYTES)
    ] = 0
    stale_dirty_keys_dropped: Annotated[
        int,
        counter("bcached_stale_dirty_keys_dropped", "Stale dirty keys that garbage collections dropped."),
    ] = 0
    orphaned_inodes: Annotated[
        int, gauge("bcached_orphaned_inodes", "Inodes that have keys and no volume.")
    ] = 0
    orphaned_keys: Annotated[int, gauge("bcached_orphaned_keys", "Keys under inodes without a volume.")] = 0
    orphaned_dirty_sectors: Annotated[
        int,
        gauge(
            "bcached_orphaned_dirty_bytes",
            "Dirty data under inodes without a volume.",
            unit=SECTOR_BYTES,
        ),
    ] = 0
    orphaned_clean_sectors: int = 0
    vanished_nodes: Annotated[
        int, gauge("bcached_vanished_nodes", "Nodes of the btree that were lost and not replaced.")
    ] = 0
    waiting_keys: Annotated[
        int, gauge("bcached_index_waiting_keys", "Keys that wait for leaves that are not in memory.")
    ] = 0


class VolumeState(Struct, frozen=True, gc=False):
    """One volume. live_sectors and dirty_sectors are those on the devices, in each copy.

    live_sectors includes what was evicted since the last garbage collection. keys is how many the index has,
    stale ones included. The look-ups are those since the start: how many, how many found something, the
    sectors that were looked up, and those of them that were found. private: it has an owner, and others see
    nothing of it.
    """

    label: str
    flash_only: bool
    live_sectors: Annotated[
        int,
        gauge(
            "bcached_volume_live_bytes",
            "Data of the volume. What was evicted counts until the next garbage collection.",
            unit=SECTOR_BYTES,
        ),
    ]
    dirty_sectors: Annotated[
        int, gauge("bcached_volume_dirty_bytes", "Dirty data of the volume.", unit=SECTOR_BYTES)
    ]
    keys: Annotated[int, gauge("bcached_volume_keys", "Keys of the volume, stale ones included.")]
    lookups: Annotated[int, counter("bcached_volume_lookups", "Lookups in the volume.")]
    lookup_hits: Annotated[int, counter("bcached_volume_lookup_hits", "Those that found a key.")]
    lookup_sectors: Annotated[
        int, counter("bcached_volume_lookup_bytes", "Bytes looked up in the volume.", unit=SECTOR_BYTES)
    ]
    lookup_hit_sectors: Annotated[
        int, counter("bcached_volume_lookup_hit_bytes", "Those that were found.", unit=SECTOR_BYTES)
    ]
    private: bool = False
