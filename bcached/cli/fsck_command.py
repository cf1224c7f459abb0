# SPDX-License-Identifier: GPL-2.0-only
"""A verb with the exit statuses of fsck(8), where 1 means "errors corrected"."""

from enum import IntEnum
from typing import Any, NoReturn

import click

from bcached.cli.main import Failed, words_of
from bcached.errors import BcachedError


class FsckStatus(IntEnum):
    """Exit statuses of fsck(8)."""

    SOUND = 0
    CORRECTED = 1
    ERRORS_LEFT = 4
    OPERATIONAL = 8
    USAGE = 16


class WronglyUsed(click.UsageError):
    """A usage error with fsck's status for it."""

    exit_code = FsckStatus.USAGE


class NotChecked(Failed):
    """An operational error: one line on stderr, and fsck's status for it."""

    exit_code = FsckStatus.OPERATIONAL


class FsckCommand(click.Command):
    """A command whose failures have fsck's exit statuses."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Returns the command's context. Raises a usage error with fsck's status."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise WronglyUsed(error.format_message(), error.ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        """Run it; any exception is an operational error."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except (BcachedError, OSError) as error:
            _fail(words_of(error))
        except Exception as error:  # never a traceback, and never status 1 ("corrected")
            _fail(f"a bug in bcachectl, please report it: {type(error).__name__}: {error}")


def _fail(message: str) -> NoReturn:
    raise NotChecked(message) from None
