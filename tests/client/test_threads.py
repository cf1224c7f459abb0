# SPDX-License-Identifier: GPL-2.0-only
"""Several threads in one blocking client."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bcached.client import BlockingClient
from bcached.client.side_by_side import THREADS, side_by_side
from bcached.errors import ClientClosed, ConnectionLost, NoFreeBuckets
from instruments.clients.served_set import served

EXHAUSTED_MS = 1500  # after which no bucket is on its way, on a busy machine, too


def block_of(number: int) -> bytes:
    return b"%015d\n" % number * 256


def mixed_work(client: BlockingClient, seed: int) -> int:
    """Stores and fetches of a range of its own; what comes back is what went in."""
    rng, written, checked = random.Random(seed), {}, 0
    for number in range(60):
        offset = (seed * 100 + rng.randrange(8)) * 8
        if rng.random() < 0.4:
            written[offset] = block_of(seed * 1000 + number)
            client.store(0, offset, written[offset], durable=False)
        elif offset in written:
            (piece,) = client.fetch(0, offset, 8)
            assert piece.data == written[offset]
            checked += 1
        else:
            assert client.lookup(0, offset, 8).keys == ()
    return checked


@pytest.mark.parametrize("direct", [True, False])
async def test_each_thread_gets_its_own_answers(tmp_path: Path, direct: bool) -> None:
    async with served(tmp_path, image=True) as it:

        def story() -> int:
            with BlockingClient(it.path, direct=direct) as client, ThreadPoolExecutor(6) as pool:
                return sum(pool.map(lambda seed: mixed_work(client, seed), range(6)))

        assert await asyncio.to_thread(story) > 20


async def test_a_thread_that_waits_keeps_no_other_one_from_asking(tmp_path: Path) -> None:
    async with served(tmp_path) as it:

        def story() -> int:
            with BlockingClient(it.path) as client, ThreadPoolExecutor(2) as pool:
                held = []
                try:
                    while True:
                        held.append(client.allocate_bucket(timeout_ms=EXHAUSTED_MS))
                except NoFreeBuckets:
                    pass
                waiting = [pool.submit(client.allocate, 0, 8 * n, 8, timeout_ms=60_000) for n in range(2)]
                while it.cache_set.statistics().waiters["none"] < 2:
                    assert not any(one.done() for one in waiting), "a bucket was left"
                    time.sleep(0.001)
                for key in held[:8]:  # only this lets the others go on
                    client.free_bucket(key)
                return sum(key.sectors for one in waiting for key in one.result(30))

        assert await asyncio.to_thread(story) == 16


async def test_closing_ends_the_calls_of_all_threads(tmp_path: Path) -> None:
    async with served(tmp_path) as it:

        def story() -> list[type]:
            client = BlockingClient(it.path).connect()
            try:
                while True:
                    client.allocate_bucket(timeout_ms=EXHAUSTED_MS)
            except NoFreeBuckets:
                pass
            errors: list[type] = []

            def wait() -> None:
                try:
                    client.allocate(0, 0, 8, timeout_ms=60_000)
                except ConnectionLost as error:
                    errors.append(type(error))

            threads = [threading.Thread(target=wait) for _ in range(3)]
            for thread in threads:
                thread.start()
            while it.cache_set.statistics().waiters["none"] < 3:
                assert all(thread.is_alive() for thread in threads), "a bucket was left"
                time.sleep(0.001)
            client.close()
            for thread in threads:
                thread.join(30)
            assert client._channel._socket.fileno() < 0
            return errors

        assert await asyncio.to_thread(story) == [ClientClosed] * 3


async def test_more_than_the_socket_takes_at_once_is_sent_by_several_threads(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it:

        def story() -> list[int]:
            with BlockingClient(it.path) as client, ThreadPoolExecutor(4) as pool:
                ranges = [
                    (0, 8 * number, 8) for number in range(6000)
                ]  # some 300 KB a request, and 20 a reply
                client.store(0, 0, bytes(4096))
                return [len(found) for found in pool.map(client.fetch_many, [ranges] * 8)]

        assert await asyncio.to_thread(story) == [6000] * 8


# side_by_side itself


def test_jobs_run_side_by_side_and_give_what_they_give_in_order() -> None:
    together = threading.Barrier(THREADS)

    def job(number: int) -> int:
        if number < THREADS:
            together.wait(30)
        return number

    assert side_by_side([partial(job, n) for n in range(20)]) == list(range(20))
    assert side_by_side([lambda: 7]) == [7]
    assert side_by_side([]) == []


def test_after_an_error_no_job_is_under_way_and_none_begins() -> None:
    begun, ended = [], []

    def job(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise ConnectionLost("s", "broken")
        threading.Event().wait(0.05)
        ended.append(number)

    with pytest.raises(ConnectionLost):
        side_by_side([partial(job, n) for n in range(1000)])
    assert sorted(ended) == sorted(number for number in begun if number != 2)
    assert len(begun) < 20
