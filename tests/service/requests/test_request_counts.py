# SPDX-License-Identifier: GPL-2.0-only
from bcached.service.requests.request_counts import (
    BOUNDS,
    BOUNDS_S,
    UNKNOWN,
    Connected,
    MethodCounts,
    RequestCounts,
)
from bcached.service.statistics import ServerStatistics
from bcached.service.users.buffers import Buffers
from bcached.service.users.socket_limits import SocketLimits
from bcached.wire import messages
from bcached.wire.methods import METHODS

FLUSH, DESCRIBE = "io.bcached.Allocator.Flush", "io.bcached.Allocator.Describe"


def request(name: str) -> object:
    return METHODS[name].request(parameters=messages.Nothing())


def test_a_duration_counts_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    counts = MethodCounts()
    for index, bound_s in enumerate(BOUNDS_S):
        counts.observe(1, round(bound_s * 1e9) - 1)
        assert counts.durations[index] == 1


def test_a_longer_duration_counts_in_the_last_bucket() -> None:
    counts = MethodCounts()
    counts.observe(2, 1 << 60)
    assert counts.durations == [0] * BOUNDS + [2]
    assert (counts.requests, counts.histogram().sum_s) == (2, 2 * (1 << 60) / 1e9)


def test_requests_of_one_write_share_a_duration() -> None:
    counts = RequestCounts()
    counts.observe([request(FLUSH), request(DESCRIBE), request(FLUSH)], 2000)
    counts.observe([request(FLUSH)], 2000)
    statistics = statistics_of(counts)
    assert (statistics.requests[FLUSH], statistics.requests[DESCRIBE]) == (3, 1)
    assert statistics.durations[FLUSH].sum_s == 3 * 2000 / 1e9


def statistics_of(counts: RequestCounts) -> ServerStatistics:
    return counts.statistics(Connected({"admin": 1}, 1, 4), Buffers(SocketLimits()))


def test_what_is_no_known_request_counts_as_unknown() -> None:
    counts = RequestCounts()
    counts.observe([ValueError()], 2000)
    counts.of(ValueError).errors += 1
    statistics = statistics_of(counts)
    assert (statistics.requests[UNKNOWN], statistics.errors[UNKNOWN]) == (1, 1)


def test_only_methods_that_were_called_are_in_the_statistics() -> None:
    counts = RequestCounts()
    assert statistics_of(counts).requests == {}
    counts.observe([request(FLUSH)], 2000)
    statistics = statistics_of(counts)
    assert set(statistics.requests) == set(statistics.errors) == set(statistics.durations) == {FLUSH}


def test_errors_are_counted_by_method_and_by_name() -> None:
    counts = RequestCounts()
    for name in ("NotReserved", "NotReserved", "LimitExceeded"):
        counts.count_error(type(request(FLUSH)), name)
    statistics = statistics_of(counts)
    assert statistics.errors == {FLUSH: 3}
    assert statistics.error_replies == {"NotReserved": 2, "LimitExceeded": 1}
