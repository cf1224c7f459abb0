# SPDX-License-Identifier: GPL-2.0-only
"""The next bucket is leased before it is needed."""

import contextlib

from bcached.client import Cache
from bcached.client.cache.leasing import Leases
from bcached.client.protocol import verbs
from bcached.errors import NoFreeBuckets
from instruments.clients.daemon_process import DaemonProcess


def test_a_prepared_lease_takes_no_round_trip_of_its_own(daemon: DaemonProcess) -> None:
    with Cache(str(daemon.socket_path), "leases") as cache:
        cache.set("a", 1, wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        leases = Leases(session.channel, session.at)
        leases.prepare()
        leases.prepare()
        session.flush()  # answered after it
        asked: list[object] = []
        session.channel.ask = asked.append  # type: ignore[method-assign, assignment]
        first = leases.take()
        assert asked == []
        del session.channel.ask
        second = leases.take()
        assert first.pointers != second.pointers
        session.at.send_oneway(verbs.release_message((first, second)))


def test_a_set_without_a_spare_bucket_is_asked_again_when_it_is_needed(own_daemon: DaemonProcess) -> None:
    with Cache(str(own_daemon.socket_path), "leases") as cache:
        cache.set("a", 1, wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        leases, held = Leases(session.channel, session.at), []
        with contextlib.suppress(NoFreeBuckets):
            while True:
                held.append(session.channel.ask(verbs.allocate_bucket(session.at, timeout_ms=1)))
        leases.prepare()
        session.flush()
        session.at.send_oneway(verbs.release_message((held.pop(),)))
        assert leases.take().sectors == session.at.description.devices[0].bucket_sectors
        cache.get("a")
