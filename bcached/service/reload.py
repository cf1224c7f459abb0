# SPDX-License-Identifier: GPL-2.0-only
"""Reloading the configuration while running (SIGHUP): applies what can change, logs what needs a restart.

An invalid configuration changes nothing.
"""

import asyncio

from bcached.errors import ConfigError
from bcached.runtime.cache_set import CacheSet
from bcached.service.command_line import allow_descriptors
from bcached.service.logs.log import LogHandler, get_logger
from bcached.service.notify import Notifier
from bcached.service.settings import config
from bcached.service.settings.config import RELOADABLE, Settings
from bcached.service.settings.set_options import access, retune, socket_limits
from bcached.service.socket.socket_server import SocketServer

log = get_logger(__name__)


def differences(old: Settings, new: Settings) -> list[str]:
    """Returns the keys whose values differ, as section.key."""
    before, after = old.model_dump(), new.model_dump()
    return [
        f"{section}.{key}"
        for section, table in after.items()
        for key, value in table.items()
        if value != before[section][key]
    ]


class Reloader:
    """Holds the configuration in effect; request() is for the signal handler, run() for a task."""

    def __init__(self, settings: Settings, path: str, logs: LogHandler, notifier: Notifier) -> None:
        self.settings = settings
        self._path = path
        self._logs = logs
        self._notifier = notifier
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Request a reload."""
        self._requested.set()

    async def run(self, cache_set: CacheSet, server: SocketServer, status: str) -> None:
        """Reload at each request; several pending requests are one reload."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            self._notifier.reloading()
            try:
                self._apply(await asyncio.to_thread(config.load, self._path), cache_set, server)
            except ConfigError as error:
                log.warning("configuration not reloaded", reasons=str(error).splitlines())
            await self._logs.settle()
            self._notifier.ready(status)

    def _apply(self, new: Settings, cache_set: CacheSet, server: SocketServer) -> None:
        changed = differences(self.settings, new)
        taken = [key for key in changed if key.partition(".")[0] in RELOADABLE]
        self.settings = self.settings.model_copy(update={name: getattr(new, name) for name in RELOADABLE})
        self._logs.apply(self.settings.log.level, self.settings.log.format)
        allow_descriptors(self.settings.limits.connections)
        retune(cache_set, self.settings)
        server.reload(access(self.settings), socket_limits(self.settings))
        log.info("configuration reloaded", taken=taken)
        if left := [key for key in changed if key not in taken]:
            log.warning("some changes need a restart", keys=left)
