"""The listening sockets of one run: bound before the set is opened, served once it is.

An address that cannot be had is noticed before a device is touched. From then on those who connect
wait in the kernel's queue, as they do where systemd made the sockets.
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


class Doors:
    """Where clients and scrapers come in. Paths that were made here are removed at the end."""

    def __init__(self) -> None:
        self.clients: list[socket.socket] = []
        self.metrics: list[socket.socket] = []
        self._own_paths: list[str] = []

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The sockets systemd passed, and for what it did not pass those of the configuration."""
        doors = cls()
        passed = inherited_sockets()
        if unknown := sorted(passed.keys() - NAMES):
            raise ConfigError(f"LISTEN_FDNAMES: expected varlink and metrics, found {', '.join(unknown)}")
        try:
            doors.clients = passed.get("varlink") or doors.own(bind_clients(settings))
            doors.metrics = passed.get("metrics") or doors.own(bind_metrics(settings.metrics.listen))
        except ConfigError:
            doors.close()
            raise
        return doors

    def own(self, listeners: list[socket.socket]) -> list[socket.socket]:
        """These were made here."""
        for listener in listeners:
            if listener.family == socket.AF_UNIX:
                self._own_paths.append(listener.getsockname())
        return listeners

    def remove_paths(self) -> None:
        """Remove what was made here, while it is certain to be ours: another daemon may bind it next."""
        for path in self._own_paths:
            with suppress(OSError):
                os.unlink(path)
        self._own_paths.clear()

    def close(self) -> None:
        """Close what is still open: where the set was never served, the kernel refuses those who wait."""
        self.remove_paths()
        for listener in (*self.clients, *self.metrics):
            listener.close()


def bind_clients(settings: Settings) -> list[socket.socket]:
    """The socket of the configuration."""
    it = settings.socket
    return [bind_unix(it.path, int(it.mode, 8), it.group)]
