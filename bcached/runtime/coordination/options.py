# SPDX-License-Identifier: GPL-2.0-only
"""The options of a running set, as plain values; the service reads them from its configuration."""

from dataclasses import dataclass

from bcached.wire.change_map import COUNTERS


@dataclass(slots=True)
class SetOptions:
    """Options of one set; those of gc and limits may change while it runs.

    synchronous false: the cache is emptied at every start. verify: check every invariant after every step.
    gen_directory holds the mapped gens and change counters, state_directory the lease files; gid is the group
    that may read them.
    """

    gen_directory: str
    state_directory: str
    gid: int | None = None
    synchronous: bool = True
    verify: bool = False
    gc_slice_s: float = 0.001
    moving_gc: bool = True
    waiters: int = 4096
    user_percent: int = 50  # of waiters and data buckets that one user keeps while another one lacks them
    dirty_percent: int = 100  # of the set, up to which allocators may add dirty data
    reservations_per_connection: int = 65536
    pins_per_connection: int = 65536
    restart_grace_s: float = 10.0
    journal_delay_s: float = 0.1  # delay of keys without a waiter, which lets them share an entry
    change_counters: int = COUNTERS  # a power of two
    index_bytes: int = 256 << 20  # approximate limit of leaves in memory
    seed: int | None = None  # makes the random policy repeatable
