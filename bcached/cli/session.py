"""The options before the verb. Imports little, so that `bcachectl --help` is quick."""

from dataclasses import dataclass

import click

DEFAULT_SOCKET = "/run/bcached/io.bcached"
SOCKET_VARIABLE = "BCACHED_SOCKET"


@dataclass(frozen=True, slots=True)
class Session:
    """One run of bcachectl: the daemon's socket, and whether to print JSON."""

    socket: str
    as_json: bool


pass_session = click.make_pass_decorator(Session)
