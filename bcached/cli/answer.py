# SPDX-License-Identifier: GPL-2.0-only
"""Output of a verb: one JSON document, or a table."""

from collections.abc import Callable

import click
from rich.console import Console, RenderableType

from bcached.cli.global_options import GlobalOptions
from bcached.cli.json_text import json_text


def answer(options: GlobalOptions, results: object, draw: Callable[[], RenderableType]) -> None:
    """Print the results as JSON, with the socket's names, or as draw renders them.

    Raises OSError if they cannot be printed: what the verb was to do is done.
    """
    try:
        _print(json_text(results) if options.as_json else draw())
    except BrokenPipeError:
        raise
    except OSError as error:
        lost = f"{error.strerror}: the report is lost, not what it is about"
        raise OSError(error.errno, lost, "standard output") from None


def _print(drawn: RenderableType | bytes) -> None:
    if isinstance(drawn, str | bytes):
        click.echo(drawn)
    else:
        Console(highlight=False).print(drawn)
