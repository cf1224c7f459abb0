# SPDX-License-Identifier: GPL-2.0-only
"""Keeping late writers of a previous run away from buckets that are reused.

A gen on the device does not stop a write that is already in flight. So before any bucket of a set that has
run before is taken, the writers of previous runs must have released their leases, or the grace period must
have passed.
"""

import asyncio
from collections.abc import Callable

from bcached.device.claims.lease_file import OldLease, boot_id

LOOK_INTERVAL_S = 0.05  # the release of a lock can only be polled, or awaited by a blocked thread


async def wait_for_old_writers(
    leases: list[OldLease], grace_s: float, progress: Callable[[str], None]
) -> None:
    """Return when no writer of a previous run is left.

    There is no wait after a boot, which no writer survives. Without any lease file the whole grace is waited.
    """
    loop = asyncio.get_running_loop()
    boot = boot_id()
    of_this_boot = [lease for lease in leases if lease.boot in (boot, "")]
    deadline = loop.time() + grace_s
    reported = False
    while loop.time() < deadline:
        if leases and all(lease.is_released() for lease in of_this_boot):
            break
        if not reported:
            progress(f"waiting up to {grace_s:g} s for writers of a previous run")
            reported = True
            for lease in of_this_boot:
                await _name_holders(lease, progress)
        await asyncio.sleep(min(LOOK_INTERVAL_S, max(deadline - loop.time(), 0)))


async def _name_holders(lease: OldLease, progress: Callable[[str], None]) -> None:
    """Report which processes hold a lease, so that a hung one can be found."""
    holders = await asyncio.to_thread(lease.holders)
    if holders:
        progress(f"the lease {lease.path} is held by {', '.join(map(str, holders))}")
