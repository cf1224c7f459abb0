# SPDX-License-Identifier: GPL-2.0-only
"""Durable commits a second with 1 to 256 clients that wait, beside stores that promise the same.

A client sends a commit and waits until it is told that it is durable. Ours and Redis are loaded through their
sockets, by the same load generator; SQLite and LMDB run inside the one process that commits, which spares
them that. All stand on one file system. The image has no holes: it is to be like a device, where a write
never waits for the file system to find it a place. What is committed has no data, of which a flush would
have to wait for the drive to write it, for anybody alike.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.peers import Peer, bcached, redis_is_here, redis_that_keeps
from bench.requests import commit
from bench.sockets import ROUNDS, Scenario, load_once
from bench.stores import KINDS, lmdb_is_here
from bench.stores import measure as measure_store
from bench.table import Report

CLIENTS = (1, 16, 64, 256)
BUCKET_COUNT = 4096  # 2 GiB
LIMIT_S = 1.0
REQUESTS_MAX = 5_000  # of one connection, and four times as many of more: about a second


@dataclass(frozen=True)
class Rates:
    """Commits a second by peer, in the order of the rounds."""

    clients: int
    by_peer: dict[str, list[float]]

    def ratio(self, peer: str, to: str) -> float:
        return median(a / b for a, b in zip(self.by_peer[peer], self.by_peer[to], strict=True))

    def rate(self, peer: str) -> float:
        return median(self.by_peer[peer])


def in_turn(clients: int, peers: Sequence[Peer], stores: Sequence[str], folder: Path) -> Rates:
    """Everybody in each round, there and back again."""
    scenario = Scenario(clients, 1, 0)
    measures = {peer.name: lambda peer=peer: load_once(peer, scenario, REQUESTS_MAX).rate for peer in peers}
    for kind in stores:
        measures[KINDS[kind]] = lambda kind=kind: measure_store(kind, folder, LIMIT_S)
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(ROUNDS):
        for name in measures if number % 2 == 0 else reversed(measures):
            rates[name].append(measures[name]())
    return Rates(clients, rates)


def run(report: Report, folder: Path) -> None:
    """All numbers of clients."""
    stores = ["sqlite"]
    if lmdb_is_here():
        stores.append("lmdb")
    else:
        report.skip("no lmdb: commits are not compared with it")
    with ExitStack() as stack:
        daemon = stack.enter_context(bcached(folder, max(CLIENTS), BUCKET_COUNT, without_holes=True))
        peers = [replace(daemon, name="Commit", request=commit())]
        if redis_is_here():
            peers.append(stack.enter_context(redis_that_keeps(folder)))
        else:
            report.skip("no redis-server and redis-cli: commits are not compared with Redis")
        found = [in_turn(clients, peers, stores, folder) for clients in CLIENTS]
    _tell(report, found)


def _tell(report: Report, found: list[Rates]) -> None:
    report.heading("Durable commits, ratio of commits a second to (in brackets: commits a second)")
    ours, *others = found[0].by_peer
    report.table(
        ("waiting clients", ours, *others),
        [
            (
                str(rates.clients),
                f"({rates.rate(ours):,.0f})",
                *(f"{rates.ratio(ours, name):.2f} ({rates.rate(name):,.0f})" for name in others),
            )
            for rates in found
        ],
    )
    wanted = {KINDS["sqlite"]: 10.0, "redis appendfsync always": 1.0}
    (at_64,) = [rates for rates in found if rates.clients == 64]
    for name, least in wanted.items():
        if name in at_64.by_peer:
            report.target("commits of 64 clients", f"/ {name}", at_64.ratio(ours, name), at_least=least)
    report.keep("commits", {rates.clients: rates.by_peer for rates in found})
