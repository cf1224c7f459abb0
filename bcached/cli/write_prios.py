"""`bcachectl write-prios`: make prios and gens durable now."""

import click

from bcached.cli.answer import answer
from bcached.cli.daemon import connected
from bcached.cli.session import Session, pass_session


@click.command("write-prios")
@pass_session
def write_prios(session: Session) -> None:
    """Write the prios and gens of all buckets now; returns when they are durable."""
    with connected(session) as client:
        client.write_priorities()
    answer(session, {}, lambda: "prios and gens are durable")
