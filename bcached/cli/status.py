"""`bcachectl status`: the state of the set."""

import click

from bcached.cli.answer import answer
from bcached.cli.daemon import connected
from bcached.cli.examples import examples
from bcached.cli.picture import picture
from bcached.cli.session import Session, pass_session


@click.command(
    epilog=examples("bcachectl status", "bcachectl --json status | jq '.state.members[].freelist'")
)
@pass_session
def status(session: Session) -> None:
    """Print the set's state: buckets by state, free lists, waits, gens."""
    with connected(session) as client:
        now = client.status()
    answer(session, {"state": now}, lambda: picture(now))
