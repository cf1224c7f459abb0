# SPDX-License-Identifier: GPL-2.0-only
"""Binding sockets: replaces no other process's, and accepts no client before a Unix socket's mode is set."""

import errno
import grp
import os
import socket
import stat
from typing import Any

from bcached.errors import ConfigError, calling, reason
from bcached.service.logs.log import get_logger

BACKLOG = 4096  # at most; the kernel cuts it to net.core.somaxconn
METRICS_MODE = 0o660

log = get_logger(__name__)


def bind_unix(path: str, mode: int, group: str = "") -> socket.socket:
    """Returns a listening socket at path. Replaces a dead one of our own; else ConfigError if path exists."""
    remove_dead_socket(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        calling(bound.bind, path)
        give_to_group(path, group)
        calling(os.chmod, path, mode)
        calling(bound.listen, BACKLOG)
    except OSError as error:
        bound.close()
        raise ConfigError(f"{path}: cannot listen: {reason(error)}") from None
    finally:
        os.umask(mask)
    bound.setblocking(False)
    return bound


def bind_metrics(where: str) -> list[socket.socket]:
    """Returns listening sockets at "host:port" (one for each address) or "unix:/path"; none for ""."""
    if where.startswith("unix:"):
        return [bind_unix(where.removeprefix("unix:"), METRICS_MODE)]
    if not where:
        return []
    host, _, port = where.rpartition(":")
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        for family, _, _, _, address in dict.fromkeys(found):
            bound.append(bind_tcp(family, address))
    except OSError as error:
        for listener in bound:
            listener.close()
        # create_server adds the address to strerror; a resolver's errors have numbers of their own.
        is_named = isinstance(error, socket.gaierror) or not error.errno
        reason = error.strerror or error if is_named else os.strerror(error.errno or 0)
        raise ConfigError(f"metrics.listen: cannot listen on {where}: {reason}") from None
    return bound


def bind_tcp(family: int, address: Any) -> socket.socket:
    """Returns a listening socket at one address."""
    listener = socket.create_server(address, family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def remove_dead_socket(path: str) -> None:
    """Remove the socket that a daemon left at path when it did not stop cleanly, and nothing else."""
    try:
        status = calling(os.lstat, path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: cannot listen: {reason(error)}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path}: cannot listen: expected a socket or no file, found another file type")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path}: cannot listen: the socket there belongs to uid {status.st_uid}")
    if is_alive(path):
        raise ConfigError(f"{path}: cannot listen: another process is listening there")
    try:
        calling(os.unlink, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot listen: {reason(error)}") from None


def is_alive(path: str) -> bool:
    """Whether a process listens at the path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def give_to_group(path: str, group: str) -> None:
    """Let the group connect. If it does not exist or is not ours to give, the socket keeps our own group."""
    if not group:
        return
    try:
        gid = grp.getgrnam(group).gr_gid
        if calling(os.lstat, path).st_gid != gid:
            calling(os.chown, path, -1, gid, follow_symlinks=False)
    except KeyError:
        log.warning("socket keeps the daemon's group: no such group on this host", path=path, group=group)
    except PermissionError:
        log.warning(
            "socket keeps the daemon's group: the daemon is no member of the configured one",
            path=path,
            group=group,
        )
