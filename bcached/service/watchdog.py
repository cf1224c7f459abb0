# SPDX-License-Identifier: GPL-2.0-only
"""Feeds systemd's watchdog, only while requests are read in time and the set's tasks make progress.

A ping from a timer alone would prove only that timers work.
"""

import asyncio
from collections.abc import Callable

from bcached.service.logs.log import get_logger
from bcached.service.loop_lag import LoopLag
from bcached.service.notify import Notifier

log = get_logger(__name__)


async def feed_watchdog(
    notifier: Notifier, lag: LoopLag, is_healthy: Callable[[], bool], explain: Callable[[], list[str]]
) -> None:
    """Ping at half the manager's interval while the daemon is healthy; never if it set no interval."""
    if notifier.watchdog_s is None:
        return
    interval_s = notifier.watchdog_s / 2
    while True:
        await asyncio.sleep(interval_s)
        if lag.last_s > interval_s / 2:
            log.error("watchdog not fed: the event loop lags", lag_s=round(lag.last_s, 3))
        elif not is_healthy():
            log.error("watchdog not fed: the set makes no progress", explanation=explain())
        else:
            notifier.alive()
