# SPDX-License-Identifier: GPL-2.0-only
"""On both event loops: uvloop's transports differ from asyncio's."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from bcached.service.socket.peer_transport import PeerTransport


class Peered(asyncio.Protocol):
    """Keeps its transport as a connection does."""

    def __init__(self) -> None:
        self.peer = PeerTransport()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.writes = self.peer.connect(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.peer.disconnect()
        self.lost.set_result(None)


async def connected() -> tuple[Peered, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, protocol = await asyncio.get_running_loop().create_connection(Peered, sock=ours)
    return protocol, theirs


async def heard(theirs: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(theirs, 1000)


def on_both_loops(case: Callable[[Peered, socket.socket], Awaitable[None]]) -> Callable[[bool], None]:
    async def run() -> None:
        protocol, theirs = await connected()
        try:
            await case(protocol, theirs)
        finally:
            protocol.peer.abort()
            await asyncio.wait([protocol.lost])
            theirs.close()

    def test(uvloops: bool) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloops else None) as runner:
            runner.run(run())

    return pytest.mark.parametrize("uvloops", [False, True])(test)


@on_both_loops
async def test_what_is_sent_arrives_in_order(it: Peered, theirs: socket.socket) -> None:
    write, write_at_once = it.writes
    write_at_once(b"a")
    assert await heard(theirs) == b"a"
    write(b"b")
    write_at_once(b"c")
    write(b"d")
    got = b""
    while len(got) < 3:
        got += await heard(theirs)
    assert got == b"bcd"


@on_both_loops
async def test_what_does_not_fit_is_unread_until_the_peer_reads(it: Peered, theirs: socket.socket) -> None:
    data = b"x" * (1 << 20)
    it.writes[1](data)
    await asyncio.sleep(0)
    assert 0 < it.peer.unread_bytes() < len(data)
    missing = len(data)
    while missing:
        missing -= len(await asyncio.get_running_loop().sock_recv(theirs, 1 << 20))
    while it.peer.unread_bytes():  # until the loop has noticed that all is sent
        await asyncio.sleep(0)


@on_both_loops
async def test_nothing_is_sent_once_it_is_closed(it: Peered, theirs: socket.socket) -> None:
    it.peer.close()
    it.peer.pause_reading()
    it.peer.resume_reading()
    for write in it.writes:
        write(b"late")
    assert await heard(theirs) == b""
    await it.lost
    assert (it.peer.is_connected, it.peer.unread_bytes(), it.peer.is_gone()) == (False, 0, True)
    it.peer.close_with(b"later")
    it.peer.close()


@on_both_loops
async def test_the_last_bytes_are_sent_to_a_peer_that_reads_only(it: Peered, theirs: socket.socket) -> None:
    it.peer.close_with(b"the end")
    assert (await heard(theirs), await heard(theirs)) == (b"the end", b"")
    it, theirs = await connected()
    it.writes[0](b"x" * (1 << 20))
    await asyncio.sleep(0)
    it.peer.close_with(b"the end")
    await it.lost
    theirs.close()


@on_both_loops
async def test_a_peer_that_only_shut_down_its_direction_is_not_gone(
    it: Peered, theirs: socket.socket
) -> None:
    it.peer.pause_reading()
    assert it.peer.is_reading_paused
    theirs.shutdown(socket.SHUT_WR)
    assert not it.peer.is_gone()
    theirs.close()
    assert it.peer.is_gone()
