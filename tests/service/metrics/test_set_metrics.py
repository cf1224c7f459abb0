# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import gzip
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from bcached.errors import ConfigError
from bcached.index_state import IndexState, VolumeState
from bcached.service.listening import bind_metrics
from bcached.service.metrics import scrape
from bcached.service.metrics import server as metrics_server
from bcached.service.metrics.families import coarser
from bcached.service.metrics.probes import Probes
from bcached.service.metrics.scrape import Rendering
from bcached.service.metrics.scrape_request import Wanted
from bcached.service.metrics.server import MetricsServer
from bcached.service.metrics.set_metrics import registry, volume_metrics
from bcached.service.statistics import ServerStatistics, Snapshot
from bcached.set_state import BUCKET_STATES, RESERVES, MemberState
from bcached.state.eviction_ages import AGE_BOUNDS_S
from bcached.state.statistics import SLICE_BOUNDS_S, WAIT_BOUNDS_S, WRITE_BOUNDS_S, Histogram, SetStatistics

UUID = "11111111-2222-3333-4444-555555555555"
# Every metric the contract names, with the labels it promises beside uuid and cache_device.
CONTRACT = {
    "bcached_freelist_buckets": {"reserve"},
    "bcached_freelist_capacity_buckets": {"reserve"},
    "bcached_free_inc_buckets": set(),
    "bcached_unused_buckets": set(),
    "bcached_buckets": {"state"},
    "bcached_device_buckets": set(),
    "bcached_freelist_empty_seconds_total": {"reserve"},
    "bcached_allocation_waiters": {"reserve"},
    "bcached_allocation_oldest_wait_seconds": set(),
    "bcached_allocation_wait_seconds_bucket": {"le"},
    "bcached_allocations_total": {"reserve"},
    "bcached_allocated_bytes_total": set(),
    "bcached_allocation_failures_total": {"reason"},
    "bcached_bucket_invalidations_total": {"policy"},
    "bcached_bucket_discards_total": set(),
    "bcached_prio_writes_total": set(),
    "bcached_prio_write_duration_seconds_bucket": {"le"},
    "bcached_gc_runs_total": {"trigger"},
    "bcached_gc_duration_seconds_bucket": {"le"},
    "bcached_gc_slice_seconds_bucket": {"le"},
    "bcached_gen_distance_max": {"against"},
    "bcached_journal_write_duration_seconds_bucket": {"le"},
    "bcached_journal_free_buckets": set(),
    "bcached_journal_buckets": set(),
    "bcached_free_inc_capacity_buckets": set(),
    "bcached_unused_capacity_buckets": set(),
    "bcached_held_back_by_gen_buckets": set(),
    "bcached_gen_distance_limit": set(),
    "bcached_invalidate_needs_gc": set(),
    "bcached_gc_running": set(),
    "bcached_live_bytes": set(),
    "bcached_dirty_bytes": set(),
    "bcached_written_bytes_total": {"cause"},
    "bcached_client_held_buckets": {"role"},
    "bcached_lookup_bytes_total": set(),
    "bcached_lookup_hit_bytes_total": set(),
    "bcached_volume_info": {"inode", "label", "kind"},
    "bcached_volume_live_bytes": {"inode"},
    "bcached_volume_dirty_bytes": {"inode"},
    "bcached_volume_keys": {"inode"},
    "bcached_volume_lookups_total": {"inode"},
    "bcached_volume_lookup_hits_total": {"inode"},
    "bcached_volume_lookup_bytes_total": {"inode"},
    "bcached_volume_lookup_hit_bytes_total": {"inode"},
    "bcached_evicted_idle_seconds_bucket": {"le"},
    "bcached_gc_requested": set(),
    "bcached_gc_due_bytes": set(),
    "bcached_gc_interval_bytes": set(),
    "bcached_gc_pointers": set(),
    "bcached_gc_stale_pointers": set(),
    "bcached_gc_leaves_rewritten_total": set(),
    "bcached_gc_nodes_saved_total": set(),
    "bcached_open_buckets": set(),
    "bcached_open_buckets_gone": set(),
    "bcached_open_buckets_idle": set(),
    "bcached_lookups_total": set(),
    "bcached_index_levels": set(),
    "bcached_index_memory_bytes": set(),
    "bcached_index_memory_max_bytes": set(),
    "bcached_index_unwritten_bytes": set(),
    "bcached_index_waiting_keys": set(),
    "bcached_index_nodes_read_total": set(),
    "bcached_index_nodes_written_total": set(),
    "bcached_index_blocks_appended_total": set(),
    "bcached_moved_bytes_total": set(),
    "bcached_evacuations_total": set(),
    "bcached_evacuated_buckets_total": set(),
    "bcached_stale_dirty_keys": set(),
    "bcached_stale_dirty_bytes": set(),
    "bcached_stale_dirty_keys_dropped_total": set(),
    "bcached_orphaned_keys": set(),
    "bcached_orphaned_inodes": set(),
    "bcached_orphaned_dirty_bytes": set(),
    "bcached_vanished_nodes": set(),
    "bcached_lookup_hits_total": set(),
    "bcached_client_hits_total": set(),
    "bcached_client_misses_total": set(),
    "bcached_client_hit_bytes_total": set(),
    "bcached_rpc_requests_total": {"method"},
    "bcached_rpc_errors_total": {"method"},
    "bcached_rpc_error_replies_total": {"error"},
    "bcached_rpc_duration_seconds_bucket": {"method", "le"},
    "bcached_event_loop_lag_seconds": set(),
    "bcached_client_connections": set(),
    "bcached_client_buffer_bytes": set(),
    "bcached_client_buffer_limit_bytes": set(),
    "bcached_client_give_ways_total": set(),
    "bcached_io_errors_total": set(),
    "bcached_checksum_errors_total": {"structure"},
    "bcached_device_info": {"device", "device_uuid"},
    "bcached_build_info": {"version", "python"},
    "bcached_log_messages_total": {"level"},
    "bcached_log_dropped_total": set(),
    "bcached_log_held_back_total": set(),
    "process_resident_memory_bytes": set(),
    "process_open_fds": set(),
}


