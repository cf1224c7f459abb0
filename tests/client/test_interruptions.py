# SPDX-License-Identifier: GPL-2.0-only
"""Exceptions that no call expects: wherever they come from, they leave the client usable or not connected."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import bcached.client.protocol.verbs
from bcached.client import BlockingClient, Client
from bcached.errors import ConnectionLost, NoFreeBuckets
from instruments.clients.served_set import BUCKET_SECTORS, served
from instruments.time.interruptions import interrupted_at
from instruments.time.patience import patience

TESTS = str(Path(__file__).parents[1])  # for the programs that import an instrument
PATIENCE_S = 60

SCRIPT = """
import signal, sys
from bcached.client import BlockingClient

def interrupt(*_):
    raise TimeoutError

signal.signal(signal.SIGALRM, interrupt)
with BlockingClient(sys.argv[1]) as client:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        client.allocate(0, 0, 8)
    except TimeoutError:
        print("interrupted", flush=True)
    sys.stdin.readline()
    print(client.lookup(0, 0, 8).keys, client.status().set_uuid == client.description.set_uuid, flush=True)
    sys.stdin.readline()
"""

HANDLER = """
import signal
from bcached.client import BlockingClient
from bcached.errors import NoFreeBuckets
from instruments.time.patience import patience

client = BlockingClient(PATH).connect()

def handle(*_):
    try:
        client.explain()
    except Exception as error:
        print(type(error).__name__)

signal.signal(signal.SIGALRM, handle)
held, refusals = [], 0
while refusals < 2:  # one may be on its way for long when the machine is busy
    try:
        held.append(client.allocate_bucket(timeout_ms=300))
        refusals = 0
    except NoFreeBuckets:
        refusals += 1
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    client.allocate_bucket(timeout_ms=1500)
except NoFreeBuckets:
    print(1)
client.free_bucket(held.pop())
print(len(client.allocate_bucket().pointers))
client.close()
"""


def connected(path: str) -> BlockingClient:
    client = BlockingClient(path).connect()
    client.now()
    return client


def answers_are_right(client: BlockingClient) -> bool:
    """Whether it is usable, with answers of its own; else it is to say that it is not connected."""
    try:
        assert [key.offset for key in client.lookup(0, 0, 1024).keys] == [0, 64]
        assert client.fetch(0, 64, 8)[0].data == b"sixty-four......" * 256
        assert client.status().set_uuid == client.description.set_uuid
    except ConnectionLost:
        assert not client.is_connected
        return False
    return True


CALLS: dict[str, Callable[[BlockingClient], object]] = {
    "lookup": lambda client: client.lookup(0, 0, 1024),
    "allocate": lambda client: client.release(client.allocate(0, 640, 8)),
    "fetch": lambda client: client.fetch(0, 0, 8),
}


def interrupt_everywhere(path: str, call: Callable[[BlockingClient], object]) -> tuple[int, int]:
    """How many places there are, and after how many the client was usable still."""
    client = connected(path)
    usable = number = 0
    while interrupted_at(number, partial(call, client)):
        number += 1
        if answers_are_right(client):
            usable += 1
        else:
            client.close()
            client = connected(path)
    client.close()
    return number, usable


def in_time(work: Callable[[], Any]) -> Any:
    """What the work gives, in a thread of its own, or an error if it hangs."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert found, "it hangs, or has failed"
    return found[0]


@pytest.mark.parametrize("call", CALLS)
async def test_an_interruption_anywhere_crosses_no_answers(tmp_path: Path, call: str) -> None:
    async with served(tmp_path, image=True) as it:
        async with Client(it.path) as client:
            await client.store(0, 0, bytes(4096))
            await client.store(0, 64, b"sixty-four......" * 256)
        tried, usable = await asyncio.to_thread(in_time, lambda: interrupt_everywhere(it.path, CALLS[call]))
        assert tried > 30
        assert tried // 3 < usable < tried


def swallowed_timeouts(path: str, call: Callable[[BlockingClient], object]) -> tuple[int, list[int]]:
    """How many places there are, and at which of them a handler's TimeoutError did not end the call."""
    number, swallowed = 0, []
    client = connected(path)

    def to_the_end() -> None:
        call(client)
        swallowed.append(number)

    while interrupted_at(number, to_the_end, TimeoutError):
        number += 1
        if not answers_are_right(client):
            client.close()
            client = connected(path)
    client.close()
    return number, swallowed[:-1]  # the last one was not interrupted


