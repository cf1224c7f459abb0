"""The configuration: every key, its range and its default; loaded once, checked whole, then frozen.

Layers, later ones win: /etc/bcached/bcached.toml, conf.d/*.toml beside it in the order of their names,
environment variables BCACHED__SECTION__KEY. Lists are replaced, not joined. Each file is checked strictly
by itself first ("5" is no integer), so that an error names the file it stands in.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bcached.errors import ConfigError

DEFAULT_PATH = "/etc/bcached/bcached.toml"
ENVIRONMENT_PREFIX = "BCACHED__"
CONFIG_BYTES_MAX = 1 << 20
MEMBERS_MAX = 8
RELOADABLE = ("log", "access", "limits", "gc")

Sections = dict[str, Any]


def printable(text: str) -> str:
    """Refuse control characters: a name with one in it would forge lines in logs."""
    if not text.isprintable():
        raise ValueError("Input should be free of control characters")
    return text


def absolute_path(path: str) -> str:
    """Resolved once, at loading: clients are told these paths and do not share our working directory."""
    if not path:
        raise ValueError("Input should be a path")
    return os.path.abspath(printable(path))


def parse_members(devices: tuple[str, ...]) -> tuple[str, ...]:
    """Check that there are 1 to 8 members, each named once."""
    if not 1 <= len(devices) <= MEMBERS_MAX or len(set(devices)) < len(devices):
        raise ValueError(f"Input should be 1 to {MEMBERS_MAX} devices, each named once")
    return devices


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
    if not re.fullmatch(r"@?[\w.][\w.-]{0,63}\$?", name):
        raise ValueError('Input should be a user name or "@group"')
    return name


def own_directory(variable: str, otherwise: str) -> str:
    """The directory systemd made for the service, or the customary one."""
    return os.environ.get(variable, "").split(":")[0] or otherwise


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


class LimitsSection(Section):
    """What one client, and all of them together, may take."""

    connections: Annotated[int, Field(ge=1, le=65_536)] = 1024
    message_bytes: Annotated[int, Field(ge=4096, le=16 << 20)] = 1 << 20
    waiters: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    reservations_per_connection: Annotated[int, Field(ge=1, le=16_777_216)] = 65_536
    pins_per_connection: Annotated[int, Field(ge=1, le=16_777_216)] = 65_536
    restart_grace_s: Annotated[int, Field(ge=0, le=3600)] = 10


class SocketSection(Section):
    """Where clients connect, when systemd does not pass the socket."""

    path: Annotated[str, Field(min_length=1, max_length=107), AfterValidator(printable)] = (
        "/run/bcached/io.bcached"
    )
    mode: Annotated[str, Field(pattern="^0[0-7]{3}$")] = "0660"
    group: Annotated[str, Field(pattern=r"^([\w.][\w.-]{0,63}\$?)?$")] = "bcached"


class AccessSection(Section):
    """Who is what: users, and groups with an @ before them. The daemon's own user is always admin."""

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
    """All of the configuration."""

    set: SetSection = Field(default_factory=SetSection)
    gc: GcSection = GcSection()
    journal: JournalSection = JournalSection()
    limits: LimitsSection = LimitsSection()
    socket: SocketSection = SocketSection()
    access: AccessSection = AccessSection()
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()


class Settings(Tables, BaseSettings):
    """The configuration in effect: what the files say, under what the environment says."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment over the files, which load() has read and hands to the constructor."""
        return env_settings, init_settings

    def as_toml(self) -> str:
        """What is in effect, in the words of the file."""
        tables = self.model_dump(mode="json")
        return "\n".join(
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
            for name, table in tables.items()
        )


def load(path: str = DEFAULT_PATH) -> Settings:
    """The configuration in effect, or a ConfigError that says which file, key, expected and found."""
    merged: Sections = {}
    for file in [path, *drop_ins(path)]:
        for name, table in read_tables(file).items():
            merged[name] = {**merged.get(name, {}), **table}
    check_environment(os.environ)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError(told(error, path, os.environ)) from None


def drop_ins(path: str) -> list[str]:
    """The files of conf.d beside the main one, in the order of their names."""
    directory = os.path.join(os.path.dirname(path), "conf.d")
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".toml"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be listed: {error.strerror}") from None
    return [os.path.join(directory, name) for name in names]


def read_tables(path: str) -> Sections:
    """The tables of one file, checked by themselves, so that an error can name the file."""
    try:
        tables = tomllib.loads(read_trusted(path).decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    try:
        Tables.model_validate_json(json.dumps(tables, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(told(error, path, {})) from None
    return tables


def read_trusted(path: str) -> bytes:
    """The bytes of a file that only those may write whom we trust: it tells us what to overwrite.

    Root refuses a file its group may write; others only one that everybody may (their umask is often 002).
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ConfigError(f"{path}: expected a regular file")
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        untrusted = stat.S_IWOTH | (stat.S_IWGRP if os.geteuid() == 0 else 0)
        if status.st_mode & untrusted:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(f"{path}: expected to be writable by its owner only, found mode {mode:04o}")
        if status.st_size > CONFIG_BYTES_MAX:
            raise ConfigError(f"{path}: expected at most {CONFIG_BYTES_MAX} bytes, found {status.st_size}")
        return file.read(CONFIG_BYTES_MAX)


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse variables that would be ignored: a misspelt key must not pass in silence."""
    for variable, value in environment.items():
        if not variable.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section, _, key = variable[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if section not in Tables.model_fields:
            raise ConfigError(f"{variable}: expected a section of {listed(Tables)}, found {section}")
        table = type(getattr(Tables(), section))
        if key not in table.model_fields:
            raise ConfigError(f"{variable}: expected a key of {listed(table)}, found {key or 'none'}")
        if isinstance(getattr(table(), key), tuple):
            check_list(variable, value)


def check_list(variable: str, value: str) -> None:
    """A list is written as in the file; said here, for pydantic-settings does not name the variable."""
    try:
        is_list = isinstance(json.loads(value), list)
    except ValueError:
        is_list = False
    if not is_list:
        raise ConfigError(f'{variable}: expected a list like ["one", "two"], found {value}')


def listed(table: type[BaseModel]) -> str:
    """The names a table knows."""
    return ", ".join(table.model_fields)


def told(error: ValidationError, path: str, environment: Mapping[str, str]) -> str:
    """All that is wrong, one line each: where, which key, expected, found."""
    lines = []
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        variable = ENVIRONMENT_PREFIX + "__".join(place[:2]).upper()
        where = variable if variable in environment else f"{path}: {'.'.join(place)}"
        if problem["type"] == "extra_forbidden":
            known = Tables if len(place) == 1 else type(getattr(Tables(), place[0]))
            lines.append(f"{where}: unknown key, expected one of {listed(known)}")
        else:
            expected = re.sub(r"^(Value error, )?Input should (be )?", "", problem["msg"])
            lines.append(f"{where}: expected {expected}, found {json.dumps(problem['input'], default=str)}")
    return "\n".join(lines)
