"""The daemon's own statistics, which metrics and status read beside the set's."""

from collections.abc import Mapping
from dataclasses import dataclass

from bcached.state.statistics import Histogram, SetStatistics


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """The socket: how many clients are connected, and the requests since the start by method name."""

    connections: int
    requests: Mapping[str, int]
    errors: Mapping[str, int]
    durations: Mapping[str, Histogram]
    buffer_bytes: int = 0
    buffer_bytes_max: int = 0
    gave_way: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All statistics at one instant; not changed afterwards."""

    cache_set: SetStatistics
    server: ServerStatistics
    loop_lag_s: float
    log_messages: Mapping[str, int]
    log_lines_held_back: int = 0
    log_lines_dropped: int = 0
