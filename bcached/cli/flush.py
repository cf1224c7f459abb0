"""`bcachectl flush`: make everything committed so far durable."""

import click

from bcached.cli.answer import answer
from bcached.cli.daemon import connected
from bcached.cli.session import Session, pass_session


@click.command
@pass_session
def flush(session: Session) -> None:
    """Make everything durable that any client has committed so far; returns when it is."""
    with connected(session) as client:
        sequence = client.flush()
    answer(session, {"sequence": sequence}, lambda: f"all is durable through journal entry {sequence}")