def member(device: int = 0) -> MemberState:
    return MemberState(
        device=device,
        path=f'/dev/disk/by-id/odd"name\\{device}',
        uuid=f"{device}{UUID[1:]}",
        bucket_count=1000,
        bucket_bytes=65536,
        buckets={**dict.fromkeys(BUCKET_STATES, 0), "clean": 900, "free": 100},
        freelist={"btree": 8, "prio": 2, "movinggc": 4, "none": 16},
        freelist_capacity={"btree": 8, "prio": 2, "movinggc": 4, "none": 32},
        freelist_empty_s={"btree": 0.0, "prio": 0.5, "movinggc": 0.0, "none": 1.25},
        free_inc=5,
        free_inc_capacity=64,
        unused=6,
        unused_capacity=64,
        allocations={"none": 77},
        invalidations={"lru": 12},
        discards=3,
        prio_writes=4,
        gen_distance_index=9,
        gen_distance_disk=1,
        held_back_by_gen=0,
        journal_free_buckets=7,
        journal_bucket_count=8,
        invalidate_needs_gc=False,
        io_errors=0,
    )


def snapshot() -> Snapshot:
    wait = Histogram(WAIT_BOUNDS_S)
    for seconds in (0.00005, 0.002, 0.002, 31.0):
        wait.observe(seconds)
    cache_set = SetStatistics(
        set_uuid=UUID,
        replacement="lru",
        discard=False,
        synchronous=True,
        failed=None,
        members=(member(),),
        waiters={"none": 2},
        oldest_wait_s=1.5,
        allocation_failures={"timeout": 1},
        allocated_sectors=2048,
        open_buckets=3,
        open_buckets_gone=0,
        open_buckets_idle=0,
        holders=2,
        quarantined_holders=0,
        reserved_sectors=16,
        gc_runs={"dry": 1},
        gc_running=False,
        gc_found={"leaves": 3},
        dirty_sectors={"0": 8},
        sectors_to_gc=10,
        min_prio=0,
        journal_seq=5,
        index=IndexState(2, 7, 60_000, 100_000, 512, 9, 3, 40, 16, 0, 0),
        lookups=10,
        lookup_hits=9,
        checksum_errors={},
        wait=wait,
        prio_write=Histogram(WRITE_BOUNDS_S),
        gc=Histogram(WRITE_BOUNDS_S),
        gc_slice=Histogram(SLICE_BOUNDS_S),
        journal_write=Histogram(WRITE_BOUNDS_S),
        evicted_idle=Histogram(AGE_BOUNDS_S),
        volumes={"7": VolumeState('a "b"', False, 8, 4, 2, 10, 9, 80, 72)},
    )
    methods = ("Allocate", "Release")
    server = ServerStatistics(
        connections=4,
        requests=dict.fromkeys(methods, 10),
        errors={"Allocate": 1},
        durations={method: Histogram(WAIT_BOUNDS_S) for method in methods},
    )
    return Snapshot(cache_set, server, 0.003, {"info": 5, "error": 0})


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, then by the values of the labels in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse(text):
        for sample in family.samples:
            values = tuple(sample.labels[label] for label in sorted(sample.labels))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


