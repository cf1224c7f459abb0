"""How the daemon around the set stands: what metrics and status read beside the set's own statistics."""

from collections.abc import Mapping
from dataclasses import dataclass

from bcached.state.statistics import Histogram, SetStatistics


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """The socket: how many are connected, and what was asked since the start, by the method's name."""

    connections: int
    requests: Mapping[str, int]
    errors: Mapping[str, int]
    durations: Mapping[str, Histogram]
    buffer_bytes: int = 0
    buffer_bytes_max: int = 0
    gave_way: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one instant; nobody changes it afterwards."""

    cache_set: SetStatistics
    server: ServerStatistics
    loop_lag_s: float
    log_messages: Mapping[str, int]
    log_lines_held_back: int = 0
    log_lines_dropped: int = 0
