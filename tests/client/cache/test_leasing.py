# SPDX-License-Identifier: GPL-2.0-only
"""The next bucket is leased before it is needed."""

import contextlib
import signal
import subprocess

import pytest

from bcached.client import BlockingClient, Cache
from bcached.client.cache.leasing import AHEAD_MAX, AHEAD_OBJECTS, LAST_SHARE, SET_SHARE, Leases
from bcached.client.cache.session import CacheSession
from bcached.client.cache.values.names import offset_of
from bcached.client.protocol import verbs
from bcached.client.protocol.exchange import Call
from bcached.errors import NoFreeBuckets
from bcached.keys import Key
from instruments.clients.daemon_process import BIN, DaemonProcess


def test_a_prepared_lease_takes_no_round_trip_of_its_own(daemon: DaemonProcess) -> None:
    with Cache(str(daemon.socket_path), "leases") as cache:
        cache.set("a", 1, wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        leases = Leases(session.channel, session.at)
        bucket = session.at.description.devices[0].bucket_sectors
        leases.keep_ahead(1, -2 * bucket)
        leases.keep_ahead(1, bucket // LAST_SHARE - 2 * bucket)  # those are enough
        assert len(leases._ahead) == 2
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
        leases, held = Leases(session.channel, session.at), held_by(session)
        leases.prepare(1)
        session.flush()
        session.at.send_oneway(verbs.release_message((held.pop(),)))
        assert leases.take().sectors == session.at.description.devices[0].bucket_sectors
        cache.get("a")


def quarantined(daemon: DaemonProcess) -> int:
    (member,) = daemon.ask("Admin.Status")["parameters"]["state"]["members"]
    buckets: int = member["buckets"]["quarantine"]
    return buckets


def test_what_a_closed_cache_has_leased_is_not_kept_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    process = DaemonProcess()
    process.config.write_text(process.config.read_text().replace("grace_s = 0", "grace_s = 600"))
    with process as daemon:
        path = str(daemon.wait_until_ready().socket_path)
        with Cache(path, "leases") as cache:
            cache.set_many({"short": 1, "long": bytes(1 << 20)})
        assert quarantined(daemon) == 0  # although this process, which could write, runs
        monkeypatch.setattr(CacheSession, "release_leases", CacheSession.begin_page)
        with Cache(path, "leases") as cache:  # as if the connection were lost
            cache.set("short", 1)
        assert quarantined(daemon) > 0


def test_a_close_does_not_wait_for_leases_of_a_daemon_that_hangs(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.client.cache.leasing.LAST_ANSWERS_S", 0.01)
    with Cache(str(daemon.socket_path), "leases") as cache:
        cache.set("a", 1, wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        session.flush()  # answered after them
        session._leases.take_granted()
        daemon.send(signal.SIGSTOP)
        try:
            session._leases.prepare(1)
            cache.close()
        finally:
            daemon.send(signal.SIGCONT)
        assert len(session._leases._ahead) == 1


def test_more_is_leased_ahead_after_a_wait(
    own_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.client.cache.leasing.AHEAD_MS", 30_000)
    with Cache(str(own_daemon.socket_path), "leases") as cache:
        cache.set("a", 1, wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        leases, held, news = Leases(session.channel, session.at), held_by(session), session.channel.news

        def news_of_a_bucket(call: Call[Key]) -> bool:
            session.at.send_oneway(verbs.release_message((held.pop(),)))
            return news(call)

        monkeypatch.setattr(session.channel, "news", news_of_a_bucket)
        leases.prepare(1)
        leases.take()
        prepared = list[int]()
        monkeypatch.setattr(leases, "prepare", prepared.append)
        leases.keep_ahead(session.at.description.devices[0].bucket_sectors // AHEAD_OBJECTS, 0)
        assert prepared == [2]


def held_by(session: CacheSession) -> list[Key]:
    """Lease all buckets there are."""
    held = []
    with contextlib.suppress(NoFreeBuckets):
        while True:
            held.append(session.channel.ask(verbs.allocate_bucket(session.at, timeout_ms=1)))
    return held


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


@pytest.mark.parametrize("block", ["4096", "512"])
def test_without_a_bucket_to_lease_objects_share_buckets_where_blocks_are_pages(
    block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.client.cache.session.LEASE_MS_ELSE", 300)
    daemon = DaemonProcess()
    image, options = str(daemon.folder / "cache.img"), ["-b", "64k", "-w", block, "--size", "64M"]
    subprocess.run([str(BIN / "bcachectl"), "make", *options, image], check=True, capture_output=True)
    with daemon:
        daemon.wait_until_ready()
        with BlockingClient(daemon.socket_path) as client, Cache(daemon.socket_path, "shared") as cache:
            inode = client.open_volume("shared")[0]
            client.allocate(inode, 0, 8)  # opens a bucket
            with contextlib.suppress(NoFreeBuckets):
                while True:
                    client.allocate_bucket(timeout_ms=1000)
            if block == "512":
                with pytest.raises(NoFreeBuckets) as refusal:
                    cache.set("a", 1)
                assert "takes whole buckets" in refusal.value.__notes__[0]
                return
            cache.set("a", b"v" * 5000, wait=True)
            assert cache["a"] == b"v" * 5000
            (key,) = client.lookup(inode, offset_of(b"a"), 16).keys
            assert key.pointers[0].sector % 128, "it shares the bucket that was opened"