@pytest.fixture
def text() -> str:
    return generate_latest(registry(snapshot)).decode()


def test_every_metric_of_the_contract_is_there_with_its_labels(text: str) -> None:
    labels: dict[str, set[str]] = {}
    for family in parse(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    missing = {name for name in CONTRACT if name not in labels}
    assert missing == set()
    assert {
        name: found - {"uuid", "cache_device"} for name, found in labels.items() if name in CONTRACT
    } == CONTRACT


def test_ours_carry_the_sets_uuid_and_devices_their_place(text: str) -> None:
    for family in parse(text):
        for sample in family.samples:
            if sample.name.startswith("bcached_") and family.name not in (
                "bcached_build_info",
                "bcached_log_messages",
            ):
                assert sample.labels["uuid"] == UUID
    assert samples(text)["bcached_free_inc_buckets"] == {("cache0", UUID): 5}


def test_every_label_value_is_there_from_the_start(text: str) -> None:
    found = samples(text)
    assert {key[1] for key in found["bcached_allocations_total"]} == set(RESERVES)
    assert {key[1] for key in found["bcached_buckets"]} == set(BUCKET_STATES) | set()
    assert found["bcached_bucket_invalidations_total"][("cache0", "fifo", UUID)] == 0
    assert found["bcached_allocation_failures_total"][("no_wait", UUID)] == 0
    assert found["bcached_gc_runs_total"][("traffic", UUID)] == 0
    assert found["bcached_rpc_errors_total"][("Release", UUID)] == 0


def test_states_sum_to_the_devices_buckets(text: str) -> None:
    found = samples(text)
    assert sum(found["bcached_buckets"].values()) == found["bcached_device_buckets"][("cache0", UUID)]


def test_histograms_are_cumulated_and_end_with_all(text: str) -> None:
    by_bound = samples(text)["bcached_allocation_wait_seconds_bucket"]
    assert (by_bound[("0.0001", UUID)], by_bound[("0.0025", UUID)]) == (1, 3)
    assert (by_bound[("30.0", UUID)], by_bound[("+Inf", UUID)]) == (3, 4)
    assert samples(text)["bcached_allocation_wait_seconds_count"] == {(UUID,): 4}
    assert samples(text)["bcached_allocation_wait_seconds_sum"][(UUID,)] == pytest.approx(31.00405)


def test_what_no_look_up_finds_is_told_as_it_was_counted() -> None:
    index = msgspec.structs.replace(
        snapshot().cache_set.index,
        stale_dirty_keys=1,
        stale_dirty_sectors=2,
        stale_dirty_keys_dropped=3,
        orphaned_inodes=4,
        orphaned_keys=5,
        orphaned_dirty_sectors=6,
        vanished_nodes=7,
    )
    damaged = replace(snapshot(), cache_set=msgspec.structs.replace(snapshot().cache_set, index=index))
    found = samples(generate_latest(registry(lambda: damaged)).decode())
    told = {name: values[(UUID,)] for name, values in found.items() if name.startswith("bcached_stale")}
    assert told["bcached_stale_dirty_keys"] == 1
    assert told["bcached_stale_dirty_bytes"] == 1024
    assert told["bcached_stale_dirty_keys_dropped_total"] == 3
    assert found["bcached_orphaned_inodes"] == {(UUID,): 4}
    assert found["bcached_orphaned_keys"] == {(UUID,): 5}
    assert found["bcached_orphaned_dirty_bytes"] == {(UUID,): 3072}
    assert found["bcached_vanished_nodes"] == {(UUID,): 7}


def test_a_private_volume_has_no_label_where_every_user_reads() -> None:
    volume = VolumeState("secret", False, 0, 0, 0, 0, 0, 0, 0, private=True)
    cache_set = msgspec.structs.replace(snapshot().cache_set, volumes={"7": volume})
    info = next(iter(volume_metrics(cache_set)))
    assert [sample.labels["label"] for sample in info.samples] == [""]


def test_a_volumes_figures_are_in_bytes_by_inode(text: str) -> None:
    found = samples(text)
    assert found["bcached_volume_info"] == {("7", "cached", 'a "b"', UUID): 1}
    assert found["bcached_volume_live_bytes"] == {("7", UUID): 4096}
    assert found["bcached_volume_lookup_hit_bytes_total"] == {("7", UUID): 72 * 512}


def test_names_are_escaped(text: str) -> None:
    (info,) = (
        sample for family in parse(text) for sample in family.samples if sample.name == "bcached_device_info"
    )
    assert info.labels["device"] == '/dev/disk/by-id/odd"name\\0'


def test_every_device_of_a_set_has_its_own() -> None:
    several = replace(
        snapshot(), cache_set=msgspec.structs.replace(snapshot().cache_set, members=(member(0), member(1)))
    )
    found = samples(generate_latest(registry(lambda: several)).decode())
    assert found["bcached_device_buckets"] == {("cache0", UUID): 1000, ("cache1", UUID): 1000}


def test_registering_needs_no_snapshot() -> None:
    def none_yet() -> Snapshot:
        raise AssertionError("asked for a snapshot")

    registry(none_yet)


def test_promtool_finds_nothing_to_say(text: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    result = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
    ours = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("bcached_")]
    assert ours == []


@pytest.fixture
async def server() -> AsyncIterator[MetricsServer]:
    serving = MetricsServer(registry(snapshot))
    await serving.serve(bind_metrics("127.0.0.1:0"))
    yield serving
    await serving.close()


def port_of(server: MetricsServer) -> int:
    match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/metrics", server.addresses[0])
    assert match
    return int(match[1])


def test_a_coarser_histogram_loses_no_observation() -> None:
    for size in (4, 5):
        fine = Histogram(tuple(range(1, size + 1)))
        for seconds in range(10):
            fine.observe(seconds)
        coarse = coarser(fine)
        assert (sum(coarse.counts), coarse.sum_s) == (10, fine.sum_s)
        for index, bound in enumerate(coarse.bounds_s):
            assert sum(coarse.counts[: index + 1]) == sum(seconds <= bound for seconds in range(10))
    assert coarse.bounds_s == (2, 4, 5)


async def what_comes(reader: asyncio.StreamReader) -> bytes:
    """All that is sent before the end, be it an orderly one or not."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def ask(server: MetricsServer, request: bytes) -> tuple[str, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(request)
    answer = await what_comes(reader)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


async def test_a_scrape_is_answered(server: MetricsServer) -> None:
    status, headers, body = await ask(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert int(headers["Content-Length"]) == len(body)
    assert samples(body.decode())["bcached_device_buckets"] == {("cache0", UUID): 1000}


async def test_a_client_that_says_no_more_is_still_answered(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.service.metrics.server.SLICE_S", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    writer.write_eof()
    answer = await what_comes(reader)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"bcached_device_buckets" in answer


async def test_half_a_request_at_the_end_is_dropped(server: MetricsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET /metrics")
    writer.write_eof()
    assert await what_comes(reader) == b""
    writer.close()


async def test_openmetrics_is_spoken_when_asked_for(server: MetricsServer) -> None:
    accept = b"Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    _, headers, body = await ask(server, b"GET /metrics?x=1 HTTP/1.1\r\n" + accept + b"\r\n\r\n")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]
    assert "bcached_allocations" in names
    assert body.count(b"# EOF") == 1


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text;version=1.0.0"])
async def test_a_scrape_is_compressed_if_the_peer_takes_gzip(server: MetricsServer, accept: str) -> None:
    wanted = f"GET /metrics HTTP/1.1\r\nAccept: {accept}\r\n"
    _, plain_headers, plain = await ask(server, f"{wanted}\r\n".encode())
    _, headers, body = await ask(server, f"{wanted}Accept-Encoding: br, gzip;q=0.5\r\n\r\n".encode())
    assert "Content-Encoding" not in plain_headers
    assert headers["Content-Encoding"] == "gzip"
    assert len(body) * 4 < len(plain)

    def ours(text: bytes) -> list[bytes]:
        return [line for line in text.splitlines() if b"process_" not in line]

    assert ours(gzip.decompress(body)) == ours(plain)


async def test_probes_say_why_the_daemon_does_not_work_or_serve() -> None:
    serving = MetricsServer(registry(snapshot), Probes(lambda: None, lambda: "the daemon is stopping"))
    await serving.serve(bind_metrics("127.0.0.1:0"))
    assert await ask(serving, b"GET /-/healthy HTTP/1.1\r\n\r\n") == (
        "HTTP/1.1 200 OK",
        {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "14", "Connection": "close"},
        b"bcached works\n",
    )
    status, _, body = await ask(serving, b"GET /-/ready HTTP/1.1\r\n\r\n")
    assert (status, body) == ("HTTP/1.1 503 Service Unavailable", b"the daemon is stopping\n")
    _, headers, landing = await ask(serving, b"GET / HTTP/1.1\r\n\r\n")
    assert headers["Content-Type"].startswith("text/html")
    assert b'href="/metrics"' in landing
    await serving.close()


async def test_head_is_answered_without_a_body(server: MetricsServer) -> None:
    status, headers, body = await ask(server, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert (status, body) == ("HTTP/1.1 200 OK", b"")
    assert int(headers["Content-Length"]) > 10_000


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
        (b"GET /-/healthy HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
        (b"HEAD http://x/-/ready?y HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
        (b"POST /-/ready HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        (b"GET /-/reload HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"GET /metrics/x HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405 Method Not Allowed"),
        (b"\x16\x03\x01junk\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"GET /metrics\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"x" * 9000, "HTTP/1.1 431 Request Header Fields Too Large"),
        (b"GET /metrics\r\n", "HTTP/1.1 400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "HTTP/1.1 400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported"),
        (b"GET /metrics HTTP/1.1\r\nAccept: text/plain;version=x\r\n\r\n" * 3, "HTTP/1.1 200 OK"),
    ],
)
async def test_whatever_is_asked_is_answered_and_never_logged(
    server: MetricsServer, request_bytes: bytes, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert (await ask(server, request_bytes))[0] == status
    assert (await ask(server, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"
    assert caplog.records == []


async def test_a_request_may_come_byte_by_byte(server: MetricsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    for byte in b"GET /metrics HTTP/1.1\r\n\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_says_nothing_is_dropped(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET /met")
    assert await what_comes(reader) == b""
    writer.close()


async def scrapes(server: MetricsServer) -> bool:
    return (await ask(server, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"


async def test_connections_are_bounded_and_the_idlest_gives_way(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTIONS_MAX", 3)
    held = []
    for _ in range(3):
        held.append(await asyncio.open_connection("127.0.0.1", port_of(server)))
        held[-1][1].write(b"GET /met")
        await asyncio.sleep(0.02)
    held[0][1].write(b"ri")  # so the second is idle longest
    await asyncio.sleep(0.02)
    assert await scrapes(server)
    assert (await what_comes(held[1][0])).startswith(b"HTTP/1.1 503 Service Unavailable")
    held[0][1].write(b"cs HTTP/1.1\r\n\r\n")
    assert (await held[0][0].read()).startswith(b"HTTP/1.1 200 OK")
    for _, writer in held:
        writer.close()


@pytest.mark.parametrize("said", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nAccept: "])
async def test_peers_that_end_no_request_shut_no_scrape_out(server: MetricsServer, said: bytes) -> None:
    held = [
        await asyncio.open_connection("127.0.0.1", port_of(server))
        for _ in range(2 * metrics_server.CONNECTIONS_MAX)
    ]
    for _, writer in held:
        writer.write(said)
    assert all([await scrapes(server) for _ in range(5)])
    assert len(server._connections) <= metrics_server.CONNECTIONS_MAX
    for _, writer in held:
        writer.close()


async def test_many_scrapes_at_once_are_all_answered(server: MetricsServer) -> None:
    asked = [scrapes(server) for _ in range(metrics_server.CONNECTIONS_MAX)]
    assert all(await asyncio.gather(*asked))


async def test_what_comes_after_the_request_costs_no_one_the_answer(server: MetricsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"POST /metrics HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b"x" * 30_000)
    await asyncio.sleep(0.05)
    writer.write(b"x" * 30_000)
    assert (await reader.read()).startswith(b"HTTP/1.1 405 Method Not Allowed")
    writer.close()


async def test_a_peer_that_never_stops_sending_is_dropped(server: MetricsServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET /metrics\r\n" + b"x" * (64 << 20))
    with pytest.raises(OSError):  # noqa: PT011
        await writer.drain()
    writer.close()


async def test_a_collector_that_fails_is_told_of_and_hangs_nobody() -> None:
    def broken() -> Snapshot:
        raise ZeroDivisionError

    serving = MetricsServer(registry(broken))
    await serving.serve(bind_metrics("127.0.0.1:0"))
    status, _, body = await ask(serving, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert status == "HTTP/1.1 500 Internal Server Error"
    assert b"ZeroDivisionError" in body
    await serving.close()


async def test_closing_drops_who_is_connected() -> None:
    serving = MetricsServer(registry(snapshot))
    await serving.serve(bind_metrics("127.0.0.1:0"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(serving))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(serving.close(), 5)
    assert await what_comes(reader) == b""
    writer.close()


async def unix_scrape(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    serving = MetricsServer(registry(snapshot))
    path = tmp_path / "metrics"
    await serving.serve(bind_metrics(f"unix:{path}"))
    assert serving.addresses == [f"unix:{path}"]
    assert (path.stat().st_mode & 0o777) == 0o660
    assert b"200 OK" in await unix_scrape(path)
    await serving.close()


async def test_a_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    serving, second = MetricsServer(registry(snapshot)), MetricsServer(registry(snapshot))
    await serving.serve(bind_metrics(f"unix:{path}"))
    with pytest.raises(ConfigError, match="another process is listening there"):
        await second.serve(bind_metrics(f"unix:{path}"))
    assert b"200 OK" in await unix_scrape(path)
    await serving.close()


@pytest.mark.parametrize("occupy", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/nowhere")])
async def test_what_is_no_socket_is_never_replaced(tmp_path: Path, occupy: Callable[[Path], None]) -> None:
    path = tmp_path / "metrics"
    occupy(path)
    before = path.lstat()
    with pytest.raises(ConfigError, match="expected a socket or no file"):
        await MetricsServer(registry(snapshot)).serve(bind_metrics(f"unix:{path}"))
    assert path.lstat() == before


async def test_an_inherited_socket_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        passed.setblocking(False)
        serving = MetricsServer(registry(snapshot))
        await serving.serve([passed.dup()])
        assert serving.addresses == [f"http://127.0.0.1:{passed.getsockname()[1]}/metrics"]
        assert (await ask(serving, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"
        await serving.close()


async def test_off_is_off() -> None:
    serving = MetricsServer(registry(snapshot))
    await serving.serve(bind_metrics(""))
    assert serving.addresses == []
    await serving.close()


async def test_an_address_in_use_is_told_in_one_line(server: MetricsServer) -> None:
    second = MetricsServer(registry(snapshot))
    with pytest.raises(ConfigError, match=r"metrics.listen: cannot listen on 127.0.0.1:\d+: "):
        await second.serve(bind_metrics(f"127.0.0.1:{port_of(server)}"))


def test_rendering_goes_in_slices_and_loses_nothing() -> None:
    own: CollectorRegistry = registry(snapshot)
    rendering = Rendering(own, Wanted(generate_latest, "text/plain", head_only=False))
    slices = 1
    while not rendering.advance(0):
        slices += 1
    assert slices > 30
    whole = {line for line in generate_latest(own).splitlines() if not line.startswith(b"process_")}
    assert whole <= set(b"".join(rendering.done).splitlines())
