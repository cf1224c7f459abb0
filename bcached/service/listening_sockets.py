# SPDX-License-Identifier: GPL-2.0-only
"""The listening sockets of one run: bound before the set is opened, served once it is open.

An address that cannot be bound is reported before a device is touched. From then on connections wait in
the kernel's queue, as with sockets that systemd made.
"""

import os
import socket
from contextlib import suppress
from typing import Self

from bcached.errors import ConfigError
from bcached.service.listening import bind_metrics, bind_unix
from bcached.service.notify import inherited_sockets
from bcached.service.settings.config import Settings

NAMES = {"varlink", "metrics"}


class ListeningSockets:
    """The listening sockets for clients and scrapers. Paths that were made here are removed at the end."""

    def __init__(self) -> None:
        self.clients: list[socket.socket] = []
        self.metrics: list[socket.socket] = []
        self._own_paths: list[str] = []

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Returns the sockets systemd passed, and those of the configuration for what it did not pass."""
        sockets = cls()
        passed = inherited_sockets()
        if unknown := sorted(passed.keys() - NAMES):
            raise ConfigError(f"LISTEN_FDNAMES: expected varlink and metrics, found {', '.join(unknown)}")
        try:
            sockets.clients = passed.get("varlink") or sockets.own(bind_clients(settings))
            sockets.metrics = passed.get("metrics") or sockets.own(bind_metrics(settings.metrics.listen))
        except ConfigError:
            sockets.close()
            raise
        return sockets

    def own(self, listeners: list[socket.socket]) -> list[socket.socket]:
        """Note that these were made here, and so are to be removed; returns them."""
        for listener in listeners:
            if listener.family == socket.AF_UNIX:
                self._own_paths.append(listener.getsockname())
        return listeners

    def remove_paths(self) -> None:
        """Remove the paths made here while they are certain to be ours: another daemon may bind them next."""
        for path in self._own_paths:
            with suppress(OSError):
                os.unlink(path)
        self._own_paths.clear()

    def close(self) -> None:
        """Close what is still open: if the set was never served, the kernel resets waiting connections."""
        self.remove_paths()
        for listener in (*self.clients, *self.metrics):
            listener.close()


def bind_clients(settings: Settings) -> list[socket.socket]:
    """Returns the listening socket of the configuration."""
    it = settings.socket
    return [bind_unix(it.path, int(it.mode, 8), it.group)]