@pytest.mark.parametrize("call", CALLS)
async def test_a_handlers_error_is_not_taken_for_the_sockets_or_a_devices(tmp_path: Path, call: str) -> None:
    # A handler raises TimeoutError, which is an OSError, as those of system calls are.
    async with served(tmp_path, image=True) as it:
        async with Client(it.path) as client:
            await client.store(0, 0, bytes(4096))
            await client.store(0, 64, b"sixty-four......" * 256)
        tried, swallowed = await asyncio.to_thread(in_time, lambda: swallowed_timeouts(it.path, CALLS[call]))
        assert tried > 30
        assert swallowed == []


def interrupted_leader(path: str) -> tuple[int, int]:
    """One thread is interrupted at every instruction while another waits for its own answers behind it."""
    client = connected(path)
    number, answered, goes_on = 0, 0, threading.Event()
    goes_on.set()

    def other() -> None:
        nonlocal answered
        while goes_on.is_set():
            try:
                assert client.lookup(0, 64, 8).keys[0].offset == 64
                answered += 1
            except ConnectionLost:
                pass

    thread = threading.Thread(target=other)
    thread.start()
    try:
        while interrupted_at(number, partial(client.lookup, 0, 0, 8)):
            number += 1
            if not answers_are_right(client):
                client.close()
                client = connected(path)
    finally:
        goes_on.clear()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()
    client.close()
    return number, answered


async def test_an_interrupted_thread_leaves_no_other_one_waiting(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it:
        async with Client(it.path) as client:
            await client.store(0, 0, bytes(4096))
            await client.store(0, 64, b"sixty-four......" * 256)
        tried, answered = await asyncio.to_thread(in_time, lambda: interrupted_leader(it.path))
        assert tried > 30
        assert answered


async def test_what_an_interrupted_call_was_granted_is_given_back(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as holder:
        held = []
        try:
            while True:
                held.append(await holder.allocate_bucket(timeout_ms=500))
        except NoFreeBuckets:
            pass
        script = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, it.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert script.stdin is not None
        assert script.stdout is not None
        async with patience(PATIENCE_S):
            assert await script.stdout.readline() == b"interrupted\n"
            for key in held[:8]:
                await holder.free_bucket(key)
            while it.cache_set.statistics().waiters["none"]:
                await asyncio.sleep(0.001)
            script.stdin.write(b"\n")
            assert await script.stdout.readline() == b"() True\n"
            left = (len(held) - 8) * BUCKET_SECTORS
            while it.cache_set.statistics().reserved_sectors != left:
                await asyncio.sleep(0.001)
            script.stdin.write(b"\n")
            assert await script.wait() == 0


async def test_a_handler_that_calls_the_client_it_interrupts_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        script = HANDLER.replace("PATH", repr(it.path))
        done = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": TESTS}
        )
        async with patience(PATIENCE_S):
            said, _ = await done.communicate()
        assert said.split() == [b"RuntimeError", b"1", b"1"]


async def test_what_a_handler_gives_back_during_a_call_is_sent_with_its_reply(tmp_path: Path) -> None:
    async with served(tmp_path) as it:

        def story() -> int:
            with BlockingClient(it.path) as client:
                (key,) = client.allocate(0, 0, 8)
                channel, call = client._channel, bcached.client.protocol.verbs.explain(client._at)
                channel._send(call)
                channel._exchange.send_oneway(
                    bcached.client.protocol.verbs.release_message((key,))
                )  # in a step
                channel._wait(call)
                assert not channel._exchange.outgoing
                return client.status().reserved_sectors

        assert await asyncio.to_thread(story) == 0


async def test_what_an_interruption_of_an_interruption_leaves_is_put_in_order(tmp_path: Path) -> None:
    async with served(tmp_path) as it:

        def story() -> bool:
            with BlockingClient(it.path) as client:
                call = bcached.client.protocol.verbs.explain(client._at)
                client._channel._send(call)  # and there both came: the lead was never handed on
                lead = client._channel._lead
                assert lead is not None
                assert client.lookup(0, 0, 8).keys == ()
                assert client._channel._lead is None
                return call.is_abandoned

        assert await asyncio.to_thread(story)
