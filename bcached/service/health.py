# SPDX-License-Identifier: GPL-2.0-only
"""Whether the set works, for load balancers and monitoring that probe a page.

That the event loop runs is shown by the response itself. The watchdog asks a stricter question, which may be
asked only every few seconds (CacheSet.is_healthy); anything may probe, as often as it likes.
"""

from functools import partial

from bcached.errors import DeviceFailed
from bcached.runtime.cache_set import STEP_SECONDS_MAX, CacheSet
from bcached.service.metrics.probes import Probes


def probes_of(cache_set: CacheSet) -> Probes:
    """Returns the pages that a set is probed by."""
    return Probes(partial(unhealthy, cache_set), partial(unready, cache_set))


def unhealthy(cache_set: CacheSet) -> str | None:
    """Returns why only a restart or a new device would help; None if the set works."""
    refusal = cache_set.shared.stop.refusal
    if isinstance(refusal, DeviceFailed):
        return str(refusal)
    busy_s = cache_set.shared.steps.busy_s(is_writing_nodes=True)
    return None if busy_s < STEP_SECONDS_MAX else f"a task has made no progress for {busy_s:.0f} s"


def unready(cache_set: CacheSet) -> str | None:
    """Returns why the set takes no requests; None if it does."""
    refusal = cache_set.shared.stop.refusal
    return None if refusal is None else str(refusal)
