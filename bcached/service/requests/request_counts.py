# SPDX-License-Identifier: GPL-2.0-only
"""How often each method was called and refused, and how long it took: integers, a few per read.

A duration runs from the read that brought the request to the write of its reply. Requests of one read that
are answered by one write share a duration, so they are counted at once.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bcached.service.statistics import ServerStatistics
from bcached.service.users.buffers import Buffers
from bcached.state.statistics import Histogram
from bcached.wire.methods import METHODS

BOUNDS = 26  # 2^10 ns (about a microsecond) to 2^35 ns (about half a minute), each twice the one before
BOUNDS_S = tuple((1 << (10 + index)) / 1e9 for index in range(BOUNDS))
UNKNOWN = "unknown"  # requests for no known method


class MethodCounts:
    """One method's counts."""

    __slots__ = ("durations", "errors", "sum_ns")

    def __init__(self) -> None:
        self.errors = 0
        self.sum_ns = 0
        self.durations = [0] * (BOUNDS + 1)

    def observe(self, count: int, elapsed_ns: int) -> None:
        """Count so many requests, each answered after elapsed_ns."""
        self.sum_ns += count * elapsed_ns
        index = (elapsed_ns >> 10).bit_length()
        self.durations[min(index, BOUNDS)] += count

    @property
    def requests(self) -> int:
        """Returns how many were answered."""
        return sum(self.durations)

    def histogram(self) -> Histogram:
        """Returns the durations so far."""
        return Histogram(BOUNDS_S, list(self.durations), self.sum_ns / 1e9)


class Connected(NamedTuple):
    """How many connections there are, by role, how many the user with the most has, and the limit."""

    roles: Mapping[str, int]
    largest_user: int
    limit: int


class RequestCounts:
    """The counts of all methods, by the class of their requests; and of connections that were closed."""

    def __init__(self) -> None:
        self._unknown = MethodCounts()
        self._by_kind: dict[type, MethodCounts] = {
            method.request: MethodCounts() for method in METHODS.values()
        }
        self._by_name = {name: self._by_kind[method.request] for name, method in METHODS.items()}
        self._by_name[UNKNOWN] = self._unknown
        self.error_replies: Counter[str] = Counter()  # by the error's name without its interface
        self.disconnections: Counter[str] = Counter()  # by the limit that others needed

    def of(self, kind: type) -> MethodCounts:
        """Returns the counts of one method, or those of unknown methods for any other class."""
        return self._by_kind.get(kind, self._unknown)

    def count_error(self, kind: type, name: str) -> None:
        """Count a reply with an error, given the error's name without its interface."""
        self.of(kind).errors += 1
        self.error_replies[name] += 1

    def observe(self, requests: Sequence[object], elapsed_ns: int) -> None:
        """Count requests answered by one write."""
        if len(requests) == 1:
            self._by_kind.get(type(requests[0]), self._unknown).observe(1, elapsed_ns)
        else:
            for kind, count in Counter(map(type, requests)).items():
                self.of(kind).observe(count, elapsed_ns)

    def statistics(self, connected: Connected, buffers: Buffers) -> ServerStatistics:
        """Returns all counts, as metrics read them: of the methods that were called."""
        called = {name: counts for name, counts in self._by_name.items() if counts.requests or counts.errors}
        return ServerStatistics(
            connections=sum(connected.roles.values()),
            role_connections=connected.roles,
            connections_of_largest_user=connected.largest_user,
            connections_max=connected.limit,
            disconnections=dict(self.disconnections),
            requests={name: counts.requests for name, counts in called.items()},
            errors={name: counts.errors for name, counts in called.items()},
            durations={name: counts.histogram() for name, counts in called.items()},
            error_replies=dict(self.error_replies),
            buffer_bytes=buffers.held_bytes,
            buffer_bytes_max=buffers.limit_bytes,
            gave_way=buffers.gave_way,
            role_buffer_bytes=buffers.by_role(),
            buffer_bytes_of_largest_user=buffers.largest_user_bytes,
        )
