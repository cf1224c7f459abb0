# SPDX-License-Identifier: GPL-2.0-only
"""A look-up over the socket, beside Redis GET: the same number of entries, asked for in no order.

Both keep all of it in memory; a key of ours is looked for in a tree of packed leaves, checked against its
bucket's gen, and renews its bucket.
"""

import json
import socket
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from bench.peers import Peer, bcached, redis_is_here, redis_with_values
from bench.requests import EXTENT_SECTORS, lookup
from bench.sockets import Scenario, in_turn
from bench.table import Report

SCENARIOS = (Scenario(1, 1, 0.6), Scenario(1, 16, 0.6))
COUNT = 60_000
FIRST = 10_000_000  # where bench.load begins
AT_ONCE = 500
REQUESTS = COUNT


def fill(peer: Peer) -> None:
    """Keys of one extent each where the load will ask for them, with gaps so that none become one."""
    inode = peer.inodes[0]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(peer.path)
        for begin in range(0, COUNT, AT_ONCE):
            offsets = [FIRST + EXTENT_SECTORS * number for number in range(begin, begin + AT_ONCE)]
            asked = [{"inode": inode, "offset": offset, "sectors": EXTENT_SECTORS} for offset in offsets]
            found = _call(connection, "AllocateMany", {"requests": asked})
            # In this order no two that are neighbours in the volume are so on the device.
            keys = [key for given in found["keys"] for key in given]
            for place, key in zip(_far_apart(len(keys)), keys, strict=True):
                key["offset"] = offsets[place]
            _call(connection, "Commit", {"keys": keys, "durable": False})


def _far_apart(count: int) -> list[int]:
    return [*range(0, count, 2), *range(1, count, 2)]


def _call(connection: socket.socket, method: str, parameters: dict[str, object]) -> dict[str, list]:  # type: ignore[type-arg]
    call = {"method": f"io.bcached.Allocator.{method}", "parameters": parameters}
    connection.sendall(json.dumps(call).encode() + b"\0")
    received = b""
    while not received.endswith(b"\0"):
        received += connection.recv(1 << 16)
    reply = json.loads(received[:-1])
    if "error" in reply:
        raise RuntimeError(f"{method}: {reply}")
    return dict(reply["parameters"])


def run(report: Report, folder: Path) -> None:
    """Both depths."""
    if not redis_is_here():
        report.skip("no redis-server and redis-cli: look-ups are not compared with Redis")
        return
    with ExitStack() as stack:
        daemon = stack.enter_context(bcached(folder))
        fill(daemon)
        ours = replace(daemon, name="Lookup", request=lookup())
        theirs = stack.enter_context(redis_with_values(folder, FIRST, EXTENT_SECTORS, COUNT))
        found = [in_turn([ours, theirs], scenario, REQUESTS) for scenario in SCENARIOS]
    report.heading("Lookup, ratio of requests a second to (in brackets: requests a second)")
    report.table(
        ("connections x depth", "Lookup", "redis GET"),
        [
            (
                rates.scenario,
                f"({rates.rate('Lookup'):,.0f})",
                f"{rates.ratio('Lookup', 'redis GET'):.2f} ({rates.rate('redis GET'):,.0f})",
            )
            for rates in found
        ],
    )
    for scenario, rates in zip(SCENARIOS, found, strict=True):
        ratio = rates.ratio("Lookup", "redis GET")
        report.target(f"Lookup {scenario.name}", "/ redis GET", ratio, at_least=scenario.least)
    report.keep("lookups", [asdict(rates) for rates in found])
