# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's own statistics, which metrics and status read beside the set's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from bcached.metric import counter, gauge
from bcached.state.statistics import Histogram, SetStatistics


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """The socket: how many clients are connected, and the requests since the start by method name."""

    connections: Annotated[int, gauge("bcached_client_connections", "Clients connected.")]
    requests: Annotated[Mapping[str, int], counter("bcached_rpc_requests", "Requests.", label="method")]
    errors: Mapping[str, int]
    durations: Mapping[str, Histogram]
    buffer_bytes: Annotated[
        int,
        gauge(
            "bcached_client_buffer_bytes",
            "Memory of partial requests, waiting requests and unread replies.",
        ),
    ] = 0
    buffer_bytes_max: Annotated[
        int,
        gauge("bcached_client_buffer_limit_bytes", "Limit of that memory for all clients together."),
    ] = 0
    gave_way: Annotated[
        int,
        counter("bcached_client_give_ways", "Clients disconnected because that limit was exceeded."),
    ] = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All statistics at one instant; not changed afterwards."""

    cache_set: SetStatistics
    server: ServerStatistics
    loop_lag_s: Annotated[
        float,
        gauge(
            "bcached_event_loop_lag_seconds",
            "The largest delay of a timer of the event loop in the last half minute.",
        ),
    ]
    log_messages: Mapping[str, int]
    log_lines_held_back: Annotated[
        int, counter("bcached_log_held_back", "Log messages left out by the rate limit.")
    ] = 0
    log_lines_dropped: Annotated[
        int, counter("bcached_log_dropped", "Log lines that could not be written to stderr.")
    ] = 0
