# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's own statistics, which metrics and status read beside the set's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from bcached.errors import RequestError
from bcached.metric import counter, gauge
from bcached.state.statistics import Histogram, SetStatistics

# Without their interfaces: the same error has a name in each.
ERROR_NAMES = tuple(
    sorted(
        error.NAME.rpartition(".")[2]
        for error in RequestError.__subclasses__()
        if error.__module__ == RequestError.__module__
    )
)
ROLES = ("none", "reader", "allocator", "admin")
# The limit that the client's user, or peers without a role, had too much of; refused: no connection was left.
DISCONNECTIONS = (
    "buffer_bytes",
    "buffer_bytes_without_role",
    "connections",
    "held_buckets",
    "without_role",
    "refused",
)


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """The socket: how many clients are connected, and the requests since the start.

    requests, errors and durations have the methods that were called.
    """

    connections: Annotated[int, gauge("bcached_client_connections", "Clients connected.")]
    requests: Annotated[Mapping[str, int], counter("bcached_rpc_requests", "Requests.", label="method")]
    errors: Mapping[str, int]
    durations: Mapping[str, Histogram]
    error_replies: Annotated[
        Mapping[str, int],
        counter("bcached_rpc_error_replies", "Replies with an error.", label="error", known=ERROR_NAMES),
    ] = field(default_factory=dict)
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
    role_connections: Annotated[
        Mapping[str, int],
        gauge("bcached_client_role_connections", "Clients connected, by role.", label="role", known=ROLES),
    ] = field(default_factory=dict)
    role_buffer_bytes: Annotated[
        Mapping[str, int],
        gauge(
            "bcached_client_role_buffer_bytes",
            "Memory of partial requests, waiting requests and unread replies, by role.",
            label="role",
            known=ROLES,
        ),
    ] = field(default_factory=dict)
    connections_of_largest_user: Annotated[
        int, gauge("bcached_client_connections_largest_user", "Connections of the user that has the most.")
    ] = 0
    connections_max: Annotated[
        int, gauge("bcached_client_connections_limit", "How many clients may be connected.")
    ] = 0
    buffer_bytes_of_largest_user: Annotated[
        int,
        gauge("bcached_client_buffer_largest_user_bytes", "That memory of the user that has the most."),
    ] = 0
    disconnections: Annotated[
        Mapping[str, int],
        counter(
            "bcached_client_disconnections",
            "Clients disconnected, or refused, for another one's sake.",
            label="limit",
            known=DISCONNECTIONS,
        ),
    ] = field(default_factory=dict)


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
