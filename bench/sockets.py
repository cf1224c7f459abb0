# SPDX-License-Identifier: GPL-2.0-only
"""An allocation over the socket, beside its peers: ratios of rates, with 1 to 256 requests under way.

All servers stand on one core the whole time, idle but for the one that is measured. With one request under
way the client stands on the same core (a wake-up across idle virtual cores would cost more than the answer);
with more it has the other core. Each measurement is a process of its own with new connections: it stops after
a number of requests below the daemon's default limit of reservations a connection, or after a second. What it
reserved is given back when it ends, outside of the measured time, as a client gives back what it did not
commit. The set of 262,144 buckets never comes near to running dry, but its reserve of 255 is refilled all the
time: invalidation, prio writes and journal writes are inside the measured time.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import sleep

from bench.load import Load, Measured, measure
from bench.peers import CLIENT_CORE, SERVER_CORE, Peer, bcached, echo, redis, redis_is_here
from bench.requests import allocate_many, incrby
from bench.table import Report

ROUNDS = 7
RESERVATIONS = 60_000  # the default limit of a connection is 65,536
SETTLE_S = 0.05
MANY = 64


@dataclass(frozen=True)
class Scenario:
    """How many connections, with how many requests under way each."""

    connections: int
    depth: int
    least: float  # the ratio to Redis INCRBY that is to be reached

    @property
    def name(self) -> str:
        return f"{self.connections} x {self.depth}"

    @property
    def client_core(self) -> int:
        return SERVER_CORE if self.connections * self.depth == 1 else CLIENT_CORE


SCENARIOS = (Scenario(1, 1, 0.8), Scenario(1, 16, 0.6), Scenario(1, 64, 0.3), Scenario(16, 16, 0.3))


@dataclass(frozen=True)
class Rates:
    """What the rounds of one scenario gave: rates by peer, in the order of the rounds."""

    scenario: str
    by_peer: dict[str, list[float]]

    def ratio(self, peer: str, to: str) -> float:
        """Median over the rounds of one's rate in the other's."""
        return median(a / b for a, b in zip(self.by_peer[peer], self.by_peer[to], strict=True))

    def rate(self, peer: str) -> float:
        return median(self.by_peer[peer])


def load_once(peer: Peer, scenario: Scenario, requests: int = RESERVATIONS) -> Measured:
    """One load of one peer; requests are those of one connection, or of four and more."""
    request = peer.request
    measured = measure(
        Load(
            path=peer.path,
            prefix=request.prefix,
            suffix=request.suffix,
            terminator=request.terminator,
            bad=request.bad,
            numbered=request.numbered,
            inodes=peer.inodes,
            connections=scenario.connections,
            depth=scenario.depth,
            requests=requests * min(scenario.connections, 4) // request.extents,
            limit_s=1.0,
            core=scenario.client_core,
            shuffled=request.shuffled,
            commits=request.commits,
        )
    )
    peer.settle()
    sleep(SETTLE_S)
    return measured


def in_turn(peers: Sequence[Peer], scenario: Scenario, requests: int = RESERVATIONS) -> Rates:
    """All peers in each round, there and back again, so that a slow minute hits all of them."""
    rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(ROUNDS):
        for peer in peers if number % 2 == 0 else reversed(peers):
            rates[peer.name].append(load_once(peer, scenario, requests).rate * peer.request.extents)
    return Rates(scenario.name, rates)


def run(report: Report, folder: Path) -> None:
    """Every scenario with every peer."""
    with ExitStack() as stack:
        ours = stack.enter_context(bcached(folder))
        others = [stack.enter_context(echo(folder, kind)) for kind in ("echo", "codec")]
        if redis_is_here():
            others = [*stack.enter_context(redis(folder)), *others]
        else:
            report.skip("no redis-server and redis-cli: nothing is compared with Redis")
        _single(report, ours, others)
        _many(report, ours, others)


def _single(report: Report, ours: Peer, others: Sequence[Peer]) -> None:
    report.heading("Allocate, ratio of requests a second to (in brackets: requests a second)")
    found = [in_turn([ours, *others], scenario) for scenario in SCENARIOS]
    report.table(
        ("connections x depth", "Allocate", *(peer.name for peer in others)),
        [
            (
                rates.scenario,
                f"({rates.rate(ours.name):,.0f})",
                *(
                    f"{rates.ratio(ours.name, peer.name):.2f} ({rates.rate(peer.name):,.0f})"
                    for peer in others
                ),
            )
            for rates in found
        ],
    )
    for scenario, rates in zip(SCENARIOS, found, strict=True):
        if "redis INCRBY" in rates.by_peer:
            ratio = rates.ratio(ours.name, "redis INCRBY")
            report.target(f"Allocate {scenario.name}", "/ redis INCRBY", ratio, at_least=scenario.least)
            report.target(
                f"Allocate {scenario.name}", "/ redis Lua", rates.ratio(ours.name, "redis Lua"), at_least=1.0
            )
    report.keep("allocate", [asdict(rates) for rates in found])


def _many(report: Report, ours: Peer, others: Iterable[Peer]) -> None:
    redis_peer = next((peer for peer in others if peer.name == "redis INCRBY"), None)
    if redis_peer is None:
        return
    many = replace(ours, name=f"AllocateMany of {MANY}", request=allocate_many(MANY))
    single = Scenario(1, 1, 5.0)
    rounds = in_turn([many, redis_peer], single)
    pipelined = Peer(f"redis INCRBY, {MANY} a write", redis_peer.path, incrby())
    report.heading(f"AllocateMany of {MANY}, extents a second")
    calls: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        calls[0].append(load_once(many, single).rate * MANY)
        calls[1].append(load_once(pipelined, Scenario(1, MANY, 0.0)).rate)
    ratio = rounds.ratio(many.name, redis_peer.name)
    ratio_pipelined = median(a / b for a, b in zip(*calls, strict=True))
    report.table(
        ("", "extents a second", "ratio"),
        [
            (many.name, f"{rounds.rate(many.name):,.0f}", ""),
            ("redis INCRBY, one at a time", f"{rounds.rate(redis_peer.name):,.0f}", f"{ratio:.2f}"),
            (f"redis INCRBY, {MANY} under way", f"{median(calls[1]):,.0f}", f"{ratio_pipelined:.2f}"),
        ],
    )
    report.target(many.name, "extents / redis INCRBY", ratio, at_least=5.0)
    report.keep("allocate_many", {**asdict(rounds), "ratio": ratio, "ratio_to_pipelined": ratio_pipelined})
