# SPDX-License-Identifier: GPL-2.0-only
"""The configuration: loaded once, checked whole, then frozen.

Layers, later ones win: /etc/bcached/bcached.toml, conf.d/*.toml beside it in the order of their names,
environment variables BCACHED__SECTION__KEY. Lists are replaced, not joined. Each file is checked strictly
by itself first ("5" is no integer), so that an error names the file it is in.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bcached.errors import ConfigError
from bcached.service.settings.sections import (
    CONNECTION_BYTES,
    MESSAGES_BUFFERED,
    LimitsSection,
    Tables,
    buffers_needed,
)

DEFAULT_PATH = "/etc/bcached/bcached.toml"
ENVIRONMENT_PREFIX = "BCACHED__"
CONFIG_BYTES_MAX = 1 << 20
RELOADABLE = ("log", "access", "limits", "gc")

Sections = dict[str, Any]


class Settings(Tables, BaseSettings):
    """The configuration in effect: the files, overridden by the environment."""

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
        """Returns the sources: the environment before the files, which load() passes to the constructor."""
        return env_settings, init_settings

    def as_toml(self) -> str:
        """Returns the configuration in effect as TOML."""
        tables = self.model_dump(mode="json")
        return "\n".join(
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
            for name, table in tables.items()
        )


def load(path: str = DEFAULT_PATH) -> Settings:
    """Returns the configuration in effect. Raises ConfigError with file, key, expected and found."""
    merged: Sections = {}
    for file in [path, *drop_ins(path)]:
        for name, table in read_tables(file).items():
            merged[name] = {**merged.get(name, {}), **table}
    check_environment(os.environ)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigError(error_lines(error, path, os.environ)) from None
    check_buffers(settings.limits, path)
    return settings


def check_buffers(limits: LimitsSection, path: str) -> None:
    """Refuse a limit too small for a large request. Checked when merged: its keys may be in several files."""
    needed = buffers_needed(limits.message_bytes, limits.connections)
    if limits.buffer_bytes < needed:
        raise ConfigError(
            f"{path}: limits.buffer_bytes: expected at least {needed} ({MESSAGES_BUFFERED} times "
            f"message_bytes, and {CONNECTION_BYTES} for each of connections), found {limits.buffer_bytes}"
        )


def drop_ins(path: str) -> list[str]:
    """Returns the files of conf.d beside the main one, in the order of their names."""
    directory = os.path.join(os.path.dirname(path), "conf.d")
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".toml"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"{directory}: cannot list the directory: {error.strerror}") from None
    return [os.path.join(directory, name) for name in names]


def read_tables(path: str) -> Sections:
    """Returns the tables of one file, checked by themselves, so that an error can name the file."""
    try:
        tables = tomllib.loads(read_trusted(path).decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    try:
        Tables.model_validate_json(json.dumps(tables, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(error_lines(error, path, {})) from None
    return tables


def read_trusted(path: str) -> bytes:
    """Returns the bytes of a file that only trusted users may write: it names the devices to overwrite.

    Root refuses a file its group may write; other users only a world-writable one (their umask is often 002).
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ConfigError(f"{path}: expected a regular file, found another file type")
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
    """Raises ConfigError for variables that would be ignored: a misspelt key must be reported."""
    for variable, value in environment.items():
        if not variable.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section, _, key = variable[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if section not in Tables.model_fields:
            raise ConfigError(
                f"{variable}: expected a section of {listed(Tables)}, found {section}{meant(section, Tables)}"
            )
        table = type(getattr(Tables(), section))
        if key not in table.model_fields:
            raise ConfigError(
                f"{variable}: expected a key of {listed(table)}, found {key or 'none'}{meant(key, table)}"
            )
        if isinstance(getattr(table(), key), tuple):
            check_list(variable, value)


def check_list(variable: str, value: str) -> None:
    """Raises ConfigError if a list is not written as in the file: pydantic-settings names no variable."""
    try:
        is_list = isinstance(json.loads(value), list)
    except ValueError:
        is_list = False
    if not is_list:
        raise ConfigError(f'{variable}: expected a list like ["one", "two"], found {value}')


def listed(table: type[BaseModel]) -> str:
    """Returns the names of a table's keys."""
    return ", ".join(table.model_fields)


def meant(typed: str, table: type[BaseModel]) -> str:
    """Returns a question for the name that was probably meant; empty if none is like it."""
    close = get_close_matches(typed, table.model_fields, 1)
    return f"; did you mean {close[0]}?" if close else ""


def error_lines(error: ValidationError, path: str, environment: Mapping[str, str]) -> str:
    """Returns one line for each error: where, which key, expected, found."""
    lines = []
    for problem in error.errors():
        keys = [str(part) for part in problem["loc"]]
        variable = ENVIRONMENT_PREFIX + "__".join(keys[:2]).upper()
        where = variable if variable in environment else f"{path}: {'.'.join(keys)}"
        if problem["type"] == "default_factory_not_called":
            continue  # the value it is derived from is invalid, and has a line of its own
        if problem["type"] == "extra_forbidden":
            known = Tables if len(keys) == 1 else type(getattr(Tables(), keys[0]))
            told = f"unknown key, expected one of {listed(known)}{meant(keys[-1], known)}"
            lines.append(f"{where}: {told}")
        else:
            expected = re.sub(r"^(Value error, )?Input should (be )?", "", problem["msg"])
            lines.append(f"{where}: expected {expected}, found {json.dumps(problem['input'], default=str)}")
    return "\n".join(lines)
