# SPDX-License-Identifier: GPL-2.0-only
"""The server of a socket as the pipelines of its connections see it."""

import asyncio
from typing import Any, Protocol

from bcached.errors import RequestError
from bcached.service.requests.method import Operation
from bcached.service.requests.request_counts import RequestCounts
from bcached.service.users.access import Role
from bcached.service.users.turns import Turns
from bcached.wire.methods import Request


class PipelineServer(Protocol):
    """What a pipeline needs of its server."""

    counts: RequestCounts
    turns: Turns
    draining: bool

    def operation_of(self, kind: type[Request]) -> Operation:
        """Returns the operation of a request's class."""

    def ready_operations(self, role: Role) -> dict[type, Operation]:
        """Returns the brief operations that a role may run now without further checks."""

    def spawn(self, coroutine: Any, cancellable: bool) -> "asyncio.Future[Any]":
        """Run a coroutine as a task of the server; returns a future, which cancels it only if cancellable."""

    def fail(self, error: Exception) -> None:
        """Report a bug: the daemon stops."""


def report_bug(server: PipelineServer, future: "asyncio.Future[Any]") -> None:
    """Report a bug in what a connection waited for that is closed now, so that there is no reply."""
    error = None if future.cancelled() else future.exception()
    if isinstance(error, Exception) and not isinstance(error, RequestError):
        server.fail(error)
