# SPDX-License-Identifier: GPL-2.0-only
"""Output of a verb: one JSON document, or a table."""

from collections.abc import Callable

import click
import msgspec
from rich.console import Console, RenderableType

from bcached.cli.global_options import GlobalOptions


def answer(options: GlobalOptions, results: object, draw: Callable[[], RenderableType]) -> None:
    """Print the results as JSON, with the socket's names, or as draw renders them."""
    if options.as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(results), indent=2))
        return
    drawn = draw()
    if isinstance(drawn, str):
        click.echo(drawn)
    else:
        Console(highlight=False).print(drawn)
