"""How a verb answers: one JSON document, or a drawing for people."""

from collections.abc import Callable

import click
import msgspec
from rich.console import Console, RenderableType

from bcached.cli.session import Session


def answer(session: Session, results: object, draw: Callable[[], RenderableType]) -> None:
    """Print the results, in the words of the socket, as JSON; or what draw makes of them."""
    if session.as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(results), indent=2))
        return
    drawn = draw()
    if isinstance(drawn, str):
        click.echo(drawn)
    else:
        Console(highlight=False).print(drawn)
