# SPDX-License-Identifier: GPL-2.0-only
"""The next bucket is leased before it is needed."""

import contextlib

from bcached.client import Cache
from bcached.client.cache.leasing import AHEAD_MAX, LAST_SHARE, SET_SHARE, Leases
from bcached.client.protocol import verbs
from bcached.errors import NoFreeBuckets
from instruments.clients.daemon_process import DaemonProcess


def test_a_prepared_lease_takes_no_round_trip_of_its_own(daemon: DaemonProcess) -> None:
    with Cache(str(daemon.socket_path), "leases") as cache:
        cache.set("a", 1, wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        leases = Leases(session.channel, session.at)
        leases.expect(2)
        leases.expect(2)  # which are requested already
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
        leases.prepare(1)
        session.flush()
        session.at.send_oneway(verbs.release_message((held.pop(),)))
        assert leases.take().sectors == session.at.description.devices[0].bucket_sectors
        cache.get("a")


def test_the_longer_the_objects_the_more_is_leased_ahead(daemon: DaemonProcess) -> None:
    with Cache(str(daemon.socket_path), "leases") as cache:
        cache.set("a", 1, wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        leases, prepared = Leases(session.channel, session.at), list[int]()
        device = session.at.description.devices[0]
        bucket, most = device.bucket_sectors, max(1, min(AHEAD_MAX, device.bucket_count // SET_SHARE))
        leases.prepare = prepared.append  # type: ignore[method-assign, assignment]
        leases.keep_ahead(1, bucket)
        leases.keep_ahead(1, bucket // LAST_SHARE)
        assert prepared == []
        leases.keep_ahead(1, bucket // LAST_SHARE - 1)
        leases.keep_ahead(100 * bucket, 0)
        assert prepared == [1, most]
