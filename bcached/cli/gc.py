"""`bcachectl gc`: collect garbage now."""

import click

from bcached.cli.answer import answer
from bcached.cli.daemon import connected
from bcached.cli.session import Session, pass_session


@click.command
@click.option("--no-wait", is_flag=True, help="Only ask for it; do not wait until it has ended.")
@pass_session
def gc(session: Session, no_wait: bool) -> None:
    """Collect garbage now: find out anew what is in use, and which gens the index still holds."""
    with connected(session) as client:
        client.collect_garbage(wait=not no_wait)
    answer(session, {}, lambda: "garbage collection asked for" if no_wait else "garbage collected")
