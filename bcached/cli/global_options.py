# SPDX-License-Identifier: GPL-2.0-only
"""The options before the verb. Imports little, so that `bcachectl --help` is quick."""

from dataclasses import dataclass

import click

DEFAULT_SOCKET = "/run/bcached/io.bcached"
SOCKET_VARIABLE = "BCACHED_SOCKET"


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """One run of bcachectl: the daemon's socket, and whether to print JSON."""

    socket: str
    as_json: bool


pass_options = click.make_pass_decorator(GlobalOptions)
