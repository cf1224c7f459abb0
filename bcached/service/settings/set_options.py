# SPDX-License-Identifier: GPL-2.0-only
"""Translates the configuration into the options of the set and the socket."""

import grp
import os

from bcached.errors import ConfigError
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.coordination.options import SetOptions
from bcached.service.logs.log import get_logger
from bcached.service.settings.config import Settings
from bcached.service.settings.index_memory import index_bytes, memory_limit
from bcached.service.users.access import Access
from bcached.service.users.socket_limits import SocketLimits

log = get_logger(__name__)


def set_options(settings: Settings, device_bytes: int = 0) -> SetOptions:
    """Returns the options the set is run with, on devices of this size in all."""
    limits = settings.limits
    return SetOptions(
        gen_directory=settings.set.runtime_directory,
        state_directory=settings.set.state_directory,
        gid=group_of(settings.socket.group),
        synchronous=settings.set.synchronous,
        verify=settings.set.verify,
        gc_slice_s=settings.gc.slice_ms / 1e3,
        moving_gc=settings.gc.moving,
        waiters=limits.waiters,
        user_percent=limits.user_percent,
        dirty_percent=limits.dirty_percent,
        reservations_per_connection=limits.reservations_per_connection,
        pins_per_connection=limits.pins_per_connection,
        restart_grace_s=limits.restart_grace_s,
        index_bytes=settings.index.memory_bytes
        or index_bytes(device_bytes, memory_limit(), limits.buffer_bytes),
        journal_delay_s=settings.journal.delay_ms / 1e3,
    )


def retune(cache_set: CacheSet, settings: Settings) -> None:
    """Apply the options that may change while the set runs; connected clients keep their limits."""
    options, wanted = cache_set.shared.options, set_options(settings)
    for name in (
        "gc_slice_s",
        "moving_gc",
        "waiters",
        "user_percent",
        "dirty_percent",
        "reservations_per_connection",
        "pins_per_connection",
        "restart_grace_s",
    ):
        setattr(options, name, getattr(wanted, name))
    cache_set.shared.queue.set_limit(wanted.waiters, wanted.user_percent)


def access(settings: Settings) -> Access:
    """Returns the roles of users and groups; unknown names are logged, and grant nothing."""
    it = settings.access
    granted = Access(it.admin, it.allocator, it.reader)
    if granted.unknown:
        log.warning("unknown users or groups in [access]: they grant nothing", names=granted.unknown)
    return granted


def socket_limits(settings: Settings) -> SocketLimits:
    """Returns the limits of the socket's clients."""
    it = settings.limits
    return SocketLimits(
        it.connections, it.message_bytes, it.buffer_bytes, it.buffer_bytes_without_role, it.user_percent
    )


def group_of(name: str) -> int | None:
    """Returns the group that may read gens and leases (and connect); None if the host has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def prepare_directories(settings: Settings) -> None:
    """Make the directories systemd would have made. Clients may enter both; their files have their own modes.

    A directory that cannot be written is reported before a device is touched.
    """
    for directory in (settings.set.state_directory, settings.set.runtime_directory):
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{directory}: cannot be made: {error.strerror}") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"{directory}: expected a directory that uid {os.geteuid()} may write to")
