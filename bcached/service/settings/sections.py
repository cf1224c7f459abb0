# SPDX-License-Identifier: GPL-2.0-only
"""Every key of the configuration: its section, type, range and default.

The file config/bcached.toml says what each one means; a test compares the two.
"""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bcached.format.sizes import MEMBERS_MAX

SOCKET_PATH_BYTES_MAX = 107
CLIENT_BUFFER_BYTES = 64 << 20
INDEX_BYTES_MIN = 1 << 20
MESSAGES_BUFFERED = 8  # a running one takes four times its length, and one behind it as much
CONNECTION_BYTES = 1024
NAME = r"[\w.][\w.-]{0,63}\$?"  # of a user or group


def printable(text: str) -> str:
    """Refuse control characters: a name with one in it would forge lines in logs."""
    if not text.isprintable():
        raise ValueError("Input should be free of control characters")
    return text


def absolute_path(path: str) -> str:
    """Returns the absolute path: Describe returns it to clients, whose working directory differs."""
    if not path:
        raise ValueError("Input should be a path")
    return os.path.abspath(printable(path))


def parse_index_memory(memory_bytes: int) -> int:
    """Check that it is 0, for what fits, or enough for a few leaves."""
    if 0 < memory_bytes < INDEX_BYTES_MIN:
        raise ValueError(f"Input should be 0, or {INDEX_BYTES_MIN} or more")
    return memory_bytes


def parse_members(devices: tuple[str, ...]) -> tuple[str, ...]:
    """Check that there are 1 to 8 members, each named once."""
    if not 1 <= len(devices) <= MEMBERS_MAX or len(set(devices)) < len(devices):
        raise ValueError(f"Input should be 1 to {MEMBERS_MAX} devices, each named once")
    return devices


def parse_socket_path(path: str) -> str:
    """Check that a socket can be bound there."""
    if not 1 <= len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"Input should be a path of 1 to {SOCKET_PATH_BYTES_MAX} bytes")
    return printable(path)


def parse_mode(mode: str) -> str:
    """Check that it is a mode, in the digits chmod takes."""
    if not re.fullmatch("0[0-7]{3}", mode):
        raise ValueError('Input should be four octal digits like "0660"')
    return mode


def parse_group(group: str) -> str:
    """Check that it can be a group's name; "" is no group."""
    if not re.fullmatch(f"({NAME})?", group):
        raise ValueError('Input should be a group name or ""')
    return group


def parse_listen(listen: str) -> str:
    """Check that metrics can listen there: "", unix:/path, host:port or [ipv6]:port."""
    if listen.startswith("unix:"):
        absolute_path(listen.removeprefix("unix:"))
    elif listen and not (
        (match := re.fullmatch(r"(?:\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})", listen)) and int(match[1]) <= 65535
    ):
        raise ValueError('Input should be "host:port", "unix:/path" or ""')
    return listen


def parse_name(name: str) -> str:
    """Check that it can be a user's name, or with an @ before it a group's."""
    if not re.fullmatch(f"@?{NAME}", name):
        raise ValueError('Input should be a user name or "@group"')
    return name


def own_directory(variable: str, otherwise: str) -> str:
    """Returns the directory systemd made for the service, or the default one."""
    return os.environ.get(variable, "").split(":")[0] or otherwise


def buffers_needed(message_bytes: int, connections: int) -> int:
    """Returns the least useful limit: the largest requests of one client, and a little for each."""
    return max(MESSAGES_BUFFERED * message_bytes, CONNECTION_BYTES * connections)


def enough_buffers(limits: dict[str, Any]) -> int:
    """Returns the default limit of buffers, raised where other limits need more."""
    needed = buffers_needed(limits.get("message_bytes", 0), limits.get("connections", 0))
    return max(CLIENT_BUFFER_BYTES, needed)


Path = Annotated[str, AfterValidator(absolute_path)]
Name = Annotated[str, AfterValidator(parse_name)]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class SetSection(Section):
    """The cache set this daemon owns."""

    devices: Annotated[tuple[Path, ...], AfterValidator(parse_members)] = ("/var/lib/bcached/cache.img",)
    synchronous: bool = True
    verify: bool = False
    state_directory: Path = Field(
        default_factory=lambda: own_directory("STATE_DIRECTORY", "/var/lib/bcached")
    )
    runtime_directory: Path = Field(
        default_factory=lambda: own_directory("RUNTIME_DIRECTORY", "/run/bcached")
    )


class GcSection(Section):
    """The garbage collector."""

    slice_ms: Annotated[int, Field(ge=1, le=50)] = 1
    moving: bool = True


class JournalSection(Section):
    """The journal."""

    delay_ms: Annotated[int, Field(ge=1, le=10_000)] = 100


class IndexSection(Section):
    """The keys."""

    memory_bytes: Annotated[int, Field(ge=0, le=1 << 40), AfterValidator(parse_index_memory)] = 0


class LimitsSection(Section):
    """What one client, and all of them together, may use."""

    connections: Annotated[int, Field(ge=1, le=65_536)] = 1024
    message_bytes: Annotated[int, Field(ge=4096, le=16 << 20)] = 1 << 20
    buffer_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = Field(default_factory=enough_buffers)
    buffer_bytes_without_role: Annotated[int, Field(ge=1 << 16, le=1 << 40)] = 4 << 20
    user_percent: Annotated[int, Field(ge=50, le=100)] = 50
    dirty_percent: Annotated[int, Field(ge=0, le=100)] = 100
    waiters: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    reservations_per_connection: Annotated[int, Field(ge=1, le=16_777_216)] = 65_536
    pins_per_connection: Annotated[int, Field(ge=1, le=16_777_216)] = 65_536
    restart_grace_s: Annotated[int, Field(ge=0, le=3600)] = 10


class SocketSection(Section):
    """Where clients connect, when systemd does not pass the socket."""

    path: Annotated[str, AfterValidator(parse_socket_path)] = "/run/bcached/io.bcached"
    mode: Annotated[str, AfterValidator(parse_mode)] = "0660"
    group: Annotated[str, AfterValidator(parse_group)] = "bcached"


class AccessSection(Section):
    """The users, and groups with an @ before them, of each role. The daemon's own user is always admin."""

    admin: tuple[Name, ...] = ("root",)
    allocator: tuple[Name, ...] = ("@bcached",)
    reader: tuple[Name, ...] = ()


class MetricsSection(Section):
    """Where Prometheus scrapes, when systemd does not pass the socket."""

    listen: Annotated[str, AfterValidator(parse_listen)] = "127.0.0.1:9712"


class LogSection(Section):
    """What is written to stderr, and how."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Tables(Section):
    """The whole configuration."""

    set: SetSection = Field(default_factory=SetSection)
    gc: GcSection = GcSection()
    journal: JournalSection = JournalSection()
    index: IndexSection = IndexSection()
    limits: LimitsSection = LimitsSection()
    socket: SocketSection = SocketSection()
    access: AccessSection = AccessSection()
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()
