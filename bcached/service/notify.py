# SPDX-License-Identifier: GPL-2.0-only
"""systemd's protocol for services: datagrams that report the daemon's state, and sockets it passed to us.

Both are a few environment variables (sd_notify(3), sd_listen_fds(3)); without systemd all of it does nothing.
Sending never blocks: a manager that does not read must not hold the loop.
"""

import os
import socket
import time
from collections.abc import Mapping

from bcached.errors import ConfigError

FIRST_LISTEN_FD = 3


class Notifier:
    """Notifies the service manager; watchdog_s is the interval in which it expects a ping, or None."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address[:1] in ("/", "@") else None
        self.watchdog_s = watchdog_interval_s(environment)

    def ready(self, status: str) -> None:
        """Report the end of startup or of a reload."""
        self._send("READY=1", f"STATUS={one_line(status)}")

    def status(self, status: str) -> None:
        """Report what the daemon is doing, as a line for `systemctl status`."""
        self._send(f"STATUS={one_line(status)}")

    def reloading(self) -> None:
        """Report the beginning of a reload; ready() ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self, status: str = "stopping") -> None:
        """Report the beginning of a stop."""
        self._send("STOPPING=1", f"STATUS={one_line(status)}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def need_more_time(self, seconds: float) -> None:
        """Extend the timeout of a start or stop to so many seconds from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def failed(self, reason: str, errno: int = 0) -> None:
        """Report that the daemon fails, and why."""
        self._send(f"STATUS={one_line(reason)}", *([f"ERRNO={errno}"] if errno else []))

    def close(self) -> None:
        """Close the socket: nothing more will be sent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, self._address)
        except OSError:
            return  # the manager has ended or is overloaded: no reason for the daemon to stop


def one_line(text: str) -> str:
    """Returns the text without line breaks, which would begin another assignment."""
    return " ".join(text.split())


def watchdog_interval_s(environment: Mapping[str, str]) -> float | None:
    """Returns the manager's watchdog interval, or None if it is not set for this process."""
    interval_us = environment.get("WATCHDOG_USEC", "")
    if not interval_us.isascii() or not interval_us.isdigit() or int(interval_us) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(interval_us) / 1e6


def inherited_sockets(environment: Mapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """Returns the listening sockets passed to this process by name. Raises ConfigError if one is unusable."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = environment.get("LISTEN_FDS", "")
    if not count.isascii() or not count.isdigit():
        raise ConfigError(f"LISTEN_FDS: expected a number, found {count!r}")
    names = environment.get("LISTEN_FDNAMES", "").split(":") if "LISTEN_FDNAMES" in environment else []
    if names and len(names) != int(count):
        raise ConfigError(f"LISTEN_FDNAMES: expected {count} names, found {len(names)}")
    sockets: dict[str, list[socket.socket]] = {}
    for index in range(int(count)):
        name = names[index] if names else "varlink"
        sockets.setdefault(name, []).append(listening_socket(FIRST_LISTEN_FD + index, name))
    return sockets


def listening_socket(descriptor: int, name: str) -> socket.socket:
    """Returns the socket of an inherited descriptor. Raises ConfigError if it does not listen."""
    try:
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(
            f"LISTEN_FDS: descriptor {descriptor} ({name}): expected a socket: {error.strerror}"
        ) from None
    if inherited.type != socket.SOCK_STREAM or not inherited.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        inherited.detach()
        raise ConfigError(f"LISTEN_FDS: descriptor {descriptor} ({name}): expected a listening stream socket")
    inherited.set_inheritable(False)
    inherited.setblocking(False)
    return inherited
